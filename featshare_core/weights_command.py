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
"""The subcommands ``featshare pull`` and ``featshare show``."""
from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from featshare_core.text import printable


def pull_command(arguments: argparse.Namespace) -> None:
    """
    Fetch a network from a model hub, so that its name can be given as weights.

    It is a model that save_pretrained of segmentation_models_pytorch or of transformers wrote
    (SegFormer, UPerNet on ConvNeXt). Its files go into huggingface_hub's cache (HF_HOME); nothing
    is unpickled. It is converted into the cache folder, where the divided network is compared
    with the whole one. Nothing else downloads networks, the node included.
    """
    from featshare_core.networks.weights import CheckpointError, hub_name, pull
    name = hub_name(arguments.name)
    if name is None:
        raise CheckpointError(f'{arguments.name} is not org/name or org/name@revision, or there '
                              f'is a file or a folder of that name')
    folder = pull(name)
    print(f'pulled {name.repository}@{folder.name}')
    _print(str(name))


def show_command(arguments: argparse.Namespace) -> None:
    """Show what weights are: network, cut, classes, size, normalisation, licence and SHA-256."""
    _print(arguments.weights)


def _print(weights: str) -> None:
    for label, text in _description(weights):
        print(f'{label:14} {printable(text, 10_000)}')


def _description(weights: str) -> Iterator[tuple[str, str]]:
    from featshare_core.inference.engine import named
    from featshare_core.inference.export.models import ExportedModels, fingerprint
    from featshare_core.networks.checkpoint import licence_remark, load_checkpoint
    from featshare_core.networks.normalisation import as_text
    from featshare_core.networks.weights import find_weights, is_exported
    path = find_weights(weights)
    if is_exported(path):
        exported = ExportedModels(path)
        config, levels = exported.config, exported.shared_levels
        cut = 'fixed when it was exported'
        height, width = exported.size
    else:
        network, config = load_checkpoint(path)
        levels = network.shared_levels
        cut = f'it can share {", ".join(map(str, network.cuts))} levels'
        width, height = config.input_size
    training = config.training if isinstance(config.training, Mapping) else {}
    yield 'file', str(path)
    if 'converted_from' in training:
        yield 'converted from', f'{training["converted_from"]}'
    yield 'network', named(config, levels)
    yield 'cut', cut
    yield 'classes', f'{len(config.labels)}: {", ".join(config.labels.names)}'
    yield 'size', f'{width}x{height}'
    yield 'normalisation', as_text((config.mean, config.std))
    if 'assumed' in training:
        yield 'assumed', '; '.join(map(str, training['assumed']))
    yield 'licence', config.licence + licence_remark(config)
    yield 'sha256', fingerprint(path)


def add_weights_commands(subparsers: Any) -> None:
    """Add ``pull`` and ``show`` to the command line's subparsers."""
    command = subparsers.add_parser(
        'pull', help='fetch a network from a model hub', description=pull_command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    command.set_defaults(run=pull_command)
    command.add_argument('name', help='org/name, or org/name@revision: a branch, tag or commit')
    command = subparsers.add_parser(
        'show', help='show what weights are', description=show_command.__doc__)
    command.set_defaults(run=show_command)
    command.add_argument('weights', nargs='?', default='default',
                         help='as for --weights of the other commands; default: %(default)s')
