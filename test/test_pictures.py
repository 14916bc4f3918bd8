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
"""JPEG and PNG: what is damaged or would cost too much is refused, what cameras send is not."""
from __future__ import annotations

import struct
import sys
import time
import zlib

import cv2
from featshare_core.data.files import read_file
from featshare_core.data.frames import frames_of
from featshare_core.pictures import (
    decode_picture,
    MAX_PADDING,
    MAX_SCANS,
    PictureError,
    PNG_MAGIC,
)
from featshare_core.text import printable
import numpy as np
import pytest

HEIGHT, WIDTH = 96, 160


def scene(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Return a smooth BGR picture with detail everywhere."""
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([np.sin(rows / 7 + c) * np.cos(columns / (5 + c)) for c in range(3)], 2)
    noise = np.random.default_rng(0).normal(0, 8, (height, width, 3))
    return np.clip(128 + 100 * waves + noise, 0, 255).astype(np.uint8)


def jpeg(picture: np.ndarray, restart: int = 0, progressive: bool = False) -> bytes:
    return cv2.imencode('.jpg', picture, [
        cv2.IMWRITE_JPEG_RST_INTERVAL, restart, cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive),
    ])[1].tobytes()


def scan_start(content: bytes) -> int:
    """Return the position of the first scan's data."""
    at = content.index(b'\xff\xda')
    return at + 2 + int.from_bytes(content[at + 2:at + 4], 'big')


def restarts(content: bytes) -> list[int]:
    """Return the positions of the restart markers."""
    return [at for at in range(scan_start(content), len(content) - 1)
            if content[at] == 0xff and 0xd0 <= content[at + 1] <= 0xd7]


def lost_bytes(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + content[middle + len(content) // 14:]


def zeros(content: bytes) -> bytes:
    middle, count = len(content) // 2, len(content) // 14
    return content[:middle] + bytes(count) + content[middle + count:]


def tail_of_another(content: bytes) -> bytes:
    other = jpeg(scene()[::-1, ::-1])
    return content[:len(content) // 2] + other[len(other) // 2 + 500:]


def lost_intervals(content: bytes, count: int = 3) -> bytes:
    """Leave out some restart intervals, whose markers go with them."""
    found = restarts(content)
    return content[:found[2]] + content[found[2 + count]:]


@pytest.mark.parametrize('damage, restart', [
    (lost_bytes, 0), (lost_bytes, 4), (zeros, 0), (zeros, 4), (tail_of_another, 0),
    (lost_intervals, 4), (lambda content: lost_intervals(content, 8), 4)])
def test_a_jpeg_that_lost_bytes_inside_is_refused(damage, restart, tmp_path):
    whole = jpeg(scene(), restart)
    damaged = damage(whole)
    # Both ends are there, and OpenCV decodes it to wrong pixels.
    assert damaged.endswith(b'\xff\xd9')
    assert cv2.imdecode(np.frombuffer(damaged, np.uint8), cv2.IMREAD_COLOR).shape == scene().shape
    with pytest.raises(PictureError, match='damaged JPEG: 160x96 pixels'):
        decode_picture(damaged)
    # As a file: of training, evaluation and `featshare segment`.
    (tmp_path / '1.jpg').write_bytes(damaged)
    with pytest.raises(ValueError, match=r'1\.jpg: damaged JPEG'):
        read_file(tmp_path / '1.jpg')
    with pytest.raises(ValueError, match=r'1\.jpg: damaged JPEG'):
        list(frames_of(tmp_path))


@pytest.mark.parametrize('restart', [0, 4])
@pytest.mark.parametrize('progressive', [False, True])
def test_whole_jpegs_are_decoded_as_opencv_decodes_them(restart, progressive):
    for picture in (scene(), scene(33, 51), scene()[..., 0]):
        content = jpeg(picture, restart, progressive)
        expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(decode_picture(content, 'BGR'), expected)
        np.testing.assert_array_equal(decode_picture(content), expected[..., ::-1])
        grey = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(decode_picture(content, 'GRAY'), grey)
        # What a camera appends does no harm.
        np.testing.assert_array_equal(decode_picture(content + bytes(999), 'BGR'), expected)


def test_the_deviations_of_common_cameras_are_no_damage():
    content = jpeg(scene(), 4)
    expected = decode_picture(content)
    # Webcams leave a few bytes before restart markers, and before the end.
    for at in [len(content) - 2, *restarts(content)[::-1][:9]]:
        padded = content[:at] + b'\x51' * 4 + content[at:]
        np.testing.assert_array_equal(decode_picture(padded), expected)
    # Motion JPEG leaves out the Huffman tables of the standard.
    bare = content
    while b'\xff\xc4' in bare:
        at = bare.index(b'\xff\xc4')
        bare = bare[:at] + bare[at + 2 + int.from_bytes(bare[at + 2:at + 4], 'big'):]
    np.testing.assert_array_equal(decode_picture(bare), expected)
    # The version of the JFIF header changes no pixel.
    versions = bytearray(content)
    assert versions[6:11] == b'JFIF\0'
    versions[11] = 2
    np.testing.assert_array_equal(decode_picture(bytes(versions)), expected)
    # The spectral selection of a sequential JPEG has no meaning.
    odd = bytearray(content)
    odd[scan_start(content) - 3:scan_start(content)] = bytes(3)
    np.testing.assert_array_equal(decode_picture(bytes(odd)), expected)


def test_padding_hides_no_lost_interval():
    content = lost_intervals(jpeg(scene(), 4))
    first = restarts(content)[0]
    with pytest.raises(PictureError, match='damaged JPEG'):
        decode_picture(content[:first] + b'\x51' * 4 + content[first:])
    whole = jpeg(scene(), 4)
    at = restarts(whole)[0]
    with pytest.raises(PictureError, match='extraneous bytes'):
        decode_picture(whole[:at] + b'\x51' * (MAX_PADDING + 1) + whole[at:])


def repeated_scans(count: int, size: int = 64) -> bytes:
    """Return a progressive JPEG whose last scan comes ``count`` times more."""
    content = jpeg(np.zeros((size, size, 3), np.uint8), progressive=True)
    last = content.rindex(b'\xff\xda')
    return content[:-2] + content[last:-2] * count + content[-2:]


def test_a_jpeg_of_many_scans_is_refused_at_once():
    start = time.monotonic()
    with pytest.raises(PictureError, match='with 20010 scans: that many cost too much time'):
        decode_picture(repeated_scans(20_000))
    # Fewer, but each over many blocks.
    large = repeated_scans(MAX_SCANS - 20, 3000)
    with pytest.raises(PictureError, match='scans: that many cost too much time'):
        decode_picture(large, max_pixels=16_000_000)
    assert time.monotonic() - start < 2


def with_size(content: bytes, width: int, height: int) -> bytes:
    at = content.index(b'\xff\xc0') + 5
    return content[:at] + struct.pack('>HH', height, width) + content[at + 4:]


def test_pixels_are_limited_and_must_be_in_the_data():
    content = jpeg(scene())
    with pytest.raises(PictureError, match=r'claims 160x96 pixels, more than the 0\.015 mega'):
        decode_picture(content, max_pixels=15_000)
    assert decode_picture(content, max_pixels=15_360).shape == (96, 160, 3)
    with pytest.raises(PictureError, match='too few for its 1496002 blocks'):
        decode_picture(with_size(content, 7984, 7990), max_pixels=64_000_000)
    other = bytearray(content)
    other[content.index(b'\xff\xc0') + 1] = 0xc3  # lossless
    with pytest.raises(PictureError, match=r'kind that no camera writes \(SOF3\)'):
        decode_picture(bytes(other))
    # Flat pictures are small, but not that small.
    flat = jpeg(np.zeros((4000, 4000), np.uint8))
    assert decode_picture(flat, 'GRAY', max_pixels=16_000_000).max() == 0


def test_endless_headers_are_refused_at_once():
    content = jpeg(scene())
    start = time.monotonic()
    for filling in (b'\xff\xfe\x00\x02' * 2_000_000, b'\xff' * 8_000_000):
        with pytest.raises(PictureError, match='without a whole header'):
            decode_picture(content[:2] + filling + content[2:])
    assert time.monotonic() - start < 1


def png(width: int, height: int, data: bytes, *extra: bytes, depth: int = 8,
        kind: int = 2) -> bytes:
    """Return a PNG of compressed data, with extra chunks (name and content) after the header."""
    chunks = [b'IHDR' + struct.pack('>IIBBBBB', width, height, depth, kind, 0, 0, 0), *extra,
              b'IDAT' + data, b'IEND']
    return PNG_MAGIC + b''.join(
        struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk))
        for chunk in chunks)


def test_a_png_cannot_hold_more_than_its_compression_can():
    rows = zlib.compress(bytes(3 * 40 + 1) * 30, 9)
    assert decode_picture(png(40, 30, rows)).shape == (30, 40, 3)
    with pytest.raises(PictureError, match=r'damaged PNG: 4000x3000 .* cannot hold so many'):
        decode_picture(png(4000, 3000, rows), max_pixels=16_000_000)
    with pytest.raises(PictureError, match='16 megapixels'):
        decode_picture(png(7990, 7990, bytes(200_000)), max_pixels=16_000_000)
    with pytest.raises(PictureError, match='damaged PNG'):
        decode_picture(png(40, 30, rows[:-9]))


def test_compressed_text_in_a_png_is_not_expanded():
    rows = zlib.compress(bytes(3 * 40 + 1) * 30, 9)
    bomb = b'zTXtcomment\0\0' + zlib.compress(bytes(7_000_000), 9)
    start = time.monotonic()
    assert decode_picture(png(40, 30, rows, *[bomb] * 200)).shape == (30, 40, 3)
    assert time.monotonic() - start < 1  # the text of 1.4 GB takes several seconds
    with pytest.raises(PictureError, match='more than 20000 chunks'):
        decode_picture(png(40, 30, rows, b'zTXt', *[b'teXt'] * 20_000))


@pytest.mark.parametrize('bits', [8, 10, 12, 16])
def test_the_samples_of_a_png_are_scaled_from_the_sensors_range(bits):
    samples = (np.arange(96 * 160).reshape(96, 160) % 2**bits).astype(np.uint16)
    content = cv2.imencode('.png', samples)[1].tobytes()
    expected = samples * (255 / (2**bits - 1))
    for order in ('GRAY', 'RGB'):
        decoded = decode_picture(content, order, bits=bits).reshape(96, 160, -1)
        assert np.abs(decoded - expected[..., None]).max() <= 1
    # What is brighter than the sensor can be is white.
    assert decode_picture(cv2.imencode('.png', np.full((4, 4), 65535, np.uint16))[1].tobytes(),
                          bits=bits).min() == 255


def test_without_its_decoder_a_jpeg_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, 'simplejpeg', None)
    with pytest.raises(PictureError, match='JPEG needs the package simplejpeg'):
        decode_picture(jpeg(scene()))
    assert decode_picture(cv2.imencode('.png', scene())[1].tobytes()).shape == scene().shape


def test_foreign_text_is_one_short_line():
    assert printable('rgb8') == 'rgb8'
    assert printable('Straße 東') == 'Straße 東'
    assert printable('a\n[ERROR] b\x1b[31m\u202e') == 'a\\n[ERROR] b\\x1b[31m\\u202e'
    assert printable('\udc80') == '\\udc80'
    for text in ('x' * 5_000_000, '\n' * 5_000_000, '\n' * 60):
        assert len(printable(text)) <= 100
    assert printable('x' * 200, 50) == 'x' * 30 + '... (200 characters)'
    # What was cut is not cut again.
    assert printable(printable('x' * 200)) == printable('x' * 200)
