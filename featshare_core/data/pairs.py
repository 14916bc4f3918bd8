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
"""The triplets (key frame, current frame, mask) that feature sharing is learned from."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from featshare_core.data.augmentation_settings import Augmentation
from featshare_core.data.passing import cut_out, paste
from featshare_core.data.source import Array, Labelled
from featshare_core.data.store import FrameStore
import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

Matrix = npt.NDArray[np.float64]
MAX_DISTANCE = 15
"""Largest distance between key and current frame, in frames."""
PLAIN = np.array([1, 1, 1, 1, 1, 0], np.float32)
"""
Colour parameters that change nothing: saturation; gains of red, green and blue; gamma; standard
deviation of the noise, for images of 0 to 1.
"""


def draw_view(rng: np.random.Generator, size: tuple[int, int], crop: tuple[int, int],
              augmentation: Augmentation) -> Matrix:
    """
    Draw a rotated, scaled, mirrored crop of an image.

    :param size, crop: (width, height) in pixels of the image and of what is cut from it.
    :returns: the 3x3 matrix from the crop's pixels (x, y, 1) to the image's, in pixels.
    """
    scale = np.exp(rng.uniform(*np.log(augmentation.scale)))
    angle = np.deg2rad(rng.uniform(-augmentation.rotation, augmentation.rotation))
    # The crop's centre: anywhere in the image, or the image's where the crop is the larger.
    centre = [(side - 1) / 2 + rng.uniform(-.5, .5) * max(0.0, side - cut / scale)
              for side, cut in zip(size, crop)]
    mirror = -1.0 if augmentation.flip and rng.random() < .5 else 1.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    turn = turn @ np.diag([mirror, 1.0])
    view = np.eye(3)
    view[:2, :2] = turn
    view[:2, 2] = centre - turn @ [(crop[0] - 1) / 2, (crop[1] - 1) / 2]
    return view


def draw_colours(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Draw 6 colour parameters of another camera or weather, in the order of ``PLAIN``."""
    gains = rng.uniform(.6, 1.5) * rng.uniform(.85, 1.15, 3)
    return np.array([rng.uniform(.3, 1.4), *gains, rng.uniform(.7, 1.4),
                     rng.uniform(0, 6) / 255], np.float32)


def simulated_motion(rng: np.random.Generator, distance: int, size: tuple[int, int]) -> Matrix:
    """
    Draw the homography of a camera that moved for ``distance`` frames before a still.

    It drives forward, so the earlier frame sees more, and turns a little; both grow with the
    distance. At 15 Hz and 50 km/h a car comes nearer to what is 15 m ahead by 6 % a frame: that is
    the largest zoom, because what is learned from smaller motion does not hold on real video.

    :param size: (width, height) in pixels.
    :returns: the 3x3 matrix from the earlier frame's pixels (x, y, 1) to the still's.
    """
    half = size[0] / 2
    pan, roll, turn = rng.normal(0, [.006, .002], 2), rng.normal(0, .001), rng.normal(0, .001, 2)
    zoom = 1 + distance * rng.uniform(0, .06)
    motion = np.array([[zoom, -distance * roll, distance * pan[0] * 2],
                       [distance * roll, zoom, distance * pan[1] * 2],
                       [distance * turn[0], distance * turn[1] / 2, 1]])
    to_unit = np.array([[1 / half, 0, -1 + .5 / half],
                        [0, 1 / half, (.5 - size[1] / 2) / half], [0, 0, 1]])
    return np.linalg.inv(to_unit) @ motion @ to_unit


