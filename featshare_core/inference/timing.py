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
"""Stage timers, and percentiles over the newest values."""
from __future__ import annotations

from collections import deque
import time

import numpy as np


class StageTimer:
    """Times the stages of one frame, of work that has ended when its call returns."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._times: list[float] = []

    def start(self) -> None:
        """Begin a frame."""
        self._names.clear()
        self._times.clear()
        self.mark('')

    def mark(self, stage: str) -> None:
        """End a stage that began at the last mark, and name it."""
        self._times.append(time.perf_counter())
        self._names.append(stage)

    def stages(self) -> dict[str, float]:
        """Return each stage's milliseconds, in order."""
        return {name: 1e3 * (end - start) for name, start, end
                in zip(self._names[1:], self._times, self._times[1:])}


class Rolling:
    """Percentiles over the newest ``window`` values."""

    def __init__(self, window: int = 200) -> None:
        self._values: deque[float] = deque(maxlen=window)

    def add(self, value: float) -> None:
        """Take a value; in a full window it replaces the oldest."""
        self._values.append(value)

    def __len__(self) -> int:
        """Return the number of values held."""
        return len(self._values)

    def percentiles(self) -> tuple[float, float, float] | None:
        """Return (median, 95th percentile, maximum), or None before the first value."""
        if not self._values:
            return None
        p50, p95, largest = np.percentile(list(self._values), (50, 95, 100))
        return float(p50), float(p95), float(largest)
