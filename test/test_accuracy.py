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
"""Scores on cases that can be counted by hand."""
import re

from featshare_core.data.source import Labelled, Source
from featshare_core.evaluation.accuracy import class_iou, confusion_matrix, mean_iou, score
from featshare_core.evaluation.consistency import Consistency
from featshare_core.evaluation.tables import score_text
from featshare_core.evaluation.videos import Video
from featshare_core.inference.engine import Engine, Prediction
from featshare_core.labels import LabelSet
import numpy as np
import pytest


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
        return Prediction(self.shown, None, 0, {})

    def current(self, frame, stream='', confidence=False):
        return Prediction(self.shown, None, 0, {})

    defer = current

    def forget(self, stream):
        pass

    def close(self):
        pass


def labels_of(classes):
    return LabelSet(tuple(f'class {i}' for i in range(classes)), ((0, 0, 0),) * classes)


def counting_video(frames, classes, labelled=None, truth=None):
    """A video whose frame t shows id t everywhere, which is its label too."""
    names = [str(index) for index in range(frames)]
    samples = [Labelled(tuple(names[t::-1]), names[t])
               for t in (range(frames) if labelled is None else labelled)]

    def read(name):
        return np.full((1, 2, 3), int(name), np.uint8)

    source = Source('counted', labels_of(classes), samples, read,
                    truth or (lambda mask, frame: read(mask)[:, :, 0]))
    return Video(source, source.labels)


def test_every_frame_is_scored_at_every_lag():
    result = score({'': Remembering()}, counting_video(6, 6), 3)['']
    for lag, matrix in enumerate(result.matrices):
        # Frames 2 to 5, each answered with the id of the frame `lag` before it.
        assert np.argwhere(matrix).tolist() == [[t, t - lag] for t in (2, 3, 4, 5)]
        assert matrix.sum() == 4 * 2
    assert result.frames == 4
    # A key frame, then the frames after it: every frame is run at every lag, and no more.
    assert [len(times) for times in result.milliseconds] == [6, 5, 4]


def test_labels_here_and_there():
    video = counting_video(9, 9, labelled=(1, 4, 8))
    result = score({'': Remembering()}, video, 3)['']
    for lag, matrix in enumerate(result.matrices):
        assert np.argwhere(matrix).tolist() == [[4, 4 - lag], [8, 8 - lag]]
    assert result.frames == 2  # frame 1 has but one before it
    assert result.consistency.summary() is None
    assert [one.frames for one in video.passes(3)][:3] == [('2', '3', '4'), ('3', '4'), ('4',)]


def test_summary_is_the_thesis_s():
    result = score({'': Remembering()}, counting_video(6, 6), 3)['']
    # 3 of 4 labels are hit at no lag but 0, where all are.
    miou = result.summary()['miou']
    assert miou == {'key': 100, 'current_mean': 0, 'current_worst': 0, 'per_lag': [100, 0, 0],
                    'weighted': 33.333}
    alone = score({'': Remembering()}, counting_video(6, 6), 1)[''].summary()['miou']
    assert alone == {'key': 100, 'current_mean': None, 'current_worst': None, 'per_lag': [100],
                     'weighted': 100}


def test_a_class_without_labels_has_no_iou_although_it_is_predicted():
    video = counting_video(4, 5, truth=lambda mask, frame: np.zeros((1, 2), np.uint8))
    summary = score({'': Remembering()}, video, 2)[''].summary()
    none = {'key': None, 'current_mean': None, 'per_lag': [None, None]}
    assert [summary['per_class'][f'class {index}'] for index in (1, 2, 3, 4)] == [none] * 4
    assert summary['miou']['key'] == summary['per_class']['class 0']['key'] == 0
    assert summary['miou']['current_mean'] == 33.333
    text = score_text({
        **summary, 'weights': 'mine', 'network': 'n', 'engine': 'e', 'precision': 'p',
        'data': {'name': 'd', 'made_by_hand': True, 'classes_translated': False}, 'interval': 2,
        'labelled_frames': 4, 'shared_levels': 0})
    assert '   over 1 of 5 classes\n' in text
    assert re.search(r'^class 1 +- +- +-$', text, re.MULTILINE)
    assert '! 0 levels are shared: every frame runs the whole network' in text


