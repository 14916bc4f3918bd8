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
"""A segmenter whose engine is rebuilt, with back-off, when it fails."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
import threading
import time
from typing import Any

from featshare_core.inference.engine import Frame
from featshare_core.inference.segmenter import Result, VideoSegmenter

FAILURES = 3
"""Consecutive images that an engine fails on before it is rebuilt."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
"""Waits before the first attempt to rebuild an engine, and before the later ones, in seconds."""
LOOK_S = 0.2
"""Interval at which a wait for an engine checks whether it is still wanted, in seconds."""
GIVEN_UP = 'the engine hung on an image and was given up; activate the node to load another'
"""Message for images of an engine that was given up."""


class LoadingCancelledError(RuntimeError):
    """The wait for an engine was ended: the node is being deactivated or shut down."""


class EngineError(RuntimeError):
    """The engine failed on an image; its own error is the cause."""


class BackOff:
    """
    Exponential back-off: each wait is twice the previous one, up to ``LONGEST_WAIT_S``.

    After an engine has run for ``LONGEST_WAIT_S`` the next wait is the shortest again.
    """

    def __init__(self) -> None:
        self._wait = FIRST_WAIT_S
        self._last = -LONGEST_WAIT_S

    def next(self) -> float:  # noqa: A003
        """Return the seconds to wait before the attempt that begins now."""
        now = time.monotonic()
        if now - self._last > LONGEST_WAIT_S:
            self._wait = FIRST_WAIT_S
        wait, self._wait = self._wait, min(LONGEST_WAIT_S, 2 * self._wait)
        self._last = now + wait
        return wait


