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
"""The schedule: the interval, and each rule that forces a key frame."""
import json

from featshare_core.inference.schedule import difference, KeyFrameSchedule, thumbnail
import numpy as np
import pytest

SIZE = (480, 640)


def reasons(schedule, count, stream='', stamps=None):
    return [schedule.next(stream, SIZE, None if stamps is None else stamps[i]).reason
            for i in range(count)]


def keys(schedule, count, stream=''):
    return [i for i, reason in enumerate(reasons(schedule, count, stream)) if reason]


def test_the_first_frame_and_then_every_kth():
    schedule = KeyFrameSchedule(4)
    assert reasons(schedule, 9) == ['first', '', '', '', 'interval', '', '', '', 'interval']


def test_the_lag_counts_from_the_key_frame():
    schedule = KeyFrameSchedule(3)
    assert [schedule.next('', SIZE).frames_since_key for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_an_interval_of_one_makes_every_frame_a_key_frame():
    assert keys(KeyFrameSchedule(1), 4) == [0, 1, 2, 3]


def test_a_size_change_forces_a_key_frame_and_restarts_the_interval():
    schedule = KeyFrameSchedule(4)
    reasons(schedule, 3)
    assert schedule.next('', (240, 320)).reason == 'size'
    assert [schedule.next('', (240, 320)).reason for _ in range(4)] == ['', '', '', 'interval']


def test_a_frame_of_another_source_is_a_key_frame_also_after_a_restore():
    schedule = KeyFrameSchedule(10)

    def next_from(*sources):
        return [schedule.next('', SIZE, source=source).reason for source in sources]
    assert next_from('front', 'front', 'rear', 'rear', '') == ['first', '', 'source', '', 'source']
    state = json.loads(json.dumps(schedule.state()))
    schedule = KeyFrameSchedule(10)
    schedule.restore(state)
    assert next_from('', 'x' * 5_000_000) == ['', 'source']
    assert len(json.dumps(schedule.state())) < 1000


def test_a_stamp_that_goes_backwards_forces_a_key_frame():
    assert reasons(KeyFrameSchedule(10), 5, stamps=[5.0, 5.1, 5.1, 2.0, 2.1]) \
        == ['first', '', '', 'backwards', '']


def test_an_old_key_frame_is_replaced():
    schedule = KeyFrameSchedule(100, max_key_age=1.0)
    assert reasons(schedule, 5, stamps=[0.5, 1.0, 1.5, 1.6, 2.0]) == ['first', '', '', 'age', '']


def test_unknown_stamps_force_nothing_and_hide_nothing():
    schedule = KeyFrameSchedule(10, max_key_age=1.0)
    assert reasons(schedule, 5, stamps=[9.0, None, 9.1, None, 3.0]) \
        == ['first', '', '', '', 'backwards']


def test_the_age_limit_comes_at_the_same_rate_for_every_stream():
    schedule = KeyFrameSchedule(5, max_key_age=1.0)
    stamps = [0.25 * i for i in range(60)]
    counts = [sum(bool(r) for r in reasons(schedule, 60, f'camera{c}', stamps)) for c in range(3)]
    assert max(counts) - min(counts) <= 1


def test_reset_is_for_one_stream_or_all():
    schedule = KeyFrameSchedule(100)
    for stream in 'ab':
        reasons(schedule, 3, stream)
    schedule.reset('a')
    assert reasons(schedule, 2, 'a') == ['first', '']
    assert reasons(schedule, 2, 'b') == ['', '']
    schedule.reset()
    assert reasons(schedule, 1, 'a') == reasons(schedule, 1, 'b') == ['first']


def test_the_interval_may_change_between_frames():
    schedule = KeyFrameSchedule(10)
    reasons(schedule, 6)
    schedule.key_interval = 3
    assert reasons(schedule, 4) == ['interval', '', '', 'interval']


@pytest.mark.parametrize('cameras', [2, 3, 4, 5])
def test_streams_are_staggered(cameras):
    interval = 10
    schedule = KeyFrameSchedule(interval)
    due = [set(keys(schedule, 60, f'camera{c}')) - {0} for c in range(cameras)]
    assert due[0] == {10, 20, 30, 40, 50}
    for index, own in enumerate(due):
        assert len(own) in (5, 6)
        assert all(own.isdisjoint(other) for other in due[:index])
    # After all were forced at once they fall apart again.
    schedule.reset()
    due = [set(keys(schedule, 60, f'camera{c}')) - {0} for c in range(cameras)]
    assert not set.intersection(*due)


def test_what_is_refused():
    with pytest.raises(ValueError, match='key_interval must be 1 or more'):
        KeyFrameSchedule(0)
    for age in (0, -1, float('nan')):
        with pytest.raises(ValueError, match='max_key_age'):
            KeyFrameSchedule(1, age)


def grey(value):
    return np.full((*SIZE, 3), value, np.uint8)


def test_a_changed_picture_makes_a_key_frame_beside_the_interval():
    schedule = KeyFrameSchedule(5, change_threshold=0.1)
    values = [100, 110, 120, 130, 130, 130, 130, 130, 130]
    # 130 is 30 / 255 from the key frame of 100, and the interval counts from there.
    assert [schedule.next('', SIZE, frame=grey(value)).reason for value in values] \
        == ['first', '', '', 'change', '', '', '', '', 'interval']


def test_change_is_looked_at_only_where_there_is_a_threshold():
    schedule = KeyFrameSchedule(100)
    assert [schedule.next('', SIZE, frame=grey(value)).reason for value in (0, 255)] \
        == ['first', '']
    # From the next key frame on, whose picture is known.
    schedule.change_threshold = 0.1
    assert schedule.next('', SIZE, frame=grey(0)).reason == ''
    schedule.reset()
    assert [schedule.next('', SIZE, frame=grey(value)).reason for value in (0, 255)] \
        == ['first', 'change']
    schedule.forget('')
    assert schedule.next('', SIZE, frame=grey(255)).reason == 'first'


def test_an_older_picture_is_not_compared_with():
    schedule = KeyFrameSchedule(2, change_threshold=0.1)
    schedule.next('', SIZE, frame=grey(0))
    schedule.change_threshold = None
    assert [schedule.next('', SIZE, frame=grey(255)).reason for _ in range(3)] \
        == ['', 'interval', '']
    schedule.key_interval, schedule.change_threshold = 100, 0.1
    assert schedule.next('', SIZE, frame=grey(255)).reason == ''


def test_a_key_frame_can_be_postponed():
    schedule = KeyFrameSchedule(2, 1.0, change_threshold=0.5)
    schedule.next('', SIZE, 0.0, grey(0))
    schedule.next('', SIZE, 0.4, grey(0))
    assert schedule.next('', SIZE, 0.8, grey(100)).reason == 'interval'
    assert schedule.postpone('') == ('', 2)
    # Age and picture are the first frame's, and the interval is over on the next frame too.
    assert schedule.next('', SIZE, 0.9, grey(100)) == ('interval', 0)
    schedule.postpone('')
    assert schedule.next('', SIZE, 0.9, grey(200)) == ('interval', 0)
    schedule.postpone('')
    assert schedule.next('', SIZE, 1.1, grey(100)) == ('age', 0)
    assert schedule.next('', SIZE, 1.0, grey(100)) == ('backwards', 0)
    schedule.next('', SIZE, 1.2, grey(100))
    assert schedule.next('', SIZE, 1.3, grey(100)).reason == 'interval'
    schedule.reset()
    schedule.postpone('')
    assert schedule.next('', SIZE, 1.4, grey(100)).reason == 'first'


def test_thumbnails_differ_by_brightness_from_0_to_1():
    assert difference(thumbnail(grey(0)), thumbnail(grey(255))) == 1
    assert difference(thumbnail(grey(7)), thumbnail(grey(7))) == 0
    for shape in ((1, 1, 3), (1, 5000, 3), (3000, 2, 3)):
        assert thumbnail(np.zeros(shape, np.uint8)).shape == (24, 32)
