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
"""Things that pass: cut out of pictures, pasted into pairs of frames at two places."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
from featshare_core.data.source import Array
from featshare_core.data.store import FrameStore
import numpy as np

CLASSES = ('car', 'pedestrian', 'bicyclist', 'person', 'rider', 'bicycle')
"""Names of the classes whose things are cut out."""
LEAST_SHARE = 1 / 1200
"""Smallest area of a thing that is cut out, as a share of its picture's."""
LARGEST_SIDE = 0.5
"""Largest height and width of a thing that is cut out, as a share of its picture's."""
MOST_THINGS = 3
"""Largest number of things pasted into a pair."""
FASTEST = 32.0
"""Largest motion of a pasted thing, in pixels per frame of a 480 pixels wide picture."""

Thing = tuple[Array, Array]
"""A picture hxwx4 uint8, RGB and opacity, and the mask hxw uint8 of class ids."""


def cut_out(stores: Sequence[FrameStore]) -> list[list[Thing]]:
    """
    Return the things of the stores' stills, those of a class in one list.

    A thing is a connected component of a class of ``CLASSES``, not cut off by the border.
    """
    things: dict[str, list[Thing]] = {}
    for store in stores:
        names = store.source.labels.names
        for sample in store.source.samples:
            if len(sample.frames) > 1:
                continue
            image, mask = store.image(sample.frames[0]), store.mask(sample)
            for name in set(CLASSES).intersection(names):
                for thing in _components(image, mask, names.index(name)):
                    things.setdefault(name, []).append(thing)
    return [things[name] for name in sorted(things)]


def _components(image: Array, mask: Array, label: int) -> Iterator[Thing]:
    height, width = mask.shape
    _, parts, stats, _ = cv2.connectedComponentsWithStats((mask == label).view(np.uint8))
    for number, (x, y, w, h, area) in enumerate(stats.tolist()):
        if not number or area < LEAST_SHARE * mask.size or x == 0 or x + w == width \
                or h > LARGEST_SIDE * height or w > LARGEST_SIDE * width:
            continue  # the first is the background
        here = slice(y, y + h), slice(x, x + w)
        shown = (parts[here] == number).astype(np.uint8)
        yield np.dstack((image[here], 255 * shown)), np.multiply(label, shown, dtype=np.uint8)


def paste(rng: np.random.Generator, things: Sequence[Sequence[Thing]], image: Array,
          mask: Array, key: Array, distance: int) -> tuple[Array, Array, Array]:
    """
    Return copies of a pair with up to ``MOST_THINGS`` things that moved between its frames.

    :param things: of ``cut_out``; each class is drawn equally often.
    :param image, mask: HxWx3 and HxW uint8, the current frame and its class ids.
    :param key: HxWx3 uint8, the key frame, ``distance`` frames earlier.
    """
    image, mask, key = image.copy(), mask.copy(), key.copy()
    height, width = mask.shape
    fastest = FASTEST * width / 480 * distance
    for _ in range(int(rng.integers(MOST_THINGS + 1))):
        of_a_class = things[int(rng.integers(len(things)))]
        picture, ids = of_a_class[int(rng.integers(len(of_a_class)))]
        if rng.random() < .5:
            picture, ids = picture[:, ::-1], ids[:, ::-1]
        x, y = rng.uniform(0, width), rng.uniform(.4 * height, .85 * height)
        # Mostly sideways, half of them slow; nearer things are larger.
        speed = fastest * rng.random() ** 2 * rng.choice((-1, 1))
        scale = np.exp(rng.uniform(-.4, .9))
        earlier = scale * np.exp(rng.normal(0, .03) * distance)
        _draw(picture, ids, scale, x, y, image, mask)
        _draw(picture, ids, earlier, x + speed, y + .2 * speed * rng.normal(), key, None)
    return image, mask, key


def _draw(picture: Array, ids: Array, scale: float, x: float, y: float, image: Array,
          mask: Array | None) -> None:
    """Draw a thing with its centre at (x, y), in place; what is outside is cut off."""
    size = tuple(max(2, round(side * scale)) for side in picture.shape[1::-1])
    picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR))
    left, top = round(x - size[0] / 2), round(y - size[1] / 2)
    right, bottom = min(left + size[0], image.shape[1]), min(top + size[1], image.shape[0])
    cut = (slice(max(-top, 0), bottom - top), slice(max(-left, 0), right - left))
    here = (slice(max(top, 0), bottom), slice(max(left, 0), right))
    if right <= max(left, 0) or bottom <= max(top, 0):
        return
    opacity = picture[cut][..., 3:].astype(np.float32) / 255  # hxwx1
    image[here] = np.rint(image[here] * (1 - opacity) + picture[cut][..., :3] * opacity)
    if mask is not None:
        ids = np.asarray(cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST))[cut]
        mask[here] = np.where(opacity[..., 0] >= .5, ids, mask[here])
