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
"""Triplets: which frames make a pair, and that both are varied alike."""
from featshare_core.data.augment import augment, sampling_grid, warp_images, warp_labels
from featshare_core.data.augmentation_settings import Augmentation
from featshare_core.data.pairs import (
    draw_view,
    LaggedFrames,
    PLAIN,
    simulated_motion,
    Triplets,
)
from featshare_core.data.rendered import rendered_source
from featshare_core.data.source import Labelled, Source
from featshare_core.data.store import FrameStore
from featshare_core.labels import CAMVID
import numpy as np
import pytest
import torch

SIZE = (48, 32)


def store_of(lengths):
    """Frames that are plain grey of their number, masks of class 1."""
    samples = [Labelled(tuple(f'{i}/{d}' for d in range(n)), str(i))
               for i, n in enumerate(lengths)]

    def image(name):
        return np.full((SIZE[1], SIZE[0], 3), 10 * int(name.split('/')[1]), np.uint8)

    return FrameStore(Source('grey', CAMVID, samples, image,
                             lambda mask, frame: np.ones(SIZE[::-1], np.uint8)), SIZE)


def test_a_sample_is_decided_by_its_number_alone():
    make = [Triplets([store_of([20])], [1], (32, 32), Augmentation(colour=True), seed,
                     (1, 15)) for seed in (0, 0, 1)]
    first, same, other = (triplets[7] for triplets in make)
    for name, value in first.items():
        np.testing.assert_array_equal(value, same[name])
    assert first['noise'] != other['noise']


@pytest.mark.parametrize('distances', [(1, 15), (5, 5), (0, 4)])
def test_the_key_frame_lies_the_distance_before(distances):
    triplets = Triplets([store_of([20, 3])], [1], (32, 32), Augmentation(), 0, distances)
    drawn = [triplets[i] for i in range(200)]
    assert {sample['distance'] for sample in drawn} == set(range(distances[0], distances[1] + 1))
    for sample in drawn:
        assert sample['key'][0, 0, 0] == 10 * sample['distance']
        assert not sample['simulated']
        np.testing.assert_array_equal(sample['view'], sample['key_view'])


def test_a_stills_key_frame_is_simulated_and_moves_more_with_the_distance():
    triplets = Triplets([store_of([1])], [1], (32, 32), Augmentation(), 0, (0, 15))
    moved = {}
    for index in range(400):
        sample = triplets[index]
        assert sample['simulated'] == (sample['distance'] > 0)
        corner = sample['key_view'] @ [0, 0, 1]
        still = sample['view'] @ [0, 0, 1]
        moved.setdefault(sample['distance'], []).append(
            np.hypot(*(corner[:2] / corner[2] - still[:2])))
    assert max(moved[0]) < 1e-4
    assert np.mean(moved[2]) < np.mean(moved[7]) < np.mean(moved[15])


def test_simulated_motion_at_distance_zero_is_none():
    motion = simulated_motion(np.random.default_rng(0), 0, SIZE)
    np.testing.assert_allclose(motion, np.eye(3), atol=1e-9)


def test_shares_and_distances_are_checked():
    few = store_of([5, 5])
    with pytest.raises(ValueError, match=(
            r'grey: distances are 1 to 5, but no labelled frame has more than 4 frames before it, '
            r'and there are no stills: set distances: \[1, 4\]$')):
        Triplets([few], [1], (32, 32), Augmentation(), 0, (1, 5))
    with pytest.raises(ValueError, match='not within 0 to 15'):
        Triplets([few], [1], (32, 32), Augmentation(), 0, (1, 16))
    triplets = Triplets([few, store_of([1])], [3, 1], (32, 32), Augmentation(), 0, (1, 4))
    stills = sum(triplets[i]['simulated'] for i in range(400))
    assert 60 < stills < 140


