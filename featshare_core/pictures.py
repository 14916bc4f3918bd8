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
JPEG and PNG to arrays, for camera messages, recordings and files alike.

A picture is checked before it is decoded: its size, and the cost that its header causes. One that
is damaged is refused. JPEG has no checksum, but libjpeg reports data that do not fit the picture;
simplejpeg passes these reports on, OpenCV does not.
"""
from __future__ import annotations

import re
from typing import Any, NamedTuple

import cv2
from featshare_core.text import printable
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

JPEG_MAGIC, PNG_MAGIC = b'\xff\xd8', b'\x89PNG\r\n\x1a\n'
"""First bytes of a file."""
MAX_SCANS = 50
"""Largest number of scans of a JPEG; cameras write one, progressive encoders about ten."""
MAX_BLOCK_SCANS = 8_000_000
"""Largest number of 8x8 blocks, times scans, of a JPEG with several scans in a message."""
MAX_SEGMENTS = 1000
"""Largest number of segments before a JPEG's first scan."""
MAX_CHUNKS = 20_000
"""Largest number of chunks of a PNG that has compressed text."""
MAX_DEFLATE = 1032
"""Largest ratio of what DEFLATE can expand to, by its format."""
MAX_PADDING = 10
"""
Largest number of bytes after the last block before a marker that count as padding.

Common webcams leave up to 9 before restart markers. A damaged part usually leaves more.
"""

_END_OF_IMAGE, _START_OF_SCAN = b'\xff\xd9', b'\xff\xda'
_PADDING = re.compile(r'(\d+) extraneous bytes before marker 0xd')
_RESTARTS = re.compile(rb'\xff([\xd0-\xd7])')
_WHOLE_SPECTRUM = b'\x00\x3f\x00'
_COMPRESSED_TEXT = (b'zTXt', b'iTXt', b'iCCP')


class PictureError(ValueError):
    """A picture that cannot be decoded, or not at a bounded cost; the text says why."""


class _Jpeg(NamedTuple):
    """
    What the header of a JPEG says.

    :param sequential: whether each block is coded in one piece.
    :param blocks: number of 8x8 blocks of all components.
    :param units: number of minimum coded units (MCUs) of a scan of all components.
    :param interval: MCUs from one restart marker to the next; 0 without restart markers.
    :param spectrum: position of the last three bytes of the first scan's header.
    :param data: position of the first scan's data.
    """

    width: int
    height: int
    sequential: bool
    blocks: int
    units: int
    interval: int
    spectrum: int
    data: int


def decode_picture(content: bytes, order: str = 'RGB', max_pixels: int | None = None,
                   bits: int = 16) -> Pixels:
    """
    Return the picture in a JPEG or PNG file, in the stored orientation (EXIF is not applied).

    :param order: ``RGB``, ``BGR`` or ``GRAY``.
    :param max_pixels: the largest picture that is decoded; None for the user's own files,
        whose cost their size does not limit.
    :param bits: of a PNG's 16-bit samples, those that are used, counted from the lowest;
        larger samples become white. Samples are scaled to 8 bits.
    :returns: HxWx3 uint8, or HxW for ``GRAY``.
    :raises PictureError: where the file is neither JPEG nor PNG, truncated, damaged, larger than
        ``max_pixels``, or would take far longer to decode than usual pictures of its size.
    """
    if content.startswith(JPEG_MAGIC):
        return _decode_jpeg(content, order, max_pixels)
    if content.startswith(PNG_MAGIC):
        return _decode_png(content, order, max_pixels, bits)
    raise PictureError(f'neither JPEG nor PNG (its first bytes are {content[:4].hex(" ")})')


def call_cv2(name: str, function: Any, *arguments: Any, **options: Any) -> Any:
    """Call OpenCV; what it throws becomes a PictureError."""
    try:
        return function(*arguments, **options)
    except cv2.error as error:
        raise PictureError(f'{name}: OpenCV cannot decode it: {printable(error, 200)}') from error


