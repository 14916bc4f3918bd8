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
"""How long key and current frames take: batch 1, one frame after another, engines in turn."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
import itertools
import math
from pathlib import Path
import time
from typing import Any

from featshare_core.data.synthetic import RenderedStreet
from featshare_core.evaluation.accuracy import rounded
from featshare_core.evaluation.work import count_work, rounded_size
from featshare_core.inference.device import choose_device, choose_precision
from featshare_core.inference.engine import Engine, Frame
from featshare_core.inference.engines import installed_engines, make_engine
from featshare_core.networks.checkpoint import load_checkpoint
import numpy as np
import torch

INTERVALS = (2, 5, 10, 15)
"""The thesis's."""
INTERVAL = 5
"""Of the frames that are timed, and of the ratios."""
PER_FRAME = 2
"""Frames of the per-frame baseline for each ``INTERVAL`` frames with sharing."""
WARM_UP = 3
SECONDS = 20.0
"""Time in which an engine is timed by default, in seconds."""
LEAST_FRAMES = 15
"""Frames with sharing that an engine is timed on, however slow it is: 3 key frames."""
Progress = Callable[[Iterable[int]], Iterable[Any]]
EAGER = 'eager-fp32'

TIMED = {EAGER: ('torch', 'fp32'), 'eager-bf16': ('torch', 'bf16'),
         'openvino': ('openvino', 'auto'), 'onnx': ('onnx', 'auto'), 'graphs': ('graphs', 'auto')}
"""The engine and the precision of each row of the tables, as far as they run on the device."""


def slow_engines(device: torch.device) -> list[str]:
    """Return the names in ``TIMED`` whose precision a device does not compute natively: bf16."""
    if choose_precision('auto', device) == 'bf16':
        return []
    return [name for name, (_, precision) in TIMED.items() if precision == 'bf16']


def engine_names(device: torch.device, wanted: Sequence[str] | None = None) -> list[str]:
    """
    Return the names in ``TIMED`` to be timed on a device, in that order.

    :param wanted: some of those that run; None for all of them but ``slow_engines``.
    :raises ValueError: for a name that is unknown, or whose engine does not run on the device or
        is not installed.
    """
    installed = installed_engines(device.type)
    able = [name for name, (engine, _) in TIMED.items() if engine in installed]
    if wanted is None:
        slow = slow_engines(device)
        return [name for name in able if name not in slow]
    if unable := [name for name in wanted if name not in able]:
        raise ValueError(f'{", ".join(unable)} cannot be timed on {device} with the packages '
                         f'installed here; choose from {", ".join(able)}')
    return [name for name in able if name in wanted]


