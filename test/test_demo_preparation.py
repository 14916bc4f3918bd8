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
"""What the demo does before the replay, and the rates that it chooses."""
from __future__ import annotations

from dataclasses import dataclass, field
import time
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip('rclpy')

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from featshare_ros.demo import preparation
from featshare_ros.demo.preparation import (
    choose_slowdown,
    interval_s,
    PASSES,
    Preparation,
    prepare,
    replay_at_a_rate_that_holds,
    SLOWDOWNS,
)
from featshare_ros.demo.replay import ReplayError, Run, says_preparing

IMAGES: Any = [SimpleNamespace(stamp_ns=index * 10**8, log_time_ns=index * 4 * 10**7)
               for index in range(4)]
PROCESS: Any = SimpleNamespace(with_log=lambda text: text)


@dataclass
class FakeReplay:
    """Returns masks after the seconds of ``answers`` in turn (None: never), then after 0.03 s."""

    answers: list[float | None] = field(default_factory=list)
    reports: list[bool] = field(default_factory=list)
    drops_until: float = 0.0
    run: Run = field(default_factory=Run)
    preparing: bool = False
    done: list[Any] = field(default_factory=list)

    def ask(self, image: Any, process: Any, timeout: float) -> float | None:
        seconds = self.answers.pop(0) if self.answers else 0.03
        self.done.append(image.stamp_ns)
        if seconds is not None:
            self.run.received[image.stamp_ns] = time.monotonic() + seconds
        return seconds

    def wait_for_reports(self, count: int) -> None:
        self.preparing = bool(self.reports) and self.reports.pop(0)

    def start_over(self, process: Any) -> None:
        self.done.append('start over')

    def play(self, images: Any, process: Any, slowdown: float, most_dropped: float) -> bool:
        self.done.append((slowdown, most_dropped))
        return slowdown >= self.drops_until or most_dropped == float('inf')


def prepared(replay: FakeReplay) -> Preparation:
    return prepare(replay, PROCESS, IMAGES)  # type: ignore[arg-type]


@pytest.mark.parametrize('times, interval, slowdown', (
    ([0.02] * 10, 0.04, 1.0),
    ([0.034] * 10, 0.04, 1.5),  # no headroom at 1
    ([0.05, *[0.028] * 9], 0.04, 1.0),  # a key frame may take longer than an interval,
    ([0.2, 0.2, *[0.01] * 8], 0.04, 4.0),  # but not than two
    ([0.0], 0.04, 1.0),
    ([0.1] * 10, float('inf'), 1.0),
    ([5.0] * 10, 0.04, 16.0),
))
def test_highest_rate_that_holds(times: list[float], interval: float, slowdown: float) -> None:
    assert choose_slowdown(times, interval) == slowdown


def test_interval_is_the_usual_one() -> None:
    late = SimpleNamespace(log_time_ns=10**9)
    assert interval_s([*IMAGES, late]) == pytest.approx(0.04)
    assert interval_s([late]) == float('inf')  # type: ignore[list-item]


def test_rate_has_its_reason() -> None:
    found = Preparation(5.0, None, [0.05] * 8 + [0.08] * 2, 2.0)
    assert found.rate_text(25.0, 2.0) == ('12.5 of 25 Hz: this machine needs 56 ms per frame, '
                                          '80 ms or more for one in ten')
    assert found.rate_text(25.0, 4.0) == ('6.25 of 25 Hz: at 8.33 Hz this machine dropped more '
                                          'than 5% of the frames')
    assert Preparation(5.0, None, [0.02], 1.0).rate_text(25.0, 1.0) == '25 Hz, as recorded'


def test_first_image_is_sent_until_it_is_answered() -> None:
    replay = FakeReplay([None, None, 5.0])
    found = prepared(replay)
    assert replay.done[:4] == [0, 0, 0, 0]  # sent three times, then the first sample
    assert found.first_mask_s == pytest.approx(5.0, abs=0.5)
    assert found.engine_s is None and found.slowdown == 1.0
    assert found.times_s == [0.03] * PASSES * len(IMAGES)


def test_timed_only_once_the_engine_is_prepared() -> None:
    replay = FakeReplay([0.1, *[0.5] * 3], [True, True, False])
    found = prepared(replay)
    # The first image, one image per report, and the samples: one pass unmeasured, then measured.
    assert len(replay.done) == 1 + 3 + (1 + PASSES) * len(IMAGES)
    assert found.engine_s is not None and set(found.times_s) == {0.03}
    assert prepared(FakeReplay([0.1, 0.5], [False])).engine_s is None


def test_engine_that_fails_on_the_first_image_ends_the_demo() -> None:
    replay = FakeReplay([None] * 5)
    replay.run.diagnostics['failed'] = '3'
    replay.run.problem = '3 of 3 images failed'
    with pytest.raises(ReplayError, match='3 of 3 images failed'):
        prepared(replay)


def test_no_first_mask_ends_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, 'PREPARE_TIMEOUT', 0.0)
    with pytest.raises(ReplayError, match='no mask came back'):
        prepared(FakeReplay([None]))


def test_replay_is_repeated_slower_where_frames_are_dropped() -> None:
    recording: Any = type('Recording', (list,), {'frame_count': 100, 'duration': 4.0})()
    for drops_until, played in ((0.0, [1.5]), (3.0, [1.5, 2.0, 3.0]),
                                (99.0, list(SLOWDOWNS[1:]))):
        replay = FakeReplay(drops_until=drops_until)
        final = replay_at_a_rate_that_holds(
            replay, PROCESS, recording, 1.5)  # type: ignore[arg-type]
        assert final == played[-1]
        plays = replay.done[1::2]
        assert replay.done[::2] == ['start over'] * len(played)
        assert plays == [(factor, float('inf') if factor == SLOWDOWNS[-1] else 5.0)
                         for factor in played]


@pytest.mark.parametrize('key, value, preparing', (
    ('image', '960x540 rgb8', False),
    ('preparing', 'nothing', False),
    ('preparing', '960x544 for 3 s', True),
    ('preparing', '960x544 cannot be prepared: no memory', False),
))
def test_preparing_is_read_from_the_diagnostics(key: str, value: str, preparing: bool) -> None:
    status = DiagnosticStatus(values=[KeyValue(key='state', value='active'),
                                      KeyValue(key=key, value=value)])
    assert says_preparing(status) is preparing
