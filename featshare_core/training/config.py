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
"""What a training run is: YAML files and single settings, read into one checked dataclass."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, MISSING
import difflib
import math
from pathlib import Path
import types
import typing
from typing import Any, Literal, TypeVar, Union

from featshare_core.data.augmentation_settings import Augmentation
from featshare_core.yaml_text import parse_yaml

FINAL = 'final.safetensors'
"""Name of the checkpoint in a run's folder."""
MAX_LEVELS = 4
"""Largest number of levels of a pyramid."""
MAX_SEED = 2 ** 32 - 1
"""Largest seed."""

T = TypeVar('T')


@dataclass(frozen=True)
class DataEntry:
    """
    One data set of the mix.

    :param root: its folder; relative ones lie in the command's ``--data``.
    :param split: the split's folder name, for example ``train`` or ``val``.
    :param annotations: Cityscapes' folder of masks.
    :param mapping: of a ``folder``: the file with the class of each id in its masks, see
        ``folder.load_mapping``; relative ones lie in the command's ``--data``.
    :param seeds: seeds of the first and of the last rendered street, of which each gives
        ``clips`` clips of ``length`` frames.
    :param share: weight in the random choice of a sample's data set, relative to the others'.
    """

    kind: Literal['camvid', 'cityscapes', 'folder', 'street']
    root: str = ''
    split: str = 'train'
    annotations: str = 'gtFine'
    mapping: str = ''
    seeds: tuple[int, int] = (1, 60)
    clips: int = 1
    length: int = 16
    share: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a mapping of ids that are fixed."""
        if self.mapping and self.kind != 'folder':
            raise ValueError(f'mapping is for the kind folder, not for {self.kind}')


@dataclass(frozen=True)
class Loss:
    """
    Weights of the terms of ``loss.total_loss``.

    :param alpha: weight of the current frame's loss: ``inverse`` for 1 / (d + 1) at a distance of
        d frames, or a constant, 0 to 1; 0.5 weighs key and current frames equally.
    :param match: norm of the feature match.
    :param match_weight: weight of the feature match, 0 or more.
    :param match_where_classes_agree: match features only where both frames' classes agree.
    :param distillation_weight: weight of the teacher's logits, 0 or more.
    :param class_weights: weigh rare classes up, 1 / log(1.1 + share) (ENet, arXiv 1606.02147).
    """

    alpha: float | Literal['inverse'] = 'inverse'
    match: Literal['l1', 'l2'] = 'l1'
    match_weight: float = 0.01
    match_where_classes_agree: bool = False
    distillation_weight: float = 0.0
    class_weights: bool = False


@dataclass(frozen=True)
class TrainConfig:
    """
    A training run.

    :param size: (width, height) in pixels that all frames are resized to.
    :param crop: (width, height) in pixels of what the network sees; multiples of 32.
    :param val: what is scored, at every lag 0 to ``interval - 1``.
    :param network: a key of ``checkpoint.NETWORKS``; for ``smp`` a mapping, ``{type: smp,
        architecture: Unet, encoder: resnet34}``, with whatever else that architecture's
        constructor takes. It may hold ``shared_levels`` too.
    :param levels: an FPN's pyramid levels; 2 is the truncated network.
    :param shared_levels: the deep levels that are cached; of several, one is drawn at random for
        each step, or, with ``mending``, each step trains all; 0 alone trains the per-frame
        baseline.
    :param aligned: ``always`` moves the cached features to where the scene is on the current
        frame, see ``networks.alignment``; ``never`` leaves them in place, as the thesis does;
        ``deployed`` trains in place, which is harder, and scores and saves the network aligned.
    :param mending: train the correction of carried features alone, see ``networks.mending``, on
        top of a pyramid's ``baseline``, per frame or sharing; every other step leaves the pairs
        unaligned, which is harder.
    :param frozen_backbone: leave the backbone's weights as they are.
    :param frozen_norms: the part of the network whose batch-norm statistics are not updated.
    :param backbone_weights: ``imagenet``, a file of the backbone's state dict, a checkpoint with
        the same backbone, or None.
    :param baseline: the checkpoint that training starts from. For a sharing network it makes the
        pseudo labels too; for a per-frame network its classes may differ from the data's.
    :param teacher: a checkpoint, of any network, whose logits on each single frame are distilled;
        the baseline where None.
    :param distances: smallest and largest distance of a pair, in frames.
    :param lr: learning rate at the schedule's factor 1.
    :param batch: samples per step, of all processes together.
    :param steps_per_epoch: None for as many as show each labelled frame once.
    :param schedule: the learning rate's, see ``schedule.factor``.
    :param gradient_clip: largest norm of a step's gradient; 0 for no limit.
    :param validate_every: interval between scores, in epochs; 0 for one score, at the end.
    :param interval: the key-frame interval that is scored, in frames.
    :param allow_absent_classes: train although a class has no labelled pixel in ``train`` or in
        ``val``; scores are then means over the others. Rendered streets are exempt from the
        check: their labels are exact.
    """

    size: tuple[int, int]
    crop: tuple[int, int]
    train: tuple[DataEntry, ...]
    val: DataEntry
    epochs: int
    batch: int
    network: str | dict = 'fpn-densenet121'
    levels: int = MAX_LEVELS
    shared_levels: tuple[int, ...] = (2,)
    aligned: Literal['never', 'deployed', 'always'] = 'never'
    mending: bool = False
    frozen_backbone: bool = False
    frozen_norms: Literal['none', 'backbone', 'all'] = 'none'
    backbone_weights: str | None = None
    baseline: str | None = None
    teacher: str | None = None
    distances: tuple[int, int] = (1, 15)
    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: Loss = field(default_factory=Loss)
    optimizer: Literal['adam', 'adamw'] = 'adam'
    lr: float = 1e-4
    weight_decay: float = 5e-4
    schedule: Literal['exponential', 'constant', 'one-cycle'] = 'exponential'
    gradient_clip: float = 0.0
    steps_per_epoch: int | None = None
    validate_every: int = 0
    interval: int = 5
    allow_absent_classes: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained; the message names the key."""
        # Imports PyTorch: only now, so that a misspelt key is an error at once.
        from featshare_core.networks.checkpoint import network_options, NETWORKS, unknown_options
        if self.network_name not in NETWORKS:
            raise ValueError(f'network {self.network_name!r} is none of {", ".join(NETWORKS)}')
        options = network_options(self.network_name)
        required = [name for name, is_required in options.items() if is_required]
        if not set(required) <= set(self.network_options):
            raise ValueError(f'network {self.network_name} is a mapping with its type, '
                             f'{" and ".join(required)}')
        for name in unknown_options(self.network_name, self.network_options):
            raise ValueError(f'network.{name} is unknown; known are type, {", ".join(options)}')
        if not self.train:
            raise ValueError('train is empty: it lists the data sets to learn from')
        if any(side < 32 or side % 32 for side in self.crop):
            raise ValueError(f'crop {self.crop} is not made of multiples of 32 above 0')
        if min(self.size) < 32:
            raise ValueError(f'size {self.size} has a side of less than 32 pixels')
        levels = self.network_options.get('levels', self.levels)
        if 'levels' in options and levels not in range(1, MAX_LEVELS + 1):
            raise ValueError(f'levels must be 1 to {MAX_LEVELS}, not {levels}')
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f'seed must be 0 to {MAX_SEED}, not {self.seed}')
        if not self.shared_levels or (
                'levels' in options and not all(0 <= s < self.levels for s in self.shared_levels)):
            raise ValueError(f'shared_levels {self.shared_levels} are not within 0 to '
                             f'{self.levels - 1}')
        for name, is_set in (('levels', self.levels != MAX_LEVELS), ('mending', self.mending)):
            if is_set and name not in options:
                raise ValueError(f'{name} is no option of the network {self.network_name}')
        if 0 in self.shared_levels and len(self.shared_levels) > 1:
            raise ValueError('shared_levels: 0 trains the baseline, and stands alone')
        if self.is_sharing and not self.baseline:
            raise ValueError('a sharing network learns from a per-frame baseline: train that '
                             'first, and name its checkpoint as baseline')
        if self.frozen_backbone and self.frozen_norms == 'none':
            raise ValueError("frozen_backbone leaves the backbone's batch norms as they are too: "
                             'frozen_norms must be backbone or all')
        if self.mending and not self.is_sharing:
            raise ValueError('mending is for sharing networks: a baseline has key frames only')
        if self.mending and self.frozen_norms != 'all':
            raise ValueError('mending learns on a network that stays as it is: frozen_norms must '
                             'be all')
        if self.mending and self.aligned == 'never':
            raise ValueError('mending is for features that follow the scene: aligned must not be '
                             'never')
        if self.teacher and (self.mending or not self.loss.distillation_weight):
            raise ValueError('teacher: nothing is learned from it; loss.distillation_weight must '
                             'be positive, and mending has its own network for a teacher')
        for name in ('epochs', 'batch', 'interval', 'lr'):
            if getattr(self, name) <= 0:
                raise ValueError(f'{name} must be positive, not {getattr(self, name)}')
        if self.steps_per_epoch is not None and self.steps_per_epoch <= 0:
            raise ValueError(f'steps_per_epoch must be positive, not {self.steps_per_epoch}')
        if min(self.augmentation.scale) <= 0 \
                or self.augmentation.scale[0] > self.augmentation.scale[1]:
            raise ValueError(f'augmentation.scale {self.augmentation.scale} is no smallest and '
                             f'largest factor above 0')
        if self.loss.alpha != 'inverse' and not 0 <= float(self.loss.alpha) <= 1:
            raise ValueError(f'loss.alpha {self.loss.alpha} is not within 0 to 1')

    @property
    def network_name(self) -> str:
        """Return the network's key in ``checkpoint.NETWORKS``."""
        return self.network if isinstance(self.network, str) else str(self.network.get('type'))

    @property
    def network_options(self) -> dict[str, Any]:
        """Return the network's constructor arguments that no other key holds."""
        return {} if isinstance(self.network, str) else {
            name: value for name, value in self.network.items() if name != 'type'}

    @property
    def is_sharing(self) -> bool:
        """Return whether features are shared; otherwise the per-frame baseline is trained."""
        return self.shared_levels != (0,)


