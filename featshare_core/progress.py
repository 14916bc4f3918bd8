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
"""How far a long piece of work is: done of how many, the rate, and the remaining time."""
from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sized
import os
import sys
import time
from typing import TypeVar

Item = TypeVar('Item')

INTERVAL = 30.0
"""Time between two lines where stderr is no terminal, in seconds."""
REDRAWN = 0.2
"""Time between two updates of the line of a terminal, in seconds."""
COLUMNS = 80
"""Width of a terminal that does not report it, in characters."""
SLOW = 5
"""Number of first items, which may be slower, that the remaining time is not computed from."""


def preparing(weights: object) -> None:
    """Print that a network is being prepared, before anything is done that can be counted."""
    print(f'preparing {weights}; the first run on a machine also exports the network',
          file=sys.stderr, flush=True)


def track(items: Iterable[Item], label: str, unit: str, total: int | None = None,
          ) -> Generator[Item, None, None]:
    """
    Yield the items, and show on stderr how many are done; see ``reporter``.

    :param total: their number, where they cannot tell it; None where it is not known.
    """
    show = reporter(label, unit, len(items) if isinstance(items, Sized) else total)
    try:
        for done, item in enumerate(items, start=1):
            yield item
            show(done)
    finally:
        show(None)


def reporter(label: str, unit: str, total: int | None, before: int = 0,
             ) -> Callable[[int | None], None]:
    """
    Return a function that takes the number of items done, and shows it on stderr.

    On a terminal it redraws one line, which ends after the last item or on None; elsewhere it
    prints a line every ``INTERVAL`` seconds. The remaining time is shown once more than
    ``SLOW`` items are done.

    :param total: the number of items, where it is known.
    :param before: items that an earlier run has done, which do not count towards the rate.
    """
    terminal = sys.stderr.isatty()
    start = said = time.monotonic()
    warm: tuple[int, float] | None = None  # items done after the slow ones, and when
    is_open = False

    def show(done: int | None) -> None:
        nonlocal said, warm, is_open
        if done is None:
            print(end='\n' if is_open else '', file=sys.stderr, flush=True)
            is_open = False
            return
        now = time.monotonic()
        if warm is None and done - before >= SLOW:
            warm = done, now
        if now - said < (REDRAWN if terminal else INTERVAL) and not (terminal and done == total):
            return
        said = now
        rate = (done - before) / max(now - start, 1e-9)
        text = f'{label}: {done}{f" of {total}" if total else ""} {unit}, {rate:.2f} a second'
        if total and warm and done > warm[0]:
            rest = max(0, total - done) * (now - warm[1]) / (done - warm[0])
            text += f', {duration(rest)} left'
        is_open = terminal and done != total
        if terminal:  # a line that wraps cannot be replaced; what a longer one left is erased
            text = f'\r{text[:_columns() - 1]}\x1b[K'
        print(text, end='' if is_open else '\n', file=sys.stderr, flush=True)

    return show


def _columns() -> int:
    """Return the width of the terminal at stderr, in characters."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or COLUMNS
    except OSError:
        return COLUMNS


def duration(seconds: float) -> str:
    """Return a duration as ``H:MM:SS``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{rest:02}'
