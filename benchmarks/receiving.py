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
What it costs a node to receive images, before anything is done with them.

    python benchmarks/receiving.py [--sizes 1280x720 640x360] [--rate 10] [--seconds 10]

This process subscribes as the node does; a camera, a process of its own, publishes. The CPU time
of this process, without that of a span of the same length without images, is divided by the number
of images. The age is from publishing to the callback.
"""
from __future__ import annotations

import argparse
import os
from pathlib import Path
import shlex
import sys
import time
from typing import Any

from camera import Camera
from featshare_core.evaluation.provenance import provenance
from figures import report
from live_node import prepare_environment
import numpy as np

SETTLING_S = 1.0
"""Wait before CPU time is counted, so that none of discovery is, in seconds."""


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of each size."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    rclpy.init()
    node = rclpy.create_node('receiving')
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    load = round(os.getloadavg()[0], 2)
    images = {size: receive(node, executor, size, arguments) for size in arguments.sizes}
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    return {**provenance(f'python {shlex.join(sys.argv)}', 'cpu'), 'rate_hz': arguments.rate,
            'load_before': load, 'images': images}


def receive(node: Any, executor: Any, size: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Receive one camera's images; return CPU time and age in milliseconds per image."""
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image

    ages: list[float] = []

    def on_image(message: Any) -> None:
        stamp = message.header.stamp
        ages.append(1e3 * (time.time() - stamp.sec - 1e-9 * stamp.nanosec))

    def cpu_seconds(wall: float) -> float:
        start, end = time.process_time(), time.monotonic() + wall
        while time.monotonic() < end:
            executor.spin_once(timeout_sec=max(0.0, end - time.monotonic()))
        return time.process_time() - start

    topic = f'size_{size}/image'
    subscription = node.create_subscription(Image, topic, on_image, qos_profile_sensor_data)
    camera = Camera(topic, size, arguments.rate, arguments.seconds)
    camera.wait_until_ready()
    cpu_seconds(SETTLING_S)
    idle = cpu_seconds(arguments.seconds)
    camera.begin()
    busy = cpu_seconds(arguments.seconds)
    sent = camera.sent()
    node.destroy_subscription(subscription)
    p50, p99 = np.percentile(ages, (50, 99))
    return {'sent': sent, 'received': len(ages),
            'cpu_ms': round(1e3 * (busy - idle) / len(ages), 2),
            'age_ms': {'p50': round(p50, 2), 'p99': round(p99, 2)}}


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sizes', nargs='+', default=['1280x720', '640x360'])
    parser.add_argument('--rate', type=float, default=10, help='images a second')
    parser.add_argument('--seconds', type=float, default=10)
    parser.add_argument('--json', type=Path)
    prepare_environment()
    report(parser, measure)


if __name__ == '__main__':
    main()