def load_config(paths: Sequence[str | Path], overrides: Mapping[str, Any],
                settings: Sequence[str] = ()) -> TrainConfig:
    """
    Read a configuration.

    A file may name another as ``extends``, relative to its own folder, whose keys it replaces;
    a later file's keys replace those of the earlier ones; ``settings`` replace the files' keys,
    ``overrides`` both. Mappings are merged.

    :param settings: texts ``KEY=VALUE``: a key nested by dots and its value in YAML, as in
        ``loss.match_weight=0`` or ``shared_levels=[1, 2]``.
    :raises ValueError: naming the files, the settings and the key, for an unknown key or a wrong
        value.
    :raises OSError: where a file cannot be read.
    """
    content: dict[str, Any] = {}
    for path in paths:
        content = _merge(content, _read(Path(path)))
    for setting in settings:
        content = _merge(content, _lifted(_parse_setting(setting)))
    content = _merge(content, _lifted(overrides))
    try:
        return _convert(TrainConfig, content, '')
    except ValueError as error:
        origin = ', '.join(map(str, paths)) + (' with --set ' if settings else '')
        raise ValueError(f'{origin}{" ".join(settings)}: {error}') from error


def _parse_setting(text: str) -> dict[str, Any]:
    """Return ``a.b=VALUE`` as ``{'a': {'b': value}}``."""
    key, equals, value = text.partition('=')
    names = key.strip().split('.')
    if not equals or not all(names):
        raise ValueError(f'--set {text} is not KEY=VALUE, as in loss.match_weight=0')
    content = parse_yaml(value, f'--set {text}: the value')
    for name in reversed(names):
        content = {name: content}
    return content


