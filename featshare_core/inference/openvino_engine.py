"""OpenVinoEngine: the fastest that we know on x86 CPUs."""
from __future__ import annotations

from typing import Any

import openvino as ov
import torch

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
            core.compile_model(core.read_model(model), 'CPU', {
                'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': precision,
                'INFERENCE_NUM_THREADS': torch.get_num_threads(),
            }).create_infer_request() for model in models)

    def key(self, image: Frame) -> tuple[Array, Any]:
        self._key.infer([image], share_inputs=True)
        logits, *shared = (tensor.data for tensor in self._key.output_tensors)
        # The next key frame, of whichever stream, writes the same memory.
        return logits[0].copy(), [ov.Tensor(array.copy(), shared_memory=True) for array in shared]

    def current(self, image: Frame, shared: Any) -> Array:
        self._current.infer([image, *shared], share_inputs=True)
        return self._current.output_tensors[0].data[0]
