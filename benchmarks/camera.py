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
A camera for benchmarks, a process of its own: pictures at a rate.

    python benchmarks/camera.py TOPIC WIDTHxHEIGHT RATE SECONDS

Raw images are one noisy picture. A topic that ends with /compressed has JPEGs of a rendered
drive, ``FRAMES`` pictures in a loop, with their numbers in the stamps (``number_of``).
It prints ``ready`` once somebody takes its images, begins when a line comes in, and prints how
many it has sent: fewer than the rate makes of the seconds where it cannot publish so fast.
"""
from __future__ import annotations

from collections.abc import Callable
import select
import subprocess
import sys
import time
from typing import Any
import zlib

import numpy as np

READY_S = 60.0
"""How long a camera waits for somebody who takes its images, and others wait for it."""
FRAMES = 20
"""Number of pictures of a rendered drive."""
NUMBERS = 1_000_000
"""Numbers of images are counted modulo this; they replace the nanoseconds below a millisecond."""


class Camera:
    """
    Such a process, as others start it and wait for it.

    It ends with what started it: a camera that has not begun does so when its stdin is closed.

    :param script: the program, which takes the same arguments as this file.
    """

    def __init__(self, topic: str, size: str, rate: float, seconds: float,
                 script: str = __file__) -> None:
        self._seconds = seconds
        self._process = subprocess.Popen(
            [sys.executable, script, topic, size, str(rate), str(seconds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def wait_until_ready(self) -> None:
        """
        Wait until somebody takes its images.

        :raises RuntimeError: where nobody does in time.
        """
        output = self._process.stdout
        assert output is not None
        if not select.select([output], [], [], 2 * READY_S)[0] or output.readline() != 'ready\n':
            self._process.kill()
            raise RuntimeError('nobody subscribed to the images of a camera in time')

    def begin(self) -> None:
        """Have it publish, once it is ready."""
        assert self._process.stdin is not None
        self._process.stdin.write('\n')
        self._process.stdin.flush()

    def sent(self) -> int:
        """
        Wait for its end, and return how many images it has sent.

        :raises subprocess.TimeoutExpired: where it does not end.
        :raises RuntimeError: where it failed; its stderr, which is ours, says why.
        """
        try:
            count = self._process.communicate(timeout=self._seconds + 60)[0]
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        if self._process.returncode:
            raise RuntimeError(f'a camera failed with exit status {self._process.returncode}')
        return int(count)


def drive(topic: str, size: str) -> list[bytes]:
    """Return the JPEGs that a camera of a compressed topic sends; each topic has another drive."""
    import cv2
    from featshare_core.data.synthetic import RenderedStreet
    street = RenderedStreet(*map(int, size.split('x')), seed=zlib.crc32(topic.encode()) % 1000,
                            fps=10)
    return [cv2.imencode('.jpg', street.frame(index)[0][..., ::-1])[1].tobytes()
            for index in range(FRAMES)]


def numbered(stamp: Any, number: int) -> Any:
    """Return a stamp with the number of its image in it; see ``NUMBERS``."""
    stamp.nanosec += number % NUMBERS - stamp.nanosec % NUMBERS
    return stamp


def number_of(stamp: Any) -> int:
    """Return the number of the image that a stamp of ``numbered`` belongs to."""
    return int(stamp.nanosec) % NUMBERS


def publish(node: Any, topic: str, kind: Any, rate: float, seconds: float,
            send: Callable[[Any, int], None]) -> None:
    """
    Wait for a subscriber and for a line on stdin, then publish, as this file's first lines say.

    :param send: called with the publisher and the number of the image, to publish that image.
    """
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    publisher = node.create_publisher(kind, topic, qos_profile_sensor_data)
    end = time.monotonic() + READY_S
    while not publisher.get_subscription_count():
        if time.monotonic() > end:
            sys.exit(f'nobody takes the images of {topic}')
        time.sleep(0.05)
    time.sleep(0.5)  # the other side may see us a little later than we see it
    print('ready', flush=True)
    if not sys.stdin.readline():
        return
    start, sent, wanted = time.monotonic(), 0, round(rate * seconds)
    while sent < wanted and time.monotonic() < start + seconds:
        send(publisher, sent)
        sent += 1
        time.sleep(max(0.0, start + sent / rate - time.monotonic()))
    print(sent, flush=True)
    time.sleep(1.0)  # what was sent last is still on its way
    rclpy.shutdown()


def main(topic: str, size: str, rate: float, seconds: float) -> None:
    """Publish, as this file's first lines say."""
    from featshare_ros.images import encode_image
    import rclpy
    from sensor_msgs.msg import CompressedImage, Image
    from std_msgs.msg import Header
    rclpy.init()
    node = rclpy.create_node(f'{topic.replace("/", "_")}_source')
    if topic.endswith('/compressed'):
        pictures = [CompressedImage(format='jpeg', data=data) for data in drive(topic, size)]

        def send(publisher: Any, number: int) -> None:
            message = pictures[number % FRAMES]
            message.header.stamp = numbered(node.get_clock().now().to_msg(), number)
            publisher.publish(message)
        publish(node, topic, CompressedImage, rate, seconds, send)
        return
    width, height = map(int, size.split('x'))
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    message = encode_image(pixels, 'rgb8', Header())

    def send_noise(publisher: Any, number: int) -> None:
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
    publish(node, topic, Image, rate, seconds, send_noise)


if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
