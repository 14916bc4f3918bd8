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
"""Image messages: every encoding against hand-made truth, and everything that can be wrong."""
from __future__ import annotations

import array
import contextlib
import dataclasses
import fnmatch
from pathlib import Path
import random
import re
import sys
from typing import Any

import cv2
from featshare_ros.images import (
    _cv_bridge,
    decode_compressed,
    decode_image,
    encode_image,
    ImageError,
    SUPPORTED_ENCODINGS,
)
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

HEIGHT, WIDTH = 24, 32


@pytest.fixture
def rgb() -> np.ndarray:
    """A picture of four flat quarters and a grey edge: sharp colours, known everywhere."""
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    picture[:12, :16] = (220, 30, 40)
    picture[:12, 16:] = (20, 200, 60)
    picture[12:, :16] = (50, 40, 210)
    picture[12:, 16:] = (200, 180, 30)
    return picture


def message_of(pixels: np.ndarray, encoding: str, padding: int = 0, **fields: Any) -> Image:
    """Return an Image of HxW or HxWxC samples, with padding bytes after every row but the last."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=77).tobytes()
    message = Image(height=fields.pop('height', height), width=width, encoding=encoding,
                    step=rows.shape[1] + padding, **fields)
    message.data = array.array('B', padded[:len(padded) - padding])
    return message


def mosaic_of(rgb: np.ndarray, pattern: str) -> np.ndarray:
    """Return the samples that a sensor behind this Bayer pattern sees."""
    mosaic = np.empty(rgb.shape[:2], rgb.dtype)
    for position, color in enumerate(pattern):
        row, column = divmod(position, 2)
        mosaic[row::2, column::2] = rgb[row::2, column::2, 'rgb'.index(color)]
    return mosaic


def wide(samples: np.ndarray, big_endian: bool) -> np.ndarray:
    """Return 8-bit samples as 16-bit ones of the same brightness, in the given byte order."""
    return (samples.astype(np.uint16) * 257).astype('>u2' if big_endian else '<u2')


def yuv_planes(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Y, U, V after BT.601 with 16..235, written out from the standard's matrix."""
    r, g, b = np.moveaxis(rgb.astype(float) / 255, 2, 0)
    luma = 16 + 65.481 * r + 128.553 * g + 24.966 * b
    blue = 128 - 37.797 * r - 74.203 * g + 112 * b
    red = 128 + 112 * r - 93.786 * g - 18.214 * b
    return tuple(np.rint(plane).astype(np.uint8) for plane in (luma, blue, red))


@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize('encoding, order', [
    ('rgb8', (0, 1, 2)), ('bgr8', (2, 1, 0)), ('8UC3', (2, 1, 0)), ('rgba8', (0, 1, 2, 0)),
    ('bgra8', (2, 1, 0, 0)), ('8UC4', (2, 1, 0, 1))])
def test_colour(rgb: np.ndarray, encoding: str, order: tuple[int, ...], padding: int) -> None:
    decoded = decode_image(message_of(rgb[..., order], encoding, padding))
    np.testing.assert_array_equal(decoded, rgb)
    assert decoded.dtype == np.uint8


@pytest.mark.parametrize('padding', [0, 6, 7])
@pytest.mark.parametrize('big_endian', [False, True])
@pytest.mark.parametrize('encoding, order', [
    ('rgb16', (0, 1, 2)), ('bgr16', (2, 1, 0)), ('rgba16', (0, 1, 2, 0)),
    ('bgra16', (2, 1, 0, 0))])
def test_colour_of_16_bits(rgb: np.ndarray, encoding: str, order: tuple[int, ...],
                           big_endian: bool, padding: int) -> None:
    message = message_of(wide(rgb[..., order], big_endian), encoding, padding,
                         is_bigendian=int(big_endian))
    np.testing.assert_array_equal(decode_image(message), rgb)


