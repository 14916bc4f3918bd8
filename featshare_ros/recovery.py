"""The segmenter that the node trusts: it is loaded anew, with back-off, when its engine fails."""
from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from featshare_core.inference.engine import Frame
from featshare_core.inference.segmenter import Result, VideoSegmenter

FAILURES = 3
"""Images in a row that an engine must fail on: one alone may be that image's fault."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
LOADER = ThreadPoolExecutor(1, 'engine loader')
"""Makes the engines, so that whoever waits for one can be told to end meanwhile."""
LOOK_S = 0.2
GIVEN_UP = 'the engine hung on an image and was given up; activating makes another'
LOADING = threading.Lock()
"""Held while it makes one."""


class EngineError(RuntimeError):
    """The engine failed on an image; its own error is the cause."""


class BackOff:
    """
    The waits between attempts, each twice the one before.

    What ran for ``LONGEST_WAIT_S`` since the last attempt is worth a quick one again.
    """

    def __init__(self) -> None:
        self._wait = FIRST_WAIT_S
        self._last = -LONGEST_WAIT_S

    def next(self) -> float:
        """Return the seconds to wait before the attempt that begins now."""
        now = time.monotonic()
        if now - self._last > LONGEST_WAIT_S:
            self._wait = FIRST_WAIT_S
        wait, self._wait = self._wait, min(LONGEST_WAIT_S, 2 * self._wait)
        self._last = now + wait
        return wait


class SupervisedSegmenter:
    """
    A ``VideoSegmenter`` whose engine may fail.

    ``segment`` and ``recover`` are the worker's; the rest is for any thread. While it recovers,
    ``running`` is False and nothing can be segmented. ``preparing`` is the image size, as text,
    that the engine sees for the first time just now, and since when (monotonic seconds).

    :param load: makes a segmenter that is warmed up, or raises whatever is wrong.
    :param logger: the node's.
    :param wanted: whether there is still somebody to load for; asked while it takes long.
    """

    def __init__(self, load: Callable[[], VideoSegmenter], logger: Any,
                 wanted: Callable[[], bool]) -> None:
        self._load = load
        self._wanted = wanted
        self._logger = logger
        self._back_off = BackOff()
        self._failures = 0
        self._segmenter: VideoSegmenter | None = None
        self._seen: set[tuple[int, ...]] = set()
        self.preparing: tuple[str, float] | None = None
        self.problem = ''
        self.restarts = 0
        self.load()

    def load(self, ending: threading.Event | None = None) -> None:
        """
        Load the segmenter, and note what it is for those who must not touch it meanwhile.

        :param ending: set where it is not wanted any more.
        """
        loading = LOADER.submit(self._load_locked)
        while not wait([loading], LOOK_S).done:
            if not self._wanted() or (ending is not None and ending.is_set()):
                raise RuntimeError('the node was told to end while the engine was being made')
        segmenter = loading.result()
        self.labels = segmenter.labels
        engine = segmenter.engine
        self.engine = {'network': engine.network_name, 'engine': engine.name,
                       'device': engine.device, 'precision': engine.precision}
        self._failures, self.problem, self.preparing = 0, '', None
        self._seen.clear()
        self._segmenter = segmenter

    def _load_locked(self) -> VideoSegmenter:
        with LOADING:
            return self._load()

    @property
    def running(self) -> bool:
        """Whether there is an engine."""
        return self._segmenter is not None

    @property
    def fallback(self) -> str:
        """Why a slower engine than the one meant runs, or an empty string."""
        engine = getattr(self._segmenter, 'engine', None)
        return engine.fallback if engine is not None else ''

    @property
    def failing(self) -> bool:
        """Whether the engine has failed so often that it should be made anew."""
        return self._failures >= FAILURES

    def segment(self, frame: Frame, stream: str, stamp: float | None,
                confidence: bool) -> Result:
        """
        Segment the next frame of a stream.

        :raises EngineError: whatever goes wrong.
        """
        segmenter, size = self._segmenter, frame.shape[:2]
        if size not in self._seen:
            self.preparing = f'{size[1]}x{size[0]}', time.monotonic()
        try:
            assert segmenter is not None
            result = segmenter.segment(frame, stream, stamp, confidence)
        except Exception as error:
            if segmenter is not self._segmenter:
                raise EngineError(GIVEN_UP) from error
            self._failures += 1
            self.preparing = None
            self.problem = f'the engine failed: {type(error).__name__}: {error}'
            raise EngineError(self.problem) from error
        if segmenter is not self._segmenter:
            raise EngineError(GIVEN_UP)
        if self.preparing is not None:
            self._seen.add(size)
            self.preparing = None
        if self._failures:
            self._failures, self.problem = 0, ''
        return result

    def give_up(self) -> None:
        """Leave an engine that hangs on an image to itself; ``load`` makes another."""
        # Not closed: to free what it computes with would be to wait for it.
        self._segmenter, self.preparing, self.problem = None, None, GIVEN_UP

    def recover(self, ending: threading.Event) -> None:
        """Load the segmenter anew, after ever longer waits, until it runs or ``ending`` is set."""
        reason = self.problem
        self.close()
        while True:
            wait = self._back_off.next()
            self.problem = f'{reason}; it is made anew in {wait:g} s'
            self._logger.warning(self.problem)
            if ending.wait(wait):
                self.problem = reason
                return
            self.restarts += 1
            try:
                self.load(ending)
                self._logger.info('the engine was made anew and runs')
                return
            except Exception as error:
                reason = f'the engine cannot be made anew: {type(error).__name__}: {error}'

    def set_live(self, key_mode: str, schedule: Mapping[str, Any]) -> None:
        """Set the key mode, and attributes of the schedule, from the next frame on."""
        segmenter = self._segmenter
        if segmenter is not None:
            segmenter.key_mode = key_mode
            for name, value in schedule.items():
                setattr(segmenter.schedule, name, value)

    def reset(self) -> None:
        """Make the next frame of every stream a key frame."""
        segmenter = self._segmenter
        if segmenter is not None:
            segmenter.reset()

    def close(self) -> None:
        """Free the engine."""
        segmenter, self._segmenter = self._segmenter, None
        if segmenter is not None:
            segmenter.close()
