"""OpenVinoEngine: the fastest that we know on x86 CPUs."""
from __future__ import annotations

from typing import Any

import openvino as ov
import torch
from openvino.preprocess import PrePostProcessor

from featshare_core.inference.compiled_engine import Array, CompiledEngine
from featshare_core.inference.engine import Frame
from featshare_core.inference.export import Models

PRECISION_HINTS = {'fp32': 'f32', 'bf16': 'bf16'}


class OpenVinoEngine(CompiledEngine):
    """Runs the models with OpenVINO on the CPU, with as many threads as PyTorch would."""

    name = 'openvino'

    def _load(self, models: Models) -> _Runner:
        return _Runner(models, PRECISION_HINTS[self.precision])


class _Runner:
    def __init__(self, models: Models, precision: str) -> None:
        core = ov.Core()
        self._key, self._current = (
            core.compile_model(_as_computed(core.read_model(model), precision), 'CPU', {
                'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': precision,
                'INFERENCE_NUM_THREADS': torch.get_num_threads(),
            }).create_infer_request() for model in models)

    def key(self, image: Frame) -> tuple[Array, Any]:
        # Written straight into memory of its own: the next key frame may be another stream's.
        ports = self._key.model_outputs[1:]
        shared = [ov.Tensor(port.element_type, port.shape) for port in ports]
        for port, tensor in zip(ports, shared):
            self._key.set_tensor(port, tensor)
        self._key.infer([image], share_inputs=True)
        return self._key.output_tensors[0].data[0].copy(), shared

    def current(self, image: Frame, shared: Any) -> Array:
        self._current.infer([image, *shared], share_inputs=True)
        return self._current.output_tensors[0].data[0]


def _as_computed(model: ov.Model, precision: str) -> ov.Model:
    """
    Let a model give and take shared tensors in the layout and precision that it computes them in.

    Reordering them costs as much as a few convolutions.
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
