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
"""Lines of the report: a label, and a text that may be marked."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Lines = Iterator[tuple[str, str]]
"""Label and text of each entry; lines of a text that begin with ``BAD`` need attention."""

BAD = '! '
"""Mark of what needs attention."""


def failure(error: Exception) -> str:
    """Return the text for an error."""
    return f'{BAD}{type(error).__name__}: {error}'


def probed(probe: Callable[..., str], *arguments: Any) -> str:
    """Return what a probe finds, or why it fails, so that one failure does not end the report."""
    try:
        return probe(*arguments)
    except Exception as error:  # of any type: each library has its own
        return failure(error)


def gib(size: int) -> str:
    """Return a number of bytes in GiB, as text."""
    return f'{size / 2**30:.1f} GiB'
