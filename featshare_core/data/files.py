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
"""Image files: complete ones, read in the orientation in which they are stored."""
from __future__ import annotations

import logging
from pathlib import Path
import re
from typing import Any

import cv2
from featshare_core.pictures import decode_picture, JPEG_MAGIC, PictureError, PNG_MAGIC
from featshare_core.text import printable
import numpy as np
import numpy.typing as npt

ORIENTATION = 0x0112
"""EXIF tag of the orientation."""

_warned: set[Path] = set()


def read_file(path: str | Path, flags: int = cv2.IMREAD_UNCHANGED) -> npt.NDArray[Any]:
    """
    Return an image file as OpenCV decodes it, HxW or HxWx3 (BGR).

    Pixels are returned as they are stored, as the node returns a camera's: an EXIF orientation is
    not applied. The first file of a folder that has one is logged as a warning.

    :param flags: OpenCV's ``IMREAD_...``. A JPEG is always HxWx3.
    :raises ValueError: naming the file, where it cannot be decoded, is a JPEG that is truncated or
        damaged, which OpenCV would decode to wrong pixels, or a turned TIFF, which OpenCV turns
        upright.
    :raises OSError: where it cannot be read.
    """
    content = Path(path).read_bytes()
    orientation = exif_orientation(content)
    if orientation != 1:
        if content.startswith((b'II', b'MM')):
            raise ValueError(f'{printable(path)} is a TIFF with the orientation {orientation}, '
                             f'which cannot be read as it is stored: turn its pixels first, for '
                             f"example with ImageMagick's mogrify -auto-orient")
        _warn_of_orientation(Path(path), orientation)
    return decode_file(content, path, flags)


def decode_file(content: bytes, path: str | Path, flags: int) -> npt.NDArray[Any]:
    """Return the image of a file's content; ``path`` and what is raised as ``read_file``."""
    if content.startswith(JPEG_MAGIC):
        try:
            return decode_picture(content, 'BGR')
        except PictureError as error:
            raise ValueError(f'{printable(path)}: {error}') from error
    image = None
    if content:
        image = cv2.imdecode(np.frombuffer(content, np.uint8),
                             flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError(f'{printable(path)} cannot be decoded as an image')
    return image


def exif_orientation(content: bytes) -> int:
    """
    Return the EXIF orientation of a JPEG, PNG or TIFF file, 1 to 8.

    :returns: 1 (upright) where the file has none, or one that cannot be read.
    """
    start = 0  # of the TIFF structure that holds the tags
    if content.startswith(JPEG_MAGIC):
        start = content.find(b'Exif\0\0', 0, 1 << 16) + 6
    elif content.startswith(PNG_MAGIC):
        start = content.find(b'eXIf') + 4
    magic = content[start:start + 4]
    if magic not in (b'II*\0', b'MM\0*'):
        return 1

    def number(at: int, size: int) -> int:
        value = content[start + at:start + at + size]
        return int.from_bytes(value, 'little' if magic[:1] == b'I' else 'big')

    directory = number(4, 4)
    for entry in range(min(number(directory, 2), 1000)):
        at = directory + 2 + 12 * entry  # of a tag, its type, its count and its value
        if number(at, 2) == ORIENTATION:
            found = number(at + 8, 2)
            return found if 1 <= found <= 8 else 1
    return 1


def _warn_of_orientation(path: Path, orientation: int) -> None:
    """Log a warning for the first turned file of a folder."""
    if path.parent in _warned:
        return
    _warned.add(path.parent)
    logging.getLogger(__name__).warning(
        '%s has the EXIF orientation %d, which is not applied: pixels of pictures and masks are '
        'read as they are stored, here as in the node (this warning appears once per folder). To '
        "turn the pixels themselves: ImageMagick's mogrify -auto-orient", path, orientation)


def natural(path: Path) -> tuple[list[str | int], str]:
    """Return a key that sorts files by name, with numbers by their value: 2 before 10."""
    parts: list[str | int] = list(re.split(r'([0-9]+)', path.stem))
    parts[1::2] = [int(number) for number in parts[1::2]]
    return parts, path.name  # the name: 01 and 1 have the same value
