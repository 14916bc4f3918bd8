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
"""The table of engines: what each runs on, and how one is chosen and built."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
import logging
from pathlib import Path

from featshare_core.inference.cpu.torch_engine import TorchEngine
from featshare_core.inference.device import choose_device, named_device, PRECISIONS
from featshare_core.inference.engine import as_input_size, Engine, InputSize
from featshare_core.inference.export.models import (
    ExportedModels,
    ModelSource,
    NetworkModels,
)
from featshare_core.inference.export.process import Origin
from featshare_core.networks.checkpoint import checked_levels, CheckpointError, load_checkpoint
from featshare_core.networks.weights import is_exported
import numpy as np
import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """The arguments that an engine is built from: those of ``make_engine``, device resolved."""

    weights: str | Path
    exported: bool
    shared_levels: int | None
    aligned: bool | None
    device: torch.device
    precision: str
    input_size: tuple[int, int] | None
    full_size: bool

    def models(self) -> ModelSource:
        """Return the exported models, or models to be exported from the checkpoint."""
        if self.exported:
            return ExportedModels(Path(self.weights).expanduser())
        origin = Origin(self.weights, self.shared_levels, self.aligned)
        return NetworkModels(*load_checkpoint(*origin), origin)


def _torch(request: Request) -> Engine:
    if request.device.type == 'cuda':
        return _cuda(request, graphs=False)
    return TorchEngine(*load_checkpoint(request.weights, request.shared_levels, request.aligned),
                       request.precision, request.input_size, request.full_size)


def _cuda(request: Request, graphs: bool) -> Engine:
    from featshare_core.inference.cuda.cuda_engine import CudaEngine
    device = choose_device(str(request.device))
    return CudaEngine(*load_checkpoint(request.weights, request.shared_levels, request.aligned),
                      device, request.precision, request.input_size, request.full_size, graphs)


def _openvino(request: Request) -> Engine:
    from featshare_core.inference.cpu.openvino_engine import OpenVinoEngine
    return OpenVinoEngine(request.models(), request.precision, request.input_size,
                          request.full_size)


def _onnx(provider: str, request: Request) -> Engine:
    from featshare_core.inference.cpu.onnx_engine import OnnxEngine
    return OnnxEngine(request.models(), provider, request.input_size, request.full_size,
                      request.device.index or 0)


@dataclass(frozen=True)
class EngineKind:
    """
    What an engine requires, and how it is built.

    :param precisions: supported precisions, by the type of device that it runs on.
    :param packages: the modules that it imports, each with its package's name for pip.
    :param runs_models: whether it runs ONNX models: exported ones, or those that PyTorch exports
        from a checkpoint with the package onnx. Other engines run checkpoints alone.
    :param make: builds it; raises where the device or the build of a package does not fit.
    """

    precisions: Mapping[str, tuple[str, ...]]
    packages: Mapping[str, str]
    runs_models: bool
    make: Callable[[Request], Engine]


_ALL = tuple(PRECISIONS)
ENGINES = {
    'torch': EngineKind({'cpu': ('fp32', 'bf16'), 'cuda': _ALL}, {}, False, _torch),
    'graphs': EngineKind({'cuda': _ALL}, {}, False, partial(_cuda, graphs=True)),
    'openvino': EngineKind({'cpu': ('fp32', 'bf16')}, {'openvino': 'openvino'}, True, _openvino),
    'onnx': EngineKind({'cpu': ('fp32',)}, {'onnxruntime': 'onnxruntime'}, True,
                       partial(_onnx, 'cpu')),
    'onnx-cuda': EngineKind({'cuda': ('fp32',)}, {'onnxruntime': 'onnxruntime-gpu'}, True,
                            partial(_onnx, 'cuda')),
    'onnx-tensorrt': EngineKind({'cuda': ('fp32',)}, {'onnxruntime': 'onnxruntime-gpu'}, True,
                                partial(_onnx, 'tensorrt')),
    'onnx-openvino': EngineKind({'cpu': ('fp32',)}, {'onnxruntime': 'onnxruntime-openvino'}, True,
                                partial(_onnx, 'openvino'))}
"""All engines by name; ``onnx-...`` names ONNX Runtime's execution provider."""

