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
"""Segmentation accuracy from one global confusion matrix, as Cityscapes and CamVid score it."""
from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
import time
from typing import Any

from featshare_core.evaluation.consistency import Consistency, WINDOW
from featshare_core.evaluation.flicker import Flicker
from featshare_core.evaluation.things import class_ids, labelled_things, Survival
from featshare_core.evaluation.videos import Cache, Video
from featshare_core.inference.device import one_thread
from featshare_core.inference.engine import Engine
from featshare_core.labels import UNLABELLED
import numpy as np
import numpy.typing as npt
import torch

Matrix = npt.NDArray[np.int64]


def confusion_matrix(truth: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8],
                     classes: int) -> Matrix:
    """
    Count the pixels of each (true class, predicted class) pair; unlabelled ones are left out.

    :param truth: class ids, 0 to ``classes - 1`` or 255; ``predicted`` has the same shape.
    :returns: a CxC matrix; sum those of all frames, then score once.
    :raises ValueError: where shapes differ or an id is out of range.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f'labels of shape {truth.shape}, prediction of {predicted.shape}')
    labelled = truth != UNLABELLED
    pairs = truth[labelled].astype(np.int64) * classes + predicted[labelled]
    if pairs.size and (truth[labelled].max() >= classes or predicted[labelled].max() >= classes):
        raise ValueError(f'a class id is outside 0 to {classes - 1}')
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def class_iou(matrix: Matrix) -> npt.NDArray[np.float64]:
    """Return each class's intersection over union, 0 to 1; NaN for a class never seen."""
    hits = np.diag(matrix).astype(np.float64)
    union = matrix.sum(0) + matrix.sum(1) - hits
    return np.divide(hits, union, out=np.full_like(hits, np.nan), where=union > 0)


def mean_iou(matrix: Matrix, scored: npt.NDArray[np.bool_] | None = None) -> float:
    """
    Return the mean of ``class_iou`` over the classes that occur.

    :param scored: C booleans, the classes to count among them; None for all.
    """
    iou = class_iou(matrix)
    return float(np.nanmean(iou if scored is None else iou[scored]))


def labelled_classes(matrices: Sequence[Matrix] | Matrix) -> npt.NDArray[np.bool_]:
    """Return C booleans: which classes have a labelled pixel in N CxC confusion matrices."""
    return np.asarray(np.sum(matrices, axis=(0, 2)) > 0)


@dataclass
class Score:
    """
    What one engine reached on videos, counted by lag (frames since the key frame).

    :param names: of the classes.
    :param consistency: VC_8 of every frame as a key frame, and as deployed; see ``consistency``.
    :param milliseconds: of every frame, by lag, on the clock of ``score``.
    :param videos: by name, a confusion matrix for each lag 0 to interval - 1.
    :param frames_of: the number of labelled frames by video; each is in its matrix of every lag.
    """

    names: tuple[str, ...]
    consistency: Consistency
    flicker: Flicker
    things: Survival
    milliseconds: list[list[float]]
    videos: dict[str, list[Matrix]] = field(default_factory=dict)
    frames_of: dict[str, int] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """Return the number of labelled frames."""
        return sum(self.frames_of.values())

    @property
    def matrices(self) -> list[Matrix]:
        """Return the confusion matrix of all videos together, for each lag."""
        return [np.sum(by_video, 0) for by_video in zip(*self.videos.values())]

    @property
    def scored(self) -> npt.NDArray[np.bool_]:
        """Return which classes are scored: those with a labelled pixel."""
        return labelled_classes(self.matrices)

    @property
    def classes(self) -> dict[str, Any]:
        """Return how many classes are ``scored``, ``of`` how many, and which are ``absent``."""
        absent = [name for name, found in zip(self.names, self.scored) if not found]
        return {'scored': len(self.names) - len(absent), 'of': len(self.names),
                'absent': absent}

    def summary(self) -> dict[str, Any]:
        """
        Return the scores in percent, as JSON knows them.

        ``weighted`` is the thesis's mean 1/d key + (d-1)/d current, of which ``current_mean`` is
        the mean over lags 1 to d-1; both current scores are None at interval 1. Means are over the
        classes that have a labelled pixel; ``classes`` names the others, whose IoU is None.
        """
        matrices = self.matrices
        scored = self.scored
        per_class = iou_per_lag(matrices, self.names, scored)
        return rounded({
            'miou': miou_per_lag(matrices, scored),
            'classes': self.classes,
            'per_class': {
                name: {'key': iou[0], 'current_mean': mean_of(iou[1:]), 'per_lag': iou}
                for name, iou in per_class.items()},
            'frames': self.frames,
            f'vc{WINDOW}': self.consistency.summary(),
            'flicker': self.flicker.summary(),
            'things': self.things.summary(),
            'videos': {
                name: {'frames': self.frames_of[name], 'miou': miou_per_lag(by_lag, scored),
                       'per_class': iou_per_lag(by_lag, self.names, scored)}
                for name, by_lag in self.videos.items()}})


