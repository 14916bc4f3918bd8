"""What a process does with memory that it has freed; on glibc, else nothing."""
from __future__ import annotations

import ctypes
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
MAPPED = 32 << 20  # larger blocks are mapped, and so given back; the most that every glibc takes
KEPT = 128 << 20  # so much free memory at the heap's end stays: several cameras' images


def keep_freed_blocks() -> None:
    """
    Have blocks of up to 32 MiB reused once they are freed, from now on and in all threads.

    Left alone, glibc gives an image's block back to the system with each image, which then clears
    the next one's, page by page: most of what it takes to receive an image
    (docs/notes/performance-log.md).
    A setting of the whole process, and so for a program to make, not for a library.
    """
    _call('mallopt', M_MMAP_THRESHOLD, MAPPED)
    _call('mallopt', M_TRIM_THRESHOLD, KEPT)


def return_free_memory() -> None:
    """
    Give memory that was freed back to the system.

    Exporting and compiling a network leaves 30 MiB of holes, which an engine that is made anew
    again and again would not quite fill again.
    """
    _call('malloc_trim', 0)


def _call(name: str, *arguments: int) -> None:
    function: Any = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*arguments)
