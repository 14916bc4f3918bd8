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
"""The rows of the thesis's Table 5.2, trained here by its recipe at a reduced size."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
import sys
from typing import Any

from featshare_core.evaluation.thesis import BASELINE, ROWS
from featshare_core.evaluation.videos import DataChoice
from featshare_core.inference.export.models import read_config

CONFIGS = Path(__file__).parents[2] / 'config' / 'train'
"""Folder of the configurations in a source tree."""
REDUCED = 'cpu-ablation'
"""Name of the configuration that makes a recipe small enough for two CPU cores."""


def find_runs(runs: Path) -> dict[str, Path]:
    """
    Return the checkpoints of the rows that a folder of runs holds, by the rows' names.

    :raises ValueError: where it holds none.
    """
    paths = {name: _checkpoint(runs, name) for name in ROWS}
    found = {name: path for name, path in paths.items() if path.is_file()}
    if not found:
        raise ValueError(f'{runs} holds none of the runs '
                         f'{", ".join(row.run for row in ROWS.values())}; --train trains them')
    return found


def train_runs(runs: Path, data: DataChoice, device: str) -> None:
    """
    Train the rows that a folder of runs lacks: by the thesis's recipe, at the size of ``REDUCED``.

    The baseline, from which the others start, begins with ImageNet weights, as the thesis's does.

    :param data: what is scored; the rows learn from its split ``train``.
    :raises ValueError, OSError: where the data or the backbone's weights do not fit.
    """
    from featshare_core.training.config import load_config
    from featshare_core.training.run import train
    if data.kind not in ('camvid', 'cityscapes') or data.root is None:
        raise ValueError(f'--train is for --data camvid and cityscapes, not for {data.kind}')
    if not CONFIGS.is_dir():
        raise ValueError('--train needs the configurations in config/train, which are in a clone '
                         'of the source and not in an installation')
    root = data.root.resolve()
    entry = {'kind': data.kind, 'root': root.name, 'annotations': data.annotations}
    for name, row in ROWS.items():
        if _checkpoint(runs, name).is_file():
            continue
        is_baseline = row.config == ROWS[BASELINE].config
        overrides: dict[str, Any] = {
            'train': [{**entry, 'split': 'train'}], 'val': {**entry, 'split': data.split},
            'baseline': None if is_baseline else str(_checkpoint(runs, BASELINE)),
            'backbone_weights': 'imagenet' if is_baseline else None}
        files = [row.config, *(['data-camvid'] if data.kind == 'camvid' else []), REDUCED]
        print(f'training {row.run}: {name}', file=sys.stderr, flush=True)
        train(load_config([CONFIGS / f'{file}.yaml' for file in files], overrides, row.settings),
              runs / row.run, root.parent, device, progress=sys.stderr.isatty())


def amount(weights: Path) -> str:
    """Return how long a checkpoint was trained, for display; empty where it does not say."""
    training = read_config(weights).training
    if not isinstance(training, Mapping) or 'epochs' not in training:
        return ''
    epochs, steps = training['epochs'], training['steps_per_epoch']
    length = f'{epochs * steps} steps' if steps else f'{epochs} epochs'
    width, height = training['crop']
    return f'{length}, batch {training["batch"]}, {width}x{height}'


def _checkpoint(runs: Path, name: str) -> Path:
    from featshare_core.training.config import FINAL
    return runs / ROWS[name].run / FINAL
