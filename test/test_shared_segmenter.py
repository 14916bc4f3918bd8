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
"""One VideoSegmenter that several threads use, and a reset while a frame is in work."""
import sys
import threading

from featshare_core.inference import schedule
from featshare_core.inference.segmenter import VideoSegmenter
import numpy as np
import pytest

FRAMES = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), np.uint8)


@pytest.fixture
def make(random_checkpoint):
    def make():
        return VideoSegmenter.from_checkpoint(
            random_checkpoint, key_interval=3, device='cpu', precision='fp32', engine='torch',
            input_size=(64, 64))
    return make


def test_a_thread_per_camera_gets_the_masks_of_a_segmenter_of_its_own(make, one_thread):
    cameras = ['front', 'rear', 'left']
    video = {name: np.roll(FRAMES, index, axis=0) for index, name in enumerate(cameras)}
    alone = make()
    # Streams are staggered in the order of their first frames.
    expected = {name: [alone.segment(video[name][0], name).mask] for name in cameras}
    for name in cameras:
        expected[name] += [alone.segment(frame, name).mask for frame in video[name][1:]]
    shared = make()
    masks = {name: [shared.segment(video[name][0], name).mask] for name in cameras}
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=lambda name=name: masks[name].extend(
            shared.segment(frame, name).mask for frame in video[name][1:])) for name in cameras]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(usual)
    for name in cameras:
        np.testing.assert_array_equal(masks[name], expected[name])


class Hanging:
    """An engine whose frames wait until they are let go, one at a time."""

    labels = ()

    def __init__(self, engine):
        self._engine = engine
        self.entered, self.go = threading.Semaphore(0), threading.Event()
        self.inside, self.most = 0, 0

    def _run(self, run, *arguments):
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.entered.release()
        assert self.go.wait(20)
        self.inside -= 1
        return run(*arguments)

    def fit(self, frame, stream):
        return ()

    def key(self, *arguments):
        return self._run(self._engine.key, *arguments)

    def current(self, *arguments):
        return self._run(self._engine.current, *arguments)

    def forget(self, stream):
        assert self.inside == 0
        self._engine.forget(stream)

    def close(self):
        self._engine.close()


def test_one_frame_at_a_time_and_a_reset_that_waits_for_none(make):
    segmenter = make()
    segmenter.segment(FRAMES[0], 'a')
    segmenter.engine = engine = Hanging(segmenter.engine)
    results = []
    threads = [threading.Thread(target=lambda name=name: results.append(
        segmenter.segment(FRAMES[1], name))) for name in 'ab']
    for thread in threads:
        thread.start()
    assert engine.entered.acquire(timeout=10)
    # A frame hangs in the engine: another thread's reset and settings come through all the same.
    done = threading.Event()
    resetting = threading.Thread(target=lambda: (segmenter.reset(), segmenter.reset('a'),
                                                 done.set()))
    resetting.start()
    assert done.wait(5)
    assert not engine.entered.acquire(timeout=0.3), 'two frames in the engine at once'
    forgetting = threading.Thread(target=segmenter.forget, args=('c',))
    forgetting.start()
    engine.go.set()
    for thread in (*threads, resetting, forgetting):
        thread.join(20)
    assert engine.most == 1
    assert len(results) == 2
    assert segmenter.segment(FRAMES[2], 'a').key_reason in ('first', '')


def a_frame_in_work(segmenter):
    """Return the segmenter, its engine, which hangs until `go` is set, the thread and results."""
    segmenter.engine = engine = Hanging(segmenter.engine)
    results = []
    thread = threading.Thread(target=lambda: results.append(segmenter.segment(FRAMES[0])))
    thread.start()
    assert engine.entered.acquire(timeout=10)
    return segmenter, engine, thread, results


