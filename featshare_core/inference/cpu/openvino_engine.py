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
"""OpenVinoEngine: the network in OpenVINO, the fastest engine on x86 CPUs."""
from __future__ import annotations

from functools import cached_property
from typing import Any

from featshare_core.inference.cpu.compiled_engine import Array, CompiledEngine
from featshare_core.inference.device import choose_precision
from featshare_core.inference.engine import Frame
from featshare_core.inference.export.models import Models, ModelSource
from featshare_core.machine import usable_physical_cores
import openvino as ov
from openvino.preprocess import PrePostProcessor
import torch

PRECISION_HINTS = {'fp32': 'f32', 'bf16': 'bf16'}
"""OpenVINO's name of each precision."""


class OpenVinoEngine(CompiledEngine):
    """
    Runs the models with OpenVINO on the CPU, on as many threads as PyTorch would.

    :param precision: ``fp32``, ``bf16``, or ``auto``: bf16 where the CPU multiplies it.
    """

    name = 'openvino'

    def __init__(self, source: ModelSource, precision: str = 'auto',
                 input_size: tuple[int, int] | None = None, full_size: bool = True) -> None:
        super().__init__(source, choose_precision(precision, torch.device('cpu')), input_size,
                         full_size)

    def _load(self, models: Models) -> _Runner:
        return _Runner(models, PRECISION_HINTS[self.precision], self._threads)


class _Runner:

    def __init__(self, models: Models, precision: str, threads: int) -> None:
        self._core = ov.Core()
        self._precision, self._threads = precision, threads
        # OpenVINO pins its threads to the first cores. Several processes that share the cores,
        # each with fewer threads, would all compute on the same ones.
        self._pinned = threads >= usable_physical_cores()
        self._key_model = models.key, models.key_weights  # until the deep half is compiled
        self._key = self._compiled(self._read(*self._key_model), self._threads)
        self._current = self._key if models.is_undivided else self._compiled(
            self._read(models.current, models.current_weights), self._threads)

    def _read(self, model: bytes, weights: bytes) -> ov.Model:
        return _as_computed(self._core.read_model(model, weights), self._precision)

    def _compiled(self, model: ov.Model, threads: int) -> ov.InferRequest:
        return self._core.compile_model(model, 'CPU', {
            'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': self._precision,
            'INFERENCE_NUM_THREADS': threads, 'ENABLE_CPU_PINNING': self._pinned,
        }).create_infer_request()

    @cached_property
    def _deep(self) -> ov.InferRequest:
        # Compiled when the first stream defers: few do.
        model = self._read(*self._key_model)
        shared_only = [output.node for output in model.outputs[1:]]
        # Threads on every core would wait for those of the frame that it runs beside.
        request = self._compiled(ov.Model(shared_only, model.get_parameters()),
                                 max(1, self._threads // 2))
        # Only now: where compiling fails, the next deferred frame tries again.
        del self._key_model
        return request

    def key(self, image: Frame) -> tuple[Array, Any]:
        shared = _with_outputs(self._key, self._key.model_outputs[1:])
        self._key.infer([image[None]], share_inputs=True)
        return self._key.output_tensors[0].data[0].copy(), shared

    def deep(self, image: Frame) -> Any:
        shared = _with_outputs(self._deep, self._deep.model_outputs)
        self._deep.infer([image[None]], share_inputs=True)
        return shared

    def current(self, image: Frame, shared: Any) -> Array:
        self._current.infer([image[None], *shared], share_inputs=True)
        return self._current.output_tensors[0].data[0]  # Cxh'xw'


def _with_outputs(request: ov.InferRequest, ports: list[ov.ConstOutput]) -> list[ov.Tensor]:
    """Return new tensors that a request writes into; the last ones are a stream's by now."""
    tensors = [ov.Tensor(port.element_type, port.shape) for port in ports]
    for port, tensor in zip(ports, tensors):
        request.set_tensor(port, tensor)
    return tensors


def _as_computed(model: ov.Model, precision: str) -> ov.Model:
    """
    Return a model whose shared tensors have the layout and precision that it computes them in.

    Reordering them would cost as much as a few convolutions.
    """
    steps = PrePostProcessor(model)
    for ports, port_of in ((model.inputs, steps.input), (model.outputs, steps.output)):
        for port in ports:
            name = port.any_name
            if not name.startswith('shared'):
                continue
            if precision == 'bf16':
                port_of(name).tensor().set_element_type(ov.Type.bf16)
            if len(port.shape) == 4:
                port_of(name).tensor().set_layout(ov.Layout('NHWC'))
                port_of(name).model().set_layout(ov.Layout('NCHW'))
    return steps.build()
