"""What is counted and timed of each camera, and how /diagnostics tells it (REP-107)."""
from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from featshare_core.inference.segmenter import Result
from featshare_core.inference.timing import Rolling

SILENCE_S = 2.0
"""Seconds without an image after which a camera counts as silent; more for slow cameras."""
SILENCE_INTERVALS = 3
"""So many of a camera's usual intervals, at least, make a silence."""
GAP_S, GAP_INTERVALS = 0.3, 4
"""A gap between two images is told from so many seconds and so many usual intervals on."""
STUCK_S = 5.0
"""Seconds with images and none finished after which the engine counts as stuck."""
LOG_S = 10.0
"""Seconds between two log lines about one camera's failures."""


Idle = tuple[bytes, str]
"""Level and message of all cameras while nothing is segmented, for a reason of the node's own."""


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

    ``calibration`` says why camera infos are not passed on; it is empty where they are, and where
    there are none. The executor's thread counts what arrives, the worker what becomes of it. The
    rates and the level that ``status`` tells are those of the time since it was last asked.
    """

    topic: str
    counts: Counts = field(default_factory=Counts)
    key_latency: Rolling = field(default_factory=Rolling)
    current_latency: Rolling = field(default_factory=Rolling)
    age: Rolling = field(default_factory=Rolling)
    key_frames: int = 0
    image: str = 'unknown'
    failure: str = ''
    calibration: str = ''
    engine_failed: bool = False
    last_arrival: float | None = None
    intervals: Rolling = field(default_factory=lambda: Rolling(50))
    longest_gap: float = 0.0
    waiting_since: float | None = None
    _logged_at: float = -math.inf
    _told: Counts = field(default_factory=Counts)
    _told_at: float = field(default_factory=time.monotonic)

    def processed(self, result: Result, latency_ms: float, age_ms: float | None) -> None:
        """Count an answered image; ``age_ms`` is None where its stamp says nothing."""
        (self.key_latency if result.is_key else self.current_latency).add(latency_ms)
        if age_ms is not None:
            self.age.add(age_ms)
        self.key_frames += result.is_key
        self.waiting_since = None
        self.counts.processed += 1

    def failed(self, reason: str, engine: bool) -> bool:
        """
        Count an image that got no mask: a bad image, or an engine that failed on it.

        :returns: whether it is time for a line in the log again.
        """
        self.failure = reason
        self.engine_failed = engine
        self.waiting_since = None
        self.counts.failed += 1
        now = time.monotonic()
        due = now - self._logged_at >= LOG_S
        if due:
            self._logged_at = now
        return due

    def arrived(self, now: float) -> None:
        """Count an image that came."""
        self.counts.received += 1
        if self.last_arrival is not None:
            gap = now - self.last_arrival
            self.intervals.add(gap)
            self.longest_gap = max(self.longest_gap, gap)
        self.last_arrival = now
        if self.waiting_since is None:
            self.waiting_since = now

    def interrupted(self) -> None:
        """Take note that nothing is subscribed to for a while: no gap, and nothing waits."""
        self.last_arrival = None
        self.waiting_since = None

    @property
    def quiet(self) -> bool:
        """Whether nothing has come since ``status`` was last asked."""
        return self.counts.received == self._told.received

    def status(self, name: str, hardware_id: str, publishers: int, mismatch: str = '',
               idle: Idle | None = None) -> DiagnosticStatus:
        """
        Return the camera's status since the last call.

        :param publishers: how many there are of the topic.
        :param mismatch: why none of them can be received from, or ''.
        :param idle: the level and message of a node that segments nothing at present.
        """
        now, counts = time.monotonic(), Counts(**vars(self.counts))
        seconds = max(1e-9, now - self._told_at)
        new = Counts(**{key: value - getattr(self._told, key)
                        for key, value in vars(counts).items()})
        self._told, self._told_at = counts, now
        # The executor's thread, which also counts the arrivals, is the one that asks.
        gap, self.longest_gap = self.longest_gap, 0.0
        usual = self.intervals.percentiles()
        level, message = idle or self._judge(new, now, publishers, mismatch, gap,
                                             usual[0] if usual else 0.0)
        if level is None:
            level, message = DiagnosticStatus.OK, f'{new.processed / seconds:.1f} masks/s'
        values = [
            ('topic', self.topic),
            ('publishers', str(publishers)),
            ('image', self.image),
            ('received', str(counts.received)),
            ('processed', str(counts.processed)),
            ('key frames', str(self.key_frames)),
            ('dropped', str(counts.dropped)),
            ('failed', str(counts.failed)),
            ('image rate (Hz)', f'{new.received / seconds:.1f}'),
            ('mask rate (Hz)', f'{new.processed / seconds:.1f}'),
            ('drop rate (Hz)', f'{new.dropped / seconds:.1f}'),
            ('longest gap (s)', f'{gap:.2f}' if gap else 'unknown'),
            *_percentiles('key latency', self.key_latency),
            *_percentiles('current latency', self.current_latency),
            *_percentiles('mask age', self.age),
            ('last failure', self.failure or 'none'),
        ]
        return _status(level, name, message, hardware_id, values)

    def _judge(self, new: Counts, now: float, publishers: int, mismatch: str, gap: float,
               usual: float) -> tuple[bytes | None, str]:
        """Return level and message of what is worst, or (None, ''); ``usual`` is in seconds."""
        stuck = now - (now if self.waiting_since is None else self.waiting_since)
        if stuck > STUCK_S:
            return (DiagnosticStatus.ERROR,
                    f'images came and none was finished for {stuck:.0f} s: the engine is stuck, '
                    f'or far too slow')
        if new.failed:
            what = 'the engine failed' if self.engine_failed else 'bad images'
            all_failed = self.engine_failed or not new.processed
            return (DiagnosticStatus.ERROR if all_failed else DiagnosticStatus.WARN,
                    f'{new.failed} of {new.failed + new.processed} images failed '
                    f'({what}): {self.failure}')
        if self.last_arrival is None:
            if mismatch:
                return DiagnosticStatus.ERROR, mismatch
            if publishers:
                return (DiagnosticStatus.WARN,
                        f'nothing has arrived on {self.topic}, though there are publishers: the '
                        f'camera is silent, or the middleware loses large images')
            return DiagnosticStatus.WARN, f'nobody publishes {self.topic}'
        silence = now - self.last_arrival
        if silence > max(SILENCE_S, SILENCE_INTERVALS * usual):
            if mismatch:
                return DiagnosticStatus.ERROR, f'no image for {silence:.1f} s: {mismatch}'
            nobody = '' if publishers else f': nobody publishes {self.topic} any more'
            return DiagnosticStatus.WARN, f'no image for {silence:.1f} s{nobody}'
        if gap > max(GAP_S, GAP_INTERVALS * usual):
            return (DiagnosticStatus.WARN,
                    f'no image for {gap:.2f} s in between; usually one comes every {usual:.2f} s')
        if self.calibration:
            return DiagnosticStatus.WARN, self.calibration
        if new.dropped > new.received / 2:
            return (DiagnosticStatus.WARN,
                    f'{new.dropped} of {new.received} images dropped: they come faster than the '
                    f'engine takes them')
        return None, ''


@dataclass
class EngineStatistics:
    """The stage times of the engine, for key and current frames apart."""

    stages: dict[tuple[str, str], Rolling] = field(default_factory=dict)

    def processed(self, result: Result) -> None:
        """Take the stage times of a frame."""
        mode = 'key' if result.is_key else 'current'
        for stage, milliseconds in result.timings.items():
            self.stages.setdefault((mode, stage), Rolling()).add(milliseconds)
        self.stages.setdefault((mode, 'engine'), Rolling()).add(sum(result.timings.values()))

    def status(self, name: str, hardware_id: str, problem: str, fallback: str, state: str,
               settings: dict[str, str]) -> DiagnosticStatus:
        """
        Return the engine's status.

        :param problem: what keeps the node from working, or ''.
        :param fallback: why it works more slowly than it could, or ''.
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
        level=level, name=name, message=message, hardware_id=hardware_id,
        values=[KeyValue(key=key, value=value) for key, value in values])
