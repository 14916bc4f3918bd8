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
Several cameras at a steady rate, through DDS and one node: drops, and the age of the masks.

    python benchmarks/live_cameras.py [--cameras 8] [--rate 30] [--size 1280x720] [--seconds 20]
    python benchmarks/live_cameras.py --shards 1 2 1 2    # one node and two, in turn

Each camera is a process of its own. A mask's age is from the image's publishing to the mask's
arrival in this process, which receives the masks of all cameras. With several shards, cameras
and cores are distributed among nodes as multi_camera.launch.py does; at a rate that no number
of nodes keeps up with, compare the masks per second.
"""
from __future__ import annotations

import argparse
from itertools import chain
import os
from pathlib import Path
import shlex
import sys
import tempfile
import time
from typing import Any

from camera import Camera
from featshare_core.evaluation.provenance import provenance
from featshare_core.machine import usable_cores
from featshare_ros.launching import NODE_NAME
from featshare_ros.shards import deal, Shard
from figures import engine_parser, report
from live_node import LiveNode, prepare_environment, REPORT_S
import numpy as np

COUNTED = ('received', 'processed', 'dropped', 'failed')


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of a run for each number of shards."""
    names = [f'camera{index}' for index in range(arguments.cameras)]
    load = round(os.getloadavg()[0], 2)
    runs = [{'shards': number, **run(arguments, names, number)} for number in arguments.shards]
    rates = {number: np.mean([one['masks per second'] for one in runs if one['shards'] == number])
             for number in arguments.shards}
    return {**provenance(f'python {shlex.join(sys.argv)}', runs[0]['device']),
            'size': arguments.size, 'cameras': arguments.cameras, 'rate': arguments.rate,
            'load before': load, 'runs': runs,
            'relative masks per second': {str(number): round(rate / rates[arguments.shards[0]], 2)
                                          for number, rate in rates.items()}}


def run(arguments: argparse.Namespace, names: list[str], number: int) -> dict[str, Any]:
    """Run a number of nodes on all cameras and return the figures."""
    from featshare_ros.images import encode_image
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image

    def settings(shard: Shard) -> tuple[list[str], dict[str, Any]]:
        rules = [('__node', shard.name), *shard.remappings]
        return ([*chain(*(('-r', f'{name}:={topic}') for name, topic in rules))],
                {'weights': arguments.weights, 'device': arguments.device,
                 'cameras': list(shard.cameras), 'threads': shard.threads})

    log = Path(tempfile.mkdtemp()) / 'node.log'
    (rules, parameters), *others = map(settings, deal(names, number, usable_cores()))
    live = LiveNode(['-m', 'featshare_ros.main'], log, *rules, **parameters)
    for rules, parameters in others:
        live.start(*rules, **parameters)
    ages: dict[str, list[float]] = {name: [] for name in names}

    def take(name: str) -> None:
        def on_mask(message: Any) -> None:
            stamp = message.header.stamp
            ages[name].append(1e3 * (time.time() - stamp.sec - 1e-9 * stamp.nanosec))
        live.ros.create_subscription(Image, f'/{NODE_NAME}/{name}/mask', on_mask,
                                     qos_profile_sensor_data)

    def have_answered(name: str) -> None:
        # The first image of a size waits for its engine. An image may be lost: so again and again.
        def send() -> None:
            first.header.stamp = live.ros.get_clock().now().to_msg()
            publisher.publish(first)

        publisher = live.ros.create_publisher(Image, f'{name}/image', qos_profile_sensor_data)
        timer = live.ros.create_timer(0.5, send)
        live.wait_until(lambda: bool(ages[name]), f'the first mask of {name}', 180)
        live.ros.destroy_timer(timer)
        live.ros.destroy_publisher(publisher)

    width, height = map(int, arguments.size.split('x'))
    first = encode_image(np.zeros((height, width, 3), np.uint8), 'rgb8', Image().header)
    for name in names:
        take(name)
    for name in names:
        have_answered(name)
    cameras = [Camera(f'{name}/image', arguments.size, arguments.rate, arguments.seconds)
               for name in names]
    for camera in cameras:
        camera.wait_until_ready()
    time.sleep(REPORT_S)
    before = {name: {key: int(live.values(name)[key]) for key in COUNTED} for name in names}
    for name in names:
        ages[name].clear()
    cpu = live.cpu_seconds()
    for camera in cameras:
        camera.begin()
    sent = sum(camera.sent() for camera in cameras)
    cpu = live.cpu_seconds() - cpu
    time.sleep(REPORT_S)
    counted = {key: sum(int(live.values(name)[key]) - before[name][key] for name in names)
               for key in COUNTED}
    p50, p99, largest = np.percentile(np.concatenate([*ages.values()]), (50, 99, 100))
    engine = live.values('engine')
    result = {
        'device': engine['device'], 'engine': engine['engine'], 'precision': engine['precision'],
        'images sent': sent, **counted, 'masks here': sum(map(len, ages.values())),
        'masks per second': round(counted['processed'] / arguments.seconds, 1),
        'CPU time of the nodes per mask (ms)': round(1e3 * cpu / max(1, counted['processed']), 1),
        'age (ms)': {'p50': round(p50, 1), 'p99': round(p99, 1), 'max': round(largest, 1)},
        'engine time p50 (ms)': live.engine_ms('p50'),
        'engine time p95 (ms)': live.engine_ms('p95')}
    result['exit status'] = live.close()
    return result


if __name__ == '__main__':
    parser = engine_parser(__doc__, '1280x720')
    parser.add_argument('--cameras', type=int, default=8)
    parser.add_argument('--shards', type=int, nargs='+', default=[1],
                        help='numbers of nodes, one run each')
    parser.add_argument('--rate', type=float, default=30, help='images a second of each camera')
    parser.add_argument('--seconds', type=float, default=20)
    prepare_environment()
    report(parser, measure)