@pytest.mark.parametrize('padding', [0, 3])
@pytest.mark.parametrize('encoding', ['mono8', '8UC1', 'mono16', '16UC1'])
@pytest.mark.parametrize('big_endian', [False, True])
def test_grey(rgb: np.ndarray, encoding: str, padding: int, big_endian: bool) -> None:
    grey = rgb[..., 0]
    samples = wide(grey, big_endian) if '16' in encoding else grey
    message = message_of(samples, encoding, padding, is_bigendian=int(big_endian))
    np.testing.assert_array_equal(decode_image(message), np.dstack([grey] * 3))


def test_16_bits_are_scaled_as_cv_bridge_scales_them() -> None:
    samples = np.arange(0, 65536, dtype='<u2').reshape(256, 256)
    expected = np.rint(samples * (255 / 65535)).astype(np.uint8)
    np.testing.assert_array_equal(decode_image(message_of(samples, 'mono16'))[..., 1], expected)


@pytest.mark.parametrize('padding', [0, 4])
@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_bayer(rgb: np.ndarray, pattern: str, bits: int, padding: int) -> None:
    mosaic = mosaic_of(rgb, pattern)
    message = message_of(wide(mosaic, True) if bits == 16 else mosaic, f'bayer_{pattern}{bits}',
                         padding, is_bigendian=1)
    decoded = decode_image(message)
    for row in (slice(2, 10), slice(14, 22)):  # colours mix at the borders of the quarters
        for column in (slice(2, 14), slice(18, 30)):
            np.testing.assert_array_equal(decoded[row, column], rgb[row, column])


@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('encoding', ['yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv'])
def test_yuv422(rgb: np.ndarray, encoding: str, padding: int) -> None:
    luma, blue, red = yuv_planes(rgb)
    chroma = blue.copy()
    chroma[:, 1::2] = red[:, ::2]
    pair = (chroma, luma) if encoding in ('yuv422', 'uyvy') else (luma, chroma)
    decoded = decode_image(message_of(np.dstack(pair), encoding, padding))
    assert np.abs(decoded.astype(int) - rgb).max() <= 3


