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
"""Things: components and instances, their motion, and what is left of them, counted by hand."""
from featshare_core.data.source import Instance, Labelled, Source
from featshare_core.evaluation.accuracy import score
from featshare_core.evaluation.things import (
    class_ids,
    components,
    matched,
    of_instances,
    Survival,
)
from featshare_core.evaluation.videos import Video
from featshare_core.labels import CAMVID, CITYSCAPES
import numpy as np
import pytest
from test_accuracy import Remembering

BUILDING, CAR, PEDESTRIAN, BICYCLIST = (
    CAMVID.names.index(name) for name in ('building', 'car', 'pedestrian', 'bicyclist'))


def picture(*boxes, size=(40, 120)):
    """Return a mask of building with (class, left, top, width, height) on it."""
    mask = np.full(size, BUILDING, np.uint8)
    for label, left, top, width, height in boxes:
        mask[top:top + height, left:left + width] = label
    return mask


def test_the_classes_are_those_that_the_label_set_has():
    assert class_ids(CAMVID) == (CAR, PEDESTRIAN, BICYCLIST)
    assert 'rider' in [CITYSCAPES.names[index] for index in class_ids(CITYSCAPES)]
    assert class_ids(CAMVID, ['building']) == (BUILDING,)
    with pytest.raises(ValueError, match="no class 'forklift'; there are sky"):
        class_ids(CAMVID, ['forklift'])


def test_components_by_hand():
    mask = picture((CAR, 0, 0, 20, 10), (CAR, 20, 10, 20, 10), (CAR, 60, 0, 12, 10),
                   (PEDESTRIAN, 90, 0, 9, 11))
    car, other = components(mask, (CAR, PEDESTRIAN))  # 99 pixels are too few
    assert (car.size, other.size) == (400, 120)  # corners touch
    assert car.place == (slice(0, 20), slice(0, 40))
    assert other.centre == (65.5, 4.5)
    assert car.found(np.where(mask == CAR, PEDESTRIAN, mask)) == 0
    assert other.found(picture((CAR, 64, 0, 30, 5))) == 40


def test_motion_is_the_shift_of_the_matched_component():
    before = components(picture((PEDESTRIAN, 0, 0, 10, 20), (PEDESTRIAN, 40, 0, 10, 20)),
                        (PEDESTRIAN,))
    now = components(picture((PEDESTRIAN, 6, 8, 10, 20), (PEDESTRIAN, 41, 0, 10, 20),
                             (PEDESTRIAN, 80, 0, 30, 30)), (PEDESTRIAN,))
    # The third has no partner of its size.
    assert {thing.centre[0]: thing.motion for thing in matched(now, [before])} == {
        10.5: 10, 45.5: 1, 94.5: None}
    far = components(picture((PEDESTRIAN, 105, 0, 10, 20)), (PEDESTRIAN,))
    assert matched(far, [before[:1]])[0].motion is None  # farther than twice its diagonal
    # Two now have the same nearest one: it is matched with the nearer.
    two = components(picture((PEDESTRIAN, 2, 0, 10, 20), (PEDESTRIAN, 20, 0, 10, 20)),
                     (PEDESTRIAN,))
    assert [thing.motion for thing in matched(two, [before[:1]])] == [2, None]


def test_motion_is_followed_from_frame_to_frame():
    def walkers(*lefts):
        return components(picture(*((PEDESTRIAN, left, 0, 10, 20) for left in lefts)),
                          (PEDESTRIAN,))

    # Each walks 12 to the right a frame, 30 apart from the next: two frames later, the nearest
    # one is another.
    now, before, key = walkers(34, 64, 94), walkers(22, 52, 82), walkers(10, 40, 70)
    assert [thing.motion for thing in matched(now, [before, key])] == [24, 24, 24]
    assert [thing.motion for thing in matched(now, [key])] == [6, 6, None]
    assert [thing.motion for thing in matched(now, [before[1:], key])] == [None, 24, 24]
    assert [thing.motion for thing in matched(now, [])] == [None] * 3


