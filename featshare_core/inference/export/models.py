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
"""A network as two ONNX models: what a key frame runs, and what a current frame runs."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
import hashlib
from importlib.util import find_spec
import io
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple
import warnings

from featshare_core.durable import sync_folder, write_durably
from featshare_core.inference.engine import Frame
from featshare_core.inference.export.cache import cached, folder, identity, is_cached
from featshare_core.inference.export.process import ExportProcess, Origin
from featshare_core.inference.parts import Part, parts
from featshare_core.inference.pixels import Size
from featshare_core.networks.checkpoint import (
    CheckpointError,
    Config,
    load_checkpoint,
    MAX_SIDE,
    parse_config,
)
from featshare_core.networks.split import SplitNetwork
from featshare_core.networks.weights import (
    CONFIG_FILE,
    CONVERSION,
    find_weights,
    is_exported,
    read_json,
)
import torch
from torch import Tensor

FILES = {'': ('key.onnx', 'current.onnx'),
         'int8': ('key.xml', 'current.xml', 'key.bin', 'current.bin')}
"""Names of an exported folder's models by precision, in the order of ``Models``."""
NEW = '.new'
"""Ending of a model's name until the config of its export is written."""
OPSET = 20
"""Version of ONNX's operators: the newest that PyTorch's tracing exporter writes."""

log = logging.getLogger(__name__)


class Models(NamedTuple):
    """
    ONNX models of one image size; ``image`` is 1xhxwx3 uint8 RGB.

    ``key`` yields ``logits`` (1xCxh'xw') and ``shared0``, ``shared1``, ...; ``current`` takes
    these beside its ``image`` and yields ``logits``; without shared levels it is the same model.
    Models in int8 are in OpenVINO's format, which keeps the weights separately.
    """

    key: bytes
    current: bytes
    key_weights: bytes = b''
    current_weights: bytes = b''

    @property
    def is_undivided(self) -> bool:
        """Whether both are the same model: without shared levels."""
        return (self.key, self.key_weights) == (self.current, self.current_weights)


class ModelSource(ABC):
    """Provides an engine's models; ``precision`` is ``int8`` or, for ONNX models, empty."""

    config: Config
    precision: str = ''
    multiple: int
    shared_levels: int

    @abstractmethod
    def models(self, size: Size) -> Models:
        """Return the models for images of (height, width) pixels."""

    @abstractmethod
    def prepare(self, size: Size) -> None:
        """
        Make the next call of ``models`` a short one; called on a thread, in parallel with frames.

        :raises RuntimeError: where the source was closed meanwhile.
        """

    @abstractmethod
    def close(self) -> None:
        """End a ``prepare`` that another thread is in."""


class NetworkModels(ModelSource):
    """
    Models of any size, exported from a network.

    :param origin: where the network was loaded from; None where it was not loaded.
    """

    def __init__(self, network: SplitNetwork, config: Config,
                 origin: Origin | None = None) -> None:
        self.config = config
        self._origin, self._process = origin, ExportProcess()
        self.multiple = network.input_multiple
        self.shared_levels = network.shared_levels
        self._network = network
        self._key, self._current = parts(network, config)

    @cached_property
    def identity(self) -> str:
        """Return the prefix of the names of its models, the same for all sizes."""
        network, config = self._network, self.config
        return identity(network, network.shared_levels, network.aligned, network.mends,
                        config.network, config.options, config.mean, config.std, OPSET)

    def models(self, size: Size) -> Models:
        """Return the models for images of (height, width) pixels."""
        return Models(**cached(self._name(size), lambda: self._export(size)._asdict()))

    def prepare(self, size: Size) -> None:
        """Export the models in another process, unless the cache has them."""
        if self._origin is None or is_cached(self._name(size)):
            return
        try:
            self._process.run(self._origin, size)
            problem = '' if is_cached(self._name(size)) else \
                f'{folder()} does not keep its result, or {self._origin.weights} has changed'
        except OSError as error:
            problem = str(error)
        if problem:
            self._origin = None  # it would fail again, for every size
            log.warning('models are exported in this process, which delays masks, since another '
                        'cannot do it: %s', problem)

    def close(self) -> None:
        """End the other process."""
        self._process.close()

    def _name(self, size: Size) -> str:
        return f'{self.identity}-{size[1]}x{size[0]}'

    def _export(self, size: Size) -> Models:
        image = torch.zeros(1, *size, 3, dtype=torch.uint8)
        with torch.inference_mode():
            shared = self._key(image)[1:]
        names = [f'shared{index}' for index in range(len(shared))]
        key = _onnx(self._key, (image,), ['image'], ['logits', *names])
        return Models(key, key if not shared else _onnx(
            self._current, (image, *shared), ['image', *names], ['logits']))


