"""
sensor_msgs Image and CompressedImage to RGB arrays and back.

Images are decoded to HxWx3 uint8 RGB with one colour conversion at most: rgb8 is a view of the
message's own bytes. Messages are checked before anything is allocated; one that cannot be decoded
raises ``ImageError``, with the figures that do not fit.
"""
from __future__ import annotations

import functools
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    # Recordings are decoded where no ROS is installed.
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

MAX_COMPRESSED_PIXELS = 64_000_000
"""Largest compressed image that is unpacked, in pixels: a small file can claim gigabytes."""

_JPEG_END = b'\xff\xd9'
_PNG_MAGIC = b'\x89PNG\r\n\x1a\n'
_PNG_END = b'IEND'


class ImageError(ValueError):
    """An image message that cannot be decoded; the text says what is wrong and what to do."""


class _Layout(NamedTuple):
    """How the pixels of an encoding lie in memory, and OpenCV's conversion from there to RGB."""

    channels: int
    to_rgb: int | None
    sample_bytes: int = 1
    even_width: bool = False
    even_height: bool = False
    chroma_plane: bool = False  # H/2 more rows, after the picture's own


_GREY = _Layout(1, cv2.COLOR_GRAY2RGB)
_BGR = _Layout(3, cv2.COLOR_BGR2RGB)
_BGRA = _Layout(4, cv2.COLOR_BGRA2RGB)
_UYVY = _Layout(2, cv2.COLOR_YUV2RGB_UYVY, even_width=True)
_YUYV = _Layout(2, cv2.COLOR_YUV2RGB_YUY2, even_width=True)
_LAYOUTS = {
    'rgb8': _Layout(3, None),
    'bgr8': _BGR,
    'rgba8': _Layout(4, cv2.COLOR_RGBA2RGB),
    'bgra8': _BGRA,
    'mono8': _GREY,
    '8UC1': _GREY,
    '8UC3': _BGR,
    '8UC4': _BGRA,
    'yuv422': _UYVY,
    'uyvy': _UYVY,
    'yuv422_yuy2': _YUYV,
    'yuyv': _YUYV,
    'nv12': _Layout(1, cv2.COLOR_YUV2RGB_NV12, 1, True, True, True),
    'nv21': _Layout(1, cv2.COLOR_YUV2RGB_NV21, 1, True, True, True),
    # ROS names a mosaic by its first row and the start of its second, OpenCV's older names (the
    # only ones that every supported OpenCV has) by the pixels one row and one column further in.
    'bayer_rggb8': _Layout(1, cv2.COLOR_BayerBG2RGB, 1, True, True),
    'bayer_bggr8': _Layout(1, cv2.COLOR_BayerRG2RGB, 1, True, True),
    'bayer_gbrg8': _Layout(1, cv2.COLOR_BayerGR2RGB, 1, True, True),
    'bayer_grbg8': _Layout(1, cv2.COLOR_BayerGB2RGB, 1, True, True),
}
for _name in ('rgb', 'bgr', 'rgba', 'bgra', 'mono',
              'bayer_rggb', 'bayer_bggr', 'bayer_gbrg', 'bayer_grbg'):
    _LAYOUTS[f'{_name}16'] = _LAYOUTS[f'{_name}8']._replace(sample_bytes=2)
_LAYOUTS['16UC1'] = _LAYOUTS['mono16']

SUPPORTED_ENCODINGS = tuple(_LAYOUTS)
"""The Image encodings that need no cv_bridge."""


def decode_image(message: Any) -> npt.NDArray[np.uint8]:
    """
    Return the picture in a raw image message.

    Mono images come out with three equal channels; 16-bit samples are scaled by 255 / 65535.

    :param message: a sensor_msgs/Image, or any object with its fields (rosbags' messages).
    :returns: HxWx3 uint8 RGB. For rgb8 it shares the message's memory, with the message's row
        padding as strides: not to be written to.
    :raises ImageError: where the fields contradict each other, the data is too short, or the
        encoding is unknown and cv_bridge cannot decode it either.
    """
    height, width, step = int(message.height), int(message.width), int(message.step)
    encoding = str(message.encoding)
    if height <= 0 or width <= 0:
        raise ImageError(f'image of {width}x{height} pixels: width and height must be positive')
    if len(message.data) == 0:
        raise ImageError(f'{width}x{height} {encoding} image without data: the message is empty')
    layout = _LAYOUTS.get(encoding)
    if layout is None:
        return _decode_by_cv_bridge(message)
    if (layout.even_width and width % 2) or (layout.even_height and height % 2):
        sides = 'width and height' if layout.even_height else 'width'
        raise ImageError(f'{encoding} image of {width}x{height} pixels: the encoding packs pixels '
                         f'in groups, so {sides} must be even')
    data = _as_bytes(message.data)
    row_bytes = width * layout.channels * layout.sample_bytes
    if step < row_bytes:
        raise ImageError(f'step {step} is too small: {width} pixels of {encoding} take '
                         f'{row_bytes} bytes a row')
    rows = height * 3 // 2 if layout.chroma_plane else height
    # Some drivers leave the last row without its padding: nothing is missing then.
    needed = step * (rows - 1) + row_bytes
    if data.size < needed:
        raise ImageError(f'{width}x{height} {encoding} image with step {step} needs {needed} '
                         f'bytes of data, got {data.size}')

    # (H, or 3H/2 with a chroma plane) x W x channels
    shape: tuple[int, ...] = (rows, width, layout.channels)
    strides: tuple[int, ...] = (step, layout.channels * layout.sample_bytes, layout.sample_bytes)
    if layout.channels == 1:
        shape, strides = shape[:2], strides[:2]
    if layout.sample_bytes == 1:
        pixels = np.ndarray(shape, np.uint8, data, strides=strides)
    else:
        stored = np.ndarray(shape, '>u2' if message.is_bigendian else '<u2', data, strides=strides)
        native = np.require(stored, np.uint16, ['C', 'ALIGNED'])
        pixels = _call_cv2(f'{encoding} image', cv2.convertScaleAbs, native, alpha=255 / 65535)
    return _to_rgb(pixels, layout, encoding)


