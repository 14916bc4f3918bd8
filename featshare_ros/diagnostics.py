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
"""Counts and latencies per camera and of the engine, and their /diagnostics (REP-107)."""
from __future__ import annotations

from dataclasses import dataclass, field
import math
import time

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from featshare_core.inference.segmenter import Result
from featshare_core.inference.timing import Rolling
from featshare_core.text import printable

SILENCE_S = 2.0
"""Shortest time without an image that is reported as silence, in seconds."""
SILENCE_INTERVALS = 3
"""Shortest time without an image that is reported as silence, in usual image intervals."""
GAP_S, GAP_INTERVALS = 0.3, 4
"""Shortest gap between two images that is reported, in seconds and in usual image intervals."""
STUCK_S = 5.0
"""Longest time without a finished image before the engine counts as hanging, in seconds."""
LOG_S = 10.0
"""Shortest time between two log lines about one camera's failed images, in seconds."""
SLOW_DECODING_S = 0.5
"""Shortest time to decode one image that is reported, in seconds."""
DARK_IMAGES, DARK_SAMPLE = 100, 255 // 8
"""Number of images without a brighter sample after which the sensor's bits are questioned."""
LONGEST_TEXT = 1000
"""Limit of each text in a status and of a log line about an image, in characters."""

BAD_IMAGES, ENGINE, PUBLISHING = 'bad images', 'the engine failed', 'publishing failed'
"""Causes of images without a mask, as the messages name them."""

Idle = tuple[bytes, str]
"""Level and message of all cameras while the node itself is why nothing is segmented."""


@dataclass
class Counts:
    """Images of one camera since activation: received = dropped + processed + failed + waiting."""

    received: int = 0
    dropped: int = 0
    processed: int = 0
    failed: int = 0


