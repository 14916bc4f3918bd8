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
"""The structure of Matroska and WebM files (RFC 9559, RFC 8794): whether all of it is there."""
from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
import mmap
from pathlib import Path

HEADER = bytes.fromhex('1a45dfa3')
"""Identifier of the first element of a file."""
INFO, BLOCK, CLUSTER = (bytes.fromhex(kind) for kind in ('1549a966', 'a3', '1f43b675'))
"""Identifiers: the duration and such, a frame, and the frames of a few seconds."""
ENTERED = frozenset((bytes.fromhex('18538067'), CLUSTER))
"""Identifiers of the elements whose content ``elements`` yields too: segment and cluster."""
KNOWN = ENTERED | {HEADER, INFO, BLOCK} | {bytes.fromhex(kind) for kind in (
    '114d9b74', '1654ae6b', '1c53bb6b', '1941a469', '1043a770', '1254c367', 'ec', 'bf', 'e7',
    'a0', 'a7', 'ab', '5854')}
"""Identifiers of all elements of a segment and of a cluster."""
MOST_ELEMENTS = 1 << 21
"""Largest number of elements of an intact file: about seven hours of video with sound."""


def elements(data: bytes | mmap.mmap) -> Iterator[tuple[bytes, int, int]]:
    """
    Yield identifier, start of the content, and size in bytes of each element.

    :raises ValueError: at the first damage: an unknown element, or one that is not whole.
    """
    at = end = 0
    while at < len(data):
        kind_length = 9 - data[at].bit_length()
        kind = data[at:at + kind_length]
        at += kind_length
        size_length = 9 - data[at].bit_length() if at < len(data) else 9
        if kind not in KNOWN or at + size_length > len(data) or size_length > 8:
            raise ValueError(f'damaged at byte {at}')
        size = int.from_bytes(data[at:at + size_length], 'big') & ((1 << 7 * size_length) - 1)
        at += size_length
        yield kind, at, size
        if kind not in ENTERED:
            at += size
        elif size != (1 << 7 * size_length) - 1:  # all ones: the size is unknown
            end = max(end, at + size)
    if max(at, end) > len(data):
        raise ValueError('cut off')


def is_intact(path: Path) -> bool:
    """
    Return whether a file is Matroska or WebM, and the chain of its elements is whole.

    A file of more than ``MOST_ELEMENTS`` elements is not read to its end, and not intact.
    """
    with path.open('rb') as file:
        if file.read(len(HEADER)) != HEADER:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                read = sum(1 for _ in islice(elements(data), MOST_ELEMENTS + 1))
            except ValueError:
                return False
    return read <= MOST_ELEMENTS
