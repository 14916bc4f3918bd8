# Copyright 2026 featshare maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Triton's kernels: interpreted, compiled for GPUs that are not here, and in an engine."""
import os
import subprocess
import sys

from featshare_core.data.synthetic import RenderedStreet
from featshare_core.inference.cuda.cuda_engine import CudaEngine
from featshare_core.networks.checkpoint import load_checkpoint
import pytest
import torch

# In fp16: Triton's interpreter multiplies bf16 wrongly.
COMMON = """
import math
import torch
from torch.nn import functional as F
from featshare_core.inference.cuda import kernels
from featshare_core.inference.cuda.kernels import convolution, pooling, sampling
from featshare_core.inference.cuda.tiles import winning_class
from featshare_core.networks import alignment, mending

torch.manual_seed(0)

def features(channels, height, width):
    wide = torch.randn(1, channels + 8, height, width).half()
    return wide.contiguous(memory_format=torch.channels_last)[:, :channels]

def same(found, expected, tolerance=1e-2):
    assert found.shape == expected.shape
    error = (found.float() - expected.float()).abs().max()
    assert error <= tolerance * expected.float().abs().max(), error
"""
SAME_CONVOLUTIONS = COMMON + """
for inputs, outputs, side, stride, padding, dilation in (
        (16, 72, 1, 1, (0, 0, 0, 0), 1), (105, 11, 1, 1, (0, 0, 0, 0), 1),
        (3, 32, 3, 2, (0, 1, 0, 1), 1), (40, 24, 3, 1, (1, 1, 1, 1), 1),
        (20, 16, 3, 1, (2, 2, 2, 2), 2), (3, 8, 7, 2, (3, 3, 3, 3), 1)):
    source = features(inputs, 9, 7)
    weight = torch.randn(outputs, inputs, side, side).half() / math.sqrt(inputs) / side
    bias = torch.randn(outputs).half()
    expected = F.conv2d(F.pad(source, padding).float(), weight.float(), bias.float(), stride,
                        0, dilation)
    given = source, convolution.packed(weight), bias, stride, padding, dilation
    same(convolution.convolve(*given), expected)
    addend, block = features(*expected.shape[1:]), features(outputs + 8, *expected.shape[2:])
    before = block.clone()
    convolution.convolve(*given, (0.0, 6.0), None, addend, block[:, 4:4 + outputs])
    same(block[:, 4:4 + outputs], expected.clamp(0, 6) + addend.float())
    assert block[:, :4].equal(before[:, :4]) and block[:, 4 + outputs:].equal(
        before[:, 4 + outputs:])
source, floor = features(33, 6, 5), torch.randn(33).half()
weight = torch.randn(16, 33, 1, 1).half()
same(convolution.convolve(source, convolution.packed(weight), weight.new_zeros(16), floor=floor),
     F.conv2d(torch.maximum(source, floor[:, None, None]).float(), weight.float()))
for channels, side, stride, padding, dilation in (
        (32, 3, 1, (1, 1, 1, 1), 1), (40, 5, 2, (1, 2, 1, 2), 1), (70, 5, 1, (4, 4, 4, 4), 2)):
    source, weight = features(channels, 9, 7), torch.randn(channels, 1, side, side).half()
    bias = torch.randn(channels).half()
    same(convolution.convolve_depthwise(source, convolution.packed(weight), bias, stride, padding,
                                        dilation, (0.0, 6.0)),
         F.conv2d(F.pad(source, padding).float(), weight.float(), bias.float(), stride, 0,
                  dilation, channels).clamp(0, 6))
first, second, scale, shift = features(20, 5, 6), features(20, 5, 6), *torch.randn(2, 20)
same(convolution.finish(first, second, scale, shift, (0.0, math.inf)),
     ((first.float() + second.float()) * scale[:, None, None] + shift[:, None, None]).relu())
source, floor = features(40, 9, 12), torch.randn(40).half()
same(pooling.pool(source, 2, 2, floor=floor),
     F.avg_pool2d(torch.maximum(source, floor[:, None, None]).float(), 2))
same(pooling.pool(source, 3, 2, 1, True), F.max_pool2d(source.float(), 3, 2, 1))
"""
SAME_IMAGES = COMMON + """
source, addend, gate = features(70, 5, 6), features(70, 10, 12), torch.rand(1, 1, 10, 12).half()
up = F.interpolate(source.float(), (10, 12), mode='bilinear')
same(sampling.upsample(source, (10, 12)), up)
same(sampling.upsample(source, (10, 12), addend, gate),
     up * (1 - torch.exp(-1.5 * gate.float()**4)) + addend.float())
same(kernels.OPS.gate(source, 2 * gate), mending.gate(source.float(), 2 * gate.float()))
moved = F.interpolate(2 * torch.randn(1, 2, 6, 5), (12, 10), mode='bilinear')
for size in ((24, 20), (12, 10), (6, 5)):
    source = features(20, *size)
    for nearest in (False, True):
        same(kernels.OPS.warp(source, moved, nearest), alignment.warp(source, moved, nearest))
ours, theirs = features(16, 12, 10), features(16, 12, 10)
same(kernels.OPS.mismatch(ours, theirs), mending.mismatch(ours.float(), theirs.float()))
for logits in (features(11, 8, 10),
               convolution.convolve(features(32, 8, 10), torch.randn(1, 1, 32, 11).half(),
                                    torch.zeros(11).half())):
    planes = torch.zeros(2, 21, 30, dtype=torch.uint8)
    winning_class(logits, (21, 30), *planes)
    for confidence in (False, True):
        found = kernels.decide(logits, 21, 30, confidence)
        assert found.shape == (1 + confidence, 21, 30)
        assert (found[0] == planes[0]).float().mean() > 0.99
    assert (found[1].int() - planes[1].int()).abs().max() <= 1
assert kernels.decide(torch.full((1, 11, 4, 4), math.nan), 8, 8, True)[0].max() < 11
image = torch.randint(0, 256, (1, 18, 22, 3), dtype=torch.uint8)
scale, shift = torch.rand(3) / 100, torch.randn(3)
whole = (image.float() * scale + shift).permute(0, 3, 1, 2)
for size in ((18, 22), (8, 10), (16, 11), (30, 40)):
    same(kernels.normalise(image, scale, shift, *size, torch.float16), whole if size == (18, 22)
         else F.interpolate(whole, size, mode='bilinear', antialias=True))
"""
SAME_DISPLACEMENTS = COMMON + """
for dtype, count, channels, height, width in (
        (torch.float32, 1, 16, 7, 10), (torch.bfloat16, 2, 10, 6, 5),
        (torch.float32, 1, 16, 1, 7)):
    key = F.interpolate(torch.randn(count, channels, -(-height // 3), -(-width // 3)),
                        (height, width), mode='bilinear')
    current = key.roll((2, -3), (2, 3)) + 0.1 * torch.randn(key.shape)
    # As landmarks lie: some channels of more, channels last.
    wide = torch.zeros(count, channels + 5, height, width).contiguous(
        memory_format=torch.channels_last)
    wide[:, :channels] = current
    given = wide.to(dtype)[:, :channels], key.to(dtype)
    finer = [F.interpolate(frame[:, :7].float(), scale_factor=2).to(dtype) for frame in given]
    for more in ((), finer):
        torch.testing.assert_close(kernels.OPS.displacement(*given, *more),
                                   alignment.displacement(*given, *more), rtol=0, atol=1e-3)
"""
COMPILED = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from featshare_core.inference.cuda.kernels import convolution, images, pooling, sampling, search

