"""
How long a process takes from its start to its first mask, and from there to the second size.

    python benchmarks/cold_start.py [--size 1280x720] [--engines auto torch] [--json FILE]

Each start is a new process. The first one ever exports the network's models, a later one finds
them in the cache.
"""
from __future__ import annotations

import argparse
import os
import subprocess
import sys
from statistics import median
from tempfile import TemporaryDirectory
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
STARTS = ('first ever', 'later')
STEPS = ('import', 'load', 'first frame', 'second frame', 'first frame of another size')


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the median seconds of each step, by engine and start."""
    figures: dict[str, Any] = {}
    for engine in arguments.engines:
        runs: dict[str, list[list[float]]] = {start: [] for start in STARTS}
        for _ in range(arguments.runs):
            with TemporaryDirectory() as cache:
                for start in STARTS:
                    name, *seconds = subprocess.run(
                        [sys.executable, '-c', ONE, arguments.weights, arguments.device, engine,
                         *arguments.size.split('x')], check=True, text=True,
                        stdout=subprocess.PIPE, env={**os.environ, 'XDG_CACHE_HOME': cache},
                    ).stdout.split()
                    runs[start].append([float(value) for value in seconds])
        figures[name] = {start: {step: round(median(column), 3) for step, column
                                 in zip(STEPS, zip(*rows))} for start, rows in runs.items()}
    return {'size': arguments.size, 'runs': arguments.runs, 'seconds': figures}


if __name__ == '__main__':
    parser = engine_parser(__doc__, '1280x720')
    parser.add_argument('--engines', nargs='+', default=['auto', 'torch'])
    parser.add_argument('--runs', type=int, default=3)
    report(parser, measure)
