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
Where a frame's time goes on a CUDA device: its kernels and copies, by PyTorch's profiler.

    python benchmarks/kernels.py [--weights NAME] [--size 512x512] [--shared-levels N]

For a key frame and a current frame: each kernel's runs and microseconds a frame, most first; all
of them together; and from the first one's begin to the last one's end, where a graph's gaps show.
"""
from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from featshare_core.arguments import size_argument
from featshare_core.data.synthetic import RenderedStreet
from featshare_core.inference.device import choose_device
from featshare_core.inference.engines import make_engine
from figures import engine_parser, report
import numpy as np
from torch.autograd import DeviceType
from torch.profiler import profile, ProfilerActivity

FRAMES = 20


def kernels(run: Callable[[], Any]) -> dict[str, Any]:
    """Return what a frame runs on the device; ``run`` handles a frame, and is run before."""
    for _ in range(FRAMES):
        run()
    found: dict[str, list[float]] = defaultdict(list)
    spans = []
    for _ in range(FRAMES):
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            run()
        ranges = []
        for event in profiled.events():
            if event.device_type == DeviceType.CUDA:
                ranges.append((event.time_range.start, event.time_range.end))
                found[event.name[:100]].append(event.time_range.end - event.time_range.start)
        spans.append(max(end for _, end in ranges) - min(start for start, _ in ranges))
    rows = sorted(((sum(times) / FRAMES, len(times) / FRAMES, name)
                   for name, times in found.items()), reverse=True)
    return {'busy_us': round(sum(row[0] for row in rows), 1),
            'span_us': round(float(np.median(spans)), 1),
            'runs': round(sum(row[1] for row in rows), 1),
            'kernels': [{'name': name, 'us': round(us, 1), 'runs': round(runs, 1)}
                        for us, runs, name in rows]}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Profile both modes."""
    if choose_device(arguments.device).type != 'cuda':
        raise SystemExit('kernels.py: a CUDA device is needed; PyTorch sees none')
    width, height = size_argument(arguments.size)
    engine = make_engine(arguments.weights, device=arguments.device,
                         shared_levels=arguments.shared_levels, input_size=(width, height))
    image = RenderedStreet(width, height, seed=0).frame(0)[0]
    return {'weights': arguments.weights, 'size': arguments.size, 'engine': engine.name,
            'precision': engine.precision, 'device': engine.device, 'fallback': engine.fallback,
            'shared_levels': arguments.shared_levels,
            'key': kernels(lambda: engine.key(image)),
            'current': kernels(lambda: engine.current(image))}


if __name__ == '__main__':
    parser = engine_parser(__doc__, '512x512')
    parser.add_argument('--shared-levels', type=int, default=2)
    report(parser, measure)