@dataclass
class CameraStatistics:
    """
    The figures of one camera.

    The executor's thread counts arrivals, the worker what becomes of them. ``output_problem`` says
    why an output of the newest mask, other than the mask, was not published; it is empty where all
    were. ``waiting_since`` is the arrival (monotonic seconds) of the oldest image that is in work
    or waits; None where there is none. ``may_be_dark`` says whether no 16-bit image has had a
    sample above an eighth of the range. ``status`` reports rates and level since its last call.
    """

    topic: str
    counts: Counts = field(default_factory=Counts)
    key_latency: Rolling = field(default_factory=Rolling)
    current_latency: Rolling = field(default_factory=Rolling)
    moved_latency: Rolling = field(default_factory=Rolling)
    age: Rolling = field(default_factory=Rolling)
    decoding: Rolling = field(default_factory=Rolling)
    longest_decoding: float = 0.0
    dark_images: int = 0
    may_be_dark: bool = True
    key_frames: int = 0
    moved_frames: int = 0
    stand_ins: int = 0
    image: str = 'unknown'
    failure: str = ''
    cause: str = ''
    output_problem: str = ''
    last_arrival: float | None = None
    intervals: Rolling = field(default_factory=lambda: Rolling(50))
    longest_gap: float = 0.0
    waiting_since: float | None = None
    _interrupted_at: float = field(default_factory=time.monotonic)
    _logged_at: float = -math.inf
    _reported: Counts = field(default_factory=Counts)
    _reported_at: float = field(default_factory=time.monotonic)

    def processed(self, result: Result, latency_ms: float, age_ms: float | None, arrival: float,
                  output_problem: str = '') -> None:
        """
        Count an image whose mask was published.

        :param latency_ms: from its arrival to its mask published.
        :param age_ms: from its stamp to its mask published; None where it cannot be known.
        :param arrival: when it arrived, monotonic seconds.
        """
        {'key': self.key_latency, 'current': self.current_latency,
         'moved': self.moved_latency}[result.kind].add(latency_ms)
        if age_ms is not None:
            self.age.add(age_ms)
        self.key_frames += result.is_key
        self.moved_frames += result.moved
        self.stand_ins += result.stand_in
        self.output_problem = output_problem
        self._finished(arrival)
        self.counts.processed += 1

    def failed(self, reason: str, cause: str, arrival: float) -> None:
        """
        Count an image that got no mask.

        :param cause: ``BAD_IMAGES``, ``ENGINE`` or ``PUBLISHING``.
        :param arrival: when it arrived, monotonic seconds.
        """
        self.failure = reason
        self.cause = cause
        self._finished(arrival)
        self.counts.failed += 1

    def decoded(self, seconds: float) -> None:
        """Add the time that decoding an image took, whether it succeeded or not."""
        self.decoding.add(1e3 * seconds)
        self.longest_decoding = max(self.longest_decoding, seconds)

    def brightest(self, sample: int) -> None:
        """Note the largest sample of an image that had 16-bit samples, 0 to 255."""
        self.may_be_dark = sample <= DARK_SAMPLE
        self.dark_images += 1

    def _finished(self, arrival: float) -> None:
        # Cleared first, then looked at again: an image that arrives in between is not overlooked.
        self.waiting_since = None
        newest = self.last_arrival
        if newest is not None and newest > arrival:
            self.waiting_since = newest

    @property
    def log_due(self) -> bool:
        """Whether a failure may be logged again; asking counts as logging."""
        now = time.monotonic()
        due = now - self._logged_at >= LOG_S
        if due:
            self._logged_at = now
        return due

    def arrived(self, now: float) -> None:
        """Count an image that arrived at ``now``, monotonic seconds."""
        self.counts.received += 1
        if self.last_arrival is not None:
            gap = now - self.last_arrival
            self.intervals.add(gap)
            self.longest_gap = max(self.longest_gap, gap)
        self.last_arrival = now
        if self.waiting_since is None:
            self.waiting_since = now

    def interrupted(self) -> None:
        """Note that the subscription ends or begins: that is no gap, and no image waits."""
        self.last_arrival = None
        self.waiting_since = None
        self._interrupted_at = time.monotonic()

    @property
    def starting(self) -> bool:
        """Whether the subscription is so new that the absence of images means nothing yet."""
        return self.last_arrival is None and time.monotonic() - self._interrupted_at < SILENCE_S

    @property
    def quiet(self) -> bool:
        """Whether no image has arrived since the last call of ``status``."""
        return self.counts.received == self._reported.received

    def status(self, name: str, hardware_id: str, publishers: int, mismatch: str = '',
               idle: Idle | None = None, warning: str = '',
               decoding: tuple[str, float] | None = None) -> DiagnosticStatus:
        """
        Return the camera's status since the last call.

        :param publishers: number of publishers of the topic.
        :param mismatch: why nothing can be received from them, or ''.
        :param idle: level and message where the node segments nothing at present, else None.
        :param warning: what is wrong with the way in which images arrive, or ''.
        """
        now, counts = time.monotonic(), Counts(**vars(self.counts))
        seconds = max(1e-9, now - self._reported_at)
        new = Counts(**{key: value - getattr(self._reported, key)
                        for key, value in vars(counts).items()})
        self._reported, self._reported_at = counts, now
        # No lock: this runs on the executor's thread, as ``arrived`` does.
        gap, self.longest_gap = self.longest_gap, 0.0
        slowest, self.longest_decoding = self.longest_decoding, 0.0
        usual = self.intervals.percentiles()
        level, message = idle or self._judge(new, now, publishers, mismatch, warning, gap,
                                             usual[0] if usual else 0.0, slowest, decoding)
        if level is None:
            level, message = DiagnosticStatus.OK, f'{new.processed / seconds:.1f} masks/s'
        values = [
            ('topic', self.topic),
            ('publishers', str(publishers)),
            ('image', self.image),
            ('received', str(counts.received)),
            ('processed', str(counts.processed)),
            ('key frames', str(self.key_frames)),
            ('moved frames', str(self.moved_frames)),
            ('stand-ins', str(self.stand_ins)),
            ('dropped', str(counts.dropped)),
            ('failed', str(counts.failed)),
            ('image rate (Hz)', f'{new.received / seconds:.1f}'),
            ('mask rate (Hz)', f'{new.processed / seconds:.1f}'),
            ('drop rate (Hz)', f'{new.dropped / seconds:.1f}'),
            ('longest gap (s)', f'{gap:.2f}' if gap else 'unknown'),
            *_percentiles('key latency', self.key_latency),
            *_percentiles('current latency', self.current_latency),
            *_percentiles('moved latency', self.moved_latency),
            *_percentiles('mask age', self.age),
            *_percentiles('decoding', self.decoding),
            ('last failure', self.failure or 'none'),
        ]
        return _status(level, name, message, hardware_id, values)

    def _judge(self, new: Counts, now: float, publishers: int, mismatch: str, warning: str,
               gap: float, usual: float, slowest: float,
               decoding: tuple[str, float] | None) -> tuple[bytes | None, str]:
        """
        Return level and message of the most severe finding, or (None, '').

        :param gap: longest between two images since the last call, in seconds.
        :param usual: median interval between two images, in seconds.
        :param slowest: longest time to decode an image since the last call, in seconds.
        """
        stuck = now - (now if self.waiting_since is None else self.waiting_since)
        if stuck > STUCK_S:
            cause = 'the engine hangs, or is far too slow'
            if decoding is not None and now - decoding[1] > SLOW_DECODING_S:
                cause = (f'the decoder has worked on an image of {decoding[0]} for '
                         f'{now - decoding[1]:.1f} s')
            return (DiagnosticStatus.ERROR,
                    f'images arrive, but none was finished for {stuck:.0f} s: {cause}')
        slow = f'decoding an image took {slowest:.1f} s; no camera was served meanwhile' \
            if slowest > SLOW_DECODING_S else ''
        notes = '; '.join(filter(None, (warning, slow)))
        if new.failed:
            grave = self.cause == ENGINE or not new.processed
            failure = (f'{new.failed} of {new.failed + new.processed} images failed '
                       f'({self.cause}): {self.failure}')
            if notes:  # they may say why
                failure = f'{printable(failure, LONGEST_TEXT // 2)}; {notes}'
            return DiagnosticStatus.ERROR if grave else DiagnosticStatus.WARN, failure
        if notes:
            return DiagnosticStatus.WARN, notes
        if self.last_arrival is None:
            if mismatch:
                return DiagnosticStatus.ERROR, mismatch
            if publishers and self.starting:
                return DiagnosticStatus.OK, f'waiting for the first image on {self.topic}'
            if publishers:
                return (DiagnosticStatus.WARN,
                        f'nothing has arrived on {self.topic}, though there are publishers: the '
                        f'camera is silent, or the middleware loses large images')
            return (DiagnosticStatus.WARN,
                    f'nobody publishes {self.topic}: start the camera driver, or remap the topic '
                    f'to the one that the driver publishes (see `ros2 topic list`)')
        silence = now - self.last_arrival
        if silence > max(SILENCE_S, SILENCE_INTERVALS * usual):
            if mismatch:
                return DiagnosticStatus.ERROR, f'no image for {silence:.1f} s: {mismatch}'
            nobody = '' if publishers else f': nobody publishes {self.topic} any more'
            return DiagnosticStatus.WARN, f'no image for {silence:.1f} s{nobody}'
        if gap > max(GAP_S, GAP_INTERVALS * usual):
            return (DiagnosticStatus.WARN,
                    f'a gap of {gap:.2f} s between images; the usual interval is {usual:.2f} s')
        if self.output_problem:
            return DiagnosticStatus.WARN, self.output_problem
        if new.dropped > new.received / 2:
            return (DiagnosticStatus.WARN,
                    f'{new.dropped} of {new.received} images dropped: they arrive faster than the '
                    f'engine processes them')
        if self.may_be_dark and self.dark_images >= DARK_IMAGES:
            return (DiagnosticStatus.WARN,
                    f'no sample of {self.dark_images} images is above an eighth of the 16-bit '
                    f'range: if the sensor has fewer bits, set sensor_bits (12 for 12 bits)')
        return None, ''