class EngineLoader:
    """
    Builds engines, one at a time, on a thread of its own.

    The thread that asked for an engine can therefore stop waiting; the engine is then closed when
    it is ready. ``busy`` says whether one is being built.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, 'engine loader')
        self.busy = False

    def load(self, build: Callable[[], VideoSegmenter],
             wanted: Callable[[], bool]) -> VideoSegmenter:
        """
        Return a segmenter that ``build`` makes, or raise what it raises.

        :param wanted: whether it is still wanted; called repeatedly during the wait.
        :raises LoadingCancelledError: where ``wanted`` returns False.
        """
        future = self._executor.submit(self._run, build)
        while not wait([future], LOOK_S).done:
            if not wanted():
                if not future.cancel():
                    future.add_done_callback(_close_late)
                raise LoadingCancelledError('the node is being deactivated or shut down')
        return future.result()

    def _run(self, build: Callable[[], VideoSegmenter]) -> VideoSegmenter:
        self.busy = True
        try:
            return build()
        finally:
            self.busy = False


def _close_late(future: Future[VideoSegmenter]) -> None:
    if future.exception() is None:
        future.result().close()


class SupervisedSegmenter:
    """
    A ``VideoSegmenter`` whose engine may fail.

    Only the worker calls ``segment`` and ``recover``; any thread may call the rest. While
    it recovers, ``running`` is False and nothing can be segmented.

    :param build: returns a segmenter that is warmed up, or raises.
    :param logger: the node's.
    :param wanted: whether an engine is still wanted; called repeatedly while it is being built.
    """

    def __init__(self, build: Callable[[], VideoSegmenter], logger: Any,
                 wanted: Callable[[], bool], loader: EngineLoader) -> None:
        self._build = build
        self._wanted = wanted
        self._loader = loader
        self._logger = logger
        self._back_off = BackOff()
        self._failures = 0
        self._segmenter: VideoSegmenter | None = None
        self.problem = ''
        self.restarts = 0
        self.load()

    def load(self, ending: threading.Event | None = None) -> None:
        """
        Build the segmenter, and store its labels and settings, which other threads read.

        :param ending: ends the wait, once it is set.
        :raises LoadingCancelledError: where it is no longer wanted.
        :raises Exception: what ``build`` raises.
        """
        segmenter = self._loader.load(self._build, lambda: self._wanted() and not (
            ending is not None and ending.is_set()))
        self.labels = segmenter.labels
        engine = segmenter.engine
        self.engine = {'network': engine.network_name, 'licence': engine.licence,
                       'engine': engine.name,
                       'device': engine.device, 'precision': engine.precision}
        # No camera must wait while the engine is prepared for another camera's images.
        engine.beside = True
        self._failures, self.problem = 0, ''
        self._segmenter = segmenter

    @property
    def running(self) -> bool:
        """Whether there is an engine."""
        return self._segmenter is not None

    @property
    def fallback(self) -> str:
        """Why a slower engine than the preferred one runs, or an empty string."""
        segmenter = self._segmenter
        return segmenter.engine.fallback if segmenter is not None else ''

    @property
    def preparing(self) -> str:
        """Return the size that the engine is being prepared for, or why that failed; or empty."""
        segmenter = self._segmenter
        return segmenter.engine.preparing if segmenter is not None else ''

    @property
    def failing(self) -> bool:
        """Whether the engine has failed so often that it should be rebuilt."""
        return self._failures >= FAILURES

    def segment(self, frame: Frame, stream: str, stamp: float | None,
                confidence: bool, source: str = '') -> Result:
        """
        Segment the next frame of a stream.

        :param frame: HxWx3 uint8 RGB.
        :param stamp: seconds, or None where unknown.
        :param source: see ``VideoSegmenter.segment``.
        :returns: its mask is HxW uint8, or of the network's size where ``build`` chose that.
        :raises EngineError: where there is no engine, or it fails or was given up meanwhile.
        """
        segmenter = self._segmenter
        if segmenter is None:
            raise EngineError(self.problem or 'no engine is loaded')
        try:
            result = segmenter.segment(frame, stream, stamp, confidence, source)
        except Exception as error:
            if segmenter is not self._segmenter:
                raise EngineError(GIVEN_UP) from error
            self._failures += 1
            self.problem = f'the engine failed: {type(error).__name__}: {error}'
            raise EngineError(self.problem) from error
        if segmenter is not self._segmenter:
            raise EngineError(GIVEN_UP)
        if self._failures:
            self._failures, self.problem = 0, ''
        return result

    def give_up(self) -> Callable[[], None]:
        """
        Drop an engine that hangs on an image; ``load`` builds another.

        :returns: a function that closes the engine, for the hanging thread to call once it
            returns: called earlier, it would block.
        """
        segmenter, self._segmenter = self._segmenter, None
        self.problem = GIVEN_UP
        return segmenter.close if segmenter is not None else lambda: None

    def recover(self, ending: threading.Event) -> None:
        """Rebuild the segmenter, with growing waits, until it runs or ``ending`` is set."""
        reason = self.problem
        self.close()
        while True:
            wait = self._back_off.next()
            self.problem = f'{reason}; it will be rebuilt in {wait:g} s'
            self._logger.warning(self.problem)
            if ending.wait(wait):
                self.problem = reason
                return
            self.restarts += 1
            try:
                self.load(ending)
                self._logger.info('the engine was rebuilt and runs')
                return
            except LoadingCancelledError:
                self.problem = reason
                return
            except Exception as error:
                reason = f'the engine cannot be rebuilt: {type(error).__name__}: {error}'

    def set_live(self, key_mode: str, moved_frames: int, schedule: Mapping[str, Any]) -> None:
        """Set key mode, moved frames and the schedule's attributes, from the next frame on."""
        segmenter = self._segmenter
        if segmenter is not None:
            segmenter.key_mode, segmenter.moved_frames = key_mode, moved_frames
            for name, value in schedule.items():
                setattr(segmenter.schedule, name, value)

    def reset(self, stream: str | None = None) -> None:
        """Make the next frame of a stream, or of every stream, a key frame."""
        segmenter = self._segmenter
        if segmenter is not None:
            segmenter.reset(stream)

    def close(self) -> None:
        """Free the engine."""
        segmenter, self._segmenter = self._segmenter, None
        if segmenter is not None:
            segmenter.close()
