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
"""Folders that ``save_pretrained`` of segmentation_models_pytorch or of transformers wrote."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import json
from pathlib import Path
import re
from typing import Any

from featshare_core.labels import LabelSet
from featshare_core.networks.checkpoint import LONGEST_LICENCE, UNKNOWN_LICENCE
from featshare_core.networks.eval_transform import (
    EvalTransform,
    read_eval_transform,
    read_preprocessor,
)
from featshare_core.networks.smp.build import NOT_OURS, smp_arguments
from featshare_core.networks.state_file import State
from featshare_core.networks.transformers import class_names, smp_equivalent
from featshare_core.networks.weights import (
    CONFIG_FILE,
    CONVERSION,
    foreign_kind,
    MODEL_CARD,
    PREPROCESSOR,
    read_json,
    TRANSFORM_FILE,
    WEIGHTS_FILE,
)
from featshare_core.text import printable
from safetensors import SafetensorError
from safetensors.torch import load_file

LARGEST_CARD = 2**16
"""Size of the part of a model card that is read, in bytes."""
_FRONT_MATTER = re.compile(r'\s*---[ \t]*\r?\n(.*?)\r?\n---', re.DOTALL)


@dataclass(frozen=True)
class Pretrained:
    """
    A model of segmentation_models_pytorch, as a folder describes it.

    :param arguments: of the architecture's constructor, where they are not its defaults.
    :param state: its tensors, by the names of segmentation_models_pytorch.
    :param labels: None where the folder does not name the classes.
    :param transform: how images are prepared, as ``transform_file`` says.
    :param encoder_weights: those that its training started from; None where unknown.
    :param label_problem: why the classes that the folder names cannot be used; else empty.
    """

    architecture: str | None
    encoder: str | None
    arguments: Mapping[str, Any]
    state: State
    labels: LabelSet | None = None
    transform: EvalTransform = field(default_factory=EvalTransform)
    transform_file: str = TRANSFORM_FILE
    encoder_weights: str | None = None
    licence: str = UNKNOWN_LICENCE
    label_problem: str = ''


def read_folder(folder: Path) -> Pretrained:
    """
    Return what a folder holds.

    :raises ValueError: where it is no such folder, or its network cannot be divided.
    """
    config = read_config(folder)
    try:
        state = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise ValueError(f'{folder} holds no model.safetensors that can be read ({error}); '
                         f'weights of other formats, such as pytorch_model.bin, are not read; '
                         f'{CONVERSION}') from error
    licence = read_licence(folder)
    if foreign_kind(folder) == 'smp':
        return _smp(folder, config, state, licence)
    architecture, encoder, arguments, state = smp_equivalent(folder, config, state)
    labels, problem = None, ''
    try:
        labels = class_names(folder, config)
    except ValueError as error:
        problem = str(error)
    return Pretrained(architecture, encoder, arguments, state, labels, read_preprocessor(folder),
                      PREPROCESSOR, licence=licence, label_problem=problem)


def read_config(folder: Path) -> dict[str, Any]:
    """
    Return the description of the model in a folder.

    :raises ValueError: where neither package has written it.
    """
    if not foreign_kind(folder):
        raise ValueError(f"{folder} is no folder that segmentation_models_pytorch's or "
                         f"transformers' save_pretrained wrote: it has no {CONFIG_FILE} of theirs")
    return read_json(folder / CONFIG_FILE)


def _smp(folder: Path, config: Mapping[str, Any], state: State, licence: str) -> Pretrained:
    path = folder / CONFIG_FILE
    architecture, encoder = str(config['_model_class']), config.get('encoder_name')
    if not isinstance(encoder, str):
        raise ValueError(f'{path} names no encoder (encoder_name)')
    if config.get('in_channels', 3) != 3:
        raise ValueError(f'{path}: the model takes {config["in_channels"]} channels, not RGB')
    accepted = smp_arguments(architecture)
    unknown = [name for name in config if name not in (*accepted, *NOT_OURS, '_model_class')]
    if unknown:
        raise ValueError(f'{path}: {", ".join(unknown)} cannot be used: {architecture} takes '
                         f'{", ".join(accepted)}')
    arguments = {name: config[name] for name, default in accepted.items()
                 if name in config and config[name] != json.loads(json.dumps(default))}
    return Pretrained(architecture, encoder, arguments, state, None, read_eval_transform(folder),
                      TRANSFORM_FILE, config.get('encoder_weights'), licence)


def read_licence(folder: Path) -> str:
    """Return the licence that a folder's model card names; ``UNKNOWN_LICENCE`` without one."""
    try:
        with (folder / MODEL_CARD).open('rb') as file:
            text = file.read(LARGEST_CARD).decode(errors='replace')
    except OSError:
        return UNKNOWN_LICENCE
    matter = _FRONT_MATTER.match(text)
    found = _value(matter[1], 'license') if matter else ''
    name = _value(matter[1], 'license_name') if matter else ''
    licence = f'{found} ({name})' if found and name else found
    return printable(licence, LONGEST_LICENCE) if licence else UNKNOWN_LICENCE


def _value(matter: str, key: str) -> str:
    """
    Return the value of a key of a front matter, or the items of its list; '' without any.

    Not by a YAML parser: whoever publishes a model writes this text, and aliases and merges can
    make a short one expand to gigabytes.
    """
    match = re.search(rf'^{key}:(.*(?:\n[ \t]*-.*)*)', matter, re.MULTILINE)
    items = re.split(r'\n[ \t]*-', match[1]) if match else []
    if len(items) == 1 and items[0].strip().startswith('['):
        items = items[0].strip(' \t\r[]').split(',')
    return ', '.join(filter(None, (item.strip().strip('\'"') for item in items)))
