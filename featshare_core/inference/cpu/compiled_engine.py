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
"""Engines that compile the network's ONNX models for each image size: OpenVINO, ONNX Runtime."""
from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable
import math
from typing import Any, Protocol

from featshare_core.inference.cpu.host_engine import HostEngine, Mark
from featshare_core.inference.device import one_thread
from featshare_core.inference.engine import drop_oldest, Frame
from featshare_core.inference.export.models import ExportedModels, Models, ModelSource
from featshare_core.inference.memory import return_free_memory
from featshare_core.inference.pixels import Size
from featshare_core.inference.preparing import Preparer
import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[np.float32]


class Runner(Protocol):
    """Both models, compiled for one image size; ``image`` is hxwx3 uint8."""

    def key(self, image: Frame) -> tuple[Array, Any]:
        """Return Cxh'xw' logits, and the shared tensors in memory that no other call writes to."""

    def deep(self, image: Frame) -> Any:
        """Return the shared tensors, as ``key`` does; may run beside ``current``."""

    def current(self, image: Frame, shared: Any) -> Array:
        """Return Cxh'xw' logits; they may be overwritten by the next call."""


class CompiledEngine(HostEngine):
    """
    Compiles a source's models when an image size is first seen.

    For a stand-in mask (see ``Engine.beside``) the image is stretched to the prepared size of the
    most similar aspect ratio.

    :param precision: what the models compute in, except for layers in int8.
    :raises ValueError: where exported models are of another size than ``input_size``.
    """

    def __init__(self, source: ModelSource, precision: str,
                 input_size: tuple[int, int] | None = None, full_size: bool = True) -> None:
        if isinstance(source, ExportedModels):
            height, width = source.size
            if input_size not in (None, (width, height)):
                raise ValueError(f'input_size {input_size} is not what {source.folder} was '
                                 f'exported for: {width}x{height}')
            input_size = width, height
        super().__init__(source.config, source.multiple, source.shared_levels, input_size,
                         full_size)
        self.precision = precision
        if source.precision:
            self.network_name += f', {source.precision}'
        # Read here: a thread that computes for the first time, as the one that prepares sizes,
        # reports 1 if another is within ``one_thread``.
        self._threads = torch.get_num_threads()
        self._source = source
        self._runners: OrderedDict[Size, Runner] = OrderedDict()
        self._preparer = Preparer(self._prepared)

    @abstractmethod
    def _load(self, models: Models) -> Runner:
        """Compile the models, to run on ``self._threads`` threads."""

    def fit(self, frame: Frame, stream: str = '') -> tuple[int, ...]:
        """Return the (height, width) at which the network will run; () unless ``beside``."""
        if not self.beside:
            return ()
        done = self._preparer.take()
        if done is not None:
            self._keep(*done)
        own = self._own_size(frame)
        if self._runners and own not in self._runners:
            self._preparer.want(stream, own)
        return self._size_for(frame)

    @property
    def preparing(self) -> str:
        """Return the network's input size in preparation, or why that failed; or ''."""
        return self._preparer.state

    def forget(self, stream: str) -> None:
        """Free what is kept of a stream."""
        super().forget(stream)
        self._preparer.forget(stream)

    def _size_for(self, frame: Frame) -> Size:
        own = self._own_size(frame)
        if not self.beside or own in self._runners or not self._runners:
            return own
        # Of equally similar ones, always the same: they are in the order of their last use.
        return min(self._runners, key=lambda size: (abs(math.log(
            size[1] * own[0] / (size[0] * own[1]))), size))

    def _image(self, frame: Frame, size: Size) -> Frame:
        # No slower than on several, which would spin on and slow the models that run next.
        with one_thread():
            return super()._image(frame, size)

    def _run_key(self, image: Frame, mark: Mark) -> tuple[Array, Any]:
        result = self._runner(image).key(image)
        mark('network')
        return result

    def _deep_half(self, image: Frame) -> Callable[[Frame], Any]:
        # Looked up here, not when it runs: the table of runners is for the calling thread alone.
        return self._runner(image).deep

    def _run_current(self, image: Frame, shared: Any, mark: Mark) -> Array:
        logits = self._runner(image).current(image, shared)
        mark('network')
        return logits

    def _runner(self, image: Frame) -> Runner:
        size = image.shape[0], image.shape[1]
        runner = self._runners.get(size)
        if runner is None:
            runner = self._load(self._source.models(size))
            self._keep(size, runner)
            return_free_memory()
        else:
            self._runners.move_to_end(size)
        return runner

    def _keep(self, size: Size, runner: Runner) -> None:
        self._runners[size] = runner
        drop_oldest(self._runners, {cache.prepared for cache in self._caches.values()})

    def _prepared(self, size: Size) -> Runner:
        self._source.prepare(size)
        runner = self._load(self._source.models(size))
        # The first run of a model allocates its memory.
        image = np.zeros((*size, 3), np.uint8)
        runner.current(image, runner.key(image)[1])
        return_free_memory()
        return runner

    def _free(self) -> None:
        self._preparer.close()
        self._source.close()
        self._runners.clear()
        del self._source
        return_free_memory()
