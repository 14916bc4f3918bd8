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
"""
Accuracy against time: per-frame networks, every cut and interval, moved frames, alternatives.

All are timed and scored in one run on the same frames.
"""
from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
import time
from typing import Any

import cv2
from featshare_core.evaluation.accuracy import miou_per_lag, rounded, Score, score
from featshare_core.evaluation.latency import WARM_UP
from featshare_core.evaluation.provenance import provenance, short_fingerprint, shown
from featshare_core.evaluation.results import described
from featshare_core.evaluation.rivals import Clockwork, Moving, PerFrame, RepeatMask
from featshare_core.evaluation.videos import DataChoice, Video
from featshare_core.evaluation.work import rounded_size
from featshare_core.inference.device import choose_device
from featshare_core.inference.engine import Engine
from featshare_core.inference.engines import make_engine
from featshare_core.inference.pixels import network_size
from featshare_core.networks.checkpoint import load_checkpoint
from featshare_core.progress import track
import numpy as np
import torch

SCALES = (1.0, 0.93, 0.87, 0.8, 0.73, 0.67)
"""Sides of the per-frame network's input, of the full one's."""
INTERVALS = (2, 3, 4, 5, 10)
"""Intervals of feature sharing, in frames."""
MOVED_INTERVALS = (4, 6, 10)
"""Intervals of feature sharing with ``moved_frames`` 1, in frames."""
RIVAL_INTERVALS = (2, 3, 4, 5)
"""Intervals of the alternatives, in frames."""
ACCURACIES = {'mean': 'mIoU %, mean over the interval', 'worst': 'mIoU %, worst lag',
              'things': 'mIoU % of things, worst lag'}
"""Titles of the accuracies, by their keys in a point."""
BUDGETS = (0.9, 0.7, 0.5, 0.4, 0.3)
"""Time limits of the table of the most accurate points, in a point's unit of time."""
KINDS = {'per frame': 'per-frame network, any input size', 'sharing': 'feature sharing',
         'moved': 'moved frames, with sharing or undivided',
         'rival': 'alternatives: mask repeated, Clockwork'}
"""Titles of the kinds of methods."""
CLOCKS = {'cpu': time.process_time, 'wall': time.perf_counter}
"""Seconds of the process on all cores together, and seconds that pass."""


@dataclass(frozen=True)
class Method:
    """
    A line of the plot.

    :param kind: a key of ``KINDS``.
    :param moved_frames: None for one less than the interval: all between key frames.
    :param engines: by the label of its point: an input size; '' where points are intervals.
    """

    name: str
    kind: str
    weights: str
    engines: Mapping[str, Engine]
    intervals: tuple[int, ...]
    shared_levels: int | None = None
    moved_frames: int | None = 0


