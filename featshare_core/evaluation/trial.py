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
"""Settings of one checkpoint, timed and compared with its per-frame masks on a user's video."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
import sys
import time

from featshare_core.evaluation.accuracy import (
    confusion_matrix,
    labelled_classes,
    Matrix,
    mean_iou,
)
from featshare_core.evaluation.advise import accurate, advice, choose, Setting
from featshare_core.evaluation.latency import WARM_UP
from featshare_core.evaluation.pareto import methods_of
from featshare_core.evaluation.provenance import shown
from featshare_core.evaluation.unlabelled import Footage
from featshare_core.inference.engine import Engine, Frame
from featshare_core.networks.weights import absolute_weights
from featshare_core.progress import preparing, track
import numpy as np
import numpy.typing as npt

INTERVALS = (2, 3, 5, 10)
"""Key intervals tried, in frames."""
FRAMES = 200
"""Frames of the video that are used at most."""
LEAST_SHARE = 1e-3
"""Smallest share of the reference's pixels with which a class counts: rarer ones are noise."""
LEAST = 3
"""Frames that are needed at each lag."""


@dataclass
class _Trial:
    """An engine that runs along the video, and what is counted by lag."""

    engine: Engine
    shared_levels: int
    moved_frames: int | None
    input_size: str
    intervals: tuple[int, ...]
    matrices: list[Matrix] = field(init=False)
    milliseconds: list[list[float]] = field(init=False)

    def __post_init__(self) -> None:
        longest, classes = max(self.intervals), len(self.engine.labels)
        self.matrices = [np.zeros((classes, classes), np.int64) for _ in range(longest)]
        self.milliseconds = [[] for _ in range(longest)]

    def add(self, index: int, frame: Frame, reference: np.ndarray) -> None:
        lag = index % len(self.matrices)
        run = self.engine.current if lag else self.engine.key
        start = time.perf_counter()
        mask = run(frame).mask
        self.milliseconds[lag].append(1e3 * (time.perf_counter() - start))
        self.matrices[lag] += confusion_matrix(reference, mask, len(self.engine.labels))

    def held(self) -> npt.NDArray[np.bool_]:
        """Return which classes have at least ``LEAST_SHARE`` of the reference's pixels."""
        pixels = np.sum(self.matrices, (0, 2))
        return np.asarray(pixels >= max(1, LEAST_SHARE * pixels.sum()))

    def settings(self, weights: str, hz: float | None) -> Iterator[Setting]:
        ms = [float(np.median(taken)) for taken in self.milliseconds]
        held = self.held()
        agreement = [100 * mean_iou(matrix, held) for matrix in self.matrices]
        for interval in self.intervals:
            lags = slice(interval)
            yield Setting(weights, self.shared_levels, interval, float(np.mean(ms[lags])),
                          max(ms[lags]), float(np.mean(agreement[lags])),
                          100 - min(agreement[lags]), interval / hz if hz else None,
                          self.input_size,
                          interval - 1 if self.moved_frames is None else self.moved_frames)


def advise_on(weights: str, footage: Footage, budget: float, max_drop: float | None,
              device: str) -> str:
    """
    Try every cut, interval and input size of a checkpoint, and moved frames, on a video.

    It needs no labels.

    The reference is the mask of the whole network, run on each frame at its own input size;
    ``miou`` of a setting is the agreement with it. Each engine runs along the video as deployed,
    at the longest interval, so every lag is measured on every tenth frame; shorter intervals use
    the first lags.

    :param budget, max_drop: see ``advise``; the drop is that of the agreement, from 100 %.
    :returns: the Pareto table and the node's parameters; it says so where the whole network, at
        its own input size or a smaller one, is better than sharing.
    :raises ValueError: where the video is too short, or nothing fits the budget.
    """
    needed = LEAST * max(INTERVALS)
    if 0 < footage.length <= needed:
        raise ValueError(f'{footage.name} holds {footage.length} frames, and at least '
                         f'{needed + 1} are needed')
    frames = islice(footage.frames, FRAMES)
    first = next(frames, None)
    if first is None:
        raise ValueError(f'{footage.name} holds no frame')
    preparing(shown(weights))
    trials = []
    for method in methods_of(weights, (first.shape[0], first.shape[1]), None, device, 'auto',
                             INTERVALS):
        if method.kind != 'rival':
            trials += [_Trial(engine, method.shared_levels or 0, method.moved_frames, label,
                              method.intervals)
                       for label, engine in method.engines.items()]
    print(f'measuring {sum(len(trial.intervals) for trial in trials)} settings on at most '
          f'{FRAMES - 1} frames', file=sys.stderr, flush=True)
    whole = trials[0].engine
    trials[0].input_size = ''  # its own
    for trial in trials:
        for _ in range(WARM_UP):
            trial.engine.key(first)
            trial.engine.current(first)
    count = 0
    for frame in track(frames, f'{shown(weights)}, {footage.name}', 'frames',
                       min(footage.length or FRAMES, FRAMES) - 1):
        reference = whole.key(frame).mask
        for trial in trials:
            trial.add(count, frame, reference)
        count += 1
    if count < needed:
        raise ValueError(f'{footage.name} holds {count + 1} frames, and at least {needed + 1} '
                         f'are needed')
    found = [setting for trial in trials for setting in trial.settings(shown(weights), footage.hz)]
    chosen = choose(found, budget, max_drop)
    title = (f'{whole.device}, engine {whole.name}, {whole.precision}, {count} frames of '
             f'{footage.name}, {first.shape[1]}x{first.shape[0]}; agreement with the network run '
             f'on every frame')
    uncounted = labelled_classes(trials[0].matrices) & ~trials[0].held()
    rare = [name for name, is_rare in zip(whole.labels.names, uncounted) if is_rare]
    if rare:
        title += f'; too rare to be counted: {", ".join(rare)}'
    return advice(title, 'agreement, mIoU %', accurate(found, max_drop), chosen, budget,
                  absolute_weights(weights))
