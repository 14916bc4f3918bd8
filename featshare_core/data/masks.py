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
"""
Mask files: PNGs whose pixels are ids, whatever the palette or the bit depth.

Drawing programs write masks as palette PNGs or with 1, 2 or 4 bits a pixel. OpenCV would return a
palette's colours, and spread few bits over 0 to 255. Their pixel data are stored exactly as those
of a grey PNG of the same bit depth, so only the header is replaced before decoding.
"""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
import zlib

import cv2
from featshare_core.data.files import decode_file, read_file
from featshare_core.pictures import PNG_MAGIC
import numpy as np
import numpy.typing as npt

GREY, PALETTE = 0, 3
"""Colour types of a PNG."""


def read_indices(path: str | Path) -> npt.NDArray[Any]:
    """
    Return a mask file's ids, HxW uint8; other images are returned as ``read_file`` decodes them.

    A palette PNG is read by its indices, and a pixel of 1, 2 or 4 bits as the number it holds.

    :raises ValueError, OSError: naming the file, where it cannot be decoded or read.
    """
    content = Path(path).read_bytes()
    if not content.startswith(PNG_MAGIC) or len(content) < 26:
        return read_file(path)
    depth, color = content[24:26]
    if color not in (GREY, PALETTE) or depth > 8:
        return read_file(path)
    ids = decode_file(_as_grey(content, path), path, cv2.IMREAD_UNCHANGED)
    # libpng spreads the values of few bits evenly over 0 to 255.
    return ids if depth == 8 else ids // (255 // (2**depth - 1))


def encode_indices(mask: npt.NDArray[np.uint8], palette: npt.NDArray[np.uint8]) -> bytes:
    """
    Return a mask as a palette PNG, which viewers show in colour and ``read_indices`` reads.

    :param mask: HxW uint8 ids below N.
    :param palette: Nx3 uint8 RGB, at most 256 colours.
    :raises ValueError: where OpenCV cannot encode the mask.
    """
    encoded, grey = cv2.imencode('.png', mask)
    if not encoded:
        raise ValueError(f'a mask of shape {mask.shape} cannot be encoded as PNG')
    header, *rest = _chunks(grey.tobytes())
    return b''.join((PNG_MAGIC, _with_color_type(header, PALETTE),
                     _chunk(b'PLTE', palette.tobytes()), *rest))


def _as_grey(content: bytes, path: str | Path) -> bytes:
    """Return a palette or grey PNG as a grey one without chunks that libpng would apply."""
    chunks = [chunk for chunk in _chunks(content) if chunk[4:8] in (b'IHDR', b'IDAT', b'IEND')]
    if not chunks or chunks[0] != _chunk(b'IHDR', chunks[0][8:21]):
        raise ValueError(f'{path} cannot be decoded as an image')
    return b''.join((PNG_MAGIC, _with_color_type(chunks[0], GREY), *chunks[1:]))


def _chunks(content: bytes) -> Iterator[bytes]:
    """Yield the chunks of a PNG: length, name, data and checksum."""
    at = len(PNG_MAGIC)
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at:at + 4], 'big')
        yield content[at:end]
        at = end


def _chunk(name: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return b''.join((len(data).to_bytes(4, 'big'), name, data,
                     zlib.crc32(name + data).to_bytes(4, 'big')))


def _with_color_type(header: bytes, color: int) -> bytes:
    """Return a header chunk with another colour type."""
    data = bytearray(header[8:-4])
    data[9] = color
    return _chunk(b'IHDR', bytes(data))
