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
How much of the engine's rate segment_bag reaches, and how Ray's workers add up.

    python benchmarks/bag_throughput.py [--frames 150] [--rounds 3] [--raw] [--json FILE]
    python benchmarks/bag_throughput.py --ray [--frames 150] [--rounds 3]

Paired: in each round the engine first runs alone on the frames, decoded before and held in
memory, then segment_bag reads, decodes, segments, encodes and writes the recording of the same
frames, then the engine again; the ratio is against the mean of the two. With --ray, two
recordings are segmented by one worker of one core, then by two.
"""
from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
import platform
import statistics
import subprocess
import sys
import tempfile
import time

from featshare_core.data.synthetic import RenderedStreet
from featshare_core.inference.segmenter import VideoSegmenter
from featshare_ros.images import decode_compressed, decode_image
from featshare_ros.recordings.bag import open_recording, write_recording
from featshare_ros.recordings.segment_recording import Job, segment_recording
import torch

SIZE, FPS = (960, 540), 25


def make(path: Path, frames: int, raw: bool, seed: int) -> None:
    """Write a recording of the rendered street."""
    street = RenderedStreet(*SIZE, seed, FPS)
    write_recording(path, (street.frame(index)[0] for index in range(frames)), '/camera',
                    FPS, None if raw else 92)


def engine_rate(path: Path, job: Job) -> float:
    """Return the frames per second of the engine alone, on frames in memory."""
    with open_recording(path) as recording:
        frames = [((decode_compressed if image.compressed else decode_image)(image.message),
                   image.stamp_ns * 1e-9) for image in recording]
    segmenter = VideoSegmenter.from_checkpoint(
        job.weights, job.key_interval, job.device, max_key_age=job.max_key_age)
    segmenter.warm_up()
    start = time.monotonic()
    for frame, stamp in frames:
        segmenter.segment(frame, '', stamp)
    return len(frames) / (time.monotonic() - start)


def throughput(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Return the paired rates."""
    job = Job(weights=options.weights, device=options.device)
    make(folder / 'in', options.frames, options.raw, 1)
    rounds = []
    before = engine_rate(folder / 'in', job)
    for index in range(options.rounds):
        outcome = segment_recording(folder / 'in', folder / f'out{index}', job)
        after = engine_rate(folder / 'in', job)
        bag = outcome.new_frames / outcome.seconds
        rounds.append({'engine': (before + after) / 2, 'segment_bag': bag,
                       'ratio': 2 * bag / (before + after)})
        print(f'engine {before:.2f} and {after:.2f} frames/s, segment_bag {bag:.2f}: '
              f'{rounds[-1]["ratio"]:.3f}', flush=True)
        before = after
    ratio = statistics.median(entry['ratio'] for entry in rounds)
    print(f'median ratio {ratio:.3f} of {len(rounds)} rounds')
    return {'rounds': rounds, 'median ratio': ratio}


def workers(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Return the seconds of an archive with one worker and with two, tasks only."""
    for seed in (1, 2):
        make(folder / 'in' / str(seed), options.frames, options.raw, seed)
    rounds = []
    for index in range(options.rounds):
        seconds = {}
        for count in (1, 2):
            code = (
                'import ray, sys, time\n'
                'from pathlib import Path\n'
                'from featshare_ros import fleet\n'
                'from featshare_ros.recordings.segment_recording import Job\n'
                'source, output, count, weights = Path(sys.argv[1]), *sys.argv[2:]\n'
                'ray.init(num_cpus=int(count), logging_level=40, log_to_driver=False)\n'
                'task = ray.remote(num_cpus=1)(fleet.segment_one)\n'
                'job = Job(weights=weights)\n'
                # Workers start and import torch once, whatever the length of an archive.
                'warm = [task.remote("", "missing", "missing", job) for _ in range(int(count))]\n'
                'ray.get(warm)\n'
                'start = time.monotonic()\n'
                'rows = ray.get([task.remote(name, str(path), f"{output}/{name}", job)\n'
                '                for name, path in fleet.find_recordings(source, '
                'Path(output)).items()])\n'
                'assert all(row.state == "done" for row in rows), rows\n'
                'print(time.monotonic() - start)\n')
            done = subprocess.run(
                [sys.executable, '-c', code, folder / 'in', folder / f'out{index}_{count}',
                 str(count), options.weights], capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            seconds[count] = float(done.stdout.split()[-1])
        rounds.append(seconds[1] / seconds[2])
        print(f'one worker {seconds[1]:.1f} s, two {seconds[2]:.1f} s: {rounds[-1]:.2f} times',
              flush=True)
    print(f'median {statistics.median(rounds):.2f} of {len(rounds)} rounds')
    return {'speed-up': rounds, 'median': statistics.median(rounds)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--frames', type=int, default=150)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--raw', action='store_true', help='raw images instead of JPEG')
    parser.add_argument('--ray', action='store_true', help='measure workers instead')
    parser.add_argument('--weights', default='default')
    parser.add_argument('--device', default='auto')
    parser.add_argument('--json', type=Path)
    options = parser.parse_args()
    print(f'{SIZE[0]}x{SIZE[1]}, {options.frames} frames, {os.cpu_count()} cores, '
          f'{torch.get_num_threads()} threads, {platform.machine()}')
    with tempfile.TemporaryDirectory() as folder:
        result = (workers if options.ray else throughput)(options, Path(folder))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == '__main__':
    main()
