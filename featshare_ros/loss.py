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
"""Images that are lost before they arrive: three kinds of evidence, evaluated once a second."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

WINDOW = 5
"""Number of newest evaluations that are judged together."""
PERSISTENCE = 3
"""Smallest number of these evaluations that must show the loss, each by itself."""
STAMPS = 256
"""Number of newest stamps that are kept."""
SPACINGS, SPAN_S = 12, 3.0
"""Smallest number of spacings between stamps for a judgement, and their least sum in seconds."""
CURE = ('start both the camera driver and this node with the Fast DDS profile '
        'config/fastdds_large_images.xml (`featshare doctor` prints the command)')
"""End of the message: what to do."""


class Evaluation(NamedTuple):
    """
    What happened since the previous evaluation.

    :param images: number of images that arrived.
    :param infos: number of camera_info messages that arrived.
    :param lost: number of images that the middleware has reported as lost.
    :param paired: number of images whose stamp is also that of a camera_info message.
    :param thinned: result of ``thinned``, where an image arrived.
    """

    images: int
    infos: int
    lost: int
    paired: int
    thinned: tuple[int, int] | None


class LossWatch:
    """
    Finds out whether most images of a camera are lost before they arrive.

    Nothing here is compared with a clock, so a recording may be replayed at any rate. All methods
    are called on the executor's thread.
    """

    def __init__(self) -> None:
        self._stamps: deque[float] = deque(maxlen=STAMPS)
        self._info_stamps: deque[float] = deque(maxlen=STAMPS)
        self._evaluations: deque[Evaluation] = deque(maxlen=WINDOW)
        self._images = self._infos = self._lost = 0

    def image(self, stamp: float | None) -> None:
        """Count an image; its stamp in seconds, None where it is not set."""
        self._images += 1
        if stamp is not None:
            self._stamps.append(stamp)

    def info(self, stamp: float | None) -> None:
        """Count a camera_info message; its stamp in seconds, None where it is not set."""
        self._infos += 1
        if stamp is not None:
            self._info_stamps.append(stamp)

    def lost(self, count: int) -> None:
        """Count images that the middleware reports as lost: its sequence numbers have gaps."""
        self._lost += count

    def evaluate(self, same_source: Callable[[], bool]) -> str:
        """
        Return a message where most images of the last evaluations were lost, else ''.

        :param same_source: returns whether the images and the camera_info messages are published
            by the same node; called only where that matters. Images from another node may have
            been throttled on purpose, as by topic_tools.
        """
        newest = list(self._stamps)[-self._images:] if self._images else []
        known = set(self._info_stamps) if newest else set()
        self._evaluations.append(Evaluation(
            self._images, self._infos, self._lost, sum(stamp in known for stamp in newest),
            thinned(self._stamps) if newest else None))
        self._images = self._infos = self._lost = 0
        images, infos, lost, paired = (
            sum(column) for column in list(zip(*self._evaluations))[:4])
        if self._persists(lambda e: e.lost > e.images) and lost > images:
            return _message(images, images + lost, 'by the report of the middleware')
        # Where the stamps differ, the rate of camera_info says nothing about the images'.
        if self._persists(lambda e: e.infos > 2 * e.images) and infos > 2 * images \
                and 2 * paired >= images > 0 and same_source():
            return _message(images, infos, 'by the number of camera_info messages')
        if self._persists(lambda e: e.thinned is not None):
            return _message(*next(e.thinned for e in reversed(self._evaluations) if e.thinned),
                            'by the spacing of their stamps')
        return ''

    def _persists(self, shows: Callable[[Evaluation], bool]) -> bool:
        return sum(map(shows, self._evaluations)) >= PERSISTENCE


def _message(came: int, sent: int, evidence: str) -> str:
    return f'most images are lost before they arrive: {came} of {sent} came, {evidence}; {CURE}'


def thinned(stamps: Sequence[float]) -> tuple[int, int] | None:
    """
    Return (images that came, images that were sent), where most were lost at random, else None.

    Random losses leave spacings that are various multiples of the camera's interval, in no
    regular order, and some that are one interval. Throttled images, a camera that lowers its rate
    in the dark, bursts, pauses and irregular cameras lack at least one of these marks.

    :param stamps: of the images that came, in seconds. Those before the last backward jump are
        not used, nor those older than ``WINDOW`` seconds, where enough newer ones remain.
    """
    times = np.array(stamps)
    back = np.flatnonzero(np.diff(times) <= 0)
    times = times[back[-1] + 1:] if back.size else times
    recent = int((times >= times[-1] - WINDOW).sum())
    spacings = np.diff(times[-max(recent, 2 * SPACINGS):])
    if len(spacings) < SPACINGS or spacings.sum() < SPAN_S:
        return None
    # The camera's interval: the smallest spacing that occurs at least twice.
    ordered = np.sort(spacings)
    alike = np.flatnonzero(ordered[1:] <= 1.1 * ordered[:-1])
    if not alike.size:
        return None
    interval = ordered[alike[0]]
    few = spacings < 3.5 * interval
    interval = spacings[few].sum() / np.round(spacings[few] / interval).sum()
    multiples = np.round(spacings / interval)
    fits = np.abs(spacings / interval - multiples) < 0.2
    if fits.mean() < 0.9 or np.median(multiples) < 2 or len(np.unique(multiples)) < 4 \
            or (multiples[1:] == multiples[:-1]).mean() > 0.5:
        return None
    came, sent = len(spacings), int(multiples.sum())
    return (came, sent) if sent > 2 * came else None
