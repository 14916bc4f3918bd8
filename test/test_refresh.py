"""The cut behind the decoder: a current frame moves the key frame's logits and refreshes them."""
import pytest
import torch

from featshare_core.inference.export.models import NetworkModels
from featshare_core.inference.parts import parts
from featshare_core.labels import CAMVID
from featshare_core.networks.checkpoint import (
    CheckpointError,
    Config,
    load_checkpoint,
    save_checkpoint,
)
from featshare_core.networks.fpn import FPN
from featshare_core.networks.refresh import TRUST

OPTIONS = {'shared_levels': 4, 'aligned': 1, 'mending': 1, 'refresh': 1}


def refreshing(backbone='efficientnet-lite0', learned=True):
    torch.manual_seed(0)
    network = FPN(11, 4, backbone=backbone, mending=True, refresh=True).eval()
    network.configure(aligned=True)
    if learned:
        torch.nn.init.normal_(network.refresh.last.weight)
    return network


@pytest.mark.parametrize('backbone', ['efficientnet-lite0', 'densenet121'])
@torch.inference_mode()
def test_a_key_frame_is_the_unsplit_network(backbone):
    network = refreshing(backbone)
    image = torch.randn(1, 3, 64, 96)
    found = network(image)
    low = network.low(image)
    assert [tuple(part.shape[-2:]) for part in low] == [(16, 24), (8, 12)]
    shared = network.high(low)
    assert [tuple(part.shape[1:]) for part in shared] == [
        (44, 16, 24), (64, 8, 12), (16, 8, 12), (8, 16, 24)]
    assert torch.equal(found, network.decode_key(low, shared))
    network.configure(shared_levels=0)
    assert torch.equal(found, network(image))


@torch.inference_mode()
def test_with_fresh_weights_the_moved_logits_pass():
    network = refreshing(learned=False)
    frame, key = torch.randn(2, 1, 3, 64, 96)
    trust = torch.sigmoid(torch.tensor(TRUST))
    # On its own key frame nothing moves.
    own = network.decode(network.low(frame), network.high(network.low(frame)))
    torch.testing.assert_close(own, trust * network(frame), atol=1e-4, rtol=1e-4)
    unlike = network.decode(network.low(frame), network.high(network.low(key)))
    assert (unlike - trust * network(frame)).abs().max() > 1e-2


@torch.inference_mode()
def test_a_current_frame_sees_what_came_into_view():
    network = refreshing()
    frame = torch.randn(1, 3, 64, 96)
    shared = network.high(network.low(frame))
    other = frame.clone()
    other[..., 24:40, 40:64] += 2  # what is new since the key frame
    changed = network.decode(network.low(other), shared) - network.decode(network.low(frame),
                                                                          shared)
    assert changed[..., 12:20, 20:32].abs().mean() > 2 * changed.abs().mean() > 0


@torch.inference_mode()
def test_not_aligned_it_repeats_the_key_frame():
    network = refreshing()
    network.configure(aligned=False)
    frame, key = torch.randn(2, 1, 3, 64, 96)
    assert torch.equal(network.decode(network.low(frame), network.high(network.low(key))),
                       network(key))


def test_it_needs_mending_and_four_levels():
    for options in ({}, {'mending': True, 'levels': 3}):
        with pytest.raises(ValueError, match='refresh is for networks of 4 levels with mending'):
            FPN(11, 2, refresh=True, **options)
    with pytest.raises(ValueError, match='shared_levels is one of 0, 1, 2, 3 in this network'):
        FPN(11, 4, mending=True)
    assert refreshing().cuts == (0, 1, 2, 3, 4)


def test_a_checkpoint_says_whether_it_refreshes(tmp_path):
    network = refreshing()
    save_checkpoint(tmp_path / 'all.safetensors', network,
                    Config('fpn-efficientnet-lite0', CAMVID, (64, 64), OPTIONS), torch.float32)
    loaded, config = load_checkpoint(tmp_path / 'all.safetensors')
    assert (loaded.shared_levels, dict(config.options)) == (4, OPTIONS)
    assert loaded.mending_names == network.mending_names
    assert {name.partition('.')[0] for name in loaded.mending_names} == {'mendings', 'refresh'}
    # Weights without a refresh are refused where the header asks for one.
    with pytest.raises(CheckpointError, match='refresh'):
        options = {key: value for key, value in OPTIONS.items() if key != 'refresh'}
        save_checkpoint(tmp_path / 'other.safetensors', network, Config(
            'fpn-efficientnet-lite0', CAMVID, (64, 64), {**options, 'shared_levels': 2}))
        load_checkpoint(tmp_path / 'other.safetensors')


@torch.inference_mode()
def test_exported_parts_agree_with_the_network():
    onnxruntime = pytest.importorskip('onnxruntime')
    network = refreshing()
    config = Config('fpn-efficientnet-lite0', CAMVID, (96, 64), OPTIONS)
    key, current = (torch.randint(256, (1, 64, 96, 3), dtype=torch.uint8) for _ in range(2))
    key_part, current_part = parts(network, config)
    logits, *shared = key_part(key)
    wanted = current_part(current, *shared)
    models = NetworkModels(network, config).models((64, 96))
    run = [onnxruntime.InferenceSession(model) for model in models]
    made = run[0].run(None, {'image': key.numpy()})
    torch.testing.assert_close(torch.from_numpy(made[0]), logits, atol=1e-3, rtol=1e-3)
    found = run[1].run(None, {'image': current.numpy(), **{
        f'shared{index}': part for index, part in enumerate(made[1:])}})[0]
    # The nearest cell of a displacement half-way between two may be either.
    assert (torch.from_numpy(found) - wanted).abs().mean() < 0.02 * wanted.abs().mean()