AUTO = {('cpu', False): ('openvino', 'torch'), ('cuda', False): ('graphs',),
        ('cpu', True): ('openvino', 'onnx'), ('cuda', True): ('onnx-cuda',)}
"""
The engines that ``auto`` tries in order, by the type of device and whether it is exported.

Models in int8 run with OpenVINO alone.
"""

ENGINE_NAMES = ('auto', *ENGINES)
"""Allowed values of the argument ``engine``."""


def make_engine(weights: str | Path = 'default', engine: str = 'auto', device: str = 'auto',
                precision: str = 'auto', shared_levels: int | None = None,
                input_size: InputSize | None = None, full_size: bool = True,
                aligned: bool | None = None) -> Engine:
    """
    Load weights into an engine.

    ``auto`` is the first engine of ``AUTO`` that runs here. One that is not installed is passed
    over; where an engine that is installed cannot run, ``Engine.fallback`` and a warning in the
    log say why, and the next one runs.

    :param weights: see ``find_weights``.
    :param engine: one of ``ENGINE_NAMES``.
    :param device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; ``auto`` is CUDA where PyTorch finds
        a device and the engine runs on it.
    :param shared_levels: where to cut the network; None: as the checkpoint says.
    :param aligned: see ``SplitNetwork.aligned``; None: as the checkpoint says.
    :param precision, input_size, full_size: see ``VideoSegmenter.from_checkpoint``.
    :raises CheckpointError: where the weights cannot be used.
    :raises RuntimeError: where the device is missing, or the engine does not work here.
    :raises ImportError: where the packages of the engine asked for are not installed.
    :raises TypeError: where ``weights`` is neither text nor a path, ``shared_levels`` not an
        integer, or ``full_size`` not a bool.
    :raises ValueError: where another argument is out of range, or the engine does not run on the
        device, in the precision, or these weights.
    """
    _check_words(engine, precision)
    if not isinstance(full_size, bool):
        raise TypeError(f'full_size must be True or False, not {full_size!r}')
    shared_levels = checked_levels(shared_levels)
    size = as_input_size(input_size)
    exported = is_exported(weights)
    if exported and (shared_levels is not None or aligned is not None):
        raise ValueError(f'the shared levels and the alignment of {weights}, which is exported, '
                         f'are fixed: export it again to change them')
    passed_over: list[str] = []
    candidates = _candidates(engine, device, weights)
    last = candidates[-1]
    for name, where in candidates:
        request = Request(weights, exported, shared_levels, aligned, where, precision, size,
                          full_size)
        problem = _refusal(name, request)
        if (name, where) == last:
            if problem is not None:
                raise problem
            made = ENGINES[name].make(request)
        elif problem is None:
            try:
                made = _tried(name, request)
                break
            except ValueError:  # an argument's fault, not the engine's
                raise
            except Exception as error:  # of any type: each runtime has its own
                cause = f'{type(error).__name__}: {error}'.splitlines()[0]
                problem = RuntimeError(f'engine {name} does not start: {cause}')
        # An engine that is not installed is reported only if the type of device changes.
        if problem is not None and (not _missing(ENGINES[name].packages)
                                    or where.type != last[1].type):
            passed_over.append(str(problem))
    made.fallback = '; '.join(filter(None, (*passed_over, made.fallback)))
    if passed_over:
        log.warning('%s; engine %s runs instead, at a lower rate', '; '.join(passed_over), name)
    return made


@dataclass(frozen=True)
class Choice:
    """
    An engine of the table, for given arguments of ``make_engine``.

    :param tried: whether ``make_engine`` starts it, unless one before it runs.
    :param problem: what keeps it from running, as far as that is known without starting it, and
        what to do; empty where nothing does.
    """

    engine: str
    tried: bool
    problem: str