def _read(path: Path) -> dict[str, Any]:
    content = parse_yaml(path.read_text(), path)
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds no mapping of keys to values')
    base = content.pop('extends', None)
    content = _lifted(content)
    if base is None:
        return content
    if not isinstance(base, str):
        raise ValueError(f'{path}: extends: {base!r} is no file name')
    extended = path.parent / base
    if not extended.exists():
        raise FileNotFoundError(f'{path} extends {base}, which does not exist (looked for '
                                f'{extended.absolute()})')
    return _merge(_read(extended), content)


def _lifted(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping's keys, with its network's ``shared_levels`` moved to the top."""
    lifted, network = dict(content), content.get('network')
    if isinstance(network, Mapping) and 'shared_levels' in network:
        lifted['network'] = dict(network)
        lifted['shared_levels'] = lifted['network'].pop('shared_levels')
    return lifted


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        # A data set that names its kind replaces the other as a whole: their keys differ.
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping) \
            and 'kind' not in value
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _convert(kind: Any, value: Any, key: str) -> Any:
    """Return a value of YAML as the type ``kind``; raise ValueError, naming the key, if not."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        return _convert_dataclass(kind, value, key)
    if origin in (Union, types.UnionType):
        for option in arguments:
            try:
                return _convert(option, value, key)
            except ValueError:
                pass
    elif origin is Literal:
        if value in arguments:
            return value
        raise ValueError(f'{key}: {value!r} is none of {", ".join(map(repr, arguments))}')
    elif origin is tuple:
        values = value if isinstance(value, list | tuple) else [value]
        if arguments[-1] is Ellipsis or len(values) == len(arguments):
            return tuple(_convert(arguments[0], v, key) for v in values)
    elif kind is float:
        # YAML reads 1e-4, without a point, as text.
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            try:
                number = float(value)
            except (ValueError, OverflowError):
                pass
            else:
                if math.isfinite(number):
                    return number
                raise ValueError(f'{key}: {value!r} is not finite')
    elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise ValueError(f'{key}: {value!r} is no {getattr(kind, "__name__", kind)}')


def _convert_dataclass(kind: type[T], value: Any, key: str) -> T:
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f'{key}: {value!r} is no mapping of keys to values')
    prefix = f'{key}.' if key else ''
    hints = typing.get_type_hints(kind)
    for name in value:
        if name not in hints:
            near = difflib.get_close_matches(str(name), hints, 1) or [
                hint for hint in hints if hint.startswith(str(name))]
            hint = f'did you mean {prefix}{near[0]}?' if near else f'known are {", ".join(hints)}'
            raise ValueError(f'{prefix}{name} is unknown; {hint}')
    for entry in fields(kind):  # type: ignore[arg-type]
        required = entry.default is MISSING and entry.default_factory is MISSING
        if required and entry.name not in value:
            raise ValueError(f'{prefix}{entry.name} is missing')
    return kind(**{n: _convert(hints[n], v, f'{prefix}{n}') for n, v in value.items()})
