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
"""The pyramid with a light decoder: exact cuts, and mending at the stride of what is cached."""
from featshare_core.labels import CAMVID
from featshare_core.networks.checkpoint import Config, load_checkpoint, save_checkpoint
from featshare_core.networks.light import LightPyramid
import pytest
import torch
from torch.nn import functional as F

CLASSES = 11


def light(cut=2, backbone='efficientnet-lite0', **options):
    torch.manual_seed(0)
    network = LightPyramid(CLASSES, cut, backbone, **options)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and not options.get('mending'):
            torch.nn.init.normal_(module.running_mean, std=.1)
            torch.nn.init.uniform_(module.running_var, .5, 2)
    for mending in getattr(network, 'mendings', ()):
        torch.nn.init.normal_(mending.last.weight)
    network.configure(aligned=bool(options.get('mending')))
    return network.eval()


def textbook(network, image):
    """Return the logits, written down a second time."""
    def separable(part, x):
        x = F.relu(part[1](part[0](x)))
        return F.relu(part[4](part[3](x)))

    stages, features = [], image
    for index in range(4):
        features = network.backbone.stage(index, features)
        stages.append(features)
    laterals = [norm(conv(x)) for (conv, norm), x in zip(network.laterals, stages)]
    x = F.relu(laterals[3])
    for level in (2, 1):
        size = laterals[level].shape[-2:]
        x = F.relu(laterals[level] + F.interpolate(x, size=size, mode='bilinear'))
        for part in network.refinements[level]:
            x = separable(part, x)
    x = F.relu(laterals[0] + F.interpolate(x, size=laterals[0].shape[-2:], mode='bilinear'))
    conv, norm, _ = network.refinements[0]
    return network.classifier(F.relu(norm(conv(x))))


@pytest.mark.parametrize('backbone', ['efficientnet-lite0', 'densenet121'])
@torch.inference_mode()
def test_split_equals_unsplit_at_every_cut(backbone):
    network = light(backbone=backbone).double()
    image = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    expected = textbook(network, image)
    assert expected.shape == (2, CLASSES, 16, 24)
    shapes = {1: (128, 2, 3), 2: (64, 4, 6), 3: (64, 8, 12)}
    assert network.cuts == (0, *shapes)
    for cut in network.cuts:
        network.configure(shared_levels=cut)
        low = network.low(image)
        shared = network.high(low)
        assert len(low) == 4 - cut
        assert [tuple(part.shape[1:]) for part in shared] == ([shapes[cut]] if cut else [])
        for logits in (network(image), network.decode_key(low, shared),
                       network.decode(low, shared)):
            torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


def test_the_weights_do_not_depend_on_the_cut():
    one, other = (light(cut, mending=True).state_dict() for cut in (1, 3))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    with pytest.raises(ValueError, match='shared_levels is one of 0, 1, 2, 3 in this network'):
        light(4)


@pytest.mark.parametrize('cut', [1, 2, 3])
@torch.inference_mode()
def test_only_what_does_not_fit_is_mended(cut):
    network, plain = light(cut, mending=True), LightPyramid(CLASSES, cut).eval()
    plain.load_state_dict({name: tensor for name, tensor in network.state_dict().items()
                           if name not in network.mending_names})
    plain.configure(aligned=True)
    frame, key = torch.randn(2, 1, 3, 64, 96)
    # As its own key frame, a frame has nothing to mend.
    shared = network.high(network.low(frame))
    torch.testing.assert_close(network.decode(network.low(frame), shared), network(frame))
    mended, moved = (one.propagate(one.low(frame), one.high(one.low(key)))
                     for one in (network, plain))
    assert [part.shape for part in mended] == [part.shape for part in shared]
    assert (mended[0] - moved[0]).abs().max() > 1e-2 * moved[0].abs().max()


@torch.inference_mode()
def test_checkpoints_hold_it(tmp_path):
    network = light(3, mending=True)
    options = {'shared_levels': 3, 'aligned': 1, 'mending': 1}
    save_checkpoint(tmp_path / 'light.safetensors', network,
                    Config('light-efficientnet-lite0', CAMVID, (64, 64), options), torch.float32)
    loaded, config = load_checkpoint(tmp_path / 'light.safetensors')
    assert dict(config.options) == options
    frame, key = torch.randn(2, 1, 3, 64, 96)
    found, expected = (one.decode(one.low(frame), one.high(one.low(key)))
                       for one in (loaded, network))
    assert torch.equal(found, expected)
