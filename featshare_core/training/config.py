"""What a training run is: a YAML file, read into one checked dataclass."""
from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from featshare_core.data.pairs import Augmentation
from featshare_core.networks.checkpoint import NETWORKS

T = TypeVar('T')


@dataclass(frozen=True)
class DataEntry:
    """
    One data set of the mix.

    :param root: its folder; relative ones lie in the command's ``--data``.
    :param annotations: Cityscapes' folder of masks.
    :param seeds: of the first and of the last rendered street, of which each gives ``clips``
        clips of ``length`` frames.
    :param share: of the samples drawn, relative to the other data sets'.
    """

    kind: Literal['camvid', 'cityscapes', 'folder', 'street']
    root: str = ''
    split: str = 'train'
    annotations: str = 'gtFine'
    seeds: tuple[int, int] = (1, 60)
    clips: int = 1
    length: int = 16
    share: float = 1.0


@dataclass(frozen=True)
class Loss:
    """
    Weights of the terms of ``loss.total_loss``.

    :param alpha: ``inverse`` for 1 / (d + 1), or a constant, 0 to 1; 0.5 weighs modes equally.
    :param match_where_classes_agree: match features only where both frames' classes agree.
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
    :param network: a key of ``NETWORKS``; for ``smp`` a mapping, ``{type: smp, architecture: Unet,
        encoder: resnet34}``, with whatever else that architecture's constructor takes. It may
        hold ``shared_levels`` too.
    :param levels: an FPN's pyramid levels; 2 is the truncated network.
    :param shared_levels: where it is cut; several are drawn at random, step by step, or, where
        ``mending`` is learned, all in each; 0 alone trains the per-frame baseline.
    :param aligned: whether current frames take the cached features from where the scene was on
        the key frame, see ``alignment``, or from the same place, as the thesis does: ``deployed``
        learns from the same place, which is harder, and is scored and saved aligned.
    :param mending: learn nothing but to mend what does not fit, see ``networks.mending``, on top
        of an FPN's ``baseline``: per frame, or one that shares; pairs are aligned in every other
        step only, as a harder lesson.
    :param key_norms: batch norms of their own for key frames in an FPN's decoder.
    :param frozen_norms: whose batch-norm statistics stay as they are.
    :param backbone_weights: ``imagenet``, a file of the backbone's state dict, or None.
    :param baseline: the checkpoint that training starts from. A sharing network's makes its
        pseudo labels too; a per-frame one's may have been trained on other classes.
    :param teacher: a checkpoint, of any network, whose logits are distilled; the baseline where
        None. It teaches frame by frame.
    :param distances: smallest and largest distance of a pair, in frames.
    :param batch: samples a step, of all processes together.
    :param steps_per_epoch: None for as many as show each labelled frame once.
    :param schedule: of the learning rate, see ``schedule.factor``.
    :param gradient_clip: largest norm of a step's gradient; 0 for any.
    :param validate_every: score after so many epochs too; 0 for at the end alone.
    """

    size: tuple[int, int]
    crop: tuple[int, int]
    train: tuple[DataEntry, ...]
    val: DataEntry
    epochs: int
    batch: int
    network: str | dict = 'fpn-densenet121'
    levels: int = 4
    shared_levels: tuple[int, ...] = (2,)
    aligned: Literal['never', 'deployed', 'always'] = 'never'
    mending: bool = False
    key_norms: bool = False
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
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained; the message names the key."""
        if self.network_name not in NETWORKS:
            raise ValueError(f'network {self.network_name!r} is none of {", ".join(NETWORKS)}')
        if self.network_name == 'smp' and not {'architecture', 'encoder'} <= set(
                self.network_options):
            raise ValueError('network smp is a mapping with its type, architecture and encoder')
        if not self.train:
            raise ValueError('train is empty: it lists the data sets to learn from')
        if min(self.size) < 32 or min(self.crop) < 32 or any(side % 32 for side in self.crop):
            raise ValueError(f'crop {self.crop} is not made of multiples of 32, or size '
                             f'{self.size} is below 32')
        is_fpn = self.network_name.startswith('fpn-')
        if not self.shared_levels or (
                is_fpn and not all(0 <= s < self.levels for s in self.shared_levels)):
            raise ValueError(f'shared_levels {self.shared_levels} are not within 0 to '
                             f'{self.levels - 1}')
        if not is_fpn and (self.levels != 4 or self.key_norms or self.mending):
            raise ValueError(f'levels, key_norms and mending are for FPNs, not for '
                             f'{self.network_name}')
        if 0 in self.shared_levels and len(self.shared_levels) > 1:
            raise ValueError('shared_levels: 0 trains the baseline, and stands alone')
        if self.is_sharing and not self.baseline:
            raise ValueError('a sharing network learns from a per-frame baseline: train that '
                             'first, and name its checkpoint as baseline')
        if (self.key_norms or self.mending) and not self.is_sharing:
            raise ValueError('key_norms and mending are for sharing networks: a baseline has key '
                             'frames only')
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
        """Return the network's key in ``NETWORKS``."""
        return self.network if isinstance(self.network, str) else str(self.network.get('type'))

    @property
    def network_options(self) -> dict[str, Any]:
        """Return what the network is made with, beside what other keys say."""
        return {} if isinstance(self.network, str) else {
            name: value for name, value in self.network.items() if name != 'type'}

    @property
    def is_sharing(self) -> bool:
        """Return whether features are shared; otherwise the per-frame baseline is trained."""
        return self.shared_levels != (0,)


def load_config(paths: Sequence[str | Path], overrides: Mapping[str, Any]) -> TrainConfig:
    """
    Read a configuration.

    A file may name another, beside it, as ``extends``, whose keys it replaces; a later file's
    keys replace those of the earlier ones; ``overrides`` replace them all. Mappings are merged.

    :raises ValueError: naming the file and the key, for an unknown key or a wrong value.
    """
    content: dict[str, Any] = {}
    for path in paths:
        content = _merge(content, _read(Path(path)))
    content = _merge(content, _lifted(overrides))
    try:
        return _convert(TrainConfig, content, '')
    except ValueError as error:
        raise ValueError(f'{", ".join(map(str, paths))}: {error}') from error


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f'{path} is not valid YAML: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds no mapping of keys to values')
    base = content.pop('extends', None)
    content = _lifted(content)
    return content if base is None else _merge(_read(path.parent / base), content)


def _lifted(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's keys, its network's ``shared_levels`` among them."""
    lifted, network = dict(content), content.get('network')
    if isinstance(network, Mapping) and 'shared_levels' in network:
        lifted['network'] = dict(network)
        lifted['shared_levels'] = lifted['network'].pop('shared_levels')
    return lifted


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        # Another kind of data set is described anew, not merged with the one it replaces.
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
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str):  # YAML reads 1e-4, without a point, as text
            try:
                return float(value)
            except ValueError:
                pass
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
            raise ValueError(f'{prefix}{name} is unknown; known are {", ".join(hints)}')
    for entry in fields(kind):  # type: ignore[arg-type]
        required = entry.default is MISSING and entry.default_factory is MISSING
        if required and entry.name not in value:
            raise ValueError(f'{prefix}{entry.name} is missing')
    return kind(**{n: _convert(hints[n], v, f'{prefix}{n}') for n, v in value.items()})
