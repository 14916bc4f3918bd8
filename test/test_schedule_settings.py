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
"""What a KeyFrameSchedule refuses, and a schedule that is restored from JSON."""
import json
from unittest.mock import Mock

from featshare_core.inference.schedule import KeyFrameSchedule
from featshare_core.inference.segmenter import VideoSegmenter
import numpy as np
import pytest

SIZE = (48, 64)


def grey(value):
    return np.full((*SIZE, 3), value, np.uint8)


@pytest.mark.parametrize(('name', 'value', 'error'), [
    ('key_interval', 2.5, TypeError), ('key_interval', 2.0, TypeError),
    ('key_interval', True, TypeError), ('key_interval', '2', TypeError),
    ('key_interval', None, TypeError), ('key_interval', 0, ValueError),
    ('max_key_age', 'long', TypeError), ('max_key_age', True, TypeError),
    ('max_key_age', float('nan'), ValueError), ('max_key_age', 0.0, ValueError),
    ('change_threshold', float('nan'), ValueError), ('change_threshold', 1.5, ValueError),
    ('change_threshold', -0.1, ValueError), ('change_threshold', True, TypeError)])
def test_a_setting_is_refused_by_name_at_the_start_and_later(name, value, error):
    settings = {'key_interval': 4, 'max_key_age': 1.0, 'change_threshold': 0.5}
    with pytest.raises(error, match=name):
        KeyFrameSchedule(**{**settings, name: value})
    schedule = KeyFrameSchedule(**settings)
    with pytest.raises(error, match=name):
        setattr(schedule, name, value)
    assert getattr(schedule, name) == settings[name]


def test_a_misspelt_setting_is_refused():
    """It would have no effect."""
    schedule, segmenter = KeyFrameSchedule(4), VideoSegmenter(Mock(trained_size=(48, 64)))
    for thing, name in ((schedule, 'interval'), (schedule, '_interval'),
                        (segmenter, 'key_interval'), (segmenter, 'keymode'),
                        (segmenter, 'labels')):
        known = getattr(thing, name, None)
        with pytest.raises(AttributeError, match=f"'{name}'"):
            setattr(thing, name, 1)
        assert getattr(thing, name, None) is known


def test_settings_of_numpy_are_numbers():
    schedule = KeyFrameSchedule(np.int64(3), np.float32(0.5), np.float64(0.25))
    assert (schedule.key_interval, schedule.max_key_age, schedule.change_threshold) == (
        3, 0.5, 0.25)
    assert type(schedule.key_interval) is int
    schedule.max_key_age = schedule.change_threshold = None


def test_a_restored_schedule_compares_with_the_key_frames_picture():
    schedule = KeyFrameSchedule(100, change_threshold=0.1)
    for name, value in (('a', 100), ('b', 200)):
        schedule.next(name, SIZE, 1.0, grey(value))
    restored = KeyFrameSchedule(100, change_threshold=0.1)
    restored.restore(json.loads(json.dumps(schedule.state())))
    assert restored.state() == schedule.state()
    for name, value, reason in (('a', 110, ''), ('b', 110, 'change'), ('a', 150, 'change'),
                                ('b', 120, '')):
        frame = grey(value)
        assert restored.next(name, SIZE, 1.1, frame) == schedule.next(name, SIZE, 1.1, frame)
        assert restored._replaced[0] is not None
        assert bool(reason) == (restored._streams[name].since_key == 0)
