"""The search as Triton kernels: interpreted, and compiled for GPUs that are not here."""
import os
import subprocess
import sys

import pytest
import torch

from featshare_core.inference import cuda_engine
from featshare_core.inference.cuda_engine import CudaEngine
from featshare_core.networks.checkpoint import load_checkpoint

SAME_DISPLACEMENTS = """
import torch
from torch.nn import functional as F
from featshare_core.inference import search_kernels
from featshare_core.networks import alignment

torch.manual_seed(0)
for dtype, count, channels, height, width in (
        (torch.float32, 1, 16, 14, 19), (torch.bfloat16, 2, 10, 12, 9),
        (torch.float32, 1, 16, 1, 7)):
    key = F.interpolate(torch.randn(count, channels, -(-height // 3), -(-width // 3)),
                        (height, width), mode='bilinear')
    current = key.roll((2, -3), (2, 3)) + 0.1 * torch.randn(key.shape)
    # As landmarks lie: some channels of more, channels last.
    wide = torch.zeros(count, channels + 5, height, width).contiguous(
        memory_format=torch.channels_last)
    wide[:, :channels] = current
    given = wide.to(dtype)[:, :channels], key.to(dtype)
    torch.testing.assert_close(search_kernels.displacement(*given),
                               alignment.displacement(*given), rtol=0, atol=1e-3)
search_kernels.check(torch.device('cpu'))
"""
COMPILED = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from featshare_core.inference import search_kernels as kernels

SIZES = {'channels': 16, 'padded': 16}
FINE = {'radius': 1, 'unit': 1, 'has_moved': True}
CHOICE = {**FINE, 'sharpness': 24.0, 'outside': 3.0, 'shifts': 16, 'most_summands': 1024,
          'cells': kernels.FEW_CELLS}
for architecture in (75, 87, 90):
    for kernel, constants in (
            (kernels._pool, {**SIZES, 'cells': kernels.FEW_CELLS}),
            (kernels._compare, {**SIZES, **FINE, 'cells': kernels.CELLS}),
            (kernels._choose, CHOICE)):
        names = kernel.arg_names
        kinds = {'current': '*fp16', 'key': '*fp16', 'halves': '*fp32', 'quarters': '*fp32',
                 'moved': '*fp32', 'costs': '*fp32', 'sums': '*fp32', 'result': '*fp32'}
        signature = {n: 'constexpr' if n in constants else kinds.get(n, 'i32') for n in names}
        source = ASTSource(kernel, signature,
                           {(names.index(n),): value for n, value in constants.items()})
        assert compile(source, target=GPUTarget('cuda', architecture, 32)).asm['cubin']
"""


@pytest.mark.parametrize(('script', 'interpreted'), [(SAME_DISPLACEMENTS, '1'), (COMPILED, '0')],
                         ids=['same', 'compiled'])
def test_kernels(script, interpreted, tmp_path):
    pytest.importorskip('triton')
    # In a process of its own: Triton asks at import whether to interpret.
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True,
                          timeout=200, env={**os.environ, 'TRITON_INTERPRET': interpreted,
                                            'TRITON_CACHE_DIR': str(tmp_path)})
    assert done.returncode == 0, done.stderr


TRACED = """
import numpy as np
import torch
from featshare_core.inference import search_kernels
from featshare_core.inference.cuda_engine import CudaEngine
from featshare_core.networks.checkpoint import load_checkpoint

masks = []
for compiled in (False, True):
    network, config = load_checkpoint('default')
    if compiled:
        network.displacement = search_kernels.displacement
    engine = CudaEngine(network, config, torch.device('cpu'), 'fp32', (64, 32))
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 64, 3), np.uint8)
    engine.key(image)
    masks.append(engine.current(np.roll(image, 8, 1)).mask)
    assert engine.fallback == ''
assert (masks[0] == masks[1]).mean() > 0.999
"""


def test_an_engine_traces_and_runs_them(tmp_path):
    test_kernels(TRACED, '1', tmp_path)


def test_without_triton_the_search_is_as_it_was(monkeypatch):
    def missing(_):
        raise ImportError('No module named triton')
    monkeypatch.setattr(cuda_engine, 'compiled_search', missing)
    network, _ = load_checkpoint('default')
    engine = CudaEngine.__new__(CudaEngine)
    plain = network.displacement
    engine._compile_search(network, torch.device('cpu'))
    assert network.displacement is plain
    assert engine.fallback == 'the search is not compiled: No module named triton'
