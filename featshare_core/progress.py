"""How far a long piece of work is: done of how many, the rate, and the remaining time."""
from __future__ import annotations

import sys
import time
from collections.abc import Callable

INTERVAL = 30.0
"""Time between two lines where stderr is no terminal, in seconds."""
REDRAWN = 0.2
"""Time between two updates of the line of a terminal, in seconds."""


def reporter(label: str, unit: str, total: int | None, before: int = 0) -> Callable[[int], None]:
    """
    Return a function that takes the number of items done, and says on stderr how far it is.

    A terminal shows one line, which the last item ends; elsewhere, as in a log file, a line is
    printed every ``INTERVAL`` seconds.

    :param total: the number of items, where it is known.
    :param before: items that an earlier run has done, which do not count towards the rate.
    """
    terminal = sys.stderr.isatty()
    start = said = time.monotonic()

    def show(done: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said < (REDRAWN if terminal else INTERVAL) and not (terminal and done == total):
            return
        said = now
        rate = (done - before) / max(now - start, 1e-9)
        text = f'{label}: {done}{f" of {total}" if total else ""} {unit}, {rate:.2f} a second'
        if total and rate:
            text += f', {duration(max(0, total - done) / rate)} left'
        print(f'\r{text} ' if terminal else text, end='' if terminal and done != total else '\n',
              file=sys.stderr, flush=True)

    return show


def duration(seconds: float) -> str:
    """Return a duration as ``H:MM:SS``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{rest:02}'
