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
"""How glibc handles freed memory; with another C library, these functions do nothing."""
from __future__ import annotations

import ctypes
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
MAPPED = 32 << 20
"""Size above which blocks are mapped, and returned when freed, in bytes; glibc's upper limit."""
KEPT = 128 << 20
"""Free memory that stays at the heap's end, in bytes: images of several cameras."""


def keep_freed_blocks() -> None:
    """
    Let freed blocks of up to 32 MiB be reused, in all threads of the process.

    By default glibc returns an image's block to the system with each image, and the system clears
    the next one's, page by page: most of the cost of receiving an image, and a large part of
    PyTorch's time on a CPU. This is a setting of the whole process, and so for a program to make,
    not for a library.
    """
    _call('mallopt', M_MMAP_THRESHOLD, MAPPED)
    _call('mallopt', M_TRIM_THRESHOLD, KEPT)


def return_free_memory() -> None:
    """
    Return freed memory to the system.

    Exporting and compiling a network leaves 30 MiB of holes in the heap, which grow each time that
    an engine is rebuilt.
    """
    _call('malloc_trim', 0)


def _call(name: str, *arguments: int) -> None:
    function: Any = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*arguments)
