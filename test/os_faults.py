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
"""Failing calls of the operating system, for tests of files that have to survive them."""
from collections.abc import Iterator
from contextlib import contextmanager
import os

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