class ExportedModels(ModelSource):
    """
    Models of one size, from a folder that ``export`` has written.

    :raises CheckpointError: where the folder lacks a file, or its config cannot be read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / CONFIG_FILE
        self._find(CONFIG_FILE)
        content = read_json(path)
        try:
            # Folders of earlier versions hold ONNX models, and have no such key.
            self.precision = str(content.get('precision', ''))
            self.files = FILES[self.precision]
            self.size: Size = int(content['size'][0]), int(content['size'][1])
            self.multiple = int(content['multiple'])
            self.shared_levels = int(content['shared_levels'])
            # Neither have they checksums.
            self._sha256 = {name: str(content['sha256'][name]) for name in self.files} \
                if 'sha256' in content else None
            if self.multiple < 1:
                raise ValueError(f'multiple {self.multiple} is not 1 or more')
            if not all(1 <= side <= MAX_SIDE for side in (*self.size, self.multiple)):
                raise ValueError(f'size {self.size} or multiple {self.multiple} is not 1 to '
                                 f'{MAX_SIDE}')
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f'{path} cannot be read ({error!r}); {CONVERSION}') from error
        for name in self.files:
            self._find(name)
        self.config = parse_config(path, json.dumps(content.get('checkpoint')))

    def _find(self, name: str) -> None:
        if not any((self.folder / (name + ending)).is_file() for ending in ('', NEW)):
            raise CheckpointError(f'{self.folder} holds no {name}: give the folder that '
                                  f'`featshare export` has written')

    def models(self, size: Size) -> Models:
        """
        Return the models.

        :raises ValueError: where they are of another size.
        :raises CheckpointError: where they are not those that the config was written with.
        """
        if size != self.size:
            raise ValueError(f'{self.folder} was exported for images of {self.size[1]}x'
                             f'{self.size[0]}, not {size[1]}x{size[0]}')
        return Models(*map(self.content, self.files))

    def content(self, name: str) -> bytes:
        """Return the content of one of ``files``; raises as ``models`` does."""
        return self._find_content(name)[1]

    def finish(self) -> None:
        """Give the models of an export their final names; raises as ``models`` does."""
        for name in self.files:
            self._find_content(name)[0].replace(self.folder / name)
        sync_folder(self.folder)

    def _find_content(self, name: str) -> tuple[Path, bytes]:
        for path in (self.folder / name, self.folder / (name + NEW)):
            if path.is_file():
                content = path.read_bytes()
                if self._sha256 is None \
                        or hashlib.sha256(content).hexdigest() == self._sha256[name]:
                    return path, content
        raise CheckpointError(f'{self.folder / name} does not match {CONFIG_FILE}: it is damaged '
                              f'or of another export; export the checkpoint again')

    def prepare(self, size: Size) -> None:
        """Do nothing: the models are there."""

    def close(self) -> None:
        """Do nothing."""


def holds_export(folder: Path) -> bool:
    """Return whether an export wrote into a folder, even if it is damaged or was interrupted."""
    with suppress(CheckpointError):
        return 'checkpoint' in read_json(folder / CONFIG_FILE)
    return any((folder / (name + ending)).is_file()
               for names in FILES.values() for name in names for ending in ('', NEW))


def fingerprint(weights: str | Path) -> str:
    """
    Return the SHA-256 of a checkpoint's file, or of an exported folder's files, in hexadecimal.

    :raises CheckpointError: where there is neither.
    """
    path = find_weights(weights)
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    files = hashlib.sha256()
    exported = ExportedModels(path)
    for name in exported.files:
        files.update(hashlib.sha256(exported.content(name)).digest())
    files.update(hashlib.sha256((path / CONFIG_FILE).read_bytes()).digest())
    return files.hexdigest()


def read_config(weights: str | Path) -> Config:
    """
    Return the config of a checkpoint or of an exported folder.

    :raises CheckpointError: where it cannot be read.
    """
    if is_exported(weights):
        return ExportedModels(Path(weights).expanduser()).config
    return load_checkpoint(weights)[1]


def export(network: SplitNetwork, config: Config, folder: str | Path, size: Size,
           pairs: Sequence[Sequence[Frame]] | None = None) -> None:
    """
    Write the models and their config.json for images of (height, width) pixels.

    An export that the folder holds is replaced in one step: at any time, also after a crash, the
    folder holds the old one or the new one.

    :param pairs: hxwx3 uint8 frames of that size, a key and a current frame each, on which the
        models are quantised to int8; see ``quantize.quantized``. None for ONNX models.
    :raises ValueError: where the network cannot take images of that size, or there is no pair.
    :raises ImportError: where onnx, which PyTorch exports with, or a package that int8 needs is
        not installed.
    """
    if not find_spec('onnx'):
        raise ImportError('exporting needs onnx: pip install onnx')
    multiple = network.input_multiple
    if min(size) <= 0 or any(side % multiple for side in size):
        raise ValueError(f'size {size[1]}x{size[0]} is not made of multiples of {multiple}')
    models = NetworkModels(network, config).models(size)
    if pairs is not None:
        from featshare_core.inference.export.quantize import quantized
        models = quantized(models, pairs)
    precision = '' if pairs is None else 'int8'
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if is_exported(folder):
        with suppress(CheckpointError):  # a damaged one is replaced too
            ExportedModels(folder).finish()
    files = dict(zip(FILES[precision], models))
    for name, content in files.items():
        write_durably(folder / (name + NEW), content)
    # From here on the folder holds the new export: the checksums tell its models from the old.
    write_durably(folder / CONFIG_FILE, json.dumps({
        'size': size, 'multiple': multiple, 'shared_levels': network.shared_levels,
        'precision': precision, 'checkpoint': asdict(config),
        'sha256': {name: hashlib.sha256(content).hexdigest()
                   for name, content in files.items()}}))
    ExportedModels(folder).finish()


def _onnx(part: Part, inputs: tuple[Tensor, ...], names: list[str],
          outputs: list[str]) -> bytes:
    buffer: Any = io.BytesIO()  # documented, but not typed, as taken in place of a path
    with warnings.catch_warnings(), torch.no_grad():
        # Shapes that tracing fixes are meant to be fixed. The newer exporter, which the second
        # warning recommends, takes a minute instead of a second.
        warnings.filterwarnings('ignore', category=torch.jit.TracerWarning)
        warnings.filterwarnings('ignore', category=DeprecationWarning)
        warnings.filterwarnings('ignore', 'Constant folding')
        torch.onnx.export(part, inputs, buffer, input_names=names, output_names=outputs,
                          opset_version=OPSET, dynamo=False)
    return bytes(buffer.getvalue())
