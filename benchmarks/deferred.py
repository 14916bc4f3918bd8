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
Blocking against deferred key frames, at a camera's steady rate.

    python benchmarks/deferred.py [--size 512x512] [--rate 10] [--frames 150] [--json FILE]

Both modes take turns of some intervals each in one run. A frame that is still being worked on when
the next one comes delays that one: latency counts from the moment the frame was due.
"""
from __future__ import annotations

import argparse
from collections import Counter
import itertools
import time
from typing import Any

from featshare_core.data.synthetic import RenderedStreet
from featshare_core.inference.segmenter import KEY_MODES, VideoSegmenter
from figures import engine_parser, report
import numpy as np

TURN = 25  # frames


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return latency and lags of both modes."""
    width, height = map(int, arguments.size.split('x'))
    street = RenderedStreet(width, height, seed=0)
    video = itertools.cycle([street.frame(index)[0] for index in range(10)])
    segmenters = {mode: VideoSegmenter.from_checkpoint(
        arguments.weights, arguments.interval, arguments.device, engine=arguments.engine,
        key_mode=mode) for mode in KEY_MODES}
    taken: dict[str, list[float]] = {mode: [] for mode in KEY_MODES}
    lags: dict[str, Counter[int]] = {mode: Counter() for mode in KEY_MODES}
    for segmenter in segmenters.values():
        for _ in range(2 * arguments.interval):
            segmenter.segment(next(video))
    for _ in range(-(-arguments.frames // TURN)):
        for mode, segmenter in segmenters.items():
            due = time.perf_counter()
            # The first interval after a pause is not timed: a camera makes none.
            for number in range(-arguments.interval, TURN):
                time.sleep(max(0, due - time.perf_counter()))
                result = segmenter.segment(next(video))
                if number >= 0:
                    taken[mode].append(1e3 * (time.perf_counter() - due))
                    lags[mode][result.frames_since_key] += 1
                due += 1 / arguments.rate
    engine = segmenters['blocking'].engine
    figures: dict[str, Any] = {
        'size': arguments.size, 'rate': arguments.rate, 'interval': arguments.interval,
        'engine': engine.name, 'precision': engine.precision, 'device': engine.device,
        'network': engine.network_name, 'runs': {}}
    for mode, values in taken.items():
        p50, p99, worst = np.percentile(values, (50, 99, 100))
        figures['runs'][f'{arguments.weights}, {arguments.rate:g} Hz, {mode}'] = [{
            'p50': round(p50, 2), 'p99': round(p99, 2), 'worst': round(worst, 2),
            'p99_over_p50': round(p99 / p50, 2),
            'frames by lag': dict(sorted(lags[mode].items()))}]
    return figures


if __name__ == '__main__':
    parser = engine_parser(__doc__, '512x512')
    parser.add_argument('--rate', type=float, default=10, help='frames a second')
    parser.add_argument('--interval', type=int, default=5)
    parser.add_argument('--frames', type=int, default=150, help='of each mode')
    parser.add_argument('--engine', default='auto')
    report(parser, measure)