def decode_compressed(message: Any) -> npt.NDArray[np.uint8]:
    """
    Return the picture in a compressed image message (JPEG or PNG, colour or grey, 8 or 16 bit).

    The bytes decide the format: drivers fill the field ``format`` too loosely. It is used only to
    recognise depth images, and Bayer mosaics that were compressed without conversion.

    :param message: a sensor_msgs/CompressedImage, or any object with its fields.
    :returns: HxWx3 uint8 RGB, in the camera's own orientation (EXIF rotation is not applied).
    :raises ImageError: where the data is empty, truncated, damaged, no JPEG or PNG, or of more
        than ``MAX_COMPRESSED_PIXELS``.
    """
    form = str(message.format)
    if 'compressedDepth' in form:
        raise ImageError(f'compressed image of format {form!r} holds distances, not a picture: '
                         "choose the colour camera's compressed topic")
    if len(message.data) == 0:
        raise ImageError(f'compressed image of format {form!r} without data: the message is empty')
    data = _as_bytes(message.data)
    content = data.tobytes()
    if content.startswith(b'\xff\xd8'):
        kind, (width, height, pixel_data) = 'JPEG', _jpeg_size(content)
        complete = content.rfind(_JPEG_END, pixel_data) > 0
    elif content.startswith(_PNG_MAGIC):
        kind, (width, height, pixel_data) = 'PNG', _png_size(content)
        complete = content.rfind(_PNG_END, pixel_data) > 0
    else:
        raise ImageError(f'compressed image of format {form!r} is neither JPEG nor PNG (its first '
                         f'bytes are {content[:4].hex(" ")}): publish one of these, or the raw '
                         'image')
    if width * height > MAX_COMPRESSED_PIXELS:
        raise ImageError(f'{kind} header claims {width}x{height} pixels, more than the '
                         f'{MAX_COMPRESSED_PIXELS // 1_000_000} megapixels that are accepted')
    if width == 0 or height == 0:
        raise ImageError(f'{kind} header claims {width}x{height} pixels')
    if not complete:
        raise ImageError(f'truncated {kind}: {width}x{height} pixels, {len(content)} bytes, and '
                         'the end marker is missing')
    layout, flags = _BGR, cv2.IMREAD_COLOR
    if form.startswith('bayer_') and not form.rstrip().endswith(('bgr8', 'rgb8')):
        # image_transport compresses a mosaic as the grey picture that it looks like.
        layout = _LAYOUTS.get(form.split(';')[0].strip().replace('16', '8'), _BGR)
        flags = cv2.IMREAD_GRAYSCALE if layout.channels == 1 else cv2.IMREAD_COLOR
    pixels = _call_cv2(kind, cv2.imdecode, data, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ImageError(f'damaged {kind}: {width}x{height} pixels, {len(content)} bytes, and '
                         'OpenCV cannot decode them')
    return _to_rgb(pixels, layout, kind)


def encode_image(array: npt.NDArray[np.uint8], encoding: str, header: Header) -> Image:
    """
    Return an Image message of an array, its rows unpadded.

    :param array: HxW uint8 for mono8, HxWx3 uint8 for rgb8.
    :param header: becomes the message's header as it is; not copied.
    :raises ImageError: where array and encoding do not go together.
    """
    from sensor_msgs.msg import Image
    channels = {'mono8': 1, 'rgb8': 3}.get(encoding)
    shape = array.shape if array.ndim == 3 else (*array.shape, 1)
    if array.dtype != np.uint8 or len(shape) != 3 or shape[2] != channels:
        raise ImageError(f'cannot make a {encoding} image of a {array.dtype} array of shape '
                         f'{array.shape}: mono8 takes HxW, rgb8 HxWx3, both uint8')
    height, width = array.shape[:2]
    message = Image(header=header, height=height, width=width, encoding=encoding,
                    step=width * channels)
    # Assigning to .data converts byte by byte, in Python: a thousand times slower than this.
    message.data.frombytes(np.ascontiguousarray(array).data)
    return message


def stamp_seconds(sec: int, nanosec: int) -> float | None:
    """
    Return a header's stamp in seconds; None for zero, which means not set.

    The node, recordings and the demo all use it, so that they choose the same key frames.
    """
    return sec + 1e-9 * nanosec or None


def _as_bytes(data: Any) -> npt.NDArray[np.uint8]:
    """Return a message's data (array.array, bytes, numpy array) as a flat array, not copied."""
    try:
        return np.frombuffer(data, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise ImageError(f'image data must be bytes, got {type(data).__name__}') from error


def _to_rgb(pixels: npt.NDArray[np.uint8], layout: _Layout, name: str) -> npt.NDArray[np.uint8]:
    """Convert 8-bit pixels of a layout to RGB."""
    if layout.to_rgb is None:
        return pixels
    return _call_cv2(name, cv2.cvtColor, pixels, layout.to_rgb)


def _call_cv2(name: str, function: Any, *arguments: Any, **options: Any) -> Any:
    """Call OpenCV; what it throws becomes an ImageError."""
    try:
        return function(*arguments, **options)
    except cv2.error as error:
        raise ImageError(f'{name}: OpenCV cannot decode it: {error}') from error


def _jpeg_size(content: bytes) -> tuple[int, int, int]:
    """Return width and height from a JPEG's frame header, and where its pixel data begin."""
    at, width, height = 2, 0, 0
    while at + 4 <= len(content) and content[at] == 0xff:
        marker = content[at + 1]
        if marker == 0xff or marker == 0x01 or 0xd0 <= marker <= 0xd8:  # fill bytes, no segment
            at += 1 if marker == 0xff else 2
            continue
        length = int.from_bytes(content[at + 2:at + 4], 'big')
        is_frame = 0xc0 <= marker <= 0xcf and marker not in (0xc4, 0xc8, 0xcc)
        if is_frame and at + 9 <= len(content):
            height = int.from_bytes(content[at + 5:at + 7], 'big')
            width = int.from_bytes(content[at + 7:at + 9], 'big')
        if marker == 0xda and width:  # start of scan: no end marker can be part of what follows
            return width, height, at + 2 + length
        at += 2 + length
    raise ImageError(f'truncated or damaged JPEG: {len(content)} bytes without a whole header')


def _png_size(content: bytes) -> tuple[int, int, int]:
    """Return width and height from a PNG's first chunk, and where the next chunk begins."""
    if len(content) < 33 or content[12:16] != b'IHDR':
        raise ImageError(f'truncated or damaged PNG: {len(content)} bytes without a whole header')
    width = int.from_bytes(content[16:20], 'big')
    return width, int.from_bytes(content[20:24], 'big'), 33


@functools.cache
def _cv_bridge() -> Any:
    """Return a CvBridge, or the error of importing it; the import is tried only once."""
    try:
        from cv_bridge import CvBridge
    except (ImportError, AttributeError) as error:  # AttributeError: built for another numpy
        return error.with_traceback(None)
    return CvBridge()


def _decode_by_cv_bridge(message: Any) -> npt.NDArray[np.uint8]:
    """Decode any other encoding, where cv_bridge is installed."""
    encoding = str(message.encoding)
    bridge = _cv_bridge()
    if isinstance(bridge, Exception):
        if re.fullmatch(r'\d+[SUF]C\d+', encoding):
            raise ImageError(f'encoding {encoding!r} holds depth or measurements, not colours: '
                             "choose the camera's colour image topic"
                             ) from bridge
        package = f'ros-{os.environ.get("ROS_DISTRO", "<distro>")}-cv-bridge'
        raise ImageError(f'unknown encoding {encoding!r}: without cv_bridge (package {package}) '
                         f'supported are {", ".join(SUPPORTED_ENCODINGS)}') from bridge
    # cv_bridge trusts step and height.
    needed = int(message.step) * int(message.height)
    if needed == 0 or len(message.data) < needed:
        raise ImageError(f'{message.width}x{message.height} {encoding} image with step '
                         f'{message.step} needs {needed} bytes of data, got {len(message.data)}')
    try:
        rgb = bridge.imgmsg_to_cv2(message, 'rgb8')
    except Exception as error:  # its own, TypeError, KeyError and others
        raise ImageError(f'encoding {encoding!r}: cv_bridge cannot decode it: {error}') from error
    if rgb.shape != (message.height, message.width, 3) or rgb.dtype != np.uint8:
        raise ImageError(f'encoding {encoding!r}: cv_bridge returned {rgb.dtype} {rgb.shape}')
    return rgb