def test_views_cut_what_they_say():
    image = torch.arange(SIZE[0] * SIZE[1] * 3, dtype=torch.float32) % 251
    image = image.view(1, SIZE[1], SIZE[0], 3).to(torch.uint8)
    labels = image[..., 0].clone()
    # The crop at (5, 3), mirrored.
    view = torch.tensor([[[-1., 0, 5 + 15], [0, 1, 3], [0, 0, 1]]])
    grid = sampling_grid(view, (16, 8), SIZE)
    expected = image[:, 3:11, 5:21].flip(2)
    torch.testing.assert_close(warp_images(image, grid) * 255,
                               expected.permute(0, 3, 1, 2).float(), atol=1e-3, rtol=0)
    assert torch.equal(warp_labels(labels, grid), expected[..., 0].long())
    beyond = torch.tensor([[[1., 0, SIZE[0]], [0, 1, 0], [0, 0, 1]]])
    assert (warp_labels(labels, sampling_grid(beyond, (16, 8), SIZE)) == 255).all()


def test_both_frames_and_masks_are_turned_alike():
    rng = np.random.default_rng(3)
    augmentation = Augmentation(rotation=10, scale=(.7, 1.8), colour=False)
    street = FrameStore(rendered_source((1, 1), 1, 2, SIZE), SIZE)
    sample = street.source.samples[0]
    image, mask = street.image(sample.frames[0]), street.mask(sample)
    view = torch.tensor(draw_view(rng, SIZE, (32, 32), augmentation), dtype=torch.float32)[None]
    as_image = torch.from_numpy(np.repeat(mask[..., None], 3, 2))[None]
    _, labels = augment(torch.from_numpy(image)[None], torch.from_numpy(mask)[None], view,
                        torch.from_numpy(PLAIN)[None], [0], (32, 32))
    pixels = warp_images(as_image, sampling_grid(view, (32, 32), SIZE))[0, 0] * 255
    inside = labels[0] != 255
    assert inside.float().mean() > .5
    # Where bilinear sampling met one class only, it is the class that the mask has there.
    sure = inside & ((pixels - pixels.round()).abs() < 1e-3)
    assert (pixels.round().long() == labels[0])[sure].float().mean() > .95


def test_mixed_precision_leaves_coordinates_alone():
    image = torch.arange(256, dtype=torch.uint8).view(1, 1, 256, 1).expand(1, 2, 256, 3)
    arguments = (image, image[..., 0], torch.eye(3)[None], torch.from_numpy(PLAIN)[None], [0])
    with torch.autocast('cpu', torch.bfloat16):
        pixels, labels = augment(*arguments, (256, 2))
    torch.testing.assert_close(pixels[0, 0, 0] * 255, torch.arange(256.), atol=1e-2, rtol=0)
    assert torch.equal(labels[0, 0], torch.arange(256))


def test_noise_and_colours_are_those_of_the_seed():
    images = torch.full((2, 8, 8, 3), 128, dtype=torch.uint8)
    labels = torch.zeros(2, 8, 8, dtype=torch.uint8)
    views = torch.eye(3).expand(2, 3, 3)
    colours = torch.tensor([[1., .5, 1, 1, 1, 0], [1., 1, 1, 1, 1, .1]])
    one, _ = augment(images, labels, views, colours, [1, 2], (8, 8))
    two, _ = augment(images.flip(0), labels, views, colours.flip(0), [2, 1], (8, 8))
    torch.testing.assert_close(one, two.flip(0))
    torch.testing.assert_close(one[0, :, 0, 0] * 255, torch.tensor([64., 128, 128]))
    assert .05 < one[1].std() < .15


def test_every_labelled_frame_is_scored_at_every_lag():
    frames = LaggedFrames(store_of([1, 2, 3, 4]), interval=3)
    assert frames.lags == 3
    assert len(frames) == 2 * 3
    assert [frames[i]['key'][0, 0, 0] for i in range(3)] == [0, 10, 20]
    stills = LaggedFrames(store_of([1, 1]), interval=3)
    assert (stills.lags, len(stills)) == (1, 2)
