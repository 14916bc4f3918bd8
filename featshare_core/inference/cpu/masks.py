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
"""From logits to a mask, on a CPU."""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from math import gcd, prod

import cv2
from featshare_core.inference.pixels import Size
import numpy as np
import numpy.typing as npt
import torch

Logits = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]
Box = tuple[slice, slice]

CELL = np.ones((2, 2), np.uint8)
"""Window of four neighbouring logits; what is upsampled between them is a weighted mean."""
CLASSES_PER_THREAD, PIXELS_PER_THREAD = 4, 2**17
"""Least number of classes and of mask pixels per thread; with fewer, a thread saves little."""
PIXELS_PER_LOGIT = 16
"""
Least number of mask pixels per logit at which classes are upsampled only where they can win; with
fewer, finding out where takes longer than upsampling everywhere.
"""
KEPT_MASKS = 200
"""Number of masks after which buffers that had room for twice as many pixels are freed."""


class MaskMaker:
    """
    Upsamples logits to an image's size, one class at a time, and takes the winning class.

    The result is that of upsampling all logits, then argmax, but each class is upsampled only
    where it can win, and few full-size planes are held. Each of several threads takes some of the
    classes; then their winners are compared. Buffers of the largest size are kept, until the last
    ``KEPT_MASKS`` masks needed less than half.
    """

    def __init__(self) -> None:
        self._ready_for: tuple[Size, tuple[int, ...]] | None = None
        self._all_heats: list[_Heat] = []
        self._heats: list[_Heat] = []
        self._helpers = ThreadPoolExecutor(thread_name_prefix='masks')
        self._bounds = np.empty(0, np.float32)
        self._ids = np.empty(0, np.uint8)
        self._small = 0

    def make(self, logits: Logits, size: Size,
             confidence: bool = False) -> tuple[Mask, Mask | None]:
        """
        Return the mask, and the confidence where it is asked for.

        :param logits: Cxhxw float32, upsampled to ``size``.
        :returns: HxW uint8 class ids, and HxW uint8: 255 times the winning class's softmax.
        """
        self._free_unused(size)
        if self._ready_for != (size, logits.shape):
            self._make_ready(size, logits.shape)
        boxes = self._whole
        if self._sparse:
            boxes = self._boxes(logits)
            self._share_out(boxes)
        final, *others = self._heats
        mask = np.empty(size, np.uint8)
        running = [self._helpers.submit(heat.run, logits, boxes, heat.winner) for heat in others]
        final.run(logits, boxes, mask)
        for heat, run in zip(others, running):
            run.result()
            final.meet(heat, mask)
        # `final.best` is now each pixel's largest logit.
        return mask, self._confidence(logits, size) if confidence else None

    def close(self) -> None:
        """End the threads, and free the buffers."""
        self._helpers.shutdown()
        self._all_heats.clear()
        self._heats.clear()

    def _free_unused(self, size: Size) -> None:
        """Free the buffers of an image far larger than those of the last masks."""
        largest = max((heat.capacity for heat in self._all_heats), default=0)
        self._small = self._small + 1 if 2 * size[0] * size[1] < largest else 0
        if self._small == KEPT_MASKS:
            self._small, self._ready_for = 0, None
            self._all_heats.clear()
            self._heats.clear()
            self._bounds, self._ids = np.empty(0, np.float32), np.empty(0, np.uint8)

    def _make_ready(self, size: Size, shape: tuple[int, ...]) -> None:
        threads = max(1, min(torch.get_num_threads(), shape[0] // CLASSES_PER_THREAD,
                             size[0] * size[1] // PIXELS_PER_THREAD))
        while len(self._all_heats) < threads:
            self._all_heats.append(_Heat())
        self._heats = self._all_heats[:threads]
        for heat in self._heats:
            heat.make_ready(size)
        # The smallest numbers of logits and of pixels that cover the same length: a box of whole
        # units is upsampled exactly as that part of the whole image.
        self._units = tuple((side // gcd(side, pixels), pixels // gcd(side, pixels))
                            for side, pixels in zip(shape[1:], size))
        whole = (slice(0, shape[1]), slice(0, shape[2])), (slice(0, size[0]), slice(0, size[1]))
        self._whole: list[tuple[Box, Box] | None] = [whole] * shape[0]
        self._share_out(self._whole)
        self._sparse = size[0] * size[1] >= PIXELS_PER_LOGIT * shape[1] * shape[2]
        if self._sparse:
            planes, cells = shape[0] + 2, shape[1] * shape[2]
            if planes * cells > self._bounds.size:
                self._bounds = np.empty(planes * cells, np.float32)
            if cells > self._ids.size:
                self._ids = np.empty(cells, np.uint8)
            bounds = self._bounds[:planes * cells].reshape(planes, *shape[1:])
            self._peaks, self._lead, self._low = bounds[:-2], bounds[-2], bounds[-1]
            self._possible = self._ids[:cells].reshape(shape[1:])
        self._ready_for = size, shape

    def _boxes(self, logits: Logits) -> list[tuple[Box, Box] | None]:
        """
        Return where each class can win: its box in the logits, and the same box in the mask.

        Between four logits a class loses where another class's smallest exceeds its largest.
        """
        for index, values in enumerate(logits):
            cv2.dilate(values, CELL, dst=self._peaks[index])
            cv2.erode(values, CELL, dst=self._low if index else self._lead)
            if index:
                cv2.max(self._lead, self._low, dst=self._lead)
        return [self._box(peaks) for peaks in self._peaks]

    def _box(self, peaks: npt.NDArray[np.float32]) -> tuple[Box, Box] | None:
        cv2.compare(peaks, self._lead, cv2.CMP_GE, dst=self._possible)
        left, top, width, height = cv2.boundingRect(self._possible)
        if not width:
            return None
        source, target = [], []
        for start, length, (logits, pixels) in zip((top, left), (height, width), self._units):
            # The cell of a logit reaches from the logit before it to itself.
            first, last = max(0, start - 1) // logits, -(-(start + length) // logits)
            source.append(slice(first * logits, last * logits))
            target.append(slice(first * pixels, last * pixels))
        return (source[0], source[1]), (target[0], target[1])

    def _share_out(self, boxes: list[tuple[Box, Box] | None]) -> None:
        """Give each thread consecutive classes, with about the same number of pixels in all."""
        areas = [prod(part.stop - part.start for part in box[1]) if box else 0 for box in boxes]
        middles = np.cumsum(areas) - np.array(areas) / 2
        # A class halfway between two threads goes to the first, which the caller runs at once.
        heats = np.ceil(middles * len(self._heats) / max(1, sum(areas))) - 1
        for index, heat in enumerate(self._heats):
            heat.classes = np.flatnonzero(heats == index).tolist()

    def _confidence(self, logits: Logits, size: Size) -> Mask:
        """Return 255 times the winning class's softmax, from each pixel's largest logit."""
        height, width = size
        total = np.zeros(size, np.float32)  # sum of exp(logit - largest logit)
        plane, best = self._heats[0].plane, self._heats[0].best
        for values in logits:
            cv2.resize(values, (width, height), dst=plane)
            cv2.subtract(plane, best, dst=plane)
            cv2.exp(plane, dst=plane)
            cv2.add(total, plane, dst=total)
        return cv2.convertScaleAbs(cv2.divide(255.0, total)).astype(np.uint8, copy=False)


class _Heat:
    """Finds each pixel's winner among some of the classes, which are in ascending order."""

    classes: list[int]

    def __init__(self) -> None:
        self._logits = np.empty((2, 0), np.float32)
        self._ids = np.empty((2, 0), np.uint8)

    @property
    def capacity(self) -> int:
        """Return the number of pixels that the buffers have room for."""
        return self._ids.shape[1]

    def make_ready(self, size: Size) -> None:
        """Lay out the buffers for masks of a size; the memory is kept where it suffices."""
        pixels = size[0] * size[1]
        if pixels > self._ids.shape[1]:
            self._logits = np.empty((2, pixels), np.float32)
            self._ids = np.empty((2, pixels), np.uint8)
        self.best, self.plane = self._logits[:, :pixels].reshape(2, *size)
        self.winner = self._ids[0, :pixels].reshape(size)

    def run(self, logits: Logits, boxes: list[tuple[Box, Box] | None], winner: Mask) -> None:
        """Write into ``winner`` which of the classes has the largest logit."""
        first = boxes[self.classes[0]] if self.classes else None
        later = self.classes
        if first is not None and self.best[first[1]].shape == winner.shape:
            later = later[1:]
            cv2.resize(logits[self.classes[0]], winner.shape[::-1], dst=self.best)
            winner.fill(self.classes[0])
        else:
            self.best.fill(-np.inf)
            winner.fill(0)
        for index in later:
            box = boxes[index]
            if box is None:
                continue
            source, target = box
            best, ids = self.best[target], winner[target]
            # Small and contiguous, they stay in the CPU's cache.
            plane = self._logits[1, :best.size].reshape(best.shape)
            wins = self._ids[1, :best.size].reshape(best.shape)
            cv2.resize(logits[index][source], best.shape[::-1], dst=plane)
            cv2.compare(plane, best, cv2.CMP_GT, dst=wins)
            cv2.max(plane, best, dst=best)
            # Later classes have larger ids: the largest is that of the last to win.
            cv2.bitwise_and(wins, index, dst=wins)
            cv2.max(ids, wins, dst=ids)

    def meet(self, other: _Heat, winner: Mask) -> None:
        """Write into ``winner`` where another's winners, of larger ids, have larger logits."""
        wins = self._ids[1, :winner.size].reshape(winner.shape)
        cv2.compare(other.best, self.best, cv2.CMP_GT, dst=wins)
        cv2.max(other.best, self.best, dst=self.best)
        cv2.copyTo(other.winner, wins, dst=winner)
