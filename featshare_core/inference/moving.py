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
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
from featshare_core.inference.engine import Frame, KEPT_SIZES, Prediction
from featshare_core.inference.schedule import difference, thumbnail
from featshare_core.inference.timing import StageTimer
import numpy as np
import numpy.typing as npt

MOST_MOVED = 10
"""Largest number of frames that are moved in a row."""
MOST_DIFFERENT = 0.15
"""``difference`` from the last mask's frame, 0 to 1, above which it is another scene."""
LEAST_SIDE = 16
"""Smallest side of a frame for which flow is computed, in pixels."""

Grey = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float32]


class _Last(NamedTuple):
    """The last frame that the network ran on, its thumbnail, result, and frames moved since."""

    grey: Grey
    picture: Grey
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
        self._timer = StageTimer()

    def keep(self, stream: str, frame: Frame, prediction: Prediction) -> None:
        """Remember a frame that the network ran on, HxWx3 uint8 RGB, and what it computed."""
        sure = prediction.confidence
        # Copies: the caller may draw into its mask.
        kept = replace(prediction, mask=prediction.mask.copy(),
                       confidence=None if sure is None else sure.copy())
        self._last[stream] = _Last(self._grey(frame), thumbnail(frame), kept, 0)

    def forget(self, stream: str | None = None) -> None:
        """Forget what is kept of a stream, or of every stream."""
        if stream is None:
            self._last.clear()
        else:
            self._last.pop(stream, None)

    def moved(self, stream: str, frame: Frame, confidence: bool = False) -> Prediction | None:
        """
        Return what the network computed for the stream's last frame, moved to this frame.

        The confidence is 0 where the flow points outside of the last frame.

        :param frame: HxWx3 uint8 RGB, of the last frame's size.
        :returns: None where the network has to run: ``frames`` have been moved already, the scene
            has changed too much for flow, the frame is too small or narrow for it, or there is no
            mask, or no confidence, to move.
        """
        last = self._last.get(stream)
        if last is None or last.moved >= self.frames \
                or (confidence and last.prediction.confidence is None):
            return None
        self._timer.start()
        grey = self._grey(frame)
        if grey.shape != last.grey.shape or min(grey.shape) < LEAST_SIDE \
                or difference(thumbnail(frame), last.picture) > MOST_DIFFERENT:
            return None
        try:
            flow = np.asarray(self._flow.calc(grey, last.grey, None), np.float32)  # hxwx2
        except cv2.error:  # OpenCV's limits of the aspect ratio are not documented
            return None
        self._timer.mark('flow')
        before = last.prediction
        places = _places(flow, before.mask.shape[0], before.mask.shape[1])
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
        while grey.size > 2 * self._pixels:  # halving is several times faster than other factors
            grey = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        return np.asarray(grey, np.uint8)


def _places(flow: Field, height: int, width: int) -> tuple[Any, Any]:
    """
    Return where each pixel of an HxW mask was in the last mask, as maps for cv2.remap.

    :param flow: hxwx2 displacements (x, y) in its own pixels; it is overwritten.
    """
    rows, columns = flow.shape[:2]
    if (rows, columns) != (height, width):
        flow *= np.array((width / columns, height / rows), np.float32)
        flow = np.asarray(cv2.resize(flow, (width, height)), np.float32)
    return cv2.convertMaps(cv2.add(flow, _grid(height, width), dst=flow), None, cv2.CV_16SC2,
                           nninterpolation=True)


@lru_cache(KEPT_SIZES)
def _grid(height: int, width: int) -> Field:
    """Return each pixel's own place, HxWx2, (x, y)."""
    return np.dstack(np.meshgrid(np.arange(width, dtype=np.float32),
                                 np.arange(height, dtype=np.float32)))
