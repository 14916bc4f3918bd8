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
A hostile camera, a process of its own: decompression bombs, damaged and absurd images at a rate.

    python benchmarks/hostile_camera.py TOPIC WIDTHxHEIGHT RATE SECONDS

As ``camera.py``, for a compressed topic: kinds of ``KINDS`` come in bursts, at random (seeded).
"""
from __future__ import annotations

from array import array
import random
import struct
import sys
from typing import Any
import zlib

from camera import numbered, publish
import cv2
import numpy as np

KINDS = (
    'another size', 'size that is only claimed', 'largest JPEG', 'thousands of scans',
    'fifty scans', 'truncated JPEG', 'damaged JPEG', 'PNG of one colour',
    'compressed text', 'long strings', 'garbage', 'second publisher', 'stamps', 'calibration')
"""What is wrong with an image; all kinds come equally often."""
BURST = 10
"""Largest number of images in a row that are of one kind."""
LARGEST = 4000
"""Width and height of the largest picture that the node decodes by default, in pixels."""
STRING = 'jpeg\n\x1b[31m[ERROR] [segmentation]: forged\u202e\r' * 120_000
"""Text of 5 MB with line breaks and escape sequences."""


def picture(width: int, height: int, suffix: str = '.jpg', *flags: int) -> bytes:
    """Return a coded picture of smooth noise."""
    noise = np.random.default_rng(width).integers(0, 256, (9, 16, 3), np.uint8)
    return cv2.imencode(suffix, cv2.resize(noise, (width, height)), flags)[1].tobytes()


def with_scans(data: bytes, count: int) -> bytes:
    """Return a progressive JPEG whose last scan is repeated, ``count`` scans in all."""
    more = count - data.count(b'\xff\xda')
    return data[:-2] + data[data.rindex(b'\xff\xda'):-2] * more + data[-2:]


def with_text(data: bytes) -> bytes:
    """Return a PNG with compressed text that expands a thousand times."""
    text = b'a\0\0' + zlib.compress(bytes(5_000_000), 9)
    chunk = struct.pack('>I', len(text)) + b'zTXt' + text + struct.pack(
        '>I', zlib.crc32(b'zTXt' + text))
    return data[:33] + chunk * 50 + data[33:]


def contents(width: int, height: int, generator: random.Random) -> dict[str, list[bytes]]:
    """Return the data of each kind that has its own; the others send good pictures."""
    good = picture(width, height)
    frame = good.index(b'\xff\xc0') + 5
    middle = len(good) // 2
    progressive = (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    colour = np.full((LARGEST, LARGEST, 3), 90, np.uint8)
    return {
        'another size': [picture(generator.randrange(64, 1600), generator.randrange(64, 1200))
                         for _ in range(24)],
        'size that is only claimed': [
            good[:frame] + struct.pack('>HH', side, side) + good[frame + 4:]
            for side in (7990, LARGEST, 65535)],
        'largest JPEG': [picture(LARGEST, LARGEST)],
        'thousands of scans': [with_scans(picture(320, 240, '.jpg', *progressive), 2000)],
        'fifty scans': [with_scans(picture(1920, 1080, '.jpg', *progressive), 50)],
        'truncated JPEG': [good[:middle], good[:-2], good[:100]],
        'damaged JPEG': [good[:middle] + good[middle + 500:],
                         good[:middle] + bytes(500) + good[middle + 500:]],
        'PNG of one colour': [cv2.imencode('.png', colour)[1].tobytes()],
        'compressed text': [with_text(picture(width, height, '.png'))],
        'garbage': [generator.randbytes(100_000), b'\xff\xd8' + generator.randbytes(5000), b''],
        'good': [good]}


def main(topic: str, size: str, rate: float, seconds: float) -> None:
    """Publish, as this file's first lines say."""
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import CameraInfo, CompressedImage, RegionOfInterest
    rclpy.init()
    node = rclpy.create_node('hostile')
    other = rclpy.create_node('hostile_too')
    second = other.create_publisher(CompressedImage, topic, qos_profile_sensor_data)
    infos = node.create_publisher(CameraInfo, topic.replace('image/compressed', 'camera_info'),
                                  qos_profile_sensor_data)
    generator = random.Random(0)
    data = {kind: [array('B', one) for one in made]
            for kind, made in contents(*map(int, size.split('x')), generator).items()}
    most = 2**32 - 1
    absurd = CameraInfo(width=1, height=most, binning_x=most, roi=RegionOfInterest(
        x_offset=most, y_offset=most, width=most, height=most), k=[float('nan')] * 9)
    burst: list[tuple[str, Any]] = []

    def send(publisher: Any, number: int) -> None:
        if not burst:
            kind = generator.choice(KINDS)
            content = generator.choice(data.get(kind, data['good']))
            burst.extend([(kind, content)] * generator.randint(1, BURST))
        kind, content = burst.pop()
        message = CompressedImage(format='jpeg', data=content)
        message.header.stamp = numbered(node.get_clock().now().to_msg(), number)
        message.header.frame_id = topic
        if kind == 'long strings':
            message.format, message.header.frame_id = STRING, STRING[:100_000]
        elif kind == 'second publisher':
            publisher, message.header.frame_id = generator.choice([publisher, second]), 'other'
        elif kind == 'stamps':
            message.header.stamp.sec = generator.choice([0, -2**31, 2**31 - 1, 1000])
            message.header.stamp.nanosec = generator.choice([0, most])
        elif kind == 'calibration':
            absurd.header = message.header
            infos.publish(absurd)
        publisher.publish(message)
    publish(node, topic, CompressedImage, rate, seconds, send)


if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
