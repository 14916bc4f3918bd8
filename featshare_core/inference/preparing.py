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
"""Preparer: prepares an engine for new sizes on its own thread, in parallel with frames."""
from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
import logging
import time
from typing import Generic, TypeVar

from featshare_core.inference.pixels import Size

RETRY_S = 60.0
"""Time after a failed preparation before that size is tried again, in seconds."""

log = logging.getLogger(__name__)
Prepared = TypeVar('Prepared')


class Preparer(Generic[Prepared]):
    """
    Prepares an engine for one size at a time; its thread is busy at most half of the time.

    Preparation for a size begins when a stream wants it twice in a row: for a stream whose size
    changes on every frame, none begins. All methods are called by the thread that runs frames;
    any thread may read ``state``.

    :param prepare: returns what frames of a size are run with; called on the preparer's thread.
    :param discard: frees a result that is ready only after ``close``.
    """

    def __init__(self, prepare: Callable[[Size], Prepared],
                 discard: Callable[[Prepared], None] = lambda prepared: None) -> None:
        self._prepare, self._discard = prepare, discard
        self._thread = ThreadPoolExecutor(1, 'preparing')
        self._asked: dict[str, Size] = {}
        self._begun: tuple[Size, float, Future[Prepared]] | None = None
        self._rests_until = 0.0
        self._retried: dict[Size, float] = {}
        self._problem = ''

    def want(self, stream: str, size: Size) -> None:
        """Note that a stream has sent a frame of a size that the engine is not prepared for."""
        again = self._asked.get(stream) == size
        self._asked[stream] = size
        now = time.monotonic()
        if again and self._begun is None \
                and now >= max(self._rests_until, self._retried.get(size, 0.0)):
            self._begun = size, now, self._thread.submit(self._prepare, size)

    def take(self) -> tuple[Size, Prepared] | None:
        """Return a size that was prepared since the last call, and its result; or None."""
        if self._begun is None or not self._begun[2].done():
            return None
        size, since, future = self._begun
        self._begun, now = None, time.monotonic()
        self._rests_until, self._problem = now + (now - since), ''
        try:
            return size, future.result()
        except Exception as error:  # of any type: each runtime has its own
            # Other sizes need not wait as long.
            self._retried = {other: until for other, until in self._retried.items()
                             if until > now}
            self._retried[size] = now + RETRY_S
            self._problem = f'{size[1]}x{size[0]} cannot be prepared: {error}'
            log.warning('%s; frames of that size keep getting stand-in masks, and the next '
                        'attempt follows in %.0f s', self._problem, RETRY_S)
            return None

    @property
    def state(self) -> str:
        """Return the size in preparation, and for how long; why the last one failed; or empty."""
        begun = self._begun
        if begun is None:
            return self._problem
        size, since, _ = begun
        return f'{size[1]}x{size[0]} for {time.monotonic() - since:.0f} s'

    def forget(self, stream: str) -> None:
        """Free what is kept of a stream that has ended."""
        self._asked.pop(stream, None)

    def close(self) -> None:
        """End the thread without waiting for it: an export or a capture cannot be interrupted."""
        begun, self._begun = self._begun, None
        self._thread.shutdown(wait=False, cancel_futures=True)
        if begun is not None:
            begun[2].add_done_callback(self._discard_late)

    def _discard_late(self, future: Future[Prepared]) -> None:
        if not future.cancelled() and future.exception() is None:
            self._discard(future.result())
