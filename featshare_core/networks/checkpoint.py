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
"""Checkpoints: one .safetensors file that holds the weights and, in its header, their config."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
import inspect
import json
import math
from numbers import Integral
from pathlib import Path
from typing import Any

from featshare_core.durable import write_durably
from featshare_core.labels import LabelSet
from featshare_core.networks.fcn import fcn_network
from featshare_core.networks.fpn import FPN
from featshare_core.networks.light import LightPyramid
from featshare_core.networks.smp.build import smp_network
from featshare_core.networks.split import SplitNetwork
from featshare_core.networks.state_file import unallocated
from featshare_core.networks.weights import CheckpointError, CONVERSION, find_weights
from safetensors import safe_open, SafetensorError
from safetensors.torch import save
import torch

HEADER_KEY = 'featshare'
"""Name of the entry in a checkpoint's header that holds its configuration as JSON."""
NETWORKS: Mapping[str, Callable[..., SplitNetwork]] = {
    'fpn-densenet121': FPN,
    'fpn-efficientnet-lite0': partial(FPN, backbone='efficientnet-lite0'),
    'light-efficientnet-lite0': LightPyramid,
    'fcn-resnet50': fcn_network,
    'smp': smp_network}
"""Constructors of the networks by the name that checkpoints give them."""
VARIANTS = ('shared_levels', 'aligned', 'levels', 'mending')
"""Options in which a network may differ from the one that its training starts from."""
MAX_SIDE = 8192
"""Largest width and height of an input image, in pixels."""
UNKNOWN_LICENCE = 'unknown'
"""Licence of weights that carry none."""
CARD_LICENCE = 'mit'
"""Licence in each model card that segmentation_models_pytorch writes, whatever the weights are."""
LONGEST_LICENCE = 200
"""Largest length of a licence's name, in characters."""
RESEARCH_DATA = ('camvid', 'cityscapes')
"""Kinds of training data whose terms allow research alone."""


def network_options(name: str) -> dict[str, bool]:
    """
    Return the named options of a network's constructor, and whether each is required.

    :param name: a key of ``NETWORKS``.
    """
    parameters = dict(inspect.signature(NETWORKS[name]).parameters)
    del parameters['classes']
    return {option: parameter.default is parameter.empty
            for option, parameter in parameters.items()
            if parameter.kind is not parameter.VAR_KEYWORD}


def unknown_options(name: str, given: Iterable[str]) -> list[str]:
    """
    Return those of the given options that a network's constructor does not take.

    One that takes any, such as ``smp``, refuses unknown ones when it is built.

    :param name: a key of ``NETWORKS``.
    """
    parameters = inspect.signature(NETWORKS[name]).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return [option for option in given
            if option == 'classes' or not (takes_any or option in parameters)]


@dataclass(frozen=True)
class Config:
    """
    What a checkpoint's weights need to be run, and where they come from.

    :param network: a key of ``NETWORKS``.
    :param labels: the classes, in the order of the logits.
    :param input_size: (width, height) in pixels of the images it was trained on.
    :param options: the network's further arguments, such as ``shared_levels``: whole numbers,
        and for ``smp`` whatever JSON can hold; and ``aligned``, 1 for ``SplitNetwork.aligned``.
    :param mean, std: of the RGB channels, for images of 0 to 1.
    :param training, scores: how it was trained and what it reached; for people.
    :param licence: of the weights, as their model card names it.
    """

    network: str
    labels: LabelSet
    input_size: tuple[int, int]
    options: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    training: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    licence: str = UNKNOWN_LICENCE

    def __post_init__(self) -> None:
        """Refuse numbers that no image can be prepared with."""
        if len(self.input_size) != 2 or not 1 <= min(self.input_size) <= max(
                self.input_size) <= MAX_SIDE:
            raise ValueError(f'input_size is {self.input_size}, not (width, height) in pixels, '
                             f'1 to {MAX_SIDE}')
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0 \
                or not all(math.isfinite(value) for value in (*self.mean, *self.std)):
            raise ValueError(f'mean {self.mean} and std {self.std} are not those of 3 channels')
        if not isinstance(self.licence, str) or not self.licence.isprintable() \
                or len(self.licence) > LONGEST_LICENCE:
            raise ValueError('the licence is no printable text of at most '
                             f'{LONGEST_LICENCE} characters')
        for name, value in self.options.items():
            if not isinstance(value, int) and (self.network != 'smp'
                                               or name in ('aligned', 'shared_levels')):
                raise ValueError(f'network option {name} is {value!r}, not a whole number')

    def build(self) -> SplitNetwork:
        """Return the network with fresh weights."""
        options = dict(self.options)
        aligned = bool(options.pop('aligned', False))
        network = NETWORKS[self.network](len(self.labels), **options)
        network.configure(aligned=aligned)
        return network

    @property
    def architecture(self) -> dict[str, Any]:
        """Return the options by which weights of one network fit another or do not."""
        return {name: value for name, value in self.options.items() if name not in VARIANTS}


