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
"""Flicker: pixels that change class from one frame to the next where the reference does not."""
from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Any

from featshare_core.labels import UNLABELLED
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.uint8]
KINDS = ('per_frame', 'key', 'between')


class Flicker:
    """
    The share of pixels whose prediction changes between consecutive frames.

    Only pixels count whose reference class (the label, or the per-frame network's own mask) is
    the same on both frames, so that motion changes few of them. Pairs of frames are those of a
    video with a key frame every ``interval`` frames, wherever the first key frame falls:

    * ``key``: from the last frame of an interval to the next key frame;
    * ``between``: from any frame of an interval to the next one of the same interval;
    * ``per_frame``: from key frame to key frame, the network without sharing.

    Masks are added frame by frame or interval by interval; those that later pairs need are held,
    at most about 3 ``interval`` of them.
    """

    def __init__(self, interval: int) -> None:
        self._last = interval - 1
        # Interval by interval, the key frame comes ``interval`` passes after the frame before it.
        self._held: list[deque[tuple[Hashable, Mask, Mask]]] = [
            deque(maxlen=interval + 1 if lag == self._last else 2) for lag in range(interval)]
        self._counts = {kind: [0, 0, 0] for kind in KINDS}  # changed, pixels, pairs

    def add(self, frame: Hashable, before: Hashable | None, reference: Mask, predicted: Mask,
            lag: int) -> None:
        """
        Add a frame's mask at a lag.

        :param frame: its name; ``before`` is the name of the frame before it, None for the first.
        :param reference: HxW class ids or ``UNLABELLED``; ``predicted`` HxW class ids.
        """
        self._held[lag].append((frame, reference, predicted))
        if before is None:
            return
        for kind, lag_before in ([('between', lag - 1)] if lag else
                                 [('per_frame', 0), ('key', self._last)]):
            for name, truth, mask in self._held[lag_before]:
                if name == before:
                    stable = (truth == reference) & (truth != UNLABELLED)
                    counts = self._counts[kind]
                    counts[0] += int(((mask != predicted) & stable).sum())
                    counts[1] += int(stable.sum())
                    counts[2] += 1

    def summary(self) -> dict[str, Any] | None:
        """
        Return the shares in percent, their ratio, and the pairs counted.

        :returns: ``per_frame``, ``key``, ``between``, ``ratio`` (key / between), each None where
            it cannot be had, and ``pairs`` (that end in a key frame); None without any pair.
        """
        shares = {kind: 100 * changed / pixels if pixels else None
                  for kind, (changed, pixels, _) in self._counts.items()}
        if all(share is None for share in shares.values()):
            return None
        key, between = shares['key'], shares['between']
        return {**shares, 'ratio': key / between if between and key is not None else None,
                'pairs': self._counts['key'][2]}