def miou_per_lag(matrices: Sequence[Matrix], scored: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """
    Return mIoU in percent from the confusion matrices of lags 0, 1, ...; see ``Score``.

    :param scored: as ``mean_iou``.
    """
    per_lag = [100 * mean_iou(matrix, scored) for matrix in matrices]
    current = per_lag[1:]
    return {'key': per_lag[0], 'current_mean': mean_of(current),
            'current_worst': min(current) if current else None, 'per_lag': per_lag,
            'weighted': sum(per_lag) / len(per_lag)}


def iou_per_lag(matrices: Sequence[Matrix], names: Sequence[str],
                scored: npt.NDArray[np.bool_]) -> dict[str, list[float | None]]:
    """
    Return each class's IoU in percent at each lag; None at a lag where it is never seen.

    :param scored: as ``mean_iou``; a class that is not counted has None, though predicted.
    """
    by_lag = [100 * np.where(scored, class_iou(matrix), np.nan) for matrix in matrices]
    return {name: [finite(iou[index]) for iou in by_lag] for index, name in enumerate(names)}


def mean_of(values: Sequence[float | None]) -> float | None:
    """Return the mean; None where a value is None, or there is none."""
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if values and len(found) == len(values) else None


def finite(value: Any) -> float | None:
    """Return a float, or None for NaN, which JSON does not know."""
    return float(value) if np.isfinite(value) else None


def rounded(value: Any) -> Any:
    """Return a structure with its floats rounded to what was measured: three decimals."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return round(value, 3) if isinstance(value, float) else value


def score(engines: Mapping[str, Engine], video: Video, interval: int,
          progress: Iterable[Any] | None = None, things: Collection[str] | None = None,
          clock: Callable[[], float] = time.perf_counter,
          reach: Mapping[str, int] | None = None) -> dict[str, Score]:
    """
    Score engines side by side on labelled video, at every lag 0 to ``interval - 1``.

    The key frame is shifted, so that every frame is scored at every lag (AR-Seg, 2023): one key
    frame, then current frames up to the longest lag. Labelled frames that have fewer than
    ``interval - 1`` frames before them cannot be, and are left out at all lags.

    :param progress: wraps the list of key frames, for a progress bar; see ``Video.passes``.
    :param things: names of the classes whose things are followed; None for ``things.THINGS``.
    :param clock: returns seconds, by which frames are timed.
    :param reach: the number of lags of engines that need fewer than ``interval``, by name: 1 for
        one that does not share, whose masks are the same at all lags.
    :raises ValueError: where no video is as long as the interval, a label's id is not one of
        the classes, there is no class of a thing's name, or an engine returns no mask of its
        frame's size.
    """
    try:
        from torchmetrics.classification import MulticlassConfusionMatrix
    except ImportError as error:
        raise ImportError('scores are counted with torchmetrics, which is not installed: '
                          'pip install torchmetrics') from error
    passes = video.passes(interval)
    images = Cache(video.source.read_image, 2 * interval)
    truths = Cache(video.read_truth, 2 * interval)
    classes, names = len(video.labels), video.labels.names
    followed = class_ids(video.labels, things)
    things_of = labelled_things(video, truths, followed, interval)
    lags = {name: (reach or {}).get(name, interval) for name in engines}
    scores = {name: Score(names, Consistency(n), Flicker(n), Survival(video.labels, n, followed),
                          [[] for _ in range(n)]) for name, n in lags.items()}
    counters: dict[str, dict[str, list[MulticlassConfusionMatrix]]] = {n: {} for n in engines}
    for one in progress if progress is not None else passes:
        for name, engine in engines.items():
            counted = scores[name]
            for lag, frame in enumerate(one.frames[:lags[name]]):
                image = images(frame)
                start = clock()
                mask = (engine.current if lag else engine.key)(image).mask
                counted.milliseconds[lag].append(1e3 * (clock() - start))
                sample = one.samples.get(lag)
                if sample is None:
                    continue
                truth = truths(sample)
                _check(frame, truth, mask, classes, name)
                of = video.names[frame]
                if of not in counters[name]:
                    counters[name][of] = [MulticlassConfusionMatrix(
                        classes, UNLABELLED, validate_args=False) for _ in range(lags[name])]
                with one_thread():  # threads that spin on would slow the next frame
                    counters[name][of][lag].update(torch.from_numpy(mask).long(),
                                                   torch.from_numpy(truth).long())
                counted.consistency.add(sample, truth, mask, lag)
                counted.flicker.add(frame, next(iter(sample.frames[1:2]), None), truth, mask, lag)
                counted.things.add(frame, lag, things_of(sample, lag), mask)
                counted.frames_of[of] = counted.frames_of.get(of, 0) + (lag == 0)
    for name, counted in scores.items():
        counted.videos = {of: [counter.compute().numpy() for counter in by_lag]
                          for of, by_lag in counters[name].items()}
    return scores


def _check(frame: str, truth: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8] | None,
           classes: int, name: str) -> None:
    """Refuse what would be counted wrongly, and name the frame."""
    if mask is None or mask.shape != truth.shape:
        found = 'is missing' if mask is None else f'is {mask.shape[1]}x{mask.shape[0]}'
        raise ValueError(f"{frame}: the prediction {name and f'of {name} '}{found}, the label "
                         f'{truth.shape[1]}x{truth.shape[0]}')
    for what, ids in (('label', truth[truth != UNLABELLED]), ('prediction', mask)):
        if ids.size and ids.max() >= classes:
            raise ValueError(f'{frame}: the {what} holds the id {ids.max()}; classes are 0 to '
                             f'{classes - 1}')
