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
Every benchmark that this device can run, in about ten minutes: one JSON file, one Markdown table.

    make bench        or        python benchmarks/bench.py [--device auto] [--output bench]

Each question is a script of its own beside this one; what it prints is kept whole in the JSON.
With a CUDA device, its tests are run too. The floor of a frame is what its multiply-adds and its
bytes would take at the rates that this device reaches on a large matrix product and a large copy.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
import json
from pathlib import Path
import subprocess
import sys
import time
from typing import Any

from featshare_core.evaluation.provenance import provenance
from featshare_core.evaluation.tables import table
from featshare_core.inference.device import choose_device, choose_precision, PRECISIONS
import torch

HERE = Path(__file__).resolve().parent
# (width, height), shared levels, frames on a CPU: the larger, the fewer.
FRAMES = (((512, 512), 1, 60), ((512, 512), 2, 100), ((512, 512), 3, 60), ((1024, 512), 2, 30),
          ((1024, 512), 3, 30), ((2048, 1024), 2, 10))


def rates(device: torch.device) -> dict[str, float]:
    """Return 10^9 multiply-adds a second by precision, and GB/s read and written by a copy."""
    def seconds(run: Callable[[], Any]) -> float:
        best = float('inf')
        for _ in range(6):
            if device.type == 'cuda':
                torch.cuda.synchronize(device)
            start = time.perf_counter()
            run()
            if device.type == 'cuda':
                torch.cuda.synchronize(device)
            best = min(best, time.perf_counter() - start)
        return best

    side = 8192 if device.type == 'cuda' else 2048
    found = {}
    for precision in dict.fromkeys(('fp32', choose_precision('auto', device))):
        one = torch.randn(side, side, device=device, dtype=PRECISIONS[precision])
        found[precision] = side**3 / 1e9 / seconds(lambda: one @ one)  # noqa: B023
    data = torch.randn(2**27 if device.type == 'cuda' else 2**25, device=device)
    other = torch.empty_like(data)
    found['gigabytes'] = 2 * 4 * data.numel() / 1e9 / seconds(lambda: other.copy_(data))
    return {name: round(value, 1) for name, value in found.items()}


def run(folder: Path, name: str, *command: str) -> dict[str, Any]:
    """Run a script that writes JSON, into a folder; return that, or why there is none."""
    print(f'== {name}', file=sys.stderr, flush=True)
    start = time.monotonic()
    path = folder / f'{name}.json.part'
    path.unlink(missing_ok=True)
    done = subprocess.run([sys.executable, *command, '--json', str(path)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    result: dict[str, Any] = {'failed': done.stdout[-1000:]}
    if done.returncode == 0 and path.is_file():
        result = json.loads(path.read_text())
        path.unlink()
    return {**result, 'seconds taken': round(time.monotonic() - start, 1)}


def latencies(result: dict[str, Any]) -> list[list[str]]:
    """Return table rows: each size, cut and engine, with its floor."""
    rows = []
    reached = result['rates']
    best = next(name for name in reversed(reached) if name in PRECISIONS)
    for found in result['frames']:
        if 'failed' in found:
            continue
        for engine, ms in found['ms'].items():
            precision = 'fp32' if engine in ('eager-fp32', 'onnx') else best
            floor = {kind: 1e3 * max(
                found['work'][kind]['gmacs'] / reached[precision],
                sum(found['work'][kind][f'{what}_mb'] for what in ('weight', 'activation'))
                / (1 if precision == 'fp32' else 2) / 1e3 / reached['gigabytes'])
                for kind in ('key', 'current')}
            rows.append(['x'.join(map(str, found['size'])), str(found['shared_levels']), engine,
                         *(f'{ms[kind]:.2f} ({floor[kind]:.2f})' for kind in ('key', 'current')),
                         f'{ms["current"] / ms["key"]:.2f}', f'{found["baseline"][engine]:.2f}',
                         f'{found["average_over_baseline"][engine]["5"]:.2f}'])
    return rows


def markdown(result: dict[str, Any]) -> str:
    """Return the tables."""
    parts = [f'# {result["machine"]}', f'{result["command"]}; {result["date"]}; '
             + ', '.join(f'{name} {value}' for name, value in result['versions'].items()),
             'Milliseconds, in brackets the floor.',
             table(['images', 'shared levels', 'engine', 'key', 'current', 'current / key',
                    'per frame', 'interval 5 / per frame'], latencies(result))]
    for name, found in result['questions'].items():
        parts += [f'## {name}', '```\n' + json.dumps(found, indent=1) + '\n```']
    return '\n\n'.join(parts) + '\n'


def main() -> None:
    """Run everything, and write both files after each answer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='auto')
    parser.add_argument('--output', type=Path, default=Path('bench'))
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    arguments.output.mkdir(parents=True, exist_ok=True)
    kind, cuda = device.type, device.type == 'cuda'
    result: dict[str, Any] = {
        **provenance(f'python benchmarks/bench.py --device {kind}', str(device)),
        'date': time.strftime('%Y-%m-%d'), 'rates': rates(device), 'frames': [], 'questions': {}}

    def keep() -> None:
        (arguments.output / f'{kind}.json').write_text(json.dumps(result, indent=1) + '\n')
        (arguments.output / f'{kind}.md').write_text(markdown(result))

    for size, levels, frames in FRAMES:
        result['frames'].append(run(
            arguments.output, 'frames', '-m', 'featshare_core.cli', 'benchmark', '--device', kind,
            '--size', f'{size[0]}x{size[1]}', '--shared-levels', str(levels),
            '--frames', str(500 if cuda else frames)))
        keep()
    scripts = {
        'instead': (), 'first_mask': (), 'multi_camera': (),
        'deferred': ('--rate', '60' if cuda else '10', '--frames', '600' if cuda else '150'),
        'node_overhead': ('--rate', '30' if cuda else '5', '--frames', '100'),
        **({'kernels': (), 'live_cameras': ('--seconds', '10')} if cuda else {})}
    for name, more in scripts.items():
        result['questions'][name] = run(arguments.output, name, str(HERE / f'{name}.py'),
                                        '--device', kind, *more)
        keep()
    if cuda:
        tests = subprocess.run(
            [sys.executable, '-m', 'pytest', '-q', '-k', 'cuda', str(HERE.parent / 'test')],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        result['questions']['tests'] = {'passed': tests.returncode == 0,
                                        'end': tests.stdout[-2000:].splitlines()}
        keep()
    print(markdown(result))
    failed = [name for name, found in result['questions'].items() if 'failed' in found]
    if failed or any('failed' in found for found in result['frames']):
        sys.exit(f'failed: {", ".join(failed) or "frames"}; see {arguments.output}')


if __name__ == '__main__':
    main()
