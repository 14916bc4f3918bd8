"""Segmentation accuracy from one global confusion matrix, as Cityscapes and CamVid score it."""
from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from featshare_core.evaluation.consistency import WINDOW, Consistency
from featshare_core.evaluation.videos import Cache, Video
from featshare_core.inference.device import one_thread
from featshare_core.inference.engine import Engine
from featshare_core.labels import UNLABELLED

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


def mean_iou(matrix: Matrix) -> float:
    """Return the mean of ``class_iou`` over the classes that occur."""
    return float(np.nanmean(class_iou(matrix)))


@dataclass
class Score:
    """
    What one engine reached on a video, counted by lag (frames since the key frame).

    :param names: of the classes.
    :param matrices: a confusion matrix for each lag 0 to interval - 1.
    :param consistency: VC_8 of every frame as a key frame, and as deployed; see ``consistency``.
    :param milliseconds: wall-clock time of every frame, by lag.
    :param frames: labelled frames; each is in every matrix.
    """

    names: tuple[str, ...]
    matrices: list[Matrix]
    consistency: Consistency
    milliseconds: list[list[float]]
    frames: int = 0

    def summary(self) -> dict[str, Any]:
        """
        Return the scores in percent, as JSON knows them.

        ``weighted`` is the thesis's mean 1/d key + (d-1)/d current, of which ``current_mean`` is
        the mean over lags 1 to d-1; both current scores are None at interval 1.
        """
        per_lag = [100 * mean_iou(matrix) for matrix in self.matrices]
        current = per_lag[1:]
        interval = len(per_lag)
        key_iou, *current_iou = (100 * class_iou(matrix) for matrix in self.matrices)
        return rounded({
            'miou': {
                'key': per_lag[0],
                'current_mean': float(np.mean(current)) if current else None,
                'current_worst': min(current) if current else None,
                'per_lag': per_lag,
                'weighted': sum(per_lag) / interval},
            'per_class': {
                name: {'key': finite(key_iou[index]),
                       'current_mean': finite(np.mean([iou[index] for iou in current_iou]))
                       if current else None}
                for index, name in enumerate(self.names)},
            'frames': self.frames,
            f'vc{WINDOW}': self.consistency.summary()})


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
          progress: Iterable[Any] | None = None) -> dict[str, Score]:
    """
    Score engines side by side on labelled video, at every lag 0 to ``interval - 1``.

    The key frame is shifted, so that every frame is scored at every lag (AR-Seg, 2023): one key
    frame, then current frames up to the longest lag. Labelled frames that have fewer than
    ``interval - 1`` frames before them cannot be, and are left out at all lags.

    :param progress: wraps the list of key frames, for a progress bar; see ``Video.passes``.
    :raises ValueError: where no video is as long as the interval, a label's id is not one of
        the classes, or an engine returns no mask of its frame's size.
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
    scores = {name: Score(names, [], Consistency(interval), [[] for _ in range(interval)])
              for name in engines}
    counters = {name: [MulticlassConfusionMatrix(classes, UNLABELLED, validate_args=False)
                       for _ in range(interval)] for name in engines}
    for one in progress if progress is not None else passes:
        for name, engine in engines.items():
            counted = scores[name]
            for lag, frame in enumerate(one.frames):
                image = images(frame)
                start = time.perf_counter()
                mask = (engine.current if lag else engine.key)(image).mask
                counted.milliseconds[lag].append(1e3 * (time.perf_counter() - start))
                sample = one.samples.get(lag)
                if sample is None:
                    continue
                truth = truths(sample)
                _check(frame, truth, mask, classes, name)
                with one_thread():  # lest the next frame be timed beside its spinning
                    counters[name][lag].update(torch.from_numpy(mask).long(),
                                               torch.from_numpy(truth).long())
                counted.consistency.add(sample, truth, mask, lag)
                counted.frames += lag == 0
    for name, counted in scores.items():
        counted.matrices = [counter.compute().numpy() for counter in counters[name]]
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
