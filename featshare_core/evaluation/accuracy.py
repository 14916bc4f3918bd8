"""
Segmentation accuracy from one global confusion matrix, as Cityscapes and CamVid score it.

    python -m featshare_core.evaluation.accuracy --camvid DIR --weights default --interval 5

prints the mIoU of key frames and of current frames at every lag.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from featshare_core.data.camvid import camvid_files, read_camvid
from featshare_core.inference.engine import Engine, Frame
from featshare_core.inference.segmenter import VideoSegmenter
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


def matrix_per_lag(engine: Engine, frames: Sequence[Frame],
                   truths: Sequence[npt.NDArray[np.uint8]], interval: int,
                   classes: int) -> list[Matrix]:
    """
    Return a confusion matrix for each lag 0 to ``interval - 1`` of a labelled video.

    The key frame is shifted, so that every frame is scored at every lag (AR-Seg, 2023); the
    first ``interval - 1`` frames, which cannot be, are left out at all lags.

    :raises ValueError: where the video is no longer than that.
    """
    if len(frames) < interval:
        raise ValueError(f'interval {interval} is longer than the video of {len(frames)} frames')
    matrices = [np.zeros((classes, classes), np.int64) for _ in range(interval)]
    for key in range(len(frames)):
        for index in range(key, min(key + interval, len(frames))):
            predicted = (engine.key if index == key else engine.current)(frames[index]).mask
            if index >= interval - 1:
                matrices[index - key] += confusion_matrix(truths[index], predicted, classes)
    return matrices


def main() -> None:
    """Score a checkpoint on CamVid's validation video."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--camvid', required=True, help='folder with val and valannot')
    parser.add_argument('--weights', default='default')
    parser.add_argument('--interval', type=int, default=5)
    parser.add_argument('--shared-levels', type=int)
    parser.add_argument('--device', default='auto')
    options = parser.parse_args()
    segmenter = VideoSegmenter.from_checkpoint(
        options.weights, device=options.device, shared_levels=options.shared_levels)
    video = [read_camvid(*files) for files in camvid_files(options.camvid, 'val')]
    matrices = matrix_per_lag(segmenter.engine, [frame for frame, _ in video],
                              [truth for _, truth in video], options.interval,
                              len(segmenter.labels))
    print(f'{segmenter.engine.network_name}, {segmenter.engine.precision}: CamVid val, '
          f'{len(video) - options.interval + 1} frames a lag')
    for lag, matrix in enumerate(matrices):
        print(f'lag {lag}: {100 * mean_iou(matrix):.2f} mIoU')
    for name, iou in zip(segmenter.labels.names, class_iou(matrices[0])):
        print(f'    {name}: {100 * iou:.1f} (key frames)')


if __name__ == '__main__':
    main()
