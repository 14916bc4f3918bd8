"""How long key and current frames take: batch 1, one frame after another, engines in turn."""
from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featshare_core.data.synthetic import RenderedStreet
from featshare_core.evaluation.accuracy import rounded
from featshare_core.evaluation.work import count_work, rounded_size
from featshare_core.inference.device import choose_device
from featshare_core.inference.engine import Engine, Frame
from featshare_core.inference.engines import installed_engines, make_engine
from featshare_core.networks.checkpoint import load_checkpoint

INTERVALS = (2, 5, 10, 15)
"""The thesis's."""
INTERVAL = 5
"""Of the frames that are timed, and of the ratios."""
PER_FRAME = 2
"""Frames of the per-frame baseline for each ``INTERVAL`` frames with sharing."""
WARM_UP = 3
Progress = Callable[[range], Iterable[Any]]
EAGER = 'eager-fp32'

TIMED = {EAGER: ('torch', 'fp32'), 'eager-bf16': ('torch', 'bf16'),
         'openvino': ('openvino', 'auto'), 'onnx': ('onnx', 'auto'), 'graphs': ('graphs', 'auto')}
"""The engine and the precision of each row of the tables, as far as they run on the device."""


def engines_for(weights: str | Path, shared_levels: int | None, device: torch.device,
                input_size: tuple[int, int]) -> dict[str, Engine]:
    """Return what can be timed on a device, by name; the first is what the thesis did."""
    installed = installed_engines(device.type)
    return {name: make_engine(weights, engine, str(device), precision, shared_levels, input_size)
            for name, (engine, precision) in TIMED.items() if engine in installed}


@dataclass
class Times:
    """
    Milliseconds of an engine's frames, from the image in host memory to the mask in it.

    ``per_frame`` is the baseline, which keeps nothing for other frames, in the same run.
    """

    key: list[float] = field(default_factory=list)
    current: list[float] = field(default_factory=list)
    per_frame: list[float] = field(default_factory=list)

    def average(self, interval: int) -> float:
        """Return the mean of a frame at an interval, from the medians of its two kinds."""
        return float(np.median(self.key) + (interval - 1) * np.median(self.current)) / interval

    def summary(self) -> dict[str, dict[str, float]]:
        """Return mean, median, 99th percentile and worst of each kind of frame."""
        return {kind: {'mean': float(np.mean(values)), 'p50': float(np.median(values)),
                       'p99': float(np.percentile(values, 99)), 'worst': float(max(values))}
                for kind, values in vars(self).items()}


def time_engines(engines: Mapping[str, Engine], video: Iterator[Frame], frames: int,
                 progress: Progress = iter,
                 baselines: Mapping[str, Engine] | None = None) -> dict[str, Times]:
    """
    Time engines in turns of one interval each, so that a busy machine slows all alike.

    A turn is a frame that is not timed, a key frame, the current frames after it, and a few frames
    of the baseline.

    :param frames: those with sharing, for each engine: whole intervals of them, at least one.
    :param progress: wraps the turns, for a progress bar.
    :param baselines: those of them to compare with, over the network without a cut.
    """
    baselines = baselines or {}
    times = {name: Times() for name in engines}
    for engine in engines.values():
        for _ in range(WARM_UP):
            engine.key(next(video))
            engine.current(next(video))
    for engine in baselines.values():
        for _ in range(WARM_UP):
            engine.key(next(video))
    for _ in progress(range(turns(frames))):
        for name, engine in engines.items():
            taken = times[name]
            # PyTorch's threads spin on for milliseconds after the engine before.
            engine.current(next(video))
            taken.key.append(_milliseconds(engine.key, next(video)))
            taken.current += [_milliseconds(engine.current, next(video))
                              for _ in range(INTERVAL - 1)]
            if name in baselines:
                taken.per_frame += [_milliseconds(baselines[name].key, next(video))
                                    for _ in range(PER_FRAME)]
    return times


def turns(frames: int) -> int:
    """Return the number of turns in which ``frames`` frames are timed."""
    return max(1, frames // INTERVAL)


def _milliseconds(run: Callable[[Frame], Any], frame: Frame) -> float:
    # The mask comes back to host memory, so the end waits for the device; the start must too.
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    start = time.perf_counter()
    run(frame)
    return 1e3 * (time.perf_counter() - start)


def street_video(size: tuple[int, int], length: int = 10) -> Iterator[Frame]:
    """Yield frames of the rendered street of (width, height), without end."""
    street = RenderedStreet(*size, seed=0)
    return itertools.cycle([street.frame(index)[0] for index in range(length)])


def benchmark(weights: str | Path, shared_levels: int | None, device: str,
              size: tuple[int, int], frames: int,
              progress: Progress = iter) -> dict[str, Any]:
    """
    Time a checkpoint on every engine of a device; see ``featshare benchmark``.

    :param size: (width, height) of the images; the network runs at the nearest multiples.
    :returns: what the JSON file holds, in milliseconds: ``ms`` (medians), ``latency`` (mean, p50,
        p99, worst), ``average`` (by interval), ``ratios`` (of the best engine), ``work``.
    """
    chosen = choose_device(device)
    network, config = load_checkpoint(weights, shared_levels)
    input_size = rounded_size(size, network.input_multiple)
    engines = engines_for(weights, shared_levels, chosen, input_size)
    times = time_engines(engines, street_video(size), frames, progress,
                         engines_for(weights, 0, chosen, input_size))
    ms = {name: {'key': float(np.median(taken.key)), 'current': float(np.median(taken.current))}
          for name, taken in times.items()}
    best = min(times, key=lambda name: times[name].average(INTERVAL))
    average = {name: {str(interval): taken.average(interval) for interval in INTERVALS}
               for name, taken in times.items()}
    baseline = {name: float(np.median(taken.per_frame)) for name, taken in times.items()}
    return rounded({
        'network': config.network, 'shared_levels': network.shared_levels,
        'device': engines[best].device, 'size': list(size), 'network_input': list(input_size),
        'frames': turns(frames) * INTERVAL, 'best': best, 'ms': ms, 'average': average,
        'baseline': baseline,
        'ratios': {
            'eager_key_over_best_key': ms[EAGER]['key'] / ms[best]['key'],
            'eager_current_over_best_current': ms[EAGER]['current'] / ms[best]['current'],
            'current_over_key': ms[best]['current'] / ms[best]['key'],
            'average_over_baseline': average[best][str(INTERVAL)] / baseline[best]},
        'average_over_baseline': {
            name: {interval: value / baseline[name] for interval, value in values.items()}
            for name, values in average.items()},
        'latency': {name: taken.summary() for name, taken in times.items()},
        'work': count_work(config, input_size)})
