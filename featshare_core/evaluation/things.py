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
"""Things: how much of each pedestrian, bicyclist or car is still found at a lag."""
from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
from featshare_core.data.source import Instance, Labelled
from featshare_core.evaluation.videos import Cache, Video
from featshare_core.labels import LabelSet
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.uint8]

THINGS = ('pedestrian', 'bicyclist', 'car', 'person', 'rider', 'truck', 'bus', 'train',
          'motorcycle', 'bicycle')
"""Classes whose things are followed, as far as the label set has them: CamVid's, Cityscapes'."""
LEAST_PIXELS = 100
"""Size of the smallest thing that counts, in pixels of the image."""
SEEN = 0.25
"""Share of a thing's pixels that the per-frame network has to find: of less, ratios are noise."""
SURVIVES = 0.5
"""Share of what the per-frame network has of a thing, from which on the thing survives."""
MOTIONS = (16, 32, 64, 128)
"""Bounds of the bins of motion, in pixels of the image since the key frame."""
PASSING = 8.0
"""Least motion of a thing that passes, in pixels of the image a frame."""
UNKNOWN = 'unknown'
"""Name of the bin of the things whose motion is not known."""
REACH = 2.0
"""Longest motion by which components are matched, in diagonals of their bounding boxes."""
ALIKE = 2.0
"""Largest ratio of the sizes of components that are matched."""


@dataclass(frozen=True)
class Thing:
    """
    One thing in a frame.

    :param label: its class id.
    :param place: rows and columns of its bounding box; ``pixels`` is a bool array of that size.
    :param centre: (x, y), the mean of its pixels' places.
    :param motion: in pixels since the key frame; None where it is not known.
    """

    label: int
    place: tuple[slice, slice]
    pixels: npt.NDArray[np.bool_]
    centre: tuple[float, float]
    motion: float | None = None

    @property
    def size(self) -> int:
        """Return the number of its pixels."""
        return int(self.pixels.sum())

    def found(self, mask: Mask) -> int:
        """Return how many of its pixels have its class in an HxW mask."""
        return int((self.pixels & (mask[self.place] == self.label)).sum())


def class_ids(labels: LabelSet, names: Collection[str] | None = None) -> tuple[int, ...]:
    """
    Return the ids of the classes whose things are followed.

    :param names: None for those of ``THINGS`` that the label set has.
    :raises ValueError: where the label set has no class of a name that is given.
    """
    for name in names or ():
        if name not in labels.names:
            raise ValueError(f'there is no class {name!r}; there are {", ".join(labels.names)}')
    wanted = THINGS if names is None else names
    return tuple(index for index, name in enumerate(labels.names) if name in wanted)


def components(mask: Mask, classes: Collection[int], least: int = LEAST_PIXELS) -> list[Thing]:
    """
    Return the areas of 8-connected pixels of classes in an HxW mask.

    :param least: pixels of the smallest one.
    """
    things = []
    for label in classes:
        count, ids, stats, centres = cv2.connectedComponentsWithStats(
            (mask == label).astype(np.uint8), connectivity=8)
        for index in range(1, count):  # 0 is everything else
            left, top, width, height, area = (int(value) for value in stats[index])
            if area >= least:
                place = slice(top, top + height), slice(left, left + width)
                x, y = centres[index]
                things.append(Thing(label, place, ids[place] == index, (float(x), float(y))))
    return things


def of_instances(ids: npt.NDArray[np.int32], found: Mapping[int, Instance], truth: Mask,
                 classes: Collection[int], least: int = LEAST_PIXELS) -> list[Thing]:
    """
    Return labelled instances as things; what is hidden in part may be several components.

    :param ids: HxW instance ids; ``found`` says which class an instance has in ``truth``'s ids.
    :param truth: HxW labels; an instance's pixels of other classes are left out.
    """
    things = []
    for index, instance in sorted(found.items()):
        if instance.label not in classes:
            continue
        rows, columns = np.nonzero((ids == index) & (truth == instance.label))
        if len(rows) >= least:
            place = (slice(int(rows.min()), int(rows.max()) + 1),
                     slice(int(columns.min()), int(columns.max()) + 1))
            pixels = np.zeros((place[0].stop - place[0].start, place[1].stop - place[1].start),
                              np.bool_)
            pixels[rows - place[0].start, columns - place[1].start] = True
            things.append(Thing(instance.label, place, pixels,
                                (float(columns.mean()), float(rows.mean())), instance.motion))
    return things


def matched(now: Sequence[Thing], earlier: Sequence[Sequence[Thing]]) -> list[Thing]:
    """
    Return the things of a frame with their motion, from component to component of earlier frames.

    Two components match that are of one class and alike in size, each the other's nearest, and
    nearer than ``REACH``. Motion is the shift of the centre since the last of the earlier frames;
    None where a match is missing on the way.

    :param earlier: components of the frames before, the newest first, the key frame's last.
    """
    result = []
    for thing in now:
        here: Thing | None = thing
        others = now
        for before in earlier:
            here = _match(here, others, before) if here is not None else None
            others = before
        result.append(replace(thing, motion=None if here is None or not earlier
                              else _distance(thing, here)))
    return result


def _match(thing: Thing, others: Sequence[Thing], before: Sequence[Thing]) -> Thing | None:
    """Return the component of the frame before that is one of a frame's; see ``matched``."""
    def nearest(one: Thing, candidates: Sequence[Thing]) -> Thing | None:
        near = [other for other in candidates if other.label == one.label
                and max(one.size, other.size) <= ALIKE * min(one.size, other.size)]
        return min(near, key=lambda other: _distance(one, other), default=None)

    found = nearest(thing, before)
    if found is None or nearest(found, others) is not thing:
        return None
    return found if _distance(thing, found) <= REACH * float(np.hypot(*thing.pixels.shape)) \
        else None


