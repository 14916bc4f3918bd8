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
"""A network whose batch norms have become part of its convolutions is the same network."""
from featshare_core.inference.cuda.cuda_engine import CudaEngine
from featshare_core.inference.cuda.dense import buffer_dense_blocks, BufferedBlock
from featshare_core.inference.cuda.fold import Clamp, FARTHEST, fold_batch_norms, FoldError
from featshare_core.inference.parts import prepare
from featshare_core.labels import CAMVID
from featshare_core.networks.checkpoint import Config, load_checkpoint, NETWORKS
import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytestmark = pytest.mark.usefixtures('one_thread')


def logits(network):
    """Return what a key frame, and another frame after it, are given."""
    key, current = torch.rand(2, 1, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        low = network.low(key)
        shared = network.high(low)
        return network.decode_key(low, shared), network.decode(network.low(current), shared)


def norms(network):
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def unlike(network):
    """Give norms statistics of images, and scales of all kinds: negative, tiny and none."""
    generator = torch.Generator().manual_seed(0)
    for norm in norms(network):
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
        nn.init.uniform_(norm.bias, -0.5, 0.5, generator=generator)
        with torch.no_grad():
            norm.weight[::7] *= -1
            norm.weight[1::7] = 0
            norm.weight[2::7] *= 1e-8
    with torch.no_grad():
        network.train()(torch.rand(4, 3, 96, 128, generator=generator))
    return network.eval()


def assert_close(modes, plain):
    for found, expected in zip(modes, plain):
        torch.testing.assert_close(found, expected, rtol=1e-4,
                                   atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(('name', 'options'), [
    *((name, options) for name in (
        'fpn-densenet121', 'fpn-efficientnet-lite0', 'light-efficientnet-lite0')
      for options in ({}, {'shared_levels': 2}, {'shared_levels': 3, 'mending': True})),
    ('fpn-densenet121', {'levels': 2, 'shared_levels': 1}),
    ('fpn-efficientnet-lite0', {'levels': 2, 'shared_levels': 1})])
def test_folding_leaves_the_network_what_it_is(name, options):
    torch.manual_seed(0)
    network = unlike(NETWORKS[name](5, **options))
    network.configure(aligned='mending' in options)
    plain, before = logits(network), len(norms(network))
    count = fold_batch_norms(network)
    assert before - len(norms(network)) == count
    # All but the decoder's: its first one follows a sum.
    assert len(norms(network)) <= 2
    assert_close(logits(network), plain)
    buffer_dense_blocks(network)
    assert any(isinstance(m, BufferedBlock) for m in network.modules()) == ('dense' in name)
    assert_close(logits(network.to(memory_format=torch.channels_last)), plain)


@pytest.mark.parametrize('name', ['default', 'light', 'densenet121'])
def test_shipped_weights_fold_and_stay_what_they_are_in_bf16(name):
    masks = []
    for folds in (False, True):
        network, _ = load_checkpoint(name)
        if folds:
            assert fold_batch_norms(network.eval()) > 40
        network = prepare(network, torch.device('cpu'), 'bf16')
        image = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            masks.append(network(F.interpolate(image, (384, 512), mode='bicubic')
                                 .bfloat16()).argmax(1))
    assert (masks[0] == masks[1]).float().mean() > 0.98


def test_bounds_can_be_held_in_fp16():
    network = unlike(NETWORKS['fpn-densenet121'](5))
    fold_batch_norms(network)
    clamps = [module for module in network.modules() if isinstance(module, Clamp)]
    assert len(clamps) > 50
    for bound in (bound for clamp in clamps for bound in (clamp.low, clamp.high)):
        assert bound.isinf().any()
        assert (bound[bound.isfinite()].abs() <= FARTHEST).all()


def test_positive_scales_need_one_bound():
    network, _ = load_checkpoint('densenet121')
    fold_batch_norms(network.eval())
    clamps = [module for module in network.modules() if isinstance(module, Clamp)]
    assert {clamp.high for clamp in clamps} == {None}


class Normalised(nn.Conv2d):
    """Weights of length 1, whatever they are scaled by."""

    def forward(self, features):
        weight = self.weight / self.weight.square().sum((1, 2, 3), keepdim=True).sqrt()
        return F.conv2d(features, weight, self.bias, self.stride, self.padding)


def test_what_does_not_fold_is_left_as_it_was():
    network = unlike(NETWORKS['fpn-efficientnet-lite0'](5, shared_levels=2))
    stem = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    stem.__class__ = Normalised
    plain, before = logits(network), norms(network)
    with pytest.raises(FoldError, match='this network would give other logits'):
        fold_batch_norms(network)
    assert norms(network) == before
    for found, expected in zip(logits(network), plain):
        assert torch.equal(found, expected)
    config = Config('fpn-efficientnet-lite0', CAMVID, (128, 96))
    engine = CudaEngine(network, config, torch.device('cpu'), 'fp32')
    assert engine.fallback.startswith('batch norms are not folded')
