"""
Several cameras at a steady rate, through DDS and one node: drops, and the age of the masks.

    python benchmarks/live_cameras.py [--cameras 8] [--rate 30] [--size 1280x720] [--seconds 20]

Each camera is a process of its own. A mask's age is from the image's publishing to the mask's
arrival here, in the one process that takes in those of all cameras.
"""
from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from figures import engine_parser, report
from live_node import LiveNode, prepare_environment

COUNTED = ('received', 'processed', 'dropped', 'failed')


def publish(camera: str, arguments: argparse.Namespace) -> None:
    """Publish a noisy picture at a rate, once a line comes in, and print how many it were."""
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    from featshare_ros.images import encode_image
    rclpy.init()
    node = rclpy.create_node(f'{camera}_camera')
    publisher = node.create_publisher(Image, f'{camera}/image', qos_profile_sensor_data)
    width, height = map(int, arguments.size.split('x'))
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    message = encode_image(pixels, 'rgb8', Header())
    while not publisher.get_subscription_count():
        time.sleep(0.05)
    sys.stdin.readline()
    start, sent = time.monotonic(), 0
    while time.monotonic() < start + arguments.seconds:
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
        sent += 1
        time.sleep(max(0.0, start + sent / arguments.rate - time.monotonic()))
    print(sent)
    time.sleep(1.0)
    rclpy.shutdown()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the node on all cameras and return the figures."""
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image

    from featshare_ros.images import encode_image
    names = [f'camera{index}' for index in range(arguments.cameras)]
    log = Path(tempfile.mkdtemp()) / 'node.log'
    live = LiveNode(['-m', 'featshare_ros.node'], log, weights=arguments.weights,
                    device=arguments.device, cameras=names)
    ages: dict[str, list[float]] = {name: [] for name in names}

    def take(name: str) -> None:
        def on_mask(message: Any) -> None:
            stamp = message.header.stamp
            ages[name].append(1e3 * (time.time() - stamp.sec - 1e-9 * stamp.nanosec))
        live.ros.create_subscription(Image, f'/segmentation/{name}/mask', on_mask,
                                     qos_profile_sensor_data)

    width, height = map(int, arguments.size.split('x'))
    first = encode_image(np.zeros((height, width, 3), np.uint8), 'rgb8', Image().header)
    for name in names:
        take(name)
    for name in names:
        publisher = live.ros.create_publisher(Image, f'{name}/image', qos_profile_sensor_data)
        live.wait_until(lambda: publisher.get_subscription_count() > 0,  # noqa: B023
                        'the node', 180)
        while not ages[name]:  # the first image of a size waits for its engine
            first.header.stamp = live.ros.get_clock().now().to_msg()
            publisher.publish(first)
            time.sleep(0.2)
        live.ros.destroy_publisher(publisher)
    cameras = [subprocess.Popen(
        [sys.executable, __file__, '--publish', name, f'--rate={arguments.rate}',
         f'--size={arguments.size}', f'--seconds={arguments.seconds}'], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True) for name in names]
    time.sleep(5.0)
    before = {name: {key: int(live.told(name)[key]) for key in COUNTED} for name in names}
    for name in names:
        ages[name].clear()
    sent = []
    for camera in cameras:
        assert camera.stdin is not None
        camera.stdin.write('\n')
        camera.stdin.flush()
    for camera in cameras:
        sent.append(int(camera.communicate()[0]))
    time.sleep(2.5)
    counted = {key: sum(int(live.told(name)[key]) - before[name][key] for name in names)
               for key in COUNTED}
    p50, p99, largest = np.percentile(np.concatenate([*ages.values()]), (50, 99, 100))
    engine = live.told('engine')
    result = {
        'size': arguments.size, 'cameras': arguments.cameras, 'rate': arguments.rate,
        'device': engine['device'], 'engine': engine['engine'], 'precision': engine['precision'],
        'cores': os.cpu_count(), 'images sent': sum(sent), **counted,
        'masks here': sum(map(len, ages.values())),
        'age (ms)': {'p50': round(p50, 1), 'p99': round(p99, 1), 'max': round(largest, 1)},
        'engine time p50 (ms)': {mode: float(engine[f'{mode} engine p50 (ms)'])
                                 for mode in ('key', 'current')},
        'engine time p95 (ms)': {mode: float(engine[f'{mode} engine p95 (ms)'])
                                 for mode in ('key', 'current')}}
    result['exit status'] = live.close()
    return result


if __name__ == '__main__':
    parser = engine_parser(__doc__, '1280x720')
    parser.add_argument('--cameras', type=int, default=8)
    parser.add_argument('--rate', type=float, default=30, help='images a second of each camera')
    parser.add_argument('--seconds', type=float, default=20)
    parser.add_argument('--publish', help=argparse.SUPPRESS)
    prepare_environment()
    name = parser.parse_known_args()[0].publish
    if name:
        publish(name, parser.parse_args())
    else:
        report(parser, measure)
