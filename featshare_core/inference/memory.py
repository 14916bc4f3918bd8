"""Keeps a process from growing with every engine that is made anew; on glibc, else nothing."""
from __future__ import annotations

import ctypes
from typing import Any

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
LARGE = 1 << 20


def map_large_blocks() -> None:
    """
    Have blocks of a mebibyte and more mapped each by itself, from now on and in all threads.

    Left alone, glibc raises that limit as such blocks are freed; they then come from the heap,
    where every engine that is made anew leaves holes. A setting of the whole process, and so for
    a program to make, not for a library. It costs a frame nothing that could be measured.
    """
    _call('mallopt', M_MMAP_THRESHOLD, LARGE)


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
