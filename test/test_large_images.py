"""The Fast DDS profile carries large best-effort images between processes, all of them."""
from __future__ import annotations

import os
import subprocess
import sys
import time
from array import array
from pathlib import Path

import pytest

PROFILE = Path(__file__).parents[1] / 'config' / 'fastdds_large_images.xml'
WIDTH, HEIGHT, RATE, FRAMES = 1280, 720, 25, 50
TOPIC = 'large_image_test'


def talk() -> None:
    """Wait for a subscriber, then publish the frames, numbered by their stamps' nanoseconds."""
    import rclpy
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image

    rclpy.init()
    node = rclpy.create_node('talker')
    qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    publisher = node.create_publisher(Image, TOPIC, qos)
    image = Image(width=WIDTH, height=HEIGHT, encoding='rgb8', step=WIDTH * 3)
    image.data = array('B', bytes(WIDTH * HEIGHT * 3))
    while publisher.get_subscription_count() == 0:
        time.sleep(0.05)
    time.sleep(0.5)  # the subscriber has to have found this publisher, too
    start = time.monotonic()
    for number in range(FRAMES):
        time.sleep(max(0.0, start + number / RATE - time.monotonic()))
        image.header.stamp.nanosec = number
        publisher.publish(image)
    time.sleep(0.5)
    rclpy.try_shutdown()


def listen() -> None:
    """Print how many of the frames came before five seconds passed without any."""
    import rclpy
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image

    rclpy.init()
    node = rclpy.create_node('listener')
    numbers: list[int] = []
    # So deep that a busy machine, on which this process waits its turn, loses nothing here.
    qos = QoSProfile(depth=FRAMES, reliability=ReliabilityPolicy.BEST_EFFORT)
    node.create_subscription(
        Image, TOPIC, lambda image: numbers.append(image.header.stamp.nanosec), qos
    )
    deadline = time.monotonic() + 30.0  # discovery
    while len(numbers) < FRAMES and time.monotonic() < deadline:
        before = len(numbers)
        rclpy.spin_once(node, timeout_sec=0.1)
        if len(numbers) > before:
            deadline = time.monotonic() + 5.0
    print('received', len(set(numbers)))
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
    # All of them, on a machine that keeps up; without the profile next to none.
    assert int(received.split()[1]) >= 0.9 * FRAMES


if __name__ == '__main__':
    {'talk': talk, 'listen': listen}[sys.argv[1]]()
