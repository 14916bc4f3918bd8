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
"""Mending: carried features are corrected where they do not fit, and nowhere else."""
from featshare_core.labels import CAMVID
from featshare_core.networks.checkpoint import Config, load_checkpoint, save_checkpoint
from featshare_core.networks.fpn import FPN
from featshare_core.networks.mending import mismatch
from featshare_core.networks.smp.build import smp_network
from featshare_core.networks.smp.encoders import import_smp
import pytest
import torch


def mending_network(cut=2, fresh=False, **options):
    torch.manual_seed(0)
    network = FPN(11, cut, backbone='efficientnet-lite0', mending=True, **options).eval()
    network.configure(aligned=True)
    if not fresh:
        for mending in network.mendings:
            torch.nn.init.normal_(mending.last.weight)
            torch.nn.init.normal_(mending.last.bias)
    return network


def without_mending(network):
    """Return the same network, which does not mend."""
    plain = FPN(11, network.shared_levels, backbone='efficientnet-lite0').eval()
    plain.configure(aligned=True)
    plain.load_state_dict({name: tensor for name, tensor in network.state_dict().items()
                           if name not in network.mending_names})
    return plain


def as_current(network, frame, key):
    """Return the frame's logits with the key frame's features."""
    return network.decode(network.low(frame), network.high(network.low(key)))


def test_a_mismatch_is_where_frames_differ():
    features = torch.rand(2, 16, 24, 32) + 1
    assert mismatch(features, features).abs().max() == 0
    other = features.clone()
    other[0, :, 8:12, 8:12] += 10
    wrong = mismatch(features, other)
    assert wrong.shape == (2, 1, 24, 32)
    assert wrong[0, 0, 9:11, 9:11].min() > 5
    # Neighbours count; whatever is further off, and the other image, does not.
    assert wrong[0, 0, 7, 8:12].min() > 1
    wrong[0, 0, 7:13, 7:13] = 0
    assert wrong.abs().max() == 0
    torch.testing.assert_close(mismatch(7 * features, 7 * other), mismatch(features, other))
    assert mismatch(torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8)).isfinite().all()


@pytest.mark.parametrize('cut', [1, 2, 3])
@torch.inference_mode()
def test_only_what_does_not_fit_is_mended(cut):
    network = mending_network(cut)
    frame, key = torch.randn(2, 1, 3, 64, 96)
    # On its own, or as its own key frame, a frame has nothing to mend.
    torch.testing.assert_close(as_current(network, frame, frame), network(frame))
    mended = as_current(network, frame, key)
    plain = as_current(without_mending(network), frame, key)
    assert (plain - mended).abs().max() > 1e-3
    assert mended.shape == network(frame).shape


@torch.inference_mode()
def test_what_nearly_fits_is_left_alone():
    mending = mending_network().mendings[1]
    low, carried, context = (torch.randn(1, c, *size) for c, size in (
        (40, (8, 12)), (64, (16, 24)), (64, (4, 6))))
    nearly, not_at_all = ((mending(low, carried, context, torch.full((1, 1, 8, 12), wrong))
                           - carried).abs().mean() for wrong in (0.2, 3))
    assert 0 < nearly < 0.01 * not_at_all


@torch.inference_mode()
def test_with_fresh_weights_it_changes_nothing():
    network = mending_network(fresh=True)
    frame, key = torch.randn(2, 1, 3, 64, 96)
    mended = as_current(network, frame, key)
    torch.testing.assert_close(as_current(without_mending(network), frame, key), mended)


@torch.inference_mode()
def test_in_place_mends_what_was_not_moved():
    network = mending_network()
    frame, key = torch.randn(2, 1, 3, 64, 96)
    low, high = network.low(frame), network.high(network.low(key))
    plain = without_mending(network)
    fused, *_ = plain.propagate(low, plain.high(plain.low(key)), in_place=True)
    assert torch.equal(fused, high[0])
    mended, *landmarks = network.propagate(low, high, in_place=True)
    assert not torch.equal(mended, fused)
    assert all(map(torch.equal, landmarks, network._landmarks(low)))


def test_a_checkpoint_says_whether_it_mends(tmp_path):
    options = {'shared_levels': 2, 'aligned': 1, 'mending': 1}
    network = mending_network()
    save_checkpoint(tmp_path / 'some.safetensors', network,
                    Config('fpn-efficientnet-lite0', CAMVID, (64, 64), options), torch.float32)
    loaded, config = load_checkpoint(tmp_path / 'some.safetensors')
    assert (loaded.mends, config.options) == (True, options)
    frame, key = torch.randn(2, 1, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(as_current(loaded, frame, key),
                                   as_current(network, frame, key))
        # Where the features do not follow the scene, nothing is mended: it was not learned.
        plain, _ = load_checkpoint(tmp_path / 'some.safetensors', aligned=False)
        assert len(plain.high(plain.low(key))) == 1
        assert as_current(plain, frame, key).shape == (1, 11, 32, 48)


def test_other_networks_do_not_mend():
    pytest.importorskip('segmentation_models_pytorch')
    import_smp()
    with pytest.raises((TypeError, ValueError), match='mending'):
        smp_network(11, 'FPN', 'resnet18', 2, mending=True)
