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
"""Decoding, device and encoding side by side, so that the slowest of them sets the pace."""
from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
import os
import queue
import threading
from typing import Any, TypeVar

Item = TypeVar('Item')
Prepared = TypeVar('Prepared')
Computed = TypeVar('Computed')
Finished = TypeVar('Finished')

DEPTH = 4
"""Items that wait before the device and after it: enough to even out slow ones, and no more."""

THREADS = min(4, os.cpu_count() or 1)
"""Decoding and encoding keep no more than a few cores busy."""


def overlap(source: Iterable[Item], prepare: Callable[[Item], Prepared],
            run: Callable[[Prepared], Computed], finish: Callable[[Computed], Finished],
            ) -> Generator[Finished, None, None]:
    """
    Yield ``finish(run(prepare(item)))`` of every item, in order.

    The source is iterated by a thread of its own, ``run`` is called by another, in order, and
    ``prepare`` and ``finish`` by a few more, several at a time. Each stage waits for the one
    after it, so that no more than about two ``DEPTH`` of items are held, however many there are.

    What a stage or the source raises is raised here, after everything before it was yielded.
    """
    prepared: queue.Queue[Future[Any] | None] = queue.Queue(DEPTH)
    finished: queue.Queue[Future[Any] | None] = queue.Queue(DEPTH)
    abandoned = threading.Event()
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix='codec')

    def put(target: queue.Queue[Future[Any] | None], future: Future[Any] | None) -> bool:
        while not abandoned.is_set():
            try:
                target.put(future, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for item in source:
                if not put(prepared, pool.submit(prepare, item)):
                    return
            put(prepared, None)
        except BaseException as error:
            put(prepared, _failure(error))

    def compute() -> None:
        while not abandoned.is_set():
            try:
                future = prepared.get(timeout=0.1)
            except queue.Empty:
                continue
            if future is None:
                put(finished, None)
                return
            try:
                following = pool.submit(finish, run(future.result()))
            except BaseException as error:
                put(finished, _failure(error))
                return
            if not put(finished, following):
                return

    threads = [threading.Thread(target=read, name='reader', daemon=True),
               threading.Thread(target=compute, name='device', daemon=True)]
    for thread in threads:
        thread.start()
    try:
        while True:
            future = finished.get()
            if future is None:
                return
            yield future.result()
    finally:
        abandoned.set()
        # A thread that waits for room or for an item looks up every tenth of a second.
        for thread in threads:
            thread.join()
        pool.shutdown(cancel_futures=True)


def _failure(error: BaseException) -> Future[Any]:
    """Return a future that raises the error."""
    future: Future[Any] = Future()
    future.set_exception(error)
    return future