@dataclass
class EngineStatistics:
    """The stage times of the engine, for key, current and moved frames apart."""

    stages: dict[tuple[str, str], Rolling] = field(default_factory=dict)

    def processed(self, result: Result) -> None:
        """Add the stage times of a frame."""
        for stage, milliseconds in result.timings.items():
            self.stages.setdefault((result.kind, stage), Rolling()).add(milliseconds)
        self.stages.setdefault((result.kind, 'engine'), Rolling()).add(
            sum(result.timings.values()))

    def status(self, name: str, hardware_id: str, problem: str, fallback: str, state: str,
               settings: dict[str, str]) -> DiagnosticStatus:
        """
        Return the engine's status.

        :param problem: why nothing can be segmented, or ''.
        :param fallback: why a slower engine than the preferred one runs, or ''.
        :param state: of the node.
        :param settings: what runs, by name.
        """
        values = [('state', state), *settings.items()]
        for (mode, stage), times in list(self.stages.items()):
            values += _percentiles(f'{mode} {stage}', times)
        level = DiagnosticStatus.ERROR if problem else \
            DiagnosticStatus.WARN if fallback else DiagnosticStatus.OK
        return _status(level, name, problem or fallback or state, hardware_id, values)


def _percentiles(name: str, rolling: Rolling) -> list[tuple[str, str]]:
    percentiles = rolling.percentiles()
    words = ('unknown',) * 3 if percentiles is None else tuple(f'{p:.1f}' for p in percentiles)
    return [(f'{name} {which} (ms)', word) for which, word in zip(('p50', 'p95', 'max'), words)]


def _status(level: bytes, name: str, message: str, hardware_id: str,
            values: list[tuple[str, str]]) -> DiagnosticStatus:
    return DiagnosticStatus(
        level=level, name=name, message=printable(message, LONGEST_TEXT), hardware_id=hardware_id,
        values=[KeyValue(key=key, value=printable(value, LONGEST_TEXT)) for key, value in values])
