"""
What the node adds to the engine's time: from a message's arrival to its mask published.

    python benchmarks/node_overhead.py [--size 1280x720] [--rate 5] [--frames 100] [--json FILE]

The real node runs in this process, so that each frame's own engine time can be subtracted; the
images come from another process over DDS, slowly enough that none waits for the one before.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]


def publish(width: int, height: int, rate: float, frames: int) -> None:
    """Publish a noisy picture at a rate, once somebody subscribes."""
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    from featshare_ros.images import encode_image
    rclpy.init()
    node = rclpy.create_node('camera')
    publisher = node.create_publisher(Image, 'image', qos_profile_sensor_data)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    while not publisher.get_subscription_count():
        time.sleep(0.05)
    time.sleep(0.5)
    for _ in range(frames):
        header = Header(stamp=node.get_clock().now().to_msg())
        publisher.publish(encode_image(pixels, 'rgb8', header))
        time.sleep(1 / rate)
    rclpy.shutdown()


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Run the node on the publisher's images and return the milliseconds of each part."""
    import rclpy
    import torch
    from rclpy.executors import SingleThreadedExecutor

    from featshare_ros.diagnostics import CameraStatistics
    from featshare_ros.node import SegmentationNode

    samples: list[tuple[bool, float, float]] = []
    counted = CameraStatistics.processed

    def processed(self, result, latency_ms, age_ms):  # type: ignore[no-untyped-def]
        samples.append((result.is_key, latency_ms, sum(result.timings.values())))
        counted(self, result, latency_ms, age_ms)

    CameraStatistics.processed = processed  # type: ignore[method-assign]
    rclpy.init(args=['--ros-args', '-p', f'device:={arguments.device}',
                     '-p', f'weights:={arguments.weights}'])
    node = SegmentationNode()
    node.autostart()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    threading.Thread(target=executor.spin, daemon=True).start()
    subprocess.run([sys.executable, __file__, '--publish', f'--size={arguments.size}',
                    f'--rate={arguments.rate}', f'--frames={arguments.frames + 10}'], check=True)
    time.sleep(1.0)
    device = 'none' if node._segmenter is None else node._segmenter.engine['device']
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    figures: dict[str, object] = {
        'size': arguments.size, 'device': device, 'machine': platform.processor() or
        platform.machine(), 'cores': os.cpu_count(), 'torch': torch.__version__,
        'frames': len(samples[10:])}
    latency, engine = np.array([sample[1:] for sample in samples[10:]]).T
    for name, values in (('latency', latency), ('engine', engine), ('overhead', latency - engine)):
        figures[f'{name}_ms'] = {f'p{q}': round(float(np.percentile(values, q)), 2)
                                 for q in (50, 95, 100)}
    return figures


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--size', default='1280x720')
    parser.add_argument('--rate', type=float, default=5.0, help='images a second')
    parser.add_argument('--frames', type=int, default=100)
    parser.add_argument('--device', default='auto')
    parser.add_argument('--weights', default='default')
    parser.add_argument('--json', type=Path)
    parser.add_argument('--publish', action='store_true', help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    os.environ.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 100))
    for variable in ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'):
        os.environ.setdefault(variable, str(REPOSITORY / 'config' / 'fastdds_large_images.xml'))
    if arguments.publish:
        publish(*map(int, arguments.size.split('x')), arguments.rate, arguments.frames)
        return
    text = json.dumps(measure(arguments), indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + '\n')


if __name__ == '__main__':
    main()
