"""Which engine runs a checkpoint on a device."""
from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from featshare_core.inference.cpu.torch_engine import TorchEngine
from featshare_core.inference.device import choose_device, named_device
from featshare_core.inference.engine import Engine
from featshare_core.inference.export.models import (
    CONFIG_FILE,
    ExportedModels,
    ModelSource,
    NetworkModels,
)
from featshare_core.networks.checkpoint import load_checkpoint

ENGINES = {'auto': ('cpu', 'cuda'), 'torch': ('cpu', 'cuda'), 'graphs': ('cuda',),
           'openvino': ('cpu',), 'onnx': ('cpu',), 'onnx-cuda': ('cuda',),
           'onnx-tensorrt': ('cuda',), 'onnx-openvino': ('cpu',)}
"""The kinds of devices that each engine runs on."""

log = logging.getLogger(__name__)


def make_engine(weights: str | Path = 'default', engine: str = 'auto', device: str = 'auto',
                precision: str = 'auto', shared_levels: int | None = None,
                input_size: tuple[int, int] | None = None, full_size: bool = True,
                aligned: bool | None = None) -> Engine:
    """
    Load weights into an engine.

    ``torch`` is PyTorch, eagerly, on any device; ``graphs`` are its CUDA graphs. ``auto`` is
    ``graphs`` on CUDA devices; on the CPU it is ``openvino`` where that is installed, with onnx,
    else ``torch``.

    :param weights: a checkpoint's name or file, or a folder that ``featshare export`` has made.
    :param engine: one of ``ENGINES``; ``onnx-...`` names ONNX Runtime's execution provider.
    :param shared_levels: where to cut the network; None as the checkpoint says.
    :param aligned: see ``SplitNetwork.aligned``; None as the checkpoint says.
    :param device, precision, input_size, full_size: see ``VideoSegmenter.from_checkpoint``.
    :raises CheckpointError: where the weights cannot be used.
    :raises RuntimeError: where the device is missing: nothing else stands in for it.
    :raises ImportError: where the engine asked for is not installed.
    :raises ValueError: where another argument is out of range, or the engine is not for the
        device or the precision.
    """
    if engine not in ENGINES:
        raise ValueError(f'engine {engine!r} is none of {", ".join(ENGINES)}')
    folder = Path(weights).expanduser()
    exported = (folder / CONFIG_FILE).is_file()
    if exported and (shared_levels is not None or aligned is not None):
        raise ValueError(f'{folder} is exported: its shared levels and alignment are what they '
                         f'are; export it anew')
    if exported and engine in ('torch', 'graphs'):
        raise ValueError(f'{folder} is exported: choose the engine openvino or onnx')
    if exported and engine == 'auto':
        on_cuda = device.startswith('cuda')
        engine = 'onnx-cuda' if on_cuda else 'openvino' if find_spec('openvino') else 'onnx'
    where = choose_device(device) if engine in ('auto', 'torch', 'graphs') else \
        named_device(device)
    if where is not None and where.type not in ENGINES[engine]:
        raise ValueError(f'engine {engine} runs on {" and ".join(ENGINES[engine])}, not on '
                         f'{where}: choose another engine, or device auto')

    def source() -> ModelSource:
        if exported:
            return ExportedModels(folder)
        return NetworkModels(*load_checkpoint(weights, shared_levels, aligned))

    def torch_engine() -> Engine:
        network, config = load_checkpoint(weights, shared_levels, aligned)
        if where is not None and where.type == 'cuda':
            from featshare_core.inference.cuda.cuda_engine import CudaEngine
            return CudaEngine(network, config, where, precision, input_size, full_size,
                              graphs=engine != 'torch')
        return TorchEngine(network, config, precision, input_size, full_size)

    def openvino_engine() -> Engine:
        from featshare_core.inference.cpu.openvino_engine import OpenVinoEngine
        return OpenVinoEngine(source(), precision, input_size, full_size)

    if engine in ('torch', 'graphs') or (where is not None and where.type == 'cuda'):
        return torch_engine()
    # Networks are exported by PyTorch with onnx, whoever runs them then.
    tools = () if exported else ('onnx',)
    if engine == 'auto':
        return _first_that_works(openvino_engine, torch_engine) \
            if not _missing('openvino', *tools) else torch_engine()
    missing = _missing('openvino' if engine == 'openvino' else 'onnxruntime', *tools)
    if missing:
        raise ImportError(f'engine {engine} needs {" and ".join(missing)}: '
                          f'pip install {" ".join(missing)}')
    if engine == 'openvino':
        return openvino_engine()
    from featshare_core.inference.cpu.onnx_engine import OnnxEngine
    return OnnxEngine(source(), engine.partition('-')[2] or 'cpu', precision, input_size,
                      full_size, index=(where.index or 0) if where is not None else 0)


def _missing(*packages: str) -> list[str]:
    return [package for package in packages if not find_spec(package)]


def _first_that_works(fast: Callable[[], Engine], plain: Callable[[], Engine]) -> Engine:
    try:
        engine = fast()
        # Compiling fails here or nowhere, so that the plain engine can stand in.
        engine.key(np.zeros((*engine.trained_size, 3), np.uint8))
        engine.forget('')
        return engine
    except (RuntimeError, ImportError, OSError) as error:
        engine = plain()
        engine.fallback = f'no OpenVINO: {str(error).splitlines()[0]}'
        log.warning('%s; PyTorch runs instead, at a lower rate', engine.fallback)
        return engine
