"""Stage timers, and percentiles over the newest values."""
from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

import numpy as np
import torch


class StageTimer:
    """
    Times the stages of one frame, on the device's own clock.

    On CUDA, events are recorded on the current stream, so that timing adds no synchronisation;
    ``stages`` may be called only once the device has finished the frame.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == 'cuda'
        self._names: list[str] = []
        self._events: list[torch.cuda.Event] = []
        self._times: list[float] = []

    def start(self) -> None:
        """Begin a frame."""
        self._names.clear()
        self._times.clear()
        self.mark('')

    def mark(self, stage: str) -> None:
        """End a stage that began at the last mark, and name it."""
        if self._cuda:
            if len(self._events) == len(self._names):
                self._events.append(torch.cuda.Event(enable_timing=True))
            self._events[len(self._names)].record()
        else:
            self._times.append(time.perf_counter())
        self._names.append(stage)

    def stages(self) -> dict[str, float]:
        """Return each stage's milliseconds, in order."""
        return dict(self._durations())

    def _durations(self) -> Iterator[tuple[str, float]]:
        for index, name in enumerate(self._names[1:], 1):
            if self._cuda:
                yield name, self._events[index - 1].elapsed_time(self._events[index])
            else:
                yield name, 1e3 * (self._times[index] - self._times[index - 1])


class Rolling:
    """Percentiles over the newest ``window`` values."""

    def __init__(self, window: int = 200) -> None:
        self._values: deque[float] = deque(maxlen=window)

    def add(self, value: float) -> None:
        """Take a value; the oldest is forgotten where the window is full."""
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
