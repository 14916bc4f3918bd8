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
"""The Fast DDS profile carries large best-effort images between processes, all of them."""
from __future__ import annotations

from array import array
import os
from pathlib import Path
import subprocess
import sys
import time

import pytest

PROFILE = Path(__file__).parents[1] / 'config' / 'fastdds_large_images.xml'
WIDTH, HEIGHT, FRAMES = 1280, 720, 50
BURST = 5
"""Number of images that may be unread at a time; the shared memory has room for 12."""
INTERVAL_S = 0.2
"""Time from one burst to the next, in seconds."""
TOPIC, ACKNOWLEDGED = 'large_image_test', 'large_image_test_acknowledged'


def talk() -> None:
    """
    Publish the frames in bursts, numbered by their stamps' nanoseconds, until one is lost.

    Each burst waits for the one before to be acknowledged: on a busy machine, the shared memory
    that a listener has not read yet would be written again, and best effort allows that.
    """
    import rclpy
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image
    from std_msgs.msg import Int32

    rclpy.init()
    node = rclpy.create_node('talker')
    arrived: set[int] = set()
    node.create_subscription(Int32, ACKNOWLEDGED, lambda number: arrived.add(number.data), FRAMES)

    def acknowledged(numbers: range, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not arrived.issuperset(numbers) and time.monotonic() < end:
            rclpy.spin_once(node, timeout_sec=0.05)
        return arrived.issuperset(numbers)

    qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    publisher = node.create_publisher(Image, TOPIC, qos)
    # A small one, which is always carried, tells when the subscriber has found this publisher.
    while not acknowledged(range(1), 0.2):
        publisher.publish(Image())
    image = Image(width=WIDTH, height=HEIGHT, encoding='rgb8', step=WIDTH * 3)
    image.data = array('B', bytes(WIDTH * HEIGHT * 3))
    for first in range(1, FRAMES + 1, BURST):
        start = time.monotonic()
        for number in range(first, first + BURST):
            image.header.stamp.nanosec = number
            publisher.publish(image)
        if not acknowledged(range(first, first + BURST), 5.0):
            break
        time.sleep(max(0.0, start + INTERVAL_S - time.monotonic()))
    rclpy.try_shutdown()


def listen() -> None:
    """Acknowledge frames; print how many came before five seconds passed without any."""
    import rclpy
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image
    from std_msgs.msg import Int32

    rclpy.init()
    node = rclpy.create_node('listener')
    numbers: set[int] = set()
    answers = node.create_publisher(Int32, ACKNOWLEDGED, FRAMES)

    def receive(image: Image) -> None:
        if image.width:
            numbers.add(image.header.stamp.nanosec)
        answers.publish(Int32(data=image.header.stamp.nanosec))

    # So deep that a busy machine, on which this process waits its turn, loses nothing here.
    qos = QoSProfile(depth=FRAMES, reliability=ReliabilityPolicy.BEST_EFFORT)
    node.create_subscription(Image, TOPIC, receive, qos)
    deadline = time.monotonic() + 30.0  # discovery
    while len(numbers) < FRAMES and time.monotonic() < deadline:
        before = len(numbers)
        rclpy.spin_once(node, timeout_sec=0.1)
        if len(numbers) > before:
            deadline = time.monotonic() + 5.0
    print('received', len(numbers))
    rclpy.try_shutdown()


@pytest.mark.timeout(90)
def test_profile_carries_every_720p_image() -> None:
    pytest.importorskip('rclpy')
    if os.environ.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp') != 'rmw_fastrtps_cpp':
        pytest.skip('the profile is for Fast DDS')
    environment = {  # conftest.py sees to the rest
        **os.environ,
        'FASTDDS_DEFAULT_PROFILES_FILE': str(PROFILE),
        'FASTRTPS_DEFAULT_PROFILES_FILE': str(PROFILE),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, role], env=environment, stdout=subprocess.PIPE, text=True
        )
        for role in ('listen', 'talk')
    ]
    try:
        received, _ = processes[0].communicate(timeout=60)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    # Without the profile next to none.
    assert int(received.split()[1]) == FRAMES


if __name__ == '__main__':
    {'talk': talk, 'listen': listen}[sys.argv[1]]()