def test_an_instance_may_be_hidden_in_part():
    truth = picture((BICYCLIST, 10, 0, 10, 30))
    truth[10:20] = BUILDING  # two parts, of 100 pixels each
    ids = np.zeros(truth.shape, np.int32)
    ids[:30, 10:20] = 7
    ids[:30, 60:90] = 8
    found = {8: Instance(BUILDING, 900, 1.0), 7: Instance(BICYCLIST, 300, 25.0)}
    thing, = of_instances(ids, found, truth, (BICYCLIST,))
    assert (thing.size, thing.motion) == (200, 25.0)
    assert thing.found(truth) == 200
    assert of_instances(ids, found, truth, (BICYCLIST,), least=201) == []


def test_what_is_left_by_hand():
    truth = picture((CAR, 0, 0, 20, 10), (CAR, 40, 0, 20, 10), (PEDESTRIAN, 80, 0, 10, 20))
    car, other, person = components(truth, (CAR, PEDESTRIAN, BICYCLIST))
    survival = Survival(CAMVID, 2, (CAR, PEDESTRIAN, BICYCLIST))
    moved = [*matched([car], [[car]]), other, person]
    # At lag 1: half of the first car is left, 30 of 200 pixels of the second, no pedestrian.
    survival.add('a', 1, moved, picture((CAR, 0, 0, 10, 10), (CAR, 40, 0, 3, 10)))
    # Per frame: all of the first car, 50 pixels of the second, 40 of 200 of the pedestrian.
    survival.add('a', 0, [car, other, person], picture(
        (CAR, 0, 0, 20, 10), (CAR, 40, 0, 5, 10), (PEDESTRIAN, 80, 0, 10, 4)))
    none = {'things': [0, 0], 'kept': [None, None], 'least': [None, None],
            'survivors': [None, None]}
    assert survival.summary() == {
        'car': {'things': [2, 2], 'kept': [100, pytest.approx(100 * (.5 + .6) / 2)],
                'least': [100, 50], 'survivors': [100, 100], 'unseen': 0, 'passing': none,
                'by_motion': {
                    '0-16': {'things': 1, 'kept': 50, 'least': 50, 'survivors': 100},
                    'unknown': {'things': 1, 'kept': 60, 'least': 60, 'survivors': 100}}},
        'pedestrian': {**none, 'passing': none, 'by_motion': {}, 'unseen': 1}}
    # More than the per-frame network has is no more than all of it.
    survival.count(1, [car], [200], [100])
    assert survival.summary()['car']['kept'][1] == pytest.approx(100 * (.5 + .6 + 1) / 3)


@pytest.mark.parametrize('with_instances', [False, True])
def test_a_repeated_mask_loses_what_moves(with_instances):
    """A car of 20x10 pixels that moves by 5 pixels a frame, in a video whose images show ids."""
    truths = {str(t): picture((CAR, 5 * t, 0, 20, 10)) for t in range(6)}
    samples = [Labelled(tuple(str(i) for i in range(t, -1, -1)), str(t)) for t in range(6)]

    def instances(name, lag):
        return (truths[name] == CAR).astype(np.int32), {1: Instance(CAR, 200, 45.0 * lag)}

    source = Source('street', CAMVID, samples,
                    lambda name: np.repeat(truths[name][..., None], 3, 2),
                    lambda mask, frame: truths[mask], instances if with_instances else None)
    result = score({'': Remembering()}, Video(source, CAMVID), 4)[''].summary()['things']['car']
    assert result['things'] == [3, 3, 3, 3]
    assert result['kept'] == [100, 75, 50, 25]
    assert result['survivors'] == [100, 100, 100, 0]
    # At 45 pixels a frame it passes, at 5 it does not.
    assert result['passing']['things'] == ([0, 3, 3, 3] if with_instances else [0] * 4)
    assert result['passing']['kept'] == ([None, 75, 50, 25] if with_instances else [None] * 4)
    assert {name: one['kept'] for name, one in result['by_motion'].items()} == (
        {'32-64': 75, '64-128': 50, '128-': 25} if with_instances else {'0-16': 50})


def test_things_of_other_classes_can_be_followed():
    truth = picture()
    source = Source('still', CAMVID, [Labelled(('0',), '0')],
                    lambda name: np.repeat(truth[..., None], 3, 2), lambda mask, frame: truth)
    result = score({'': Remembering()}, Video(source, CAMVID), 1, things=['building'])['']
    assert list(result.summary()['things']) == ['building']