def test_a_reset_counts_from_the_frame_after_the_one_in_work(make):
    segmenter, engine, thread, _ = a_frame_in_work(make())
    segmenter.reset()
    engine.go.set()
    thread.join(20)
    assert [segmenter.segment(frame).key_reason for frame in FRAMES[:3]] == ['first', '', '']


def test_a_reset_while_the_schedule_decides_is_not_lost(make, monkeypatch):
    segmenter = make()
    segmenter.schedule.change_threshold = 1.0
    segmenter.segment(FRAMES[0])
    thumbnail = schedule.thumbnail
    # As another thread does in the middle of it.
    monkeypatch.setattr(schedule, 'thumbnail', lambda frame: segmenter.reset() or thumbnail(frame))
    segmenter.schedule.key_interval = 1
    assert segmenter.segment(FRAMES[1]).key_reason == 'interval'
    monkeypatch.undo()
    segmenter.schedule.key_interval = 100
    assert [segmenter.segment(frame).key_reason for frame in FRAMES[2:4]] == ['first', '']


class Once:
    """An attribute that another thread sets to None right after it was read."""

    def __init__(self, value):
        self.values = [value]

    def __get__(self, instance, owner):
        return self.values.pop() if self.values else None


@pytest.mark.parametrize(('name', 'value', 'reason'), [
    ('change_threshold', 0.0, 'change'), ('max_key_age', 0.5, 'age')])
def test_a_limit_that_is_taken_away_in_the_middle_costs_no_frame(make, monkeypatch, name, value,
                                                                 reason):
    """The node's parameters are set by another thread than the one that segments."""
    segmenter = make()
    segmenter.schedule.key_interval = 100
    setattr(segmenter.schedule, name, value)
    segmenter.segment(FRAMES[0], stamp=1.0)
    monkeypatch.setattr(schedule.KeyFrameSchedule, name, Once(value))
    assert segmenter.segment(FRAMES[1], stamp=2.0).key_reason == reason
    assert segmenter.segment(FRAMES[2], stamp=4.0).key_reason == ''


def test_a_stream_that_is_forgotten_is_not_reset_later(make):
    segmenter = make()
    segmenter.reset('a')
    segmenter.forget('a')
    assert not segmenter._resets


def test_a_key_mode_that_does_not_exist_is_refused_later_too(make):
    segmenter = make()
    with pytest.raises(ValueError, match="key_mode 'sometimes' is none of blocking, deferred"):
        segmenter.key_mode = 'sometimes'
    assert segmenter.key_mode == 'blocking'
    segmenter.key_mode = 'deferred'
    with pytest.raises(ValueError, match='key_mode'):
        VideoSegmenter(segmenter.engine, key_mode='sometimes')


@pytest.mark.parametrize(('stamp', 'error'), [
    (float('nan'), ValueError), (float('inf'), ValueError), ('1.5', TypeError),
    (True, TypeError), ((1, 2), TypeError)])
def test_a_stamp_that_is_no_time_is_refused_and_changes_nothing(make, stamp, error):
    segmenter = make()
    segmenter.schedule.max_key_age = 1.0
    segmenter.segment(FRAMES[0], stamp=1.0)
    before = segmenter.schedule.state()
    with pytest.raises(error, match='stamp'):
        segmenter.segment(FRAMES[1], stamp=stamp)
    assert segmenter.schedule.state() == before
    assert segmenter.segment(FRAMES[1], stamp=np.float32(1.5)).key_reason == ''
    assert segmenter.segment(FRAMES[2], stamp=3).key_reason == 'age'


def test_closing_waits_for_the_frame_in_work(make):
    segmenter, engine, thread, results = a_frame_in_work(make())
    closing = threading.Thread(target=segmenter.close)
    closing.start()
    closing.join(0.3)
    assert closing.is_alive(), 'closed under a frame'
    engine.go.set()
    for each in (thread, closing):
        each.join(20)
    assert len(results) == 1
    with pytest.raises(RuntimeError, match='the engine is closed'):
        segmenter.segment(FRAMES[1])