def _distance(one: Thing, other: Thing) -> float:
    return float(np.hypot(one.centre[0] - other.centre[0], one.centre[1] - other.centre[1]))


def labelled_things(video: Video, truths: Callable[[Labelled], Mask], classes: Collection[int],
                    interval: int) -> Callable[[Labelled, int], list[Thing]]:
    """
    Return a function from a labelled frame and a lag to its things, in the same order at all lags.

    Things are the source's instances, with the motion that it states; where it has none, the
    labels' connected components, with the motion of ``matched`` over the labelled frames since
    the key frame, if that one is labelled.

    :param truths: from a labelled frame to its HxW labels.
    """
    labelled = {sample.frames[0]: sample for sample in video.source.samples}

    def parts(sample: Labelled) -> list[Thing]:
        return components(truths(sample), classes)

    found = Cache(parts, 2 * interval)

    def things(one: tuple[Labelled, int]) -> list[Thing]:
        sample, lag = one
        if video.source.read_instances is not None:
            ids, instances = video.source.read_instances(sample.frames[0], lag)
            return of_instances(
                ids, {index: replace(instance, label=video.class_of(instance.label))
                      for index, instance in instances.items()}, truths(sample), classes)
        before = [labelled.get(frame) for frame in sample.frames[1:lag + 1]]
        return matched(found(sample), [found(one) for one in before if one is not None]
                       if None not in before[-1:] else [])

    # Engines that are scored side by side ask for the same interval one after another.
    cache = Cache(things, 2 * interval)
    return lambda sample, lag: cache((sample, lag))


class Survival:
    """
    What is left of things at each lag, of what the per-frame network has of them.

    A thing's share is the number of its pixels that have its class at a lag, over their number
    at lag 0, where the whole network runs; at most 1. Things of which the per-frame network
    itself finds less than ``SEEN`` count as unseen, and nowhere else.
    """

    def __init__(self, labels: LabelSet, interval: int, classes: Collection[int]) -> None:
        self.labels, self.interval, self.classes = labels, interval, classes
        self._waiting: dict[Hashable, list[tuple[int, Sequence[Thing], list[int]]]] = {}
        self._shares: dict[int, list[list[tuple[float, float | None]]]] = {}
        self._unseen: dict[int, int] = {}

    def add(self, frame: Hashable, lag: int, things: Sequence[Thing], mask: Mask) -> None:
        """Add a frame's HxW mask at a lag; each frame's lag 0 comes last."""
        waiting = self._waiting.setdefault(frame, [])
        waiting.append((lag, things, [thing.found(mask) for thing in things]))
        if lag == 0:
            whole = waiting[-1][2]
            for one in self._waiting.pop(frame):
                self.count(*one, whole)

    def count(self, lag: int, things: Sequence[Thing], found: Sequence[int],
              whole: Sequence[int]) -> None:
        """Count things of which ``found`` pixels are right at a lag, and ``whole`` per frame."""
        for thing, here, per_frame in zip(things, found, whole):
            if per_frame < SEEN * thing.size:
                self._unseen[thing.label] = self._unseen.get(thing.label, 0) + (lag == 0)
                continue
            shares = self._shares.setdefault(thing.label, [[] for _ in range(self.interval)])
            shares[lag].append((min(1.0, here / per_frame), thing.motion))

    def summary(self) -> dict[str, dict[str, Any]]:
        """
        Return, by class: things counted, mean share kept and share of survivors, in percent.

        ``things``, ``kept``, ``least`` (of the thing of which the least is kept) and
        ``survivors`` are lists by lag, None where nothing was counted; ``passing`` has the same
        of those that move by ``PASSING`` or more; ``by_motion`` has them of all lags from 1 on
        together, by the motion since the key frame in pixels; ``unseen`` is the number of things
        that the per-frame network misses.
        """
        result = {}
        for label in self.classes:
            by_lag = self._shares.get(label, [[] for _ in range(self.interval)])
            if not any(by_lag) and label not in self._unseen:
                continue
            bins: dict[str, list[float]] = {}
            for share, motion in (one for shares in by_lag[1:] for one in shares):
                bins.setdefault(_bin(motion), []).append(share)
            passing = [[one for one in shares if lag and (one[1] or 0) >= lag * PASSING]
                       for lag, shares in enumerate(by_lag)]
            result[self.labels.names[label]] = {
                **_listed(by_lag), 'passing': _listed(passing),
                'by_motion': {name: _counted(bins[name]) for name in _bins() if name in bins},
                'unseen': self._unseen.get(label, 0)}
        return result


def _listed(by_lag: Sequence[Sequence[tuple[float, float | None]]]) -> dict[str, list[Any]]:
    counted = [_counted([share for share, _ in shares]) for shares in by_lag]
    return {name: [one[name] for one in counted] for name in counted[0]}


def _counted(shares: Sequence[float]) -> dict[str, Any]:
    if not shares:
        return {'things': 0, 'kept': None, 'least': None, 'survivors': None}
    return {'things': len(shares), 'kept': 100 * float(np.mean(shares)),
            'least': 100 * min(shares),
            'survivors': 100 * float(np.mean([share >= SURVIVES for share in shares]))}


def _bins() -> list[str]:
    bounds = (0, *MOTIONS)
    return [*(f'{low}-{high}' for low, high in zip(bounds, MOTIONS)), f'{MOTIONS[-1]}-', UNKNOWN]


def _bin(motion: float | None) -> str:
    return UNKNOWN if motion is None else _bins()[int(np.searchsorted(MOTIONS, motion, 'right'))]
