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
"""Temporal consistency: VC_n, the video consistency of VSPW (Miao et al., CVPR 2021)."""
from __future__ import annotations

from collections import deque
from typing import Any

from featshare_core.data.source import Labelled
from featshare_core.labels import UNLABELLED
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.uint8]
WINDOW = 8


class Consistency:
    """
    VC_n over windows of ``window`` consecutive labelled frames, the mean over all windows.

    Of the pixels whose label stays the same (and is one) throughout a window, the share at which
    the prediction equals it in every frame. It is taken for a key frame every frame, and as
    deployed: a key frame every ``interval``, for each of the ``interval`` places where the first
    may fall.

    Masks come in any order that completes the frames in turn: ``add`` each frame at every lag.
    """

    def __init__(self, interval: int, window: int = WINDOW) -> None:
        self.interval, self.window = interval, window
        self._waiting: dict[str, list[npt.NDArray[np.bool_] | None]] = {}
        self._newest: deque[tuple[Labelled, Mask, list[Any]]] = deque(maxlen=window)
        self._key: list[float] = []
        self._deployed: list[float] = []

    def add(self, sample: Labelled, truth: Mask, predicted: Mask, lag: int) -> None:
        """Take a labelled frame's prediction at a lag."""
        frame = sample.frames[0]
        right = self._waiting.setdefault(frame, [None] * self.interval)
        right[lag] = predicted == truth
        if any(part is None for part in right):
            return
        del self._waiting[frame]
        if self._newest and sample.frames[1:2] != self._newest[-1][0].frames[:1]:
            self._newest.clear()  # another video, or an unlabelled frame between
        self._newest.append((sample, truth, right))
        if len(self._newest) == self.window:
            self._count()

    def _count(self) -> None:
        first = self._newest[0][1]
        stable = first != UNLABELLED
        for _, truth, _ in self._newest:
            stable &= truth == first
        pixels = int(stable.sum())
        if not pixels:
            return
        self._key.append(self._share(stable, pixels, [0] * self.window))
        phases = [[(index - phase) % self.interval for index in range(self.window)]
                  for phase in range(self.interval)]
        self._deployed.append(float(np.mean([self._share(stable, pixels, lags)
                                             for lags in phases])))

    def _share(self, stable: npt.NDArray[np.bool_], pixels: int, lags: list[int]) -> float:
        kept = stable
        for (_, _, right), lag in zip(self._newest, lags):
            kept = kept & right[lag]
        return int(kept.sum()) / pixels

    def summary(self) -> dict[str, float | int] | None:
        """Return VC_n in percent and the windows; None without consecutive labelled frames."""
        if not self._key:
            return None
        return {'key': 100 * float(np.mean(self._key)),
                'deployed': 100 * float(np.mean(self._deployed)), 'windows': len(self._key)}