@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('encoding', ['nv12', 'nv21'])
def test_yuv420(rgb: np.ndarray, encoding: str, padding: int) -> None:
    luma, blue, red = yuv_planes(rgb)
    pair = (blue, red) if encoding == 'nv12' else (red, blue)
    chroma = np.dstack([plane[::2, ::2] for plane in pair]).reshape(HEIGHT // 2, WIDTH)
    message = message_of(np.vstack([luma, chroma]), encoding, padding, height=HEIGHT)
    assert np.abs(decode_image(message).astype(int) - rgb).max() <= 3


def test_cv_bridge_agrees() -> None:
    cv_bridge = pytest.importorskip('cv_bridge', reason='cv_bridge is not installed here')
    rng = np.random.default_rng(5)
    compared = set()
    for encoding in SUPPORTED_ENCODINGS:
        if 'C' in encoding or encoding.startswith('nv'):
            continue  # cv_bridge takes the first for no colour; its versions differ on the second
        channels = 4 if encoding[3] == 'a' else {
            'rgb': 3, 'bgr': 3, 'yuv': 2, 'yuy': 2, 'uyv': 2}.get(encoding[:3], 1)
        samples = rng.integers(0, 256, (HEIGHT, WIDTH, channels), np.uint8)
        message = message_of(wide(samples, False) if '16' in encoding else samples, encoding)
        try:
            expected = cv_bridge.CvBridge().imgmsg_to_cv2(message, 'rgb8')
        except cv_bridge.CvBridgeError as error:
            assert 'Unrecognized image encoding' in str(error)
            continue
        compared.add(encoding)
        assert np.abs(decode_image(message).astype(int) - expected).max() <= 1, encoding
    # Its newer names are unknown to some versions.
    assert set(SUPPORTED_ENCODINGS) - compared <= {'uyvy', 'yuyv', 'nv12', 'nv21', '8UC1', '8UC3',
                                                   '8UC4', '16UC1'}


def test_cv_bridge_gets_no_distances(rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'cv_bridge', type(sys)('cv_bridge'))
    monkeypatch.setattr(sys.modules['cv_bridge'], 'CvBridge', object, raising=False)
    for encoding in ('32FC1', '64FC4', '8SC3', '16UC2', '32S'):
        with pytest.raises(ImageError, match=f"'{encoding}' holds depth or measurements, not colo"
                                             "urs: choose the camera's colour image topic"):
            decode_image(message_of(rgb, encoding))


@pytest.mark.parametrize('padding', [0, 5])
def test_rgb8_shares_the_message_s_memory(rgb: np.ndarray, padding: int) -> None:
    message = message_of(rgb, 'rgb8', padding)
    decoded = decode_image(message)
    assert np.shares_memory(decoded, np.frombuffer(message.data, np.uint8))
    message.data[0] = 99
    assert decoded[0, 0, 0] == 99


@pytest.mark.parametrize('kind', [bytes, np.array, memoryview])
def test_data_in_other_containers(rgb: np.ndarray, kind: Any) -> None:
    message = as_duck(message_of(rgb, 'rgb8'))
    message.data = kind(message.data)
    np.testing.assert_array_equal(decode_image(message), rgb)


@dataclasses.dataclass
class Duck:
    """Any object with the fields of an Image will do."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


def as_duck(message: Image) -> Duck:
    return Duck(*(getattr(message, field.name) for field in dataclasses.fields(Duck)))


@pytest.mark.parametrize('changes, message', [
    ({'data': array.array('B')}, 'empty'),
    ({'width': 0}, '0x24 pixels'),
    ({'height': 0}, '32x0 pixels'),
    ({'step': 95}, 'step 95 is too small: 32 pixels of rgb8 take 96 bytes'),
    ({'step': 0}, 'step 0 is too small'),
    ({'data': array.array('B', bytes(2303))}, 'needs 2304 bytes of data, got 2303'),
    ({'height': 20000, 'width': 20000, 'step': 60000}, 'needs 1200000000 bytes of data, got 2304'),
    ({'height': 2**32 - 1, 'width': 2**32 - 1, 'step': 2**32 - 1}, 'too small'),
    ({'encoding': 'yuv422', 'width': 31}, '31x24 pixels: .* width must be even'),
    ({'encoding': 'bayer_rggb8', 'height': 23}, '32x23 pixels: .* width and height must be even'),
    ({'encoding': 'nv12', 'height': 23}, '32x23 pixels: .* width and height must be even'),
    ({'data': [1.5, 'x']}, 'must be bytes, got list'),
])
def test_bad_fields(rgb: np.ndarray, changes: dict[str, Any], message: str) -> None:
    duck = dataclasses.replace(as_duck(message_of(rgb, 'rgb8')), **changes)
    with pytest.raises(ImageError, match=message):
        decode_image(duck)


def test_unknown_encodings(rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'cv_bridge', None)  # importing it raises ImportError
    monkeypatch.setenv('ROS_DISTRO', 'jazzy')
    with pytest.raises(ImageError, match=r"'rgb9'.*ros-jazzy-cv-bridge\) supported are rgb8, bgr"):
        decode_image(message_of(rgb, 'rgb9'))
    with pytest.raises(ImageError, match=r"'32FC1' holds depth or measurements, not colours"):
        decode_image(message_of(rgb, '32FC1'))


@pytest.fixture(autouse=True)
def cv_bridge_is_looked_for_anew() -> None:
    _cv_bridge.cache_clear()


def test_other_encodings_go_to_cv_bridge(rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bridge:
        def imgmsg_to_cv2(self, message: Image, wanted: str) -> np.ndarray:
            assert wanted == 'rgb8'
            if message.encoding == 'rgb9':
                raise TypeError('Unrecognized image encoding [rgb9]')
            return rgb

    monkeypatch.setitem(sys.modules, 'cv_bridge', type(sys)('cv_bridge'))
    monkeypatch.setattr(sys.modules['cv_bridge'], 'CvBridge', Bridge, raising=False)
    np.testing.assert_array_equal(decode_image(message_of(rgb, 'nv24')), rgb)
    with pytest.raises(ImageError, match=r'cannot decode it: Unrecognized image encoding'):
        decode_image(message_of(rgb, 'rgb9'))
    with pytest.raises(ImageError, match='needs 480000 bytes of data, got 2304'):
        decode_image(dataclasses.replace(as_duck(message_of(rgb, 'nv24')), height=5000))


def compressed(extension: str, pixels: np.ndarray, form: str) -> CompressedImage:
    """Return a CompressedImage of pixels in OpenCV's order."""
    return CompressedImage(format=form,
                           data=cv2.imencode(extension, pixels)[1].tobytes())


@pytest.mark.parametrize('form', ['jpeg', 'jpg', 'rgb8; jpeg compressed bgr8', ''])
def test_jpeg(rgb: np.ndarray, form: str) -> None:
    decoded = decode_compressed(compressed('.jpg', rgb[..., ::-1], form))
    assert decoded.shape == rgb.shape
    assert np.abs(decoded[4:8, 4:12].astype(int) - rgb[4:8, 4:12]).max() <= 6


@pytest.mark.parametrize('form', ['png', 'bgr8; png compressed', 'rgb8; png compressed bgr8'])
def test_png(rgb: np.ndarray, form: str) -> None:
    bgr = rgb[..., ::-1]
    alpha = np.full((HEIGHT, WIDTH, 1), 9, np.uint8)
    for pixels in (bgr, np.dstack([bgr, alpha]), bgr.astype(np.uint16) * 257):
        np.testing.assert_array_equal(decode_compressed(compressed('.png', pixels, form)), rgb)


@pytest.mark.parametrize('extension', ['.png', '.jpg'])
def test_compressed_grey(extension: str) -> None:
    grey = np.full((HEIGHT, WIDTH), 130, np.uint8)
    kinds = [grey, wide(grey, False)] if extension == '.png' else [grey]
    for samples in kinds:
        decoded = decode_compressed(compressed(extension, samples, 'mono8; jpeg compressed '))
        assert decoded.shape == (HEIGHT, WIDTH, 3)
        assert np.abs(decoded.astype(int) - 130).max() <= 1


def test_compressed_mosaic(rgb: np.ndarray) -> None:
    message = compressed('.png', mosaic_of(rgb, 'grbg'), 'bayer_grbg8; png compressed ')
    np.testing.assert_array_equal(decode_compressed(message)[2:10, 2:14], rgb[2:10, 2:14])
    converted = compressed('.png', rgb[..., ::-1], 'bayer_grbg8; png compressed bgr8')
    np.testing.assert_array_equal(decode_compressed(converted), rgb)


def claiming(content: bytes, kind: str, width: int, height: int) -> bytes:
    """Return a JPEG or PNG whose header claims another size."""
    data = bytearray(content)
    at = 16 if kind == '.png' else data.index(b'\xff\xc0') + 5
    size = (width, height) if kind == '.png' else (height, width)
    length = 4 if kind == '.png' else 2
    data[at:at + 2 * length] = b''.join(side.to_bytes(length, 'big') for side in size)
    return bytes(data)


@pytest.mark.parametrize('extension', ['.png', '.jpg'])
def test_bad_compressed(rgb: np.ndarray, extension: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (240, 320, 3), np.uint8)
    content = cv2.imencode(extension, noise)[1].tobytes()
    kind = {'.png': 'PNG', '.jpg': 'JPEG'}[extension]
    for data, message in [
            (b'', 'empty'),
            (bytes(500), 'neither JPEG nor PNG .its first bytes are 00 00 00 00'),
            (content[:len(content) // 2], f'truncated {kind}: 320x240 pixels'),
            (content[:len(content) - 12], f'truncated {kind}: 320x240 pixels'),
            (content[:20], f'truncated or damaged {kind}: 20 bytes'),
            (content[:2], 'truncated or damaged JPEG' if kind == 'JPEG' else 'neither'),
            (claiming(content, extension, 20000, 20000), 'claims 20000x20000 .*64 megapixels'),
            (claiming(content, extension, 0, 100), f'{kind}')]:
        with pytest.raises(ImageError, match=message):
            decode_compressed(CompressedImage(format='jpeg', data=data))
    broken = content[:60] + bytes(len(content) - 120) + content[-60:]
    with pytest.raises(ImageError, match=kind):
        decode_compressed(CompressedImage(format='png', data=broken))
    # Cameras that send whole blocks leave zeros after the end.
    assert decode_compressed(CompressedImage(data=content + bytes(4000))).shape == noise.shape


def test_compressed_depth() -> None:
    with pytest.raises(ImageError, match='holds distances'):
        decode_compressed(CompressedImage(format='16UC1; compressedDepth png', data=b'12345'))


@pytest.mark.parametrize('shape, encoding', [((7, 9), 'mono8'), ((7, 9, 1), 'mono8'),
                                             ((7, 9, 3), 'rgb8')])
def test_encode(shape: tuple[int, ...], encoding: str) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    header = Header(frame_id='front')
    message = encode_image(pixels, encoding, header)
    assert message.header is header
    assert (message.height, message.width, message.encoding) == (7, 9, encoding)
    assert message.step == 9 * (3 if encoding == 'rgb8' else 1) and message.is_bigendian == 0
    assert bytes(message.data) == pixels.tobytes()
    mirrored = encode_image(pixels[:, ::-1], encoding, header)  # not contiguous
    assert bytes(mirrored.data) == pixels[:, ::-1].tobytes()


@pytest.mark.parametrize('pixels, encoding', [
    (np.zeros((4, 4, 3), np.uint8), 'mono8'), (np.zeros((4, 4), np.uint8), 'rgb8'),
    (np.zeros((4, 4), np.int64), 'mono8'), (np.zeros((4, 4), np.uint8), 'mono16'),
    (np.zeros(4, np.uint8), 'mono8')])
def test_encode_refuses(pixels: np.ndarray, encoding: str) -> None:
    with pytest.raises(ImageError, match='cannot make'):
        encode_image(pixels, encoding, Header())


def test_the_documents_name_every_encoding() -> None:
    text = (Path(__file__).parents[1] / 'docs' / 'robot' / 'ros-interface.md').read_text()
    section = text[text.index('## Images\n'):text.index('Depth and measurements')]
    patterns = set(re.findall('`(.+?)`', section)) - {'step'}
    unnamed = [encoding for encoding in SUPPORTED_ENCODINGS
               if not any(fnmatch.fnmatch(encoding, pattern) for pattern in patterns)]
    assert unnamed == []
    assert all(fnmatch.filter(SUPPORTED_ENCODINGS, pattern) for pattern in patterns)


def test_garbage_raises_image_errors_alone() -> None:
    """Random fields, sizes and bytes, and damaged JPEGs and PNGs: an array or an ImageError."""
    rng = random.Random(7)
    names = [*SUPPORTED_ENCODINGS, '32FC1', '', 'x' * 300, 'rgb8; jpeg', '8UC', '\x00']
    pictures = [cv2.imencode(extension, np.random.default_rng(3).integers(
        0, 256, (40, 30, 3), np.uint8))[1].tobytes() for extension in ('.jpg', '.png')]
    decoded = 0
    for _ in range(600):
        message = Duck(height=rng.choice([0, 1, 2, 3, 8, 17, 20000, 2**32 - 1]),
                       width=rng.choice([0, 1, 2, 3, 8, 17, 20000, 2**32 - 1]),
                       encoding=rng.choice(names), is_bigendian=rng.randrange(256),
                       step=rng.choice([0, 1, 4, 7, 24, 51, 100, 2**32 - 1]),
                       data=array.array('B', rng.randbytes(rng.choice([0, 1, 9, 200, 2500]))))
        with contextlib.suppress(ImageError):
            decoded += decode_image(message).shape == (message.height, message.width, 3)
    assert decoded >= 10
    for index in range(300):
        damaged = bytearray(pictures[index % 2])
        for _ in range(rng.randrange(12)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        damaged = damaged[:rng.choice([len(damaged), rng.randrange(len(damaged))])]
        form = rng.choice(['jpeg', 'png', '', 'bayer_rggb8; jpeg compressed ', 'mono8; png'])
        with contextlib.suppress(ImageError):
            assert decode_compressed(
                CompressedImage(format=form, data=bytes(damaged))).shape[2] == 3
