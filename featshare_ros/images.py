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
sensor_msgs Image and CompressedImage to RGB arrays and back.

Images are decoded to HxWx3 uint8 RGB with one colour conversion at most: rgb8 is a view of the
message's own bytes. Messages are checked before anything is allocated; one that cannot be decoded
raises ``ImageError``, with the figures that do not fit.
"""
from __future__ import annotations

import functools
import os
import re
from typing import Any, NamedTuple, TYPE_CHECKING

import cv2
from featshare_core.pictures import call_cv2, decode_picture, PictureError, to_8_bits
from featshare_core.text import printable
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from sensor_msgs.msg import Image  # recordings are decoded where no ROS is installed
    from std_msgs.msg import Header

MAX_COMPRESSED_PIXELS = 64_000_000
"""Largest compressed image of a recording that is decoded, in pixels."""
FULL_RANGE = 16
"""Bits of a 16-bit sample that a sensor uses, unless the user names another number."""

ImageError = PictureError
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


def decode_image(message: Any, bits: int = FULL_RANGE) -> npt.NDArray[np.uint8]:
    """
    Return the picture in a raw image message.

    Mono images come out with three equal channels; 16-bit samples are scaled by
    255 / (2**bits - 1).

    :param message: a sensor_msgs/Image, or any object with its fields (rosbags' messages).
    :param bits: number of bits of a 16-bit sample that the sensor uses, counted from the lowest;
        larger samples become white.
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
        raise ImageError(f'{width}x{height} {printable(encoding)} image without data: the '
                         f'message is empty')
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
        pixels = to_8_bits(native, bits)
    return _to_rgb(pixels, layout, encoding)


def decode_compressed(message: Any, max_pixels: int = MAX_COMPRESSED_PIXELS,
                      bits: int = FULL_RANGE) -> npt.NDArray[np.uint8]:
    """
    Return the picture in a compressed image message (JPEG or PNG, colour or grey, 8 or 16 bit).

    The bytes decide the format: drivers fill the field ``format`` too loosely. It is used only to
    recognise depth images, and Bayer mosaics that were compressed without conversion.

    :param message: a sensor_msgs/CompressedImage, or any object with its fields.
    :param max_pixels: the largest image that is decoded.
    :param bits: as for ``decode_image``.
    :returns: HxWx3 uint8 RGB, in the camera's own orientation (EXIF rotation is not applied).
    :raises ImageError: where the data is empty, truncated, damaged, no JPEG or PNG, of more than
        ``max_pixels``, or would take far more time than usual images of its size.
    """
    form = str(message.format)
    if 'compressedDepth' in form:
        raise ImageError(f'compressed image of format {printable(form)!r} holds distances, not a '
                         "picture: choose the colour camera's compressed topic")
    if len(message.data) == 0:
        raise ImageError(f'compressed image of format {printable(form)!r} without data: the '
                         f'message is empty')
    content = _as_bytes(message.data).tobytes()
    layout = None
    if form.startswith('bayer_') and not form.rstrip().endswith(('bgr8', 'rgb8')):
        # image_transport compresses a mosaic as the grey picture that it looks like.
        layout = _LAYOUTS.get(form.split(';')[0].strip().replace('16', '8'))
    if layout is None:
        return decode_picture(content, 'RGB', max_pixels, bits)
    return _to_rgb(decode_picture(content, 'GRAY', max_pixels, bits), layout, 'mosaic')


def has_wide_samples(kind: str) -> bool:
    """Return whether an encoding, or the field ``format``, names samples of 16 bits."""
    return '16' in kind.partition(';')[0]


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
    return call_cv2(name, cv2.cvtColor, pixels, layout.to_rgb)


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
    encoding = printable(message.encoding)
    if re.fullmatch(r'\d+[SUF](C\d+)?', encoding):
        # cv_bridge converts none of these to colours.
        raise ImageError(f'encoding {encoding!r} holds depth or measurements, not colours: '
                         "choose the camera's colour image topic")
    bridge = _cv_bridge()
    if isinstance(bridge, Exception):
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
        raise ImageError(f'encoding {encoding!r}: cv_bridge cannot decode it: '
                         f'{printable(error, 200)}') from error
    if rgb.shape != (message.height, message.width, 3) or rgb.dtype != np.uint8:
        raise ImageError(f'encoding {encoding!r}: cv_bridge returned {rgb.dtype} {rgb.shape}')
    return rgb
