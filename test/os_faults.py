"""Failing calls of the operating system, for tests of files that have to survive them."""
import os
from collections.abc import Iterator
from contextlib import contextmanager

CHANGING = ('open', 'write', 'fsync', 'replace', 'rename', 'unlink')
"""Names of the calls in module os by which files change."""


class KilledError(BaseException):
    """The process ends here."""


@contextmanager
def fault_at(monkeypatch, number: int, error: BaseException) -> Iterator[list[str]]:
    """
    Let the call of this number, from 0 on, raise; after ``KilledError`` no later call succeeds.

    Yields the names of the calls so far.
    """
    calls: list[str] = []

    def failing(name):
        call = getattr(os, name)

        def called(*arguments, **options):
            calls.append(name)
            late = len(calls) > number + 1 and isinstance(error, KilledError)
            if len(calls) == number + 1 or late:
                raise error
            return call(*arguments, **options)
        return called

    with monkeypatch.context() as patch:
        for name in CHANGING:
            patch.setattr(os, name, failing(name))
        yield calls
