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
"""Flicker and the scores by video and by lag, on masks that can be counted by hand."""
from featshare_core.data.source import Labelled, Source
from featshare_core.evaluation.accuracy import score
from featshare_core.evaluation.flicker import Flicker
from featshare_core.evaluation.videos import Video, video_names
import numpy as np
import pytest
from test_accuracy import counting_video, labels_of, Remembering


def row(*ids):
    return np.array([ids], np.uint8)


MASKS = {(0, 0): row(0, 1, 2, 0), (1, 1): row(0, 1, 1, 0), (1, 0): row(0, 1, 2, 0),
         (2, 1): row(9, 9, 2, 0), (2, 0): row(0, 1, 2, 0), (3, 1): row(0, 1, 2, 9)}
"""Masks by frame and lag; of four pixels, the last has no label."""


@pytest.mark.parametrize('order', [sorted(MASKS, key=lambda at: (at[0] - at[1], at[1])),
                                   sorted(MASKS)], ids=['interval by interval', 'frame by frame'])
def test_changes_counted_by_hand(order):
    flicker = Flicker(2)
    for frame, lag in order:
        flicker.add(frame, frame - 1 if frame else None, row(0, 1, 2, 255), MASKS[frame, lag], lag)
    # Between key frames: 0 to 1 changes one pixel of three, 1 to 2 two, 2 to 3 none.
    # Into key frames: frame 1 at lag 1, then 2 at lag 0, differ in one.
    found = flicker.summary()
    assert found == {'per_frame': 0, 'key': pytest.approx(100 / 3),
                     'between': pytest.approx(100 * 3 / 9), 'ratio': pytest.approx(1), 'pairs': 1}


def test_what_the_label_explains_is_no_flicker():
    flicker = Flicker(1)
    flicker.add(0, None, row(0, 0, 1, 255), row(0, 0, 1, 3), 0)
    flicker.add(1, 0, row(0, 1, 1, 0), row(0, 1, 2, 0), 0)  # two pixels keep their label
    assert flicker.summary() == {'per_frame': 50, 'key': 50, 'between': None, 'ratio': None,
                                 'pairs': 1}
    flicker.add(3, 2, row(0, 0, 0, 0), row(1, 1, 1, 1), 0)  # frame 2 has no label
    assert flicker.summary()['pairs'] == 1
    assert Flicker(2).summary() is None


def test_few_masks_are_held():
    flicker = Flicker(5)
    mask = row(0)
    for key in range(40):
        for lag in range(5):
            flicker.add(key + lag, key + lag - 1, mask, mask, lag)
    assert sum(map(len, flicker._held)) <= 3 * 5
    assert flicker.summary()['pairs'] == 40 - 5


def test_scores_have_flicker_classes_by_lag_and_videos():
    # The truth never changes; the masks are the key frame's, which errs on every other frame.
    names = [f'{drive}/{t}' for drive in ('left', 'right') for t in range(6)]
    samples = [Labelled(tuple(names[i] for i in range(index, 6 * (index // 6) - 1, -1)),
                        names[index]) for index in range(12)]

    def read(name):
        wrong = name.startswith('right') and int(name[-1]) % 2
        return np.full((1, 2, 3), 1 if wrong else 0, np.uint8)

    source = Source('pairs', labels_of(2), samples, read,
                    lambda mask, frame: np.zeros((1, 2), np.uint8))
    result = score({'': Remembering()}, Video(source, source.labels), 2)[''].summary()
    left, right = result['videos']['left'], result['videos']['right']
    assert left['miou']['per_lag'] == [100, 100]
    assert left['per_class'] == {'class 0': [100, 100], 'class 1': [None, None]}
    # Of frames 1 to 5 of the right drive, 1, 3 and 5 err as key frames, 2 and 4 at lag 1.
    assert right['per_class'] == {'class 0': [40, 60], 'class 1': [None, None]}
    assert (left['frames'], right['frames'], result['frames']) == (5, 5, 10)
    assert result['per_class']['class 0'] == {'key': 70, 'current_mean': 80, 'per_lag': [70, 80]}
    # Key frames 2 to 5 of each drive follow a frame that shows the mask of the frame before it,
    # which errs as the key frame does. Between key frames a repeated mask never changes.
    assert result['flicker'] == {'per_frame': 50, 'key': 0, 'between': 0, 'ratio': None,
                                 'pairs': 8}


def test_a_class_is_scored_at_each_lag():
    result = score({'': Remembering()}, counting_video(6, 6), 3)[''].summary()
    assert result['per_class']['class 3'] == {'key': 100, 'current_mean': 0,
                                              'per_lag': [100, 0, 0]}
    assert list(result['videos']) == ['']


def test_videos_are_named_after_their_frames():
    def named(*frames):
        samples = [Labelled(chain, chain[0]) for chain in frames]
        return list(dict.fromkeys(video_names(samples).values()))

    assert named(('val/0016E5_07960.png',), ('val/0016E5_07962.png',
                                             'val/0016E5_07960.png')) == ['0016E5']
    assert named(*((f'sequence/aachen/aachen_{s:06d}_000019_leftImg8bit.png',
                    f'sequence/aachen/aachen_{s:06d}_000018_leftImg8bit.png')
                   for s in (0, 1))) == ['aachen_000000', 'aachen_000001']
    assert named(('north/001.png', 'north/000.png'), ('south/001.png', 'south/000.png')) == [
        'north', 'south']
    assert named(('north/a_1.png', 'north/a_0.png'), ('south/a_1.png', 'south/a_0.png')) == [
        'north/a', 'south/a']
    assert named(('frames/cat.png',), ('frames/dog.png',)) == ['frames']