FP32 = ('moved', 'costs', 'sums', 'scale', 'shift', 'differences')
MAPS = ('source', 'kernel', 'floor', 'bias', 'addend', 'result', 'first', 'second', 'gate',
        'current', 'carried', 'key', 'logits')
TILE = {'side': 3, 'has_floor': False, 'has_addend': True, 'flat': False, 'unit': 8,
        'result_unit': 8, 'some_cells': 64, 'some_inputs': 64, 'some_outputs': 32}
CELLS = {'unit': 8, 'some_cells': 32, 'some_channels': 64}
FINE = {'radius': 1, 'cross': True, 'unit': 1, 'coarse': True, 'channels': 16, 'padded': 16,
        'cells': 16, 'sharpness': 10.0, 'outside': 3.0, 'shifts': 5, 'most_shifts': 8,
        'most_summands': 1024}
COARSE = {**FINE, 'cross': False, 'unit': 4, 'coarse': False, 'shifts': 9, 'most_shifts': 16}
# Whatever is 1 is a constant to Triton: steps where features lie as they do not on GPUs.
STEPS = {'cell_step': 1, 'key_cell_step': 1}
KERNELS = [
    (convolution._convolve, TILE),
    (convolution._convolve, {**TILE, 'side': 1, 'has_floor': True, 'unit': 1}),
    (convolution._convolve, {**TILE, 'side': 7, 'flat': True, 'unit': 1, 'some_inputs': 32}),
    (convolution._convolve_depthwise, {**CELLS, 'side': 5}),
    (convolution._finish, {'has_second': True, 'has_scale': True, 'unit': 8, 'values': 1024}),
    (pooling._pool_cells, {**CELLS, 'side': 3, 'largest': True, 'has_floor': False}),
    (pooling._pool_cells, {**CELLS, 'side': 2, 'largest': False, 'has_floor': True}),
    (sampling._upsample, {**CELLS, 'has_gate': True, 'factor': 1.5, 'power': 4,
                           'has_addend': True}),
    (sampling._warp, {**CELLS, 'nearest': True}), (sampling._warp, {**CELLS, 'nearest': False}),
    (images._normalise, {'down': 1, 'across': 1, 'some_pixels': 64}),
    (images._normalise, {'down': 5, 'across': 5, 'some_pixels': 64}),
    (images._decide, {'classes': 11, 'padded': 16, 'unit': 8, 'confidence': True,
                      'some_pixels': 64}),
    (search._halve, FINE), (search._halve, {**FINE, **STEPS}),
    (search._halve, {**FINE, 'cell_step': 1}), (search._compare, FINE),
    (search._compare, {**COARSE, **STEPS}), (search._choose, FINE), (search._choose, COARSE),
    (search._differ, {**FINE, 'some_cells': 64}), (search._relate, {**FINE, 'some_cells': 64})]
