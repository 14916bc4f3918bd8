"""Segmentation accuracy from one global confusion matrix, as Cityscapes and CamVid score it."""
from __future__ import annotations

import numpy as np
import numpy.typing as npt

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