def save_checkpoint(path: str | Path, network: SplitNetwork, config: Config,
                    dtype: torch.dtype = torch.float16) -> None:
    """
    Write the weights, with ``config`` in the header.

    Floating-point ones are written as ``dtype``, or as they are where that cannot hold them.
    """
    tensors = {}
    for name, tensor in network.state_dict().items():
        if name.endswith('num_batches_tracked'):
            continue
        cast = tensor.to(dtype) if tensor.is_floating_point() else tensor
        tensors[name] = (cast if cast.isfinite().all() else tensor).contiguous()
    write_durably(path, save(tensors, {HEADER_KEY: json.dumps(asdict(config))}))


def find_checkpoint(name_or_path: str | Path) -> Path:
    """
    Return the .safetensors file of a checkpoint's name or path; see ``find_weights``.

    :raises CheckpointError: where there is none; the message says where it looked.
    """
    path = find_weights(name_or_path)
    if path.is_dir():
        raise CheckpointError(f'{path} is exported: give the checkpoint that it was exported from')
    return path


def load_checkpoint(name_or_path: str | Path, shared_levels: int | None = None,
                    aligned: bool | None = None) -> tuple[SplitNetwork, Config]:
    """
    Return the network in eval mode (fp32, CPU) with its config.

    The network that the header names is allocated only if the file's tensors have its shapes, so
    that loading takes no more memory than the file's size warrants.

    :param name_or_path: see ``find_weights``. Only safetensors are read: nothing is unpickled.
    :param shared_levels, aligned: where to cut the network, and whether its cached features
        follow the scene; None leaves it as the checkpoint says.
    :raises CheckpointError: where the file is missing, damaged, or of another network.
    :raises TypeError: where ``shared_levels`` is not an integer.
    """
    shared_levels = checked_levels(shared_levels)
    path = find_checkpoint(name_or_path)
    try:
        with safe_open(path, 'pt') as file:
            header = (file.metadata() or {}).get(HEADER_KEY)
            shapes = {name: tuple(file.get_slice(name).get_shape())
                      for name in file.keys()}  # noqa: SIM118
            config = parse_config(path, header)
            if shared_levels is not None:  # the file's own may not suit this machine's packages
                config = replace(config, options={**config.options, 'shared_levels': 0})
            _check_shapes(path, config, shapes)
            tensors = {name: file.get_tensor(name) for name in shapes}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f'{path} is not a readable safetensors file ({error}): damaged, '
                              f'truncated or of another format; pickled files are not '
                              f'accepted; {CONVERSION}') from error
    network = _built(path, config)
    wanted = network.state_dict()
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f'{path}: {name} holds values that are no finite numbers')
    network.load_state_dict({n: t.to(wanted[n].dtype) for n, t in tensors.items()}, strict=False)
    try:
        network.configure(shared_levels, aligned)
    except ValueError as error:  # the argument's fault, not the file's
        raise CheckpointError(f'{error} ({path.name})') from error
    options = dict(config.options)
    if shared_levels is not None:
        options['shared_levels'] = shared_levels
    if aligned is not None:
        options['aligned'] = int(aligned)
    return network.eval(), replace(config, options=options)