def engines_for(weights: str | Path, shared_levels: int | None, device: torch.device,
                input_size: tuple[int, int], names: Iterable[str]) -> dict[str, Engine]:
    """Return the engines of ``engine_names``, by name."""
    return {name: make_engine(weights, TIMED[name][0], str(device), TIMED[name][1], shared_levels,
                              input_size) for name in names}


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
                 baselines: Mapping[str, Engine] | None = None, seconds: float = 0,
                 warmed_up: Callable[[str, float], None] | None = None) -> dict[str, Times]:
    """
    Time engines in turns of one interval each, so that a busy machine slows all alike.

    A turn is a frame that is not timed, a key frame, the current frames after it, and a few frames
    of the baseline.

    :param frames: those with sharing, at least, for each engine: whole intervals of them, at least
        one.
    :param progress: wraps the turns, for a progress bar.
    :param baselines: those of them to compare with, over the network without a cut.
    :param seconds: an engine takes further turns until its turns have taken this long.
    :param warmed_up: called for each engine before the turns, with its name and the milliseconds
        of the fastest current frame so far.
    """
    baselines = baselines or {}
    times = {name: Times() for name in engines}
    for name, engine in engines.items():
        fastest = math.inf
        for _ in range(WARM_UP):
            engine.key(next(video))
            fastest = min(fastest, _milliseconds(engine.current, next(video)))
        if name in baselines:
            for _ in range(WARM_UP):
                baselines[name].key(next(video))
        if warmed_up is not None:
            warmed_up(name, fastest)
    least = turns(frames)
    left = dict.fromkeys(engines, seconds)  # of the engines that take further turns
    for _ in progress(itertools.count() if seconds else range(least)):
        if not left:
            break
        for name in list(left):
            start = time.perf_counter()
            engine, taken = engines[name], times[name]
            # PyTorch's threads spin on for milliseconds after the engine before.
            engine.current(next(video))
            taken.key.append(_milliseconds(engine.key, next(video)))
            taken.current += [_milliseconds(engine.current, next(video))
                              for _ in range(INTERVAL - 1)]
            if name in baselines:
                taken.per_frame += [_milliseconds(baselines[name].key, next(video))
                                    for _ in range(PER_FRAME)]
            left[name] -= time.perf_counter() - start
            if left[name] <= 0 and len(taken.key) >= least:
                del left[name]
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
              size: tuple[int, int], frames: int | None = None, seconds: float = SECONDS,
              wanted: Sequence[str] | None = None, progress: Progress = iter,
              report: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """
    Time a checkpoint on the engines of a device; see ``featshare benchmark``.

    :param size: (width, height) of the images; the network runs at the nearest multiples.
    :param frames: those with sharing, for each engine; None for as many as ``seconds`` allow, but
        at least ``LEAST_FRAMES``.
    :param wanted: see ``engine_names``.
    :param progress: see ``time_engines``.
    :param report: called with each line of progress: what is left out and why, what is loaded,
        and what each engine runs in and how long it will be timed.
    :returns: what the JSON file holds, in milliseconds: ``ms`` (medians), ``latency`` (mean, p50,
        p99, worst), ``average`` (by interval), ``ratios`` (of the best engine; over eager fp32
        only where that is timed), ``work``; and ``frames_by_engine``, with ``frames`` the fewest.
    :raises ValueError: as ``engine_names``.
    """
    chosen = choose_device(device)
    names = engine_names(chosen, wanted)
    if wanted is None and (slow := ' '.join(slow_engines(chosen))):
        report(f'left out: {slow}, because {chosen} does not compute bf16 natively '
               f'(--engines {slow} times it)')
    report(f'loading {", ".join(names)}')
    network, config = load_checkpoint(weights, shared_levels)
    input_size = rounded_size(size, network.input_multiple)
    engines = engines_for(weights, shared_levels, chosen, input_size, names)
    amount = f'about {seconds:g} s' if frames is None else f'{turns(frames) * INTERVAL} frames'
    times = time_engines(
        engines, street_video(size), LEAST_FRAMES if frames is None else frames, progress,
        engines_for(weights, 0, chosen, input_size, names), seconds if frames is None else 0,
        lambda name, ms: report(f'{name}, {engines[name].precision}: warmed up, about {ms:.1f} ms '
                                f'per current frame; to be timed for {amount}'))
    counted = {name: len(taken.key) * INTERVAL for name, taken in times.items()}
    ms = {name: {'key': float(np.median(taken.key)), 'current': float(np.median(taken.current))}
          for name, taken in times.items()}
    best = min(times, key=lambda name: times[name].average(INTERVAL))
    average = {name: {str(interval): taken.average(interval) for interval in INTERVALS}
               for name, taken in times.items()}
    baseline = {name: float(np.median(taken.per_frame)) for name, taken in times.items()}
    return rounded({
        'network': config.network, 'shared_levels': network.shared_levels,
        'device': engines[best].device, 'size': list(size), 'network_input': list(input_size),
        'frames': min(counted.values()), 'frames_by_engine': counted, 'best': best, 'ms': ms,
        'average': average, 'baseline': baseline,
        'ratios': {
            **{f'eager_{kind}_over_best_{kind}': ms[EAGER][kind] / ms[best][kind]
               for kind in ('key', 'current') if EAGER in ms},
            'current_over_key': ms[best]['current'] / ms[best]['key'],
            'average_over_baseline': average[best][str(INTERVAL)] / baseline[best]},
        'average_over_baseline': {
            name: {interval: value / baseline[name] for interval, value in values.items()}
            for name, values in average.items()},
        'latency': {name: taken.summary() for name, taken in times.items()},
        'work': count_work(config, input_size)})
