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
What int8 costs and saves against fp32 and bf16: mIoU on CamVid val, and the time of frames.

    python benchmarks/int8.py --root CAMVID --calibrate 'NAME=VIDEO' [...] [--json FILE]

Times are CPU times of a key and a current frame in OpenVINO on one thread: medians over rounds in
which all variants take turns. They are measured again with oneDNN limited to AVX2, the newest
instruction set of most robots' x86 CPUs. Clock and caches remain those of this CPU.
"""
from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from statistics import median
import subprocess
import sys
from tempfile import TemporaryDirectory
import time
from typing import Any

INTERVAL = 5
ROUNDS = 40
FRAMES_BEFORE = 14
"""Number of frames before each scored frame, as in the report."""
LIMIT = 'ONEDNN_MAX_CPU_ISA'
"""The environment variable that limits oneDNN, and OpenVINO with it, to an instruction set."""


def times(weights: dict[str, str]) -> dict[str, dict[str, float]]:
    """Return the CPU time of a key and a current frame in ms, per weights and precision."""
    from featshare_core.inference.device import choose_precision
    from featshare_core.inference.engines import make_engine
    import numpy as np
    import torch
    torch.set_num_threads(1)
    native = choose_precision('auto', torch.device('cpu')) == 'bf16' and not os.environ.get(LIMIT)
    precisions = ('fp32', 'bf16') if native else ('fp32',)
    engines = {}
    for name, path in weights.items():
        size = {} if Path(path).is_dir() else {'input_size': (480, 352)}
        for precision in precisions:
            engines[f'{name}, {precision}'] = make_engine(path, 'openvino', 'cpu', precision,
                                                          **size)
    frame = np.random.default_rng(0).integers(0, 256, (352, 480, 3), np.uint8)
    found: dict[str, dict[str, list[float]]] = {n: {'key': [], 'current': []} for n in engines}
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            for kind, run in (('key', engine.key), ('current', engine.current)):
                start = time.process_time()
                run(frame)
                found[name][kind].append(1e3 * (time.process_time() - start))
    rounded = {}
    for name, kinds in found.items():
        key, current = (median(kinds[kind]) for kind in ('key', 'current'))
        rounded[name] = {'key': round(key, 1), 'current': round(current, 1), 'mean': round(
            (key + (INTERVAL - 1) * current) / INTERVAL, 1)}
    return rounded


def featshare(*arguments: str) -> None:
    """Run the command line in a process of its own."""
    subprocess.run([sys.executable, '-m', 'featshare_core.cli', *arguments], check=True,
                   stdout=subprocess.DEVNULL)


def accuracy(weights: str, root: str, folder: Path) -> dict[str, float]:
    """Return mIoU in percent on CamVid val: key frames, and the mean over the interval."""
    featshare('evaluate', '--weights', weights, '--interval', str(INTERVAL), '--data', 'camvid',
              '--root', root, '--frames-before', str(FRAMES_BEFORE), '--json',
              str(folder / 'score.json'))
    score = json.loads((folder / 'score.json').read_text())
    miou = score['miou']
    return {'key': round(miou['key'], 1), 'mean': round(miou['weighted'], 1),
            'frames': score['frames']}


def main() -> None:
    """Export, score and time; print, write."""
    from featshare_core.evaluation.provenance import provenance
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--weights', nargs='+', default=['default', 'light'])
    parser.add_argument('--root', required=True, help='the folder of CamVid')
    parser.add_argument('--calibrate', nargs='+', required=True, metavar='NAME=VIDEO')
    parser.add_argument('--json', type=Path)
    parser.add_argument('--times', help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.times:
        print(json.dumps(times(json.loads(arguments.times))))
        return
    scores: dict[str, Any] = {}
    measured: dict[str, Any] = {}
    with TemporaryDirectory() as temporary:
        folder, paths = Path(temporary), {}
        for name in arguments.weights:
            paths[name] = name
            scores[name] = {'not quantised': accuracy(name, arguments.root, folder)}
            for source in arguments.calibrate:
                label, _, video = source.partition('=')
                path = folder / f'{name}-{label}'
                featshare('export', str(path), '--weights', name, '--size', '480x352', '--int8',
                          video)
                scores[name][label] = accuracy(str(path), arguments.root, folder)
                paths[f'{name} int8'] = str(path)
        for label, limit in (('this CPU', {}), ('limited to AVX2', {LIMIT: 'AVX2'})):
            measured[label] = json.loads(subprocess.run(
                [sys.executable, __file__, '--root', arguments.root, '--calibrate', '-',
                 '--times', json.dumps(paths)], check=True, text=True, stdout=subprocess.PIPE,
                env={**os.environ, **limit}).stdout)
    command = 'python benchmarks/int8.py --root CAMVID --calibrate ' + ' '.join(
        f"'{source.partition('=')[0]}=...'" for source in arguments.calibrate)
    text = json.dumps({**provenance(command, 'cpu'), 'size': '480x352', 'interval': INTERVAL,
                       'miou': scores, 'ms': measured}, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + '\n')


if __name__ == '__main__':
    main()
