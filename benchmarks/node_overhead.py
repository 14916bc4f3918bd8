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
What the node adds to the engine's time: from a message's arrival to its mask published.

    python benchmarks/node_overhead.py [--size 1280x720] [--rate 5] [--frames 100] [--json FILE]

The real node runs in this process, so that each frame's own engine time can be subtracted; the
images come from another process over DDS, slowly enough that none waits for the one before.
"""
from __future__ import annotations

import argparse
import threading
import time

from camera import Camera
from figures import engine_parser, report
from live_node import prepare_environment
import numpy as np


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Run the node on the publisher's images and return the milliseconds of each part."""
    from featshare_ros.diagnostics import CameraStatistics
    from featshare_ros.node import SegmentationNode
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    samples: list[tuple[bool, float, float]] = []
    counted = CameraStatistics.processed

    def processed(self, result, latency_ms, *others):  # type: ignore[no-untyped-def]
        samples.append((result.is_key, latency_ms, sum(result.timings.values())))
        counted(self, result, latency_ms, *others)

    CameraStatistics.processed = processed  # type: ignore[method-assign]
    rclpy.init(args=['--ros-args', '-p', f'device:={arguments.device}',
                     '-p', f'weights:={arguments.weights}'])
    node = SegmentationNode()
    node.autostart()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    camera = Camera('image', arguments.size, arguments.rate,
                    (arguments.frames + 10) / arguments.rate)
    camera.wait_until_ready()
    camera.begin()
    camera.sent()
    time.sleep(1.0)
    device = 'none' if node._segmenter is None else node._segmenter.engine['device']
    executor.shutdown()
    thread.join(5.0)
    node.destroy_node()
    rclpy.try_shutdown()
    figures: dict[str, object] = {
        'size': arguments.size, 'hz': arguments.rate, 'device': device,
        'frames': len(samples[10:])}
    latency, engine = np.array([sample[1:] for sample in samples[10:]]).T
    for name, values in (('latency', latency), ('engine', engine), ('overhead', latency - engine)):
        figures[f'{name}_ms'] = {kind: round(float(np.percentile(values, q)), 2)
                                 for kind, q in (('p50', 50), ('p95', 95), ('worst', 100))}
    return figures


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = engine_parser(__doc__, '1280x720')
    parser.add_argument('--rate', type=float, default=5.0, help='images a second')
    parser.add_argument('--frames', type=int, default=100)
    prepare_environment()
    report(parser, measure)


if __name__ == '__main__':
    main()