def engine_choices(weights: str | Path = 'default', engine: str = 'auto', device: str = 'auto',
                   precision: str = 'auto') -> list[Choice]:
    """
    Return every engine: first those that ``make_engine`` tries, in its order, then the others.

    No engine is started. The arguments are those of ``make_engine``.

    :raises ValueError: where an argument is none of the allowed values.
    """
    _check_words(engine, precision)
    exported = is_exported(weights)
    tried = _candidates(engine, device, weights)
    others = [(name, _candidates(name, device, weights)[0][1]) for name in ENGINES
              if name not in dict(tried)]
    return [Choice(name, (name, where) in tried, str(_refusal(name, Request(
        weights, exported, None, None, where, precision, None, True)) or ''))
        for name, where in (*tried, *others)]


def installed_engines(device: str) -> list[str]:
    """
    Return the engines whose packages are installed for running checkpoints on a type of device.

    :param device: ``cpu`` or ``cuda``.
    """
    return [name for name, kind in ENGINES.items() if device in kind.precisions
            and not _missing(_needed(kind, exported=False))]


def _check_words(engine: str, precision: str) -> None:
    if engine not in ENGINE_NAMES:
        raise ValueError(f'engine {engine!r} is none of {", ".join(ENGINE_NAMES)}')
    if precision not in ('auto', *PRECISIONS):
        raise ValueError(f'precision {precision!r} is none of auto, {", ".join(PRECISIONS)}')


def _candidates(engine: str, device: str,
                weights: str | Path) -> list[tuple[str, torch.device]]:
    """Return the engines to try, in order, each with its device; the last one must run."""
    named = named_device(device)
    if engine != 'auto':
        kind = ENGINES[engine]
        # These run on one type of device, and find one on their own, without PyTorch.
        default = next(iter(kind.precisions)) if kind.runs_models else 'auto'
        return [(engine, named or named_device(default) or choose_device('auto'))]
    exported = is_exported(weights)
    if exported and _quantized(weights):
        return [('openvino', named or torch.device('cpu'))]
    where = named or choose_device('auto')
    found = [(name, where) for name in AUTO[where.type, exported]]
    if named is None and exported and where.type == 'cuda':
        # CUDA was not named by the user, and ONNX Runtime may be built without it.
        found += [(name, torch.device('cpu')) for name in AUTO['cpu', True]]
    return found


def _quantized(weights: str | Path) -> bool:
    """Return whether a folder holds models in int8, which OpenVINO alone runs."""
    with suppress(CheckpointError):  # reported when the models are loaded
        return bool(ExportedModels(Path(weights).expanduser()).precision)
    return False


def _refusal(name: str, request: Request) -> Exception | None:
    """Return what keeps an engine from running as asked, as far as the table says."""
    kind, device = ENGINES[name], request.device
    if request.exported and not kind.runs_models:
        able = ', '.join(other for other in ENGINES if ENGINES[other].runs_models)
        return ValueError(f'{request.weights} is exported, and engine {name} runs checkpoints '
                          f'only: choose one of {able}')
    if device.type not in kind.precisions:
        return ValueError(f'engine {name} runs on {" and ".join(kind.precisions)}, not on '
                          f'{device}: choose another engine or another device')
    precisions = kind.precisions[device.type]
    if request.precision not in ('auto', *precisions):
        return ValueError(f'engine {name} computes in {" or ".join(precisions)}, not in '
                          f'{request.precision}, on {device}: choose precision auto, or another '
                          f'engine')
    missing = _missing(_needed(kind, request.exported))
    if missing:
        return ImportError(f'engine {name} needs {" and ".join(missing)}: '
                           f'pip install {" ".join(missing)}')
    return None


def _needed(kind: EngineKind, exported: bool) -> Mapping[str, str]:
    # PyTorch exports models with the package onnx.
    exporter = {'onnx': 'onnx'} if kind.runs_models and not exported else {}
    return {**kind.packages, **exporter}


def _missing(packages: Mapping[str, str]) -> list[str]:
    """Return what to install."""
    return [package for module, package in packages.items() if not find_spec(module)]


def _tried(name: str, request: Request) -> Engine:
    """Return an engine that has run a frame: most failures come when it compiles the network."""
    made = ENGINES[name].make(request)
    try:
        made.key(np.zeros((*made.trained_size, 3), np.uint8))
        made.forget('')
    except BaseException:
        made.close()
        raise
    return made
