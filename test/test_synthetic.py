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
"""The rendered street: the same for everybody, labelled exactly, moving like a drive."""
from __future__ import annotations

from functools import lru_cache

import cv2
from featshare_core.data.synthetic import RenderedStreet
from featshare_core.labels import CAMVID
import numpy as np
import numpy.typing as npt
import pytest

Image = npt.NDArray[np.uint8]
SKY, BUILDING, ROAD, CAR = (CAMVID.names.index(n) for n in ('sky', 'building', 'road', 'car'))


@lru_cache
def street(seed: int = 0, width: int = 320, height: int = 180) -> RenderedStreet:
    """Return a street that tests share: its frames must not depend on what was rendered."""
    return RenderedStreet(width, height, seed)


def agreement(a: Image, b: Image) -> float:
    """Return the share of pixels with the same label."""
    return float((a == b).mean())


@pytest.mark.parametrize('size', [(320, 180), (240, 320), (17, 16)])
def test_frame_has_the_size_and_types(size: tuple[int, int]) -> None:
    rgb, labels = street(0, *size).frame(3)
    assert rgb.shape == (size[1], size[0], 3)
    assert labels.shape == (size[1], size[0])
    assert rgb.dtype == labels.dtype == np.uint8


def test_same_arguments_give_the_same_frame_in_any_order() -> None:
    first = RenderedStreet(160, 120, seed=5)
    frames = {index: first.frame(index) for index in (700, 0, 31)}
    second = RenderedStreet(160, 120, seed=5)
    for index in (0, 31, 700):
        for a, b in zip(frames[index], second.frame(index)):
            np.testing.assert_array_equal(a, b)


def test_time_not_the_index_decides_the_scene() -> None:
    slow, fast = RenderedStreet(160, 120, 1, fps=10), RenderedStreet(160, 120, 1, fps=30)
    np.testing.assert_array_equal(slow.frame(20)[1], fast.frame(60)[1])


def test_returned_arrays_belong_to_the_caller() -> None:
    rgb, labels = street().frame(2)
    before = rgb.copy(), labels.copy()
    rgb[:], labels[:] = 0, 0
    again = street().frame(2)
    np.testing.assert_array_equal(again[0], before[0])
    np.testing.assert_array_equal(again[1], before[1])


@pytest.mark.parametrize('seed', range(3))
def test_every_class_appears_and_nothing_else(seed: int) -> None:
    counts = sum(np.bincount(street(seed).frame(index)[1].ravel(), minlength=256)
                 for index in range(0, 201, 25))
    assert counts[len(CAMVID):].sum() == 0
    shares = counts[:len(CAMVID)] / counts.sum()
    # A class of a thousandth of the pixels is still a thing that one sees.
    assert dict(zip(CAMVID.names, shares > 1e-3)) == dict.fromkeys(CAMVID.names, True)
    assert .2 < shares[ROAD] < .5


def test_seeds_give_different_streets() -> None:
    masks = [street(seed).frame(0)[1] for seed in range(4)]
    for k, mask in enumerate(masks):
        assert all(agreement(mask, other) < .9 for other in masks[:k])


@pytest.mark.parametrize('seed', range(2))
def test_the_size_does_not_change_the_scene(seed: int) -> None:
    small = street(seed).frame(40)
    large = street(seed, 640, 360).frame(40)
    assert agreement(small[1], large[1][::2, ::2]) > .93
    shrunk = cv2.resize(large[0], (320, 180), interpolation=cv2.INTER_AREA)
    assert np.abs(small[0].astype(float) - shrunk).mean() < 12


@pytest.mark.parametrize('seed', range(3))
def test_neighbouring_frames_are_alike_and_distant_ones_are_not(seed: int) -> None:
    start, following, later = (street(seed).frame(index)[1] for index in (100, 101, 150))
    assert .9 < agreement(start, following) < 1
    assert agreement(start, later) < agreement(start, following) - .05


@pytest.mark.parametrize('seed', range(3))
def test_the_picture_shows_what_the_labels_say(seed: int) -> None:
    rgb, labels = street(seed).frame(60)
    below = labels[110:]
    assert not (below == SKY).any()
    assert not (labels[:60] == ROAD).any()
    assert (labels[-1] == ROAD).mean() > .4
    # The sky is smooth and lighter than the street: a label edge there is an edge in the picture.
    light = rgb.astype(float).mean(axis=2)
    assert light[labels == SKY].mean() > light[labels == ROAD].mean()
    sky = (labels == SKY).astype(np.uint8)
    inside = cv2.erode(sky, np.ones((5, 5), np.uint8)) > 0
    outside = (cv2.dilate(sky, np.ones((7, 7), np.uint8)) > 0) & (sky == 0)
    smooth = np.abs(cv2.Laplacian(cv2.GaussianBlur(light, (3, 3), 0), cv2.CV_64F))
    assert smooth[inside].mean() < .5 * smooth[outside].mean()


def test_the_street_goes_on() -> None:
    mask = street().frame(100_000)[1]
    assert {ROAD, BUILDING, SKY} <= set(np.unique(mask))


@pytest.mark.parametrize('arguments', [
    {'width': 0}, {'height': 15}, {'width': -320}, {'seed': -1}, {'fps': 0.}, {'fps': -25.},
    {'fps': float('nan')}])
def test_bad_arguments_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        RenderedStreet(**arguments)  # type: ignore[arg-type]


def test_a_negative_index_is_refused() -> None:
    with pytest.raises(ValueError):
        street().frame(-1)