@contextmanager
def computing_threads(number: int | None) -> Iterator[None]:
    """Let PyTorch, the engines made meanwhile, and OpenCV use some threads; None: no change."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    try:
        if number is not None:
            torch.set_num_threads(number)
            cv2.setNumThreads(number)
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def measure_pareto(weights: Sequence[str], data: DataChoice, cuts: Sequence[int] | None = None,
                   device: str = 'auto', precision: str = 'auto', clock: str | None = None,
                   threads: int | None = 1, frames: int | None = None) -> dict[str, Any]:
    """
    Return accuracy and time of every way to spend less than the whole network on every frame.

    Times are medians by lag, whose mean over an interval is the time of a point; 1 is the first
    checkpoint's per-frame network at full size.

    :param weights: checkpoints; each has per-frame points, and a line for every cut.
    :param cuts: shared levels; None for all that a network offers.
    :param clock: one of ``CLOCKS``; None for ``cpu`` on the CPU and ``wall`` on CUDA.
    :param threads: computing threads of an engine; None for as many as usual.
    :param frames: labelled frames to score, the first ones; None for all.
    :returns: provenance, and ``methods``, each with its ``points`` as ``points_of`` has them.
    :raises ValueError, FileNotFoundError: where data, clock or a checkpoint do not fit, or two
        checkpoints have one name.
    """
    if len({shown(one) for one in weights}) < len(weights):
        raise ValueError(f'{", ".join(map(shown, weights))}: give each checkpoint another name')
    where = choose_device(device)
    clock = clock or ('cpu' if where.type == 'cpu' else 'wall')
    if clock == 'cpu' and where.type != 'cpu':
        raise ValueError('CPU time says nothing of work on CUDA: choose --clock wall')
    source = data.open()
    reach = max(len(sample.frames) for sample in source.samples)
    intervals = tuple(interval for interval in INTERVALS if interval <= reach)
    longest = max(intervals, default=1)
    samples = [sample for sample in source.samples if len(sample.frames) >= longest][:frames]
    with computing_threads(threads):
        network = load_checkpoint(weights[0])[1]
        whole = data.video(source, network.labels, longest)
        video = Video(replace(whole.source, samples=samples), network.labels)
        image = video.source.read_image(samples[0].frames[0])
        methods = [method for one in weights for method in methods_of(
            one, (image.shape[0], image.shape[1]), cuts, device, precision, intervals)]
        engines = {f'{method.name} {label}': engine for method in methods
                   for label, engine in method.engines.items()}
        for engine in engines.values():
            for _ in range(WARM_UP):
                engine.key(image)
                engine.current(image)
        scores = score(
            engines, video, longest,
            track(video.passes(longest), f'pareto, {data.name}', 'key frames'),
            clock=CLOCKS[clock],
            reach={f'{method.name} {label}': max(method.intervals) for method in methods
                   for label in method.engines})
    per_frame = next(iter(scores.values())).milliseconds[0]  # the first checkpoint's, at full size
    given = {'shared-levels': ' '.join(map(str, cuts)) if cuts else None,
             'precision': precision if precision != 'auto' else None, 'clock': clock,
             'threads': threads or 0, 'frames': frames}
    command = ' '.join(('featshare pareto pareto.json --weights',
                        *map(shown, weights), data.arguments(),
                        *(f'--{name} {value}' for name, value in given.items()
                          if value is not None)))
    first = next(iter(engines.values()))
    return rounded({
        **provenance(command, first.device), 'weights': [shown(one) for one in weights],
        'sha256': [short_fingerprint(one) for one in weights], 'data': described(data, video),
        'classes': next(iter(scores.values())).classes,
        'frames': next(iter(scores.values())).frames, 'image': [image.shape[1], image.shape[0]],
        'engine': first.name, 'device': first.device, 'precision': first.precision,
        'clock': clock, 'threads': threads, 'per_frame_ms': float(np.median(per_frame)),
        'methods': [{
            'name': method.name, 'kind': method.kind, 'weights': shown(method.weights),
            'shared_levels': method.shared_levels, 'moved_frames': method.moved_frames,
            'points': [point for label in method.engines for point in points_of(
                scores[f'{method.name} {label}'], label, method.intervals,
                float(np.median(per_frame)))]} for method in methods]})


def methods_of(weights: str, image: tuple[int, int], cuts: Sequence[int] | None, device: str,
               precision: str, intervals: tuple[int, ...]) -> Iterator[Method]:
    """
    Yield a checkpoint's lines of the plot.

    :param image: (height, width) of the images, in pixels.
    """
    network = load_checkpoint(weights)[0]
    multiple = network.input_multiple

    def made(cut: int | None, size: tuple[int, int] | None = None) -> Engine:
        return make_engine(weights, 'auto', device, precision, cut, size)

    whole = made(0)
    height, width = network_size(image, whole.trained_size, multiple)
    sizes = dict.fromkeys(rounded_size((round(scale * width), round(scale * height)), multiple)
                          for scale in SCALES)
    name = shown(weights)
    yield Method(f'{name}, per frame', 'per frame', weights, {
        f'{size[0]}x{size[1]}': PerFrame(whole if size == (width, height) else made(0, size))
        for size in sizes}, (1,))
    if not intervals:  # single pictures: nothing can be shared
        return
    sharing = {cut: made(cut) for cut in (network.cuts[1:] if cuts is None else cuts)}
    for cut, engine in sharing.items():
        yield Method(f'{name}, {cut} level{"s" * (cut != 1)}', 'sharing', weights, {'': engine},
                     intervals, cut)
        if MOVED_INTERVALS[0] <= max(intervals):
            yield Method(f'{name}, {cut} level{"s" * (cut != 1)}, moved frames', 'moved',
                         weights, {'': Moving(engine, 1)}, tuple(
                             one for one in MOVED_INTERVALS if one <= max(intervals)), cut, 1)
    ours = sharing.get(network.shared_levels) or made(None)
    rival_intervals = tuple(interval for interval in RIVAL_INTERVALS if interval in intervals)
    if rival_intervals:
        yield Method(f'{name}, undivided, moved frames', 'moved', weights,
                     {'': Moving(whole, max(rival_intervals) - 1)}, rival_intervals, 0, None)
        for title, rival in (('the mask repeated', RepeatMask(whole)),
                             ('Clockwork, untrained', Clockwork(ours))):
            yield Method(f'{name}, {title}', 'rival', weights, {'': rival}, rival_intervals)


def points_of(scored: Score, label: str, intervals: Collection[int],
              unit: float) -> list[dict[str, Any]]:
    """
    Return a line's points, one for each interval.

    :param label: of the point, where it is not its interval.
    :param unit: milliseconds that are 1 on the axis of time.
    :returns: ``label``, ``interval``, ``ms`` a frame on average, ``time`` in the unit, and mIoU in
        percent over the frames of an interval: their ``mean``, and that of the ``worst`` lag;
        ``things`` is the worst lag's mIoU over the classes of things alone; None where none is
        scored.
    """
    ms = [float(np.median(times)) for times in scored.milliseconds]
    miou = miou_per_lag(scored.matrices, scored.scored)['per_lag']
    held = np.isin(np.arange(len(scored.names)), list(scored.things.classes)) & scored.scored
    things = miou_per_lag(scored.matrices, held)['per_lag'] if held.any() else []
    return [{'label': label or str(interval), 'interval': interval,
             'ms': float(np.mean(ms[:interval])), 'time': float(np.mean(ms[:interval])) / unit,
             'mean': float(np.mean(miou[:interval])), 'worst': min(miou[:interval]),
             'things': min(things[:interval], default=None)}
            for interval in intervals]


def accuracies(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys of ``ACCURACIES`` that all points have."""
    return [name for name in ACCURACIES if all(point.get(name) is not None for point in points)]


def front(points: Sequence[Mapping[str, Any]], accuracy: str) -> list[Mapping[str, Any]]:
    """
    Return the points than which none is both faster and at least as accurate, by time.

    :param accuracy: ``mean``, ``worst`` or ``things``.
    """
    best, kept = -np.inf, []
    for point in sorted(points, key=lambda one: (one['time'], -one[accuracy])):
        if point[accuracy] > best:
            best = point[accuracy]
            kept.append(point)
    return kept
