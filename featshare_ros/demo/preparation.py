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
"""Before the replay: prepare the engine for the images' size, and choose the rate."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
import math
import time

from featshare_core.progress import track
from featshare_ros.demo.replay import NodeProcess, Replay, ReplayError
from featshare_ros.recordings.bag import RecordedImage, Recording
import numpy as np

SAMPLES = 12
"""Number of the recording's first images with which the engine is prepared and timed."""
PASSES = 2
"""Number of times that each sample is timed."""
SLOWDOWNS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""Factors by which the replay's intervals may be longer than the recording's."""
HEADROOM = 1.25
"""Smallest ratio of the replay's interval to the measured time per frame."""
MOST_DROPPED = 0.05
"""Share of dropped frames above which the replay is repeated at a lower rate."""
RESEND_S = 2.0
"""Time without a mask, in seconds, after which the first image counts as lost and is resent."""
ANSWER_TIMEOUT = 5.0
"""Longest wait for the mask of a sample, in seconds."""
PREPARE_TIMEOUT = 180.0
"""Longest wait for the first mask, and for the engine to be prepared, in seconds."""
FAILURES = 3
"""Number of failures on the first image after which the demo gives up."""


@dataclass(frozen=True)
class Preparation:
    """
    What happened before the replay.

    :param first_mask_s: from the first image to its mask, in seconds.
    :param engine_s: from the first image until the engine was prepared for the images' size, in
        seconds; None where it was prepared when the first mask came.
    :param times_s: from sending a sample to its mask, in seconds, one sample at a time.
    :param slowdown: the smallest of ``SLOWDOWNS`` at which the node keeps up, by these times.
    """

    first_mask_s: float
    engine_s: float | None
    times_s: Sequence[float]
    slowdown: float

    def rate_text(self, recorded_hz: float, slowdown: float) -> str:
        """
        Return the rate of the replay, with the reason where it is not the recorded one.

        :param slowdown: of the replay; larger than ``self.slowdown`` if it had to be repeated.
        """
        if slowdown == 1:
            return f'{recorded_hz:.3g} Hz, as recorded'
        rate = f'{recorded_hz / slowdown:.3g} of {recorded_hz:.3g} Hz'
        if slowdown > self.slowdown:
            faster = recorded_hz / SLOWDOWNS[SLOWDOWNS.index(slowdown) - 1]
            return (f'{rate}: at {faster:.3g} Hz this machine dropped more than '
                    f'{MOST_DROPPED:.0%} of the frames')
        mean, slow = 1e3 * np.mean(self.times_s), 1e3 * np.percentile(self.times_s, 90)
        return (f'{rate}: this machine needs {mean:.0f} ms per frame, {slow:.0f} ms or more for '
                f'one in ten')


def prepare(replay: Replay, process: NodeProcess, samples: Sequence[RecordedImage],
            ) -> Preparation:
    """
    Have the node prepare its engine for the samples' size, and choose the rate of the replay.

    :raises ReplayError: where no mask comes back, or the node ends.
    """
    begin = time.monotonic()
    first_mask_s = _first_mask(replay, process, samples[0])
    # Preparation for a size begins at its second frame and runs in parallel with the frames. Few
    # are sent meanwhile: they take CPU time from it.
    replay.ask(samples[0], process, ANSWER_TIMEOUT)
    replay.wait_for_reports(2)
    engine_s = None
    while replay.preparing and time.monotonic() - begin < PREPARE_TIMEOUT:
        replay.ask(samples[0], process, ANSWER_TIMEOUT)
        replay.wait_for_reports(1)
        engine_s = time.monotonic() - begin
    _time(replay, process, samples)
    times_s = [time_s for _ in range(PASSES) for time_s in _time(replay, process, samples)]
    return Preparation(first_mask_s, engine_s, times_s,
                       choose_slowdown(times_s, interval_s(samples)))


def choose_slowdown(times_s: Sequence[float], interval: float) -> float:
    """
    Return the smallest of ``SLOWDOWNS`` at which the node keeps up, or the largest.

    It keeps up where frames take at most one interval on average, and nine of ten at most two:
    while one frame is segmented, another may wait. ``HEADROOM`` is added to both.

    :param times_s: of each frame alone, in seconds.
    :param interval: between the recording's frames, in seconds.
    """
    needed = HEADROOM * max(float(np.mean(times_s)), float(np.percentile(times_s, 90)) / 2)
    return next((factor for factor in SLOWDOWNS if factor * interval >= needed), SLOWDOWNS[-1])


def interval_s(images: Iterable[RecordedImage]) -> float:
    """Return the median interval between recorded images, in seconds; infinity for one image."""
    times = [image.log_time_ns for image in images]
    return float(np.median(np.diff(times))) / 1e9 if len(times) > 1 else math.inf


def replay_at_a_rate_that_holds(
        replay: Replay, process: NodeProcess, recording: Recording, slowdown: float) -> float:
    """
    Replay a recording; repeat it at the next lower rate while too many frames are dropped.

    :param slowdown: the one of ``SLOWDOWNS`` to begin with.
    :returns: the slowdown of the replay that went to the end.
    :raises ReplayError: as ``Replay.play``.
    """
    for factor in SLOWDOWNS[SLOWDOWNS.index(slowdown):]:
        most = MOST_DROPPED * recording.frame_count if factor < SLOWDOWNS[-1] else math.inf
        replay.start_over(process)
        seconds = factor * recording.duration
        print(f'replaying {recording.frame_count} frames in {seconds:.0f} s ...')
        with closing(track(recording, 'replay', 'frames', recording.frame_count)) as frames:
            if replay.play(frames, process, factor, most):
                break
        print(f'more than {MOST_DROPPED:.0%} of the frames were dropped: repeating at a lower '
              f'rate')
    return factor


def _first_mask(replay: Replay, process: NodeProcess, image: RecordedImage) -> float:
    """Send an image until its mask comes; return the seconds from the first time it was sent."""
    begin = time.monotonic()
    while time.monotonic() - begin < PREPARE_TIMEOUT:
        if replay.ask(image, process, RESEND_S) is not None:
            return replay.run.received[image.stamp_ns] - begin
        if int(replay.run.diagnostics.get('failed', 0)) >= FAILURES:
            raise ReplayError(process.with_log(f'the node {replay.run.problem}'))
    raise ReplayError(process.with_log(
        f'the first image was sent for {PREPARE_TIMEOUT:.0f} s and no mask came back'))


def _time(replay: Replay, process: NodeProcess, samples: Sequence[RecordedImage],
          ) -> list[float]:
    """Send the samples one at a time; return the seconds from each to its mask."""
    return [replay.ask(image, process, ANSWER_TIMEOUT) or ANSWER_TIMEOUT for image in samples]