def _decode_jpeg(content: bytes, order: str, max_pixels: int | None) -> Pixels:
    """Decode a JPEG with libjpeg-turbo; a warning of it counts as damage."""
    try:
        import simplejpeg
    except ImportError as error:
        raise PictureError('JPEG needs the package simplejpeg, which reports damaged data: '
                           'pip install simplejpeg') from error
    jpeg = _jpeg_header(content)
    size = f'{jpeg.width}x{jpeg.height} pixels, {len(content)} bytes'
    _check_size('JPEG', jpeg.width, jpeg.height, max_pixels)
    # An upper bound: in compressed data this marker cannot occur.
    scans = content.count(_START_OF_SCAN, jpeg.data) + 1
    if scans > MAX_SCANS or (max_pixels is not None and scans > 1
                             and scans * jpeg.blocks > MAX_BLOCK_SCANS):
        raise PictureError(f'JPEG of {size}, with {scans} scans: that many cost too much time')
    end = content.rfind(_END_OF_IMAGE, jpeg.data)
    if end < 0:
        raise PictureError(f'truncated JPEG: {size}, and the end marker is missing')
    # The code of a block's mean takes one bit at least.
    if 8 * (end - jpeg.data) < jpeg.blocks:
        raise PictureError(f'damaged JPEG: {size}, too few for its {jpeg.blocks} blocks')
    if jpeg.sequential and content[jpeg.spectrum:jpeg.data] != _WHOLE_SPECTRUM:
        # libjpeg ignores these bytes in a sequential JPEG, but reports other values, which some
        # cameras write; and it gives the text of the first report only.
        content = content[:jpeg.spectrum] + _WHOLE_SPECTRUM + content[jpeg.data:]
    if content[6:11] == b'JFIF\0' and content[11] != 1:
        # libjpeg reports other versions of the header, which change no pixel, in the same way.
        content = content[:11] + b'\x01' + content[12:]
    pixels = np.empty((jpeg.height, jpeg.width, 1 if order == 'GRAY' else 3), np.uint8)
    try:
        simplejpeg.decode_jpeg(content, order, buffer=pixels)
    except ValueError as error:
        padding = _PADDING.search(str(error))
        # After padding at a restart marker libjpeg does not report what else it finds.
        if padding is None or int(padding[1]) > MAX_PADDING or scans > 1 \
                or not _restarts_are_complete(content[jpeg.data:end], jpeg):
            raise PictureError(f'damaged JPEG: {size}: {printable(error, 200)}') from error
    return pixels[..., 0] if order == 'GRAY' else pixels


