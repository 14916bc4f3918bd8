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
What several cameras cost one engine: frames a second in all, latency, and memory.

    python benchmarks/multi_camera.py [--size 1280x720] [--cameras 1 2 4 8] [--json FILE]

Every camera is a stream of one segmenter; frames come in turn, as fast as the device goes.
"""
from __future__ import annotations

import argparse
import itertools
from pathlib import Path
import time
from typing import Any

from featshare_core.data.synthetic import RenderedStreet
from featshare_core.inference.segmenter import VideoSegmenter
from figures import engine_parser, report
import numpy as np
import torch


def resident_bytes() -> int:
    """Return what this process holds in memory."""
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * 4096


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of each number of cameras."""
    width, height = map(int, arguments.size.split('x'))
    street = RenderedStreet(width, height, seed=0)
    video = itertools.cycle([street.frame(index)[0] for index in range(10)])
    segmenter = VideoSegmenter.from_checkpoint(arguments.weights, device=arguments.device)
    segmenter.warm_up()
    segmenter.segment(next(video), 'first of this size')
    figures: dict[str, Any] = {}
    for cameras in arguments.cameras:
        streams = [f'{cameras} cameras: {index}' for index in range(cameras)]
        for stream in streams:
            segmenter.segment(next(video), stream)
        before = resident_bytes()
        taken, start = [], time.perf_counter()
        for count in range(arguments.frames):
            began = time.perf_counter()
            segmenter.segment(next(video), streams[count % cameras])
            taken.append(1e3 * (time.perf_counter() - began))
        rate = arguments.frames / (time.perf_counter() - start)
        figures[str(cameras)] = {
            'frames_per_second': round(rate, 1),
            'ms': {name: round(float(np.percentile(taken, q)), 2)
                   for name, q in (('p50', 50), ('p99', 99), ('worst', 100))},
            'memory_mib': round(resident_bytes() / 2**20),
            'growth_mib': round((resident_bytes() - before) / 2**20, 1)}
        for stream in streams:
            segmenter.forget(stream)
    engine = segmenter.engine
    return {'size': arguments.size, 'engine': engine.name, 'precision': engine.precision,
            'device': engine.device, 'network': engine.network_name,
            'torch': torch.__version__, 'frames': arguments.frames, 'cameras': figures}


if __name__ == '__main__':
    parser = engine_parser(__doc__, '1280x720')
    parser.add_argument('--cameras', type=int, nargs='+', default=[1, 2, 4, 8])
    parser.add_argument('--frames', type=int, default=160)
    report(parser, measure)
