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
What the node does with more images than it can segment: age of the masks, drops, memory.

    python benchmarks/overload.py [--size 640x480] [--times 5] [--seconds 60] [--device auto]

First one image after the other, each when the last is answered: that is the sustainable rate.
Then ``--times`` times that rate. A mask's age is the time from the image's publishing to the
mask's arrival here.
Bars: the ages' 99th percentile at most two engine times and 10 ms; processed, dropped and failed
make up what was received; memory as flat as 2 %.
"""
from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
import tempfile
import time
from typing import Any

from camera import Camera
from live_node import LiveNode, prepare_environment
import numpy as np


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the node under overload and return the figures."""
    from featshare_ros.images import encode_image
    from sensor_msgs.msg import Image
    width, height = map(int, arguments.size.split('x'))
    log = Path(tempfile.mkdtemp()) / 'node.log'
    live = LiveNode(['-m', 'featshare_ros.main'], log, weights=arguments.weights,
                    device=arguments.device, engine=arguments.engine)
    ages: list[float] = []

    def on_mask(message: Any) -> None:
        stamp = message.header.stamp
        ages.append(time.time() - stamp.sec - 1e-9 * stamp.nanosec)

    live.ros.create_subscription(Image, '/segmentation/mask', on_mask, 10)
    publisher = live.ros.create_publisher(Image, 'image', 1)
    live.wait_until(lambda: publisher.get_subscription_count() > 0, 'the node', 120)
    time.sleep(1.0)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    message = encode_image(pixels, 'rgb8', Image().header)
    for index in range(60):
        if index == 20:
            start = time.monotonic()
        message.header.stamp = live.ros.get_clock().now().to_msg()
        count = len(ages)
        publisher.publish(message)
        live.wait_until(lambda: len(ages) > count, 'a mask')  # noqa: B023
    sustainable = 40 / (time.monotonic() - start)
    live.ros.destroy_publisher(publisher)

    rate = arguments.times * sustainable
    camera = Camera('image', arguments.size, rate, arguments.seconds)
    camera.wait_until_ready()
    count, end = len(ages), time.monotonic() + arguments.seconds
    camera.begin()
    live.wait_until(lambda: len(ages) > count + 20, 'masks under overload')
    count, memory = len(ages), []
    while time.monotonic() < end:
        memory.append(live.rss())
        time.sleep(1.0)
    sent = camera.sent()
    under_load = np.array(ages[count:]) * 1e3
    time.sleep(2.5)
    statistics, engine = live.values('camera'), live.values('engine')
    engine_ms = live.engine_ms('p95')['key']
    figures = {key: int(statistics[key]) for key in ('received', 'processed', 'dropped', 'failed')}
    tenth = max(1, len(memory) // 6)
    first, last = np.median(memory[tenth:2 * tenth]), np.median(memory[-tenth:])
    p50, p99, largest = np.percentile(under_load, (50, 99, 100))
    result = {
        'size': arguments.size, 'device': engine['device'], 'engine': engine['engine'],
        'precision': engine['precision'], 'cores': os.cpu_count(),
        'load average': round(os.getloadavg()[0], 1),
        'sustainable rate (Hz)': round(sustainable, 1),
        'images sent': sent, 'rate sent (Hz)': round(sent / arguments.seconds, 1), **figures,
        'engine time p50 (ms)': live.engine_ms('p50'),
        'engine time, key frames p95 (ms)': engine_ms,
        'age (ms)': {'p50': round(p50, 1), 'p99': round(p99, 1), 'max': round(largest, 1)},
        'memory (MiB)': {'first': round(float(first), 1), 'last': round(float(last), 1)},
        'bars': {
            f'age p99 at most {2 * engine_ms + 10:.0f} ms': bool(p99 <= 2 * engine_ms + 10),
            'received = processed + dropped + failed': figures['received'] == sum(
                figures[key] for key in ('processed', 'dropped', 'failed')),
            'memory within 2 %': bool(abs(last / first - 1) < 0.02)}}
    result['exit status'] = live.close()
    return result


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--size', default='640x480')
    parser.add_argument('--times', type=float, default=5.0, help='of the sustainable rate')
    parser.add_argument('--seconds', type=float, default=60.0)
    parser.add_argument('--device', default='auto')
    parser.add_argument('--engine', default='auto')
    parser.add_argument('--weights', default='default')
    arguments = parser.parse_args()
    prepare_environment()
    print(json.dumps(measure(arguments), indent=2))


if __name__ == '__main__':
    main()
