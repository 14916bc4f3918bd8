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
"""OnnxEngine: the network in ONNX Runtime, on any of its execution providers."""
from __future__ import annotations

from typing import Any

from featshare_core.inference.cpu.compiled_engine import Array, CompiledEngine
from featshare_core.inference.engine import Frame
from featshare_core.inference.export.models import Models, ModelSource
import onnxruntime as ort

PROVIDERS = {'cpu': 'CPUExecutionProvider', 'cuda': 'CUDAExecutionProvider',
             'tensorrt': 'TensorrtExecutionProvider', 'openvino': 'OpenVINOExecutionProvider'}
"""ONNX Runtime's name of each execution provider."""
ON_CUDA = ('cuda', 'tensorrt')
"""The providers that run on a CUDA device."""


class OnnxEngine(CompiledEngine):
    """
    Runs the models with ONNX Runtime; shared tensors stay on the provider's device.

    It computes in fp32 on every device.

    :param provider: a key of ``PROVIDERS``.
    :param index: number of the CUDA device.
    :raises RuntimeError: where this ONNX Runtime lacks the provider, or it cannot start, or where
        the models are quantised for OpenVINO.
    """

    name = 'onnx'

    def __init__(self, source: ModelSource, provider: str = 'cpu',
                 input_size: tuple[int, int] | None = None, full_size: bool = True,
                 index: int = 0) -> None:
        available = ort.get_available_providers()
        if PROVIDERS[provider] not in available:
            raise RuntimeError(f'this ONNX Runtime has no {PROVIDERS[provider]}, it has '
                               f'{", ".join(available)}: install the onnxruntime build for it')
        if source.precision:
            # RuntimeError: ``auto`` then goes on to OpenVINO.
            raise RuntimeError(f'the models are in {source.precision}, for OpenVINO: choose '
                               f'engine openvino')
        super().__init__(source, 'fp32', input_size, full_size)
        self._provider, self._index = provider, index
        self.device = f'{provider}:{index}' if provider in ON_CUDA else provider

    def _load(self, models: Models) -> _Runner:
        try:
            return _Runner(models, self._provider, self._index, self._threads)
        except RuntimeError:
            raise
        except Exception as error:  # ONNX Runtime's own types, of damaged models for example
            raise RuntimeError(f'ONNX Runtime cannot load the models: {error}') from error


class _Runner:

    def __init__(self, models: Models, provider: str, index: int, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin while they wait take the cores from the decoding of images.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        where = {'device_id': str(index)} if provider in ON_CUDA else {}
        self._key = ort.InferenceSession(models.key, options,
                                         providers=[(PROVIDERS[provider], where)])
        self._current = self._key if models.is_undivided else ort.InferenceSession(
            models.current, options, providers=[(PROVIDERS[provider], where)])
        # Where a provider lacks a library, ONNX Runtime runs on the CPU and only prints a line.
        if self._key.get_providers()[0] != PROVIDERS[provider]:
            raise RuntimeError(f'ONNX Runtime cannot start its {PROVIDERS[provider]}: its output '
                               f'on the console names the missing library or device')
        self._place, self._index = ('cuda' if provider in ON_CUDA else 'cpu'), index
        self._shared = [output.name for output in self._key.get_outputs()[1:]]
        self._bound_key, self._bound_current = self._key.io_binding(), self._current.io_binding()
        self._bound_current.bind_output('logits', 'cpu')

    def key(self, image: Frame) -> tuple[Array, Any]:
        binding = self._bound_key
        binding.bind_cpu_input('image', image[None])
        # Bound for each key frame, so that its tensors get memory of their own.
        binding.bind_output('logits', 'cpu')
        for name in self._shared:
            binding.bind_output(name, self._place, self._index)
        self._key.run_with_iobinding(binding)
        logits, *shared = binding.get_outputs()
        return logits.numpy()[0], shared

    def deep(self, image: Frame) -> Any:
        # ONNX Runtime computes all outputs, also where fewer are asked for.
        return self.key(image)[1]

    def current(self, image: Frame, shared: Any) -> Array:
        binding = self._bound_current
        binding.bind_cpu_input('image', image[None])
        for name, value in zip(self._shared, shared):
            binding.bind_ortvalue_input(name, value)
        self._current.run_with_iobinding(binding)
        return binding.get_outputs()[0].numpy()[0]  # Cxh'xw'
