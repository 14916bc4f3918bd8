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
"""Moved frames: the last mask, moved along optical flow, instead of a run of the network."""
from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import cv2
from featshare_core.inference.engine import Frame, KEPT_SIZES, Prediction
from featshare_core.inference.pixels import Size
from featshare_core.inference.schedule import whole_number
from featshare_core.inference.timing import StageTimer
import numpy as np
import numpy.typing as npt

MOST_MOVED = 10
"""Largest number of frames that are moved in a row."""
WORST_FIT = 0.4
"""
Largest mean difference of a frame from the last one moved to it, in its standard deviations.

Of neighbouring frames it is at most 0.14 on CamVid val and 0.29 on the traffic set, of frames of
different sequences of CamVid 0.6 or more, also with both at 30 % of their brightness.
"""
LONGEST_GAP_S = 0.5
"""Longest time between the stamps of a frame and of the one that its mask comes from."""
LEAST_SIDE = 16
"""Smallest side of a frame for which flow is computed, in pixels."""
MOST_SIDE = 1 << 15
"""Largest sum of a mask's sides that OpenCV moves, in pixels."""

Grey = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float32]


class _Last(NamedTuple):
    """The last frame that the network ran on, its stamp and result, and frames moved since."""

    grey: Grey
    stamp: float | None
    prediction: Prediction
    moved: int


class Mover:
    """
    Moves the last mask of each stream to the present frame, along OpenCV's DIS optical flow.

    The flow (Kroeger et al., 2016, preset ultrafast) is computed on grey images that are halved
    until they have at most twice ``pixels``. Not thread-safe.

    :param frames: how many frames in a row are moved, after each that the network ran on.
    :param pixels: number of pixels of the network's input, roughly.
    """

    def __init__(self, frames: int, pixels: int) -> None:
        self.frames, self._pixels = frames, pixels
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._last: dict[str, _Last] = {}
        self._grids: dict[Size, Field] = {}
        self._timer = StageTimer()

    def keep(self, stream: str, frame: Frame, prediction: Prediction,
             stamp: float | None = None) -> None:
        """
        Remember a frame that the network ran on, and what it computed.

        :param frame: HxWx3 uint8 RGB.
        :param stamp: seconds; None where unknown.
        """
        sure = prediction.confidence
        # Copies: the caller may draw into its mask.
        kept = replace(prediction, mask=prediction.mask.copy(),
                       confidence=None if sure is None else sure.copy())
        self._last[stream] = _Last(self._grey(frame), stamp, kept, 0)

    def forget(self, stream: str | None = None) -> None:
        """Forget what is kept of a stream; without one, all that is kept."""
        if stream is None:
            self._last.clear()
            self._grids.clear()
        else:
            self._last.pop(stream, None)

    def moved(self, stream: str, frame: Frame, confidence: bool = False,
              stamp: float | None = None) -> Prediction | None:
        """
        Return what the network computed for the stream's last frame, moved to this frame.

        The confidence is 0 where the flow points outside of the last frame.

        :param frame: HxWx3 uint8 RGB, of the last frame's size.
        :param stamp: seconds; None where unknown.
        :returns: None where the network has to run: ``frames`` have been moved already, the last
            frame, moved along the flow, does not fit this one (``WORST_FIT``) or is older than
            ``LONGEST_GAP_S``, the frame is too small, narrow or large for OpenCV, or there is no
            mask, or no confidence, to move.
        """
        last = self._last.get(stream)
        if last is None or last.moved >= self.frames \
                or (confidence and last.prediction.confidence is None):
            return None
        if stamp is not None and last.stamp is not None and stamp - last.stamp > LONGEST_GAP_S:
            return None
        self._timer.start()
        grey, before = self._grey(frame), last.prediction
        if grey.shape != last.grey.shape or min(grey.shape) < LEAST_SIDE \
                or sum(before.mask.shape) > MOST_SIDE:
            return None
        try:
            flow = np.asarray(self._flow.calc(grey, last.grey, None), np.float32)  # hxwx2
        except cv2.error:  # OpenCV's limits of the aspect ratio are not documented
            return None
        places = self._places(flow, grey.shape)
        if not _fits(last.grey, grey, places):
            return None
        self._timer.mark('flow')
        if before.mask.shape != grey.shape:
            places = self._places(flow, before.mask.shape)
        mask = np.asarray(cv2.remap(before.mask, *places, cv2.INTER_NEAREST,
                                    borderMode=cv2.BORDER_REPLICATE), np.uint8)
        sure = before.confidence if confidence else None
        if sure is not None:
            sure = np.asarray(cv2.remap(sure, *places, cv2.INTER_NEAREST,
                                        borderMode=cv2.BORDER_CONSTANT), np.uint8)
        self._timer.mark('move')
        self._last[stream] = last._replace(moved=last.moved + 1)
        return replace(before, mask=mask, confidence=sure, lag=before.lag + last.moved + 1,
                       timings=self._timer.stages(), deferred=False, moved=True)

    def _grey(self, frame: Frame) -> Grey:
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        # Halving is several times faster than other factors.
        while grey.size > 2 * self._pixels and min(grey.shape) >= 2 * LEAST_SIDE:
            grey = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        return np.asarray(grey, np.uint8)

    def _places(self, flow: Field, size: tuple[int, ...]) -> tuple[Any, Any]:
        """
        Return where each pixel of a mask was in the last mask, as maps for cv2.remap.

        :param flow: hxwx2 displacements (x, y) in its own pixels.
        :param size: the mask's height and width.
        """
        (height, width), (rows, columns) = size, flow.shape[:2]
        if (rows, columns) != (height, width):
            larger = cv2.multiply(flow, (width / columns, height / rows, 0, 0))
            flow = np.asarray(cv2.resize(larger, (width, height)), np.float32)
        return cv2.convertMaps(cv2.add(flow, self._grid(height, width)), None, cv2.CV_16SC2,
                               nninterpolation=True)

    def _grid(self, height: int, width: int) -> Field:
        """Return each pixel's own place, HxWx2, (x, y)."""
        if (height, width) not in self._grids:
            if len(self._grids) >= KEPT_SIZES:
                self._grids.clear()
            self._grids[height, width] = np.dstack(np.meshgrid(
                np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)))
        return self._grids[height, width]


def _fits(before: Grey, now: Grey, places: tuple[Any, Any]) -> bool:
    """Return whether a frame, taken from its places, is the other one, relative to contrast."""
    moved = cv2.remap(before, *places, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    _, deviation = cv2.meanStdDev(now)
    return cv2.norm(moved, now, cv2.NORM_L1) / now.size \
        <= WORST_FIT * max(1.0, float(deviation[0, 0]))


def checked_frames(value: Any) -> int:
    """
    Return a number of frames to move in a row.

    :raises TypeError: where it is no integer.
    :raises ValueError: where it is not 0 to ``MOST_MOVED``.
    """
    frames = whole_number('moved_frames', value)
    if not 0 <= frames <= MOST_MOVED:
        raise ValueError(f'moved_frames must be 0 to {MOST_MOVED}, not {frames}')
    return frames
