"""
How long a process takes from its start to its first mask, and from there to the second size.

    python benchmarks/cold_start.py [--size 1280x720] [--engines auto torch] [--json FILE]

Each engine is a new process, so that nothing is warm but the disk's cache.
"""
from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Any

from figures import engine_parser, report

ONE = """
import sys, time
start = time.perf_counter()
import numpy as np
from featshare_core.inference.segmenter import VideoSegmenter
imported = time.perf_counter()
weights, device, engine, width, height = sys.argv[1:]
frame = np.zeros((int(height), int(width), 3), np.uint8)
segmenter = VideoSegmenter.from_checkpoint(weights, device=device, engine=engine)
loaded = time.perf_counter()
segmenter.segment(frame)
first = time.perf_counter()
segmenter.segment(frame)
second = time.perf_counter()
segmenter.segment(frame[: int(height) // 2])
resized = time.perf_counter()
print(segmenter.engine.name, imported - start, loaded - imported, first - loaded, second - first,
      resized - second)
"""
STEPS = ('import', 'load', 'first frame', 'second frame', 'first frame of another size')


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the median seconds of each step, by engine."""
    figures: dict[str, Any] = {}
    for engine in arguments.engines:
        runs = []
        for _ in range(arguments.runs):
            output = subprocess.run(
                [sys.executable, '-c', ONE, arguments.weights, arguments.device, engine,
                 *arguments.size.split('x')], check=True, capture_output=True, text=True).stdout
            name, *seconds = output.split()
            runs.append([float(value) for value in seconds])
        middle = [sorted(column)[len(column) // 2] for column in zip(*runs)]
        figures[name] = {step: round(value, 3) for step, value in zip(STEPS, middle)}
    return {'size': arguments.size, 'runs': arguments.runs, 'seconds': figures}


if __name__ == '__main__':
    parser = engine_parser(__doc__, '1280x720')
    parser.add_argument('--engines', nargs='+', default=['auto', 'torch'])
    parser.add_argument('--runs', type=int, default=3)
    report(parser, measure)