def test_an_interval_that_no_video_is_as_long_as():
    with pytest.raises(ValueError, match=r'interval 7 is longer than the video.*at most 6'):
        score({'': Remembering()}, counting_video(6, 6), 7)
    with pytest.raises(ValueError, match='1 frame or more, not 0'):
        score({'': Remembering()}, counting_video(6, 6), 0)


def test_what_an_engine_or_a_label_has_wrong_is_reported():
    class Blind(Remembering):
        def current(self, frame, stream='', confidence=False):
            return Prediction(None, None, 1, {})

    class Small(Remembering):
        def key(self, frame, stream='', confidence=False):
            return Prediction(np.zeros((1, 1), np.uint8), None, 0, {})

    with pytest.raises(ValueError, match=r'^1: the prediction of blind is missing'):
        score({'blind': Blind()}, counting_video(3, 3), 2)
    with pytest.raises(ValueError, match=r'^0: the prediction of small is 1x1, the label 2x1'):
        score({'small': Small()}, counting_video(3, 3), 1)
    with pytest.raises(ValueError, match=r'^0: the label holds the id 7; classes are 0 to 2'):
        score({'': Remembering()}, counting_video(
            3, 3, truth=lambda mask, frame: np.full((1, 2), 7, np.uint8)), 1)
    with pytest.raises(ValueError, match=r'^3: the prediction holds the id 3'):
        score({'': Remembering()}, counting_video(
            4, 3, truth=lambda mask, frame: np.full((1, 2), 1, np.uint8)), 1)


def test_torchmetrics_counts_as_numpy_does():
    rng = np.random.default_rng(0)
    truths = rng.integers(0, 6, (4, 8, 8), np.uint8)
    truths[truths == 5] = 255
    images = rng.integers(0, 5, (4, 8, 8), np.uint8)
    source = Source('random', labels_of(5),
                    [Labelled(tuple(str(i) for i in range(t, -1, -1)), str(t)) for t in range(4)],
                    lambda name: np.repeat(images[int(name)][..., None], 3, 2),
                    lambda mask, frame: truths[int(mask)])
    result = score({'': Remembering()}, Video(source, source.labels), 2)['']
    for lag, matrix in enumerate(result.matrices):
        assert np.array_equal(matrix, sum(
            confusion_matrix(truths[t], images[t - lag], 5) for t in (1, 2, 3)))


def sample(t):
    return Labelled(tuple(str(i) for i in range(t, -1, -1)), str(t))


def test_consistency_counted_by_hand():
    # Of four pixels: one changes its label, one has none, so two are stable.
    truths = np.array([[[0, 1, 2, 255]], [[0, 1, 1, 255]], [[0, 1, 1, 255]]], np.uint8)
    right = [np.array([[0, 1, 2, 0]], np.uint8), *[np.array([[0, 1, 1, 0]], np.uint8)] * 2]
    vc = Consistency(interval=2, window=3)
    for t, (truth, mask) in enumerate(zip(truths, right)):
        vc.add(sample(t), truth, mask, 0)
        # As a current frame, only the third errs, at the first pixel.
        vc.add(sample(t), truth, np.array([[9, 1, 1, 0]], np.uint8) if t == 2 else mask, 1)
    # Key frames first and third: all is right. Key frame second: the third frame is current.
    assert vc.summary() == {'key': 100.0, 'deployed': 75.0, 'windows': 1}


def test_consistency_wants_the_frames_between():
    vc = Consistency(interval=1, window=2)
    mask = np.zeros((1, 1), np.uint8)
    for t in (0, 2, 4):
        vc.add(sample(t), mask, mask, 0)
    assert vc.summary() is None
    vc.add(sample(5), mask, mask + 1, 0)
    assert vc.summary() == {'key': 0.0, 'deployed': 0.0, 'windows': 1}
