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
"""Alignment: how far features have moved is found, and the cache follows."""
from featshare_core.data.synthetic import RenderedStreet
from featshare_core.inference.parts import Pixels
from featshare_core.labels import CAMVID
from featshare_core.networks.alignment import displacement, warp
from featshare_core.networks.checkpoint import (
    CheckpointError,
    Config,
    load_checkpoint,
    save_checkpoint,
)
from featshare_core.networks.fpn import FPN
import pytest
import torch
from torch.nn import functional as F


def scene(height, width, channels=8, seed=0):
    """Return features with detail at every scale, as images have."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(1, channels, height, width)
    for coarse in (1, 2, 4, 8):
        noise = torch.randn(1, channels, -(-height // coarse), -(-width // coarse),
                            generator=generator)
        total += F.interpolate(noise, (height, width), mode='bilinear')
    return total


def shifted(x, y, size, margin):
    """Return two frames; a cell of the current one was x to the right of here on the key frame."""
    wide = scene(size[0] + 2 * margin, size[1] + 2 * margin)
    return [wide[:, :, top:top + size[0], left:left + size[1]]
            for top, left in ((margin, margin), (margin - y, margin - x))]


@pytest.mark.parametrize('shift', [(0, 0), (1, 0), (-3, 2), (8, -6), (0, 9), (-17, 4), (6, 15)])
@pytest.mark.parametrize('size', [(96, 128), (93, 125)])
def test_a_shift_is_found(shift, size):
    x, y = shift
    current, key = shifted(x, y, size, 20)
    moved = displacement(current, key)
    assert moved.shape == (1, 2, *size)
    inner = moved[:, :, 20:-20, 20:-20]
    assert (inner - torch.tensor([x, y]).view(1, 2, 1, 1)).abs().median() < 0.3
    # Up to where it left the picture, the key frame now looks as the current one does.
    difference = (warp(key, moved) - current)[:, :, 20:-20, 20:-20].abs().mean()
    assert difference < (key - current)[:, :, 20:-20, 20:-20].abs().mean() / 3 + 0.1


def test_autocast_does_not_round_the_search():
    current, key = shifted(6, -4, (96, 128), 20)
    frames = F.avg_pool2d(current, 2), F.avg_pool2d(key, 2), current, key
    with torch.autocast('cpu', torch.bfloat16):
        found = displacement(*frames)
    torch.testing.assert_close(found, displacement(*frames), rtol=0, atol=0)


@pytest.mark.parametrize('shift', [(1, 0), (-3, 1), (5, -7)])
@pytest.mark.parametrize('size', [(192, 256), (186, 250)])
def test_parts_of_a_cell_are_found_on_finer_features(shift, size):
    x, y = shift
    current, key = shifted(x, y, size, 24)
    coarse = [F.avg_pool2d(frame, 2) for frame in (current, key)]
    moved = displacement(*coarse, current, key)
    assert moved.shape == (1, 2, *size)
    truth = torch.tensor([x, y]).view(1, 2, 1, 1)
    error, without = ((found - truth)[:, :, 24:-24, 24:-24].abs().mean() for found in (
        moved, 2 * F.interpolate(displacement(*coarse), scale_factor=2, mode='bilinear')))
    assert error < 0.3 and error < 0.95 * without


@pytest.mark.parametrize('shift', [(9, 0), (-8, 3), (12, -2)])
def test_a_small_fast_thing_is_found_on_a_moving_background(shift):
    # At stride 8, a thing 48 pixels wide and 64 high, which moves 68 to 97 pixels.
    height, width = 8, 6
    current, key = shifted(-2, 1, (48, 64), 8)
    current, key = 0.5 * current, 0.5 * key
    thing = 2 * scene(height, width, seed=3)
    x, y = shift
    current[:, :, 21:21 + height, 29:29 + width] = thing
    key[:, :, 21 + y:21 + y + height, 29 + x:29 + x + width] = thing
    moved = displacement(current, key)[0]
    inner = moved[:, 22:20 + height, 30:28 + width]
    assert (inner - torch.tensor(shift).view(2, 1, 1)).abs().amax(0).median() < 0.5
    behind = torch.cat((moved[:, 8:16, 12:-12], moved[:, -16:-8, 12:-12]), 1).flatten(1)
    assert (behind - torch.tensor([-2, 1])[:, None]).abs().amax(0).median() < 0.5


def test_without_anything_to_see_nothing_moves():
    flat = torch.ones(2, 4, 128, 128)
    # Near the border, where only the inner cells are there to choose from, it does.
    for key in (flat, 2 * flat):
        assert displacement(flat, key)[:, :, 48:-48, 48:-48].abs().max() < 1e-4


def test_warp_takes_each_cell_from_where_it_was():
    features = torch.arange(48.0).view(1, 1, 6, 8)
    moved = torch.zeros(1, 2, 6, 8)
    torch.testing.assert_close(warp(features, moved), features)
    moved[:, 0], moved[:, 1] = 2, -1
    torch.testing.assert_close(warp(features, moved)[:, :, 1:, :-2], features[:, :, :-1, 2:])
    # What was outside is the border's.
    torch.testing.assert_close(warp(features, moved)[:, :, 0, :-2], features[:, :, 0, 2:])
    # Found on coarser features, it is as far in the image, and so more cells.
    for nearest in (False, True):
        for field in (moved, moved[:, :, ::2, ::2] / 2, 2 * moved.repeat_interleave(
                2, 2).repeat_interleave(2, 3)):
            torch.testing.assert_close(warp(features, field, nearest)[:, :, 1:, :-2],
                                       features[:, :, :-1, 2:])
    half = warp(features.bfloat16(), moved)
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize('shared', [1, 2, 3])
@torch.inference_mode()
def test_a_current_frame_finds_the_features_of_a_moved_scene(shared):
    network, config = load_checkpoint('default', shared)
    picture, _ = RenderedStreet(480, 360, seed=5).frame(0)
    wide = Pixels(config)(torch.from_numpy(picture)[None])
    key, current = wide[:, :, 40:296, 40:424], wide[:, :, 24:280, 56:440]
    expected = network(current)
    errors = []
    for aligned in (False, True):
        network.configure(aligned=aligned)
        torch.testing.assert_close(network(current), expected)
        logits = network.decode(network.low(current), network.high(network.low(key)))
        assert logits.shape == expected.shape
        wrong = logits.argmax(1) != expected.argmax(1)
        errors.append(wrong[..., 16:-16, 16:-16].float().mean())
    assert errors[1] < 0.5 * errors[0]


@torch.inference_mode()
def test_without_a_cut_there_is_nothing_to_align():
    network = FPN(11, 0, backbone='efficientnet-lite0').eval()
    network.configure(aligned=True)
    low = network.low(torch.randn(1, 3, 64, 64))
    assert network.high(low) == ()
    torch.testing.assert_close(network.decode(low, ()), network.decode_key(low, ()))


def test_a_checkpoint_says_whether_it_is_aligned(tmp_path):
    for options in ({'shared_levels': 2}, {'shared_levels': 2, 'aligned': 1}):
        config = Config('fpn-efficientnet-lite0', CAMVID, (64, 64), options)
        save_checkpoint(tmp_path / 'some.safetensors', config.build(), config)
        network, loaded = load_checkpoint(tmp_path / 'some.safetensors')
        assert network.aligned == ('aligned' in options)
        assert loaded.options == options
    wrong = Config('fpn-efficientnet-lite0', CAMVID, (64, 64), {'alined': 1})
    with pytest.raises(TypeError, match='alined'):
        wrong.build()
    save_checkpoint(tmp_path / 'wrong.safetensors', config.build(), wrong)
    with pytest.raises(CheckpointError, match='alined'):
        load_checkpoint(tmp_path / 'wrong.safetensors')


def test_frames_of_a_batch_are_aligned_each_by_itself():
    current, key = scene(48, 64, seed=1), scene(48, 64, seed=2)
    pair = [torch.cat((current, key)), torch.cat((key, current.roll(2, 3)))]
    fine = torch.randn(2, 3, 96, 128)
    pair += [fine, fine.flip(0)]
    moved = displacement(*pair)
    for index in range(2):
        alone = displacement(*(frames[index:index + 1] for frames in pair))
        torch.testing.assert_close(moved[index:index + 1], alone, rtol=0, atol=1e-3)
        assert torch.equal(warp(fine, moved, True)[index:index + 1],
                           warp(fine[index:index + 1], moved[index:index + 1], True))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_features_come_whole_from_the_nearest_cell(dtype):
    # More cells than bf16 can count.
    features = torch.randn(1, 4, 40, 480).to(dtype)
    moved = torch.full((1, 2, 20, 240), 0.9, dtype=dtype)
    moved[:, 0] = -3.1
    taken = warp(features, moved, True)
    assert taken.dtype == dtype
    assert torch.equal(taken[:, :, :-2, 6:], features[:, :, 2:, :-6])
    assert torch.equal(taken[:, :, -2:, :6], features[:, :, -1:, :1].expand(-1, -1, 2, 6))