def checked_levels(value: Any) -> int | None:
    """Return a number of shared levels; TypeError where it is neither an integer nor None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, Integral)):
        raise TypeError(f'shared_levels must be an integer or None, not {value!r}')
    return None if value is None else int(value)


def parse_config(path: Path, header: str | None) -> Config:
    """
    Return the config that ``header`` holds as JSON; ``path`` is for messages.

    :raises CheckpointError: where it holds none, or an unknown network.
    """
    if header is None:
        raise CheckpointError(f'{path} has no {HEADER_KEY!r} entry in its header: it holds some '
                              f'other network; {CONVERSION}')
    try:
        fields = json.loads(header)
        labels = LabelSet(tuple(fields['labels']['names']),
                          tuple(tuple(color) for color in fields['labels']['colors']))
        width, height = (int(side) for side in fields['input_size'])
        config = Config(
            network=str(fields['network']), labels=labels, input_size=(width, height),
            options=dict(fields['options']), mean=tuple(fields['mean']), std=tuple(fields['std']),
            training=fields['training'], scores=fields['scores'],
            licence=_licence(fields))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError,
            RecursionError) as error:
        raise CheckpointError(f'{path}: its header cannot be read ({error!r})') from error
    if config.network not in NETWORKS:
        raise CheckpointError(f'{path} holds a network {config.network!r}; this version knows '
                              f'{", ".join(NETWORKS)}')
    return config


def _licence(fields: Mapping[str, Any]) -> Any:
    """Return a header's licence; for weights that were trained here it follows from the data."""
    licence, training = fields.get('licence', UNKNOWN_LICENCE), fields['training']
    sources = training.get('train') if isinstance(training, Mapping) else None
    if licence != UNKNOWN_LICENCE or not isinstance(sources, list):
        return licence
    data = [kind for kind in RESEARCH_DATA if any(
        isinstance(source, Mapping) and source.get('kind') == kind for source in sources)]
    return f'research only: trained on {" and ".join(data)}' if data else licence


def licence_remark(config: Config) -> str:
    """Return what to add to a licence that says little about the weights; else ''."""
    package = config.training.get('package') if isinstance(config.training, Mapping) else None
    if package != 'smp' or config.licence != CARD_LICENCE:
        return ''
    return (', which segmentation_models_pytorch writes into every model card: the weights may '
            'have another licence')


def _check_shapes(path: Path, config: Config, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse tensors that are not those of the config's network, which is not allocated."""
    if 'key_norms' in config.options:
        raise CheckpointError(f'{path}: its network has batch norms for key frames alone (option '
                              f'key_norms), which is no longer supported: train it again '
                              f'without that option')
    with unallocated():
        network = _built(path, config)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()
              if not name.endswith('num_batches_tracked')}
    odd = sorted(wanted.keys() ^ shapes.keys())
    if odd:
        raise CheckpointError(
            f'{path} does not fit the network that its header names: {odd[0]} is '
            f'{"missing" if odd[0] in wanted else "unknown"} ({len(odd)} such tensors)')
    for name, shape in shapes.items():
        if shape != wanted[name]:
            raise CheckpointError(f'{path}: {name} has shape {shape}, the network needs '
                                  f'{wanted[name]}')


def _built(path: Path, config: Config) -> SplitNetwork:
    try:
        return config.build()
    except Exception as error:  # of any type: the options are whatever the file says
        reason = error if isinstance(error, (TypeError, ValueError)) else repr(error)
        raise CheckpointError(f'{path}: its network cannot be built: {reason}') from error