class Triplets(Dataset[dict[str, Any]]):
    """
    Endless samples; sample ``i`` is decided by ``(seed, i)`` alone, so a run can be resumed.

    A sample holds ``image`` and ``mask`` (HxWx3, HxW uint8) of the current frame, ``view`` (see
    ``draw_view``), ``colours`` and ``noise`` (a seed); with distances, also ``key``,
    ``pseudo`` (the key frame's pseudo labels), ``key_view``, ``key_colours``, ``distance`` and
    ``simulated``. A still has no earlier frame: its key frame is itself, seen through
    ``simulated_motion``, with noise and a change of exposure.

    :param stores: data sets of one size; ``shares`` are their shares of the samples.
    :param crop: (width, height) in pixels.
    :param distances: smallest and largest distance in frames, 0 to 15; None for single frames.
    :param pseudo: from a frame, HxWx3 uint8, to its pseudo labels, HxW uint8.
    :raises ValueError: where distances are out of range, or no sample has enough frames before it.
    """

    def __init__(self, stores: Sequence[FrameStore], shares: Sequence[float],
                 crop: tuple[int, int], augmentation: Augmentation, seed: int,
                 distances: tuple[int, int] | None = None,
                 pseudo: Callable[[Array], Array] | None = None) -> None:
        self.stores, self.crop, self.augmentation, self.seed = stores, crop, augmentation, seed
        self.shares = np.array(shares) / np.sum(shares)
        self.distances, self.pseudo = distances, pseudo
        low, high = distances or (0, 0)
        if not 0 <= low <= high <= MAX_DISTANCE:
            raise ValueError(f'distances {low} to {high} are not within 0 to {MAX_DISTANCE}')
        self._things = cut_out(stores) if augmentation.passing and distances else []
        if augmentation.passing and not self._things:
            raise ValueError('augmentation.passing: it is for pairs of frames, and no still of '
                             'the data shows a thing to cut out')
        for store in stores:
            _check_distances(store, low, high)
        self._reaching = [{d: reaching(store, d) for d in range(low, high + 1)}
                          for store in stores]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Draw sample ``index``."""
        rng = np.random.default_rng((self.seed, index))
        which = rng.choice(len(self.stores), p=self.shares)
        store = self.stores[which]
        low, high = self.distances or (0, 0)
        distance = int(rng.integers(low, high + 1))
        samples = self._reaching[which][distance]
        sample = samples[rng.integers(len(samples))]
        view = draw_view(rng, store.size, self.crop, self.augmentation)
        colours = draw_colours(rng) if self.augmentation.colour else PLAIN
        drawn: dict[str, Any] = {
            'image': store.image(sample.frames[0]), 'mask': store.mask(sample),
            'view': view.astype(np.float32), 'colours': colours,
            'noise': int(rng.integers(2**62))}
        if self.distances is None:
            return drawn
        simulated = len(sample.frames) <= distance
        key = store.image(sample.frames[0 if simulated else distance])
        if self._things:
            drawn['image'], drawn['mask'], key = paste(
                rng, self._things, drawn['image'], drawn['mask'], key, distance)
        key_view, key_colours = view, colours
        if simulated:
            key_view = simulated_motion(rng, distance, store.size) @ view
            exposure = np.exp(rng.normal(0, .01 * np.sqrt(distance)))
            key_colours = colours * np.array([1, *3 * [exposure], 1, 1], np.float32)
            key_colours[5] = np.hypot(colours[5], rng.uniform(0, 3) / 255)
        return {**drawn, 'key': key, 'key_view': key_view.astype(np.float32),
                'key_colours': key_colours.astype(np.float32), 'distance': distance,
                'simulated': simulated,
                'pseudo': self.pseudo(key) if self.pseudo else np.full_like(drawn['mask'], 255)}


def reaching(store: FrameStore, distance: int) -> list[Labelled]:
    """Return the samples with a frame ``distance`` before them, and the stills."""
    return [s for s in store.source.samples if len(s.frames) > distance or len(s.frames) == 1]


def _check_distances(store: FrameStore, low: int, high: int) -> None:
    """Refuse a data set without stills whose videos are too short for the distances."""
    if reaching(store, high):
        return
    most = max((len(sample.frames) - 1 for sample in store.source.samples), default=0)
    remedy = f': set distances: [{low}, {most}]' if most >= low else ''
    raise ValueError(f'{store.source.name}: distances are {low} to {high}, but no labelled frame '
                     f'has more than {most} frames before it, and there are no stills{remedy}')


class LaggedFrames(Dataset[dict[str, Any]]):
    """
    Every labelled frame at every lag 0 to ``interval - 1``, for scoring.

    Where no frame has that many before it, all are scored at lag 0 alone. A sample holds
    ``image``, ``key`` (HxWx3 uint8), ``mask`` (HxW uint8) and ``distance``.
    """

    def __init__(self, store: FrameStore, interval: int) -> None:
        self.store = store
        samples = [s for s in store.source.samples if len(s.frames) >= interval]
        self.lags = interval if samples else 1
        self.items = [(s, lag) for s in samples or store.source.samples
                      for lag in range(self.lags)]

    def __len__(self) -> int:
        """Return the number of (frame, lag) pairs."""
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a frame, its key frame and its mask."""
        sample, lag = self.items[index]
        return {'image': self.store.image(sample.frames[0]),
                'key': self.store.image(sample.frames[lag]),
                'mask': self.store.mask(sample), 'distance': lag}