for architecture in (75, 87, 90):
    half = '*fp16' if architecture < 80 else '*bf16'
    for kernel, given in KERNELS:
        # 87 and 90 differ in matrix instructions and shared memory: only _convolve uses them.
        if architecture == 87 and kernel is not convolution._convolve:
            continue
        names = kernel.arg_names
        constants = {name: value for name, value in given.items() if name in names}
        kinds = {**dict.fromkeys(MAPS, half), **dict.fromkeys(FP32, '*fp32'), 'low': 'fp32',
                 'high': 'fp32', 'image': '*u8', 'planes': '*u8'}
        if kernel in (search._choose, search._halve):
            kinds['result'] = '*fp32'
        signature = {n: 'constexpr' if n in constants else kinds.get(n, 'i32') for n in names}
        source = ASTSource(kernel, signature,
                           {(names.index(n),): value for n, value in constants.items()})
        assert compile(source, target=GPUTarget('cuda', architecture, 32)).asm['cubin']
"""
FUSED = COMMON + """
import triton
from featshare_core.inference.cuda.constants import fold_constants
from featshare_core.inference.cuda.kernels import search
from featshare_core.inference.cuda.fold import fold_batch_norms
from featshare_core.inference.cuda.fuse import fuse
from featshare_core.inference.cuda.dense import buffer_dense_blocks
from featshare_core.inference.parts import prepare
from featshare_core.networks.checkpoint import load_checkpoint

def whole(count):
    return max(32, triton.next_power_of_2(count))

# Large tiles: the interpreter takes its time for each program and each step of one.
convolution.tile = lambda cells, inputs, outputs, side: tuple(map(whole, (cells, inputs, outputs)))
convolution.CELLS, convolution.VALUES = ((64, 512, 2048), (0, 64, 2048)), 1 << 15
for module in (sampling, pooling):
    module.CELLS, module.CHANNELS = 512, 2048
search.CELLS = search.FEW_CELLS = 128
network, config = load_checkpoint(NAME)
fold_batch_norms(network.eval())
buffer_dense_blocks(network)
network = prepare(network, torch.device('cpu'), 'fp16')
with torch.inference_mode():
    image = F.interpolate(torch.randn(1, 3, 8, 8), (64, 32), mode='bilinear').half()
    low = network.low(image)
    shared = network.high(low)
    def current(image, *shared):
        return network.decode(network.low(image), shared)
    # Moved by whole cells: one halfway between two is carried from either, by the last bit.
    moved = image.roll(8, 3)
    for function, inputs in ((current, (moved, *shared)), (network.forward, (image,))):
        expected = function(*inputs)
        ops = network.ops
        network.configure(ops=kernels.OPS)
        fused = fuse(fold_constants(function, *inputs))
        network.configure(ops=ops)
        names = [getattr(node.target, '__name__', '') for node in fused.graph.nodes]
        assert not {'conv2d.default', 'relu.default', 'relu6.default', 'batch_norm.default',
                    'copy_.default', 'upsample_bilinear2d.vec', 'exp.default',
                    'pow.Tensor_Scalar'} & {*names}, names
        # Two launches for the correction: upsampling with the gate, upsampling with the sum.
        assert names.count('gate.default') == (function is current), names
        same(fused(*inputs), expected, 0.02)
"""


@pytest.mark.parametrize(('script', 'interpreted'), [
    (SAME_CONVOLUTIONS, '1'), (SAME_IMAGES, '1'), (SAME_DISPLACEMENTS, '1'), (COMPILED, '0'),
    ("NAME = 'default'\n" + FUSED, '1'), ("NAME = 'densenet121'\n" + FUSED, '1'),
], ids=['convolutions', 'images', 'displacements', 'compiled', 'fused', 'fused-densenet121'])
def test_kernels(script, interpreted, tmp_path):
    pytest.importorskip('triton')
    # In a process of its own: Triton asks at import whether to interpret.
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True,
                          timeout=280, env={**os.environ, 'TRITON_INTERPRET': interpreted,
                                            'TRITON_CACHE_DIR': str(tmp_path)})
    assert done.returncode == 0, done.stderr


def test_without_triton_operations_are_as_they_were(monkeypatch):
    monkeypatch.setitem(sys.modules, 'featshare_core.inference.cuda.kernels', None)
    image = RenderedStreet(64, 32, seed=0).frame(0)[0]
    masks = []
    for fuses in (False, True):
        engine = CudaEngine(*load_checkpoint('default'), torch.device('cpu'), 'fp32', (64, 32))
        engine._fuses = fuses
        engine.key(image)
        masks.append(engine.current(image).mask)
    assert engine.fallback.startswith('operations are not fused: ')
    assert 'kernels' in engine.fallback
    assert (masks[0] == masks[1]).all()