def _restarts_are_complete(data: bytes, jpeg: _Jpeg) -> bool:
    """Return whether the restart markers in a scan are those that its size asks for."""
    found = b''.join(_RESTARTS.findall(data))
    count = -(-jpeg.units // jpeg.interval) - 1 if jpeg.interval else 0
    return found == bytes(0xd0 + index % 8 for index in range(count))


def _jpeg_header(content: bytes) -> _Jpeg:
    """
    Read a JPEG up to the data of its first scan.

    :raises PictureError: where the header is not whole, has too many segments, or says that the
        picture is lossless, hierarchical or arithmetically coded.
    """
    at, interval, frame, sequential = 2, 0, b'', False
    for _ in range(MAX_SEGMENTS):
        if at + 4 > len(content) or content[at] != 0xff:
            break
        marker = content[at + 1]
        if marker == 0xff or marker == 0x01 or 0xd0 <= marker <= 0xd8:  # fill bytes, no segment
            at += 1 if marker == 0xff else 2
            continue
        start, following = at + 4, at + 2 + int.from_bytes(content[at + 2:at + 4], 'big')
        segment = content[start:following]
        if 0xc0 <= marker <= 0xcf and marker not in (0xc4, 0xc8, 0xcc):
            if marker > 0xc2:
                raise PictureError(f'JPEG of a kind that no camera writes (SOF{marker - 0xc0})')
            frame, sequential = segment, marker <= 0xc1
        elif marker == 0xdd:
            interval = int.from_bytes(segment[:2], 'big')
        elif marker == 0xda:
            height, width = (int.from_bytes(frame[i:i + 2], 'big') for i in (1, 3))
            factors = [(byte >> 4, byte & 15) for byte in frame[7::3]]
            if len(frame) < 9 or len(segment) < 6 or following > len(content) \
                    or not all(0 < h <= 4 and 0 < v <= 4 for h, v in factors):
                break
            units, blocks = _count_blocks(width, height, factors)
            return _Jpeg(width, height, sequential, blocks, units, interval, following - 3,
                         following)
        at = following
    raise PictureError(f'truncated or damaged JPEG: {len(content)} bytes without a whole header')


def _count_blocks(width: int, height: int, factors: list[tuple[int, int]]) -> tuple[int, int]:
    """Return the number of MCUs and of blocks, from the components' sampling factors."""
    if len(factors) == 1:  # the factors of a single component have no meaning
        factors = [(1, 1)]
    across, down = (max(column) for column in zip(*factors))
    blocks = sum(-(-width * h // (8 * across)) * -(-height * v // (8 * down))
                 for h, v in factors)
    return -(-width // (8 * across)) * -(-height // (8 * down)), blocks


def _decode_png(content: bytes, order: str, max_pixels: int | None, bits: int) -> Pixels:
    """Decode a PNG with OpenCV, whose decoder compares the checksums."""
    if len(content) < 33 or content[12:16] != b'IHDR':
        raise PictureError(f'truncated or damaged PNG: {len(content)} bytes without a whole '
                           f'header')
    width, height = (int.from_bytes(content[i:i + 4], 'big') for i in (16, 20))
    depth, channels = content[24], {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(content[25], 0)
    size = f'{width}x{height} pixels, {len(content)} bytes'
    _check_size('PNG', width, height, max_pixels)
    if content.rfind(b'IEND', 33) < 0:
        raise PictureError(f'truncated PNG: {size}, and the end marker is missing')
    if height * (1 + width * channels * depth // 8) > MAX_DEFLATE * len(content):
        raise PictureError(f'damaged PNG: {size}, which cannot hold so many pixels')
    content = _without_compressed_text(content)
    flags = cv2.IMREAD_GRAYSCALE if order == 'GRAY' else cv2.IMREAD_COLOR
    narrow = depth == 16 and bits < 16
    if narrow:
        flags |= cv2.IMREAD_ANYDEPTH
    pixels = call_cv2('PNG', cv2.imdecode, np.frombuffer(content, np.uint8),
                      flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise PictureError(f'damaged PNG: {size}, and OpenCV cannot decode them')
    if narrow:
        pixels = to_8_bits(pixels, bits)
    return call_cv2('PNG', cv2.cvtColor, pixels, cv2.COLOR_BGR2RGB) if order == 'RGB' else pixels


def to_8_bits(samples: npt.NDArray[np.uint16], bits: int) -> Pixels:
    """Return 16-bit samples, of which the lowest ``bits`` are used, scaled to 8 bits."""
    return call_cv2('16-bit image', cv2.convertScaleAbs, samples, alpha=255 / (2**bits - 1))


def _without_compressed_text(content: bytes) -> bytes:
    """
    Return a PNG without its compressed text and colour profile, which are not used.

    libpng would expand each of them to as much as 8 MB.
    """
    if not any(kind in content for kind in _COMPRESSED_TEXT):
        return content
    kept, at = [PNG_MAGIC], len(PNG_MAGIC)
    for _ in range(MAX_CHUNKS):
        if at >= len(content):
            return b''.join(kept)
        following = at + 12 + int.from_bytes(content[at:at + 4], 'big')
        if content[at + 4:at + 8] not in _COMPRESSED_TEXT:
            kept.append(content[at:following])
        at = following
    raise PictureError(f'PNG of {len(content)} bytes has more than {MAX_CHUNKS} chunks')


def _check_size(kind: str, width: int, height: int, max_pixels: int | None) -> None:
    if width == 0 or height == 0:
        raise PictureError(f'{kind} header claims {width}x{height} pixels')
    if max_pixels is not None and width * height > max_pixels:
        raise PictureError(f'{kind} header claims {width}x{height} pixels, more than the '
                           f'{max_pixels / 1e6:g} megapixels that are accepted '
                           f'(max_compressed_pixels)')
