"""Scores on cases that can be counted by hand."""
import numpy as np
import pytest

from featshare_core.evaluation.accuracy import (
    class_iou,
    confusion_matrix,
    matrix_per_lag,
    mean_iou,
)
from featshare_core.inference.engine import Engine, Prediction


def test_iou_counted_by_hand():
    truth = np.array([[0, 0, 1, 1, 255]], np.uint8)
    predicted = np.array([[0, 1, 1, 1, 0]], np.uint8)
    matrix = confusion_matrix(truth, predicted, 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    np.testing.assert_allclose(class_iou(matrix), [1 / 2, 2 / 3, np.nan])
    assert mean_iou(matrix) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_what_cannot_be_scored_is_refused():
    mask = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match='shape'):
        confusion_matrix(mask, mask[:1], 3)
    for truth, predicted in ((mask + 3, mask), (mask, mask + 3)):
        with pytest.raises(ValueError, match='outside 0 to 2'):
            confusion_matrix(truth, predicted, 3)


class Remembering(Engine):
    """Answers a frame with the id that its key frame showed."""

    def key(self, frame, stream='', confidence=False):
        self.shown = frame[:, :, 0]
        return Prediction(self.shown, None, {})

    def current(self, frame, stream='', confidence=False):
        return Prediction(self.shown, None, {})

    def forget(self, stream):
        pass


def test_every_frame_is_scored_at_every_lag():
    frames = [np.full((1, 1, 3), index, np.uint8) for index in range(6)]
    truths = [frame[:, :, 0] for frame in frames]
    matrices = matrix_per_lag(Remembering(), frames, truths, 3, 6)
    for lag, matrix in enumerate(matrices):
        # Frames 2 to 5, each answered with the id of the frame `lag` before it.
        assert np.argwhere(matrix).tolist() == [[t, t - lag] for t in (2, 3, 4, 5)]
        assert matrix.sum() == 4
    with pytest.raises(ValueError, match='longer than the video'):
        matrix_per_lag(Remembering(), frames, truths, 7, 6)
