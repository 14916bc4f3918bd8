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
Time to the first mask of the real node: from its start, its activation, and the first image.

    python benchmarks/first_mask.py [--size 1280x720] [--engines openvino torch] [--json FILE]

A camera publishes at 10 Hz before the node starts, with images of a size that the network was
not trained on. Each engine starts twice: with an empty cache, and again with what the first start
has kept. Latencies are from the publication of an image to the arrival of its mask, both in this
process.
"""
from __future__ import annotations

import argparse
from array import array
import os
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
import time
from typing import Any

from featshare_core.evaluation.provenance import provenance
from figures import engine_parser, report
from live_node import LiveNode, prepare_environment
import numpy as np

RATE_HZ = 10
"""The camera's rate."""
STEADY = 50
"""Number of the last images, whose median latency is the steady one."""


def start(arguments: argparse.Namespace, engine: str) -> dict[str, Any]:
    """Start the node once; return seconds and counts."""
    from lifecycle_msgs.msg import TransitionEvent
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image

    width, height = map(int, arguments.size.split('x'))
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    message = Image(height=height, width=width, encoding='rgb8', step=3 * width)
    message.data = array('B', pixels.tobytes())
    sent: dict[int, float] = {}
    answered: dict[int, float] = {}
    active: list[float] = []

    begun = time.monotonic()
    with TemporaryDirectory() as folder:
        log = Path(folder, 'log')
        node = LiveNode(['-m', 'featshare_ros.main'], log, weights=arguments.weights,
                        device=arguments.device, engine=engine)
        try:
            quality = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
            node.ros.create_subscription(
                Image, '/segmentation/mask',
                lambda mask: answered.setdefault(mask.header.stamp.nanosec, time.monotonic()),
                QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE))
            node.ros.create_subscription(
                TransitionEvent, '/segmentation/transition_event',
                lambda event: active.append(time.monotonic())
                if event.goal_state.label == 'active' else None, 10)
            publisher = node.ros.create_publisher(Image, '/image', quality)
            number = 0
            while not answered or number < min(answered) + arguments.images:
                number += 1
                # The nanoseconds of the stamp hold the number; its seconds advance at 1 Hz.
                message.header.stamp.sec, message.header.stamp.nanosec = number // 10, number
                sent[number] = time.monotonic()
                publisher.publish(message)
                time.sleep(max(0.0, begun + number / RATE_HZ - time.monotonic()))
                if time.monotonic() - begun > 180:
                    raise RuntimeError(f'no mask:\n{log.read_text()[-2000:]}')
            time.sleep(1.5)
            camera = node.values('camera')
        finally:
            node.close()
    first = min(answered)
    latencies = {one: answered[one] - sent[one] for one in answered}
    steady = median(list(latencies.values())[-STEADY:])
    return {
        'start to first mask': round(answered[first] - begun, 2),
        'activation to first mask': round(answered[first] - active[0], 2) if active else None,
        'first image': round(latencies[first], 3),
        'slowest later one': round(max(list(latencies.values())[1:]), 3),
        'steady': round(steady, 3),
        'stand-ins': int(camera['stand-ins']),
        'dropped': int(camera['dropped']), 'received': int(camera['received'])}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of each engine's first start and of its next, in turn."""
    prepare_environment()
    engines: dict[str, Any] = {}
    for engine in arguments.engines:
        with TemporaryDirectory() as cache:
            os.environ['XDG_CACHE_HOME'] = cache
            engines[engine] = {name: start(arguments, engine) for name in ('not met', 'met')}
    command = (f'python benchmarks/first_mask.py --size {arguments.size} --engines '
               f'{" ".join(arguments.engines)}')
    return {**provenance(command, arguments.device), 'size': arguments.size, 'rate_hz': RATE_HZ,
            'weights': arguments.weights, 'engines': engines}


if __name__ == '__main__':
    parser = engine_parser(__doc__, '1280x720')
    parser.add_argument('--engines', nargs='+', default=['openvino', 'torch'])
    parser.add_argument('--images', type=int, default=150)
    report(parser, measure)
