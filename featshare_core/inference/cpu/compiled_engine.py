"""Engines that compile the network's ONNX models for each image size: OpenVINO, ONNX Runtime."""
from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from featshare_core.inference.cpu.host_engine import HostEngine, Mark
from featshare_core.inference.device import choose_precision, one_thread
from featshare_core.inference.engine import Frame, drop_oldest
from featshare_core.inference.export.models import ExportedModels, Models, ModelSource
from featshare_core.inference.memory import return_free_memory
from featshare_core.inference.pixels import Size

Array = npt.NDArray[np.float32]


class Runner(Protocol):
    """Both models, loaded for one image size; ``image`` is 1xhxwx3 uint8."""

    def key(self, image: Frame) -> tuple[Array, Any]:
        """Return CxHxW logits, and the shared tensors in memory of their own."""

    def deep(self, image: Frame) -> Any:
        """Return the shared tensors, as ``key`` does; may run beside ``current``."""

    def current(self, image: Frame, shared: Any) -> Array:
        """Return CxHxW logits; they may be overwritten by the next call."""


class CompiledEngine(HostEngine):
    """
    Compiles a source's models when an image size is first seen, or at once for an exported one.

    :param precision: see ``choose_precision``.
    """

    def __init__(self, source: ModelSource, precision: str = 'auto',
                 input_size: tuple[int, int] | None = None, full_size: bool = True) -> None:
        if isinstance(source, ExportedModels):
            height, width = source.size
            if input_size not in (None, (width, height)):
                raise ValueError(f'input_size {input_size} is not what {source.folder} was '
                                 f'exported for: {width}x{height}')
            input_size = width, height
        super().__init__(source.config, source.multiple, source.shared_levels, input_size,
                         full_size)
        self.precision = choose_precision(precision, torch.device('cpu'))
        self._source = source
        self._runners: OrderedDict[Size, Runner] = OrderedDict()

    @abstractmethod
    def _load(self, models: Models) -> Runner:
        """Compile the models."""

    def _image(self, frame: Frame, size: Size) -> Frame:
        # As fast as on more, whose spinning would slow the models that run next.
        with one_thread():
            return super()._image(frame, size)

    def _run_key(self, image: Frame, mark: Mark) -> tuple[Array, Any]:
        result = self._runner(image).key(image[None])
        mark('network')
        return result

    def _run_deep(self, image: Frame) -> Any:
        return self._runner(image).deep(image[None])

    def _run_current(self, image: Frame, shared: Any, mark: Mark) -> Array:
        logits = self._runner(image).current(image[None], shared)
        mark('network')
        return logits

    def _runner(self, image: Frame) -> Runner:
        size = image.shape[0], image.shape[1]
        runner = self._runners.get(size)
        if runner is None:
            runner = self._runners[size] = self._load(self._source.models(size))
            drop_oldest(self._runners, {cache.size for cache in list(self._caches.values())})
            return_free_memory()
        else:
            self._runners.move_to_end(size)
        return runner
