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
"""TorchEngine: eager PyTorch on the CPU; the reference for every other engine."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from featshare_core.inference.cpu.host_engine import Array, HostEngine, Mark
from featshare_core.inference.device import choose_precision, PRECISIONS
from featshare_core.inference.engine import Frame
from featshare_core.inference.parts import Pixels, prepare
from featshare_core.networks.checkpoint import Config
from featshare_core.networks.split import SplitNetwork
import torch


class TorchEngine(HostEngine):
    """
    Runs a ``SplitNetwork`` eagerly.

    :param network: changed in place: it is cast.
    :param precision: ``fp32``, ``bf16``, or ``auto``: bf16 where the CPU multiplies it.
    """

    name = 'torch'

    def __init__(self, network: SplitNetwork, config: Config, precision: str = 'auto',
                 input_size: tuple[int, int] | None = None, full_size: bool = True) -> None:
        super().__init__(config, network.input_multiple, network.shared_levels, input_size,
                         full_size)
        self.precision = choose_precision(precision, torch.device('cpu'))
        self._network = prepare(network, torch.device('cpu'), self.precision)
        self._pixels = Pixels(config)

    @torch.inference_mode()
    def _run_key(self, image: Frame, mark: Mark) -> tuple[Array, Any]:
        low = self._network.low(self._normalised(image))  # tuple of 1xCxhxw
        mark('low')
        shared = self._network.high(low)  # tuple of tensors
        mark('high')
        logits = _on_host(self._network.decode_key(low, shared))  # Cxh'xw'
        mark('decode')
        return logits, shared

    def _deep_half(self, image: Frame) -> Callable[[Frame], Any]:
        return self._run_deep

    @torch.inference_mode()
    def _run_deep(self, image: Frame) -> Any:
        return self._network.high(self._network.low(self._normalised(image)))

    @torch.inference_mode()
    def _run_current(self, image: Frame, shared: Any, mark: Mark) -> Array:
        low = self._network.low(self._normalised(image))
        mark('low')
        logits = _on_host(self._network.decode(low, shared))  # Cxh'xw'
        mark('decode')
        return logits

    def _free(self) -> None:
        del self._network, self._pixels

    def _normalised(self, image: Frame) -> torch.Tensor:
        normalised: torch.Tensor = self._pixels(torch.from_numpy(image)[None])  # 1x3xhxw
        return normalised.to(PRECISIONS[self.precision])


def _on_host(logits: torch.Tensor) -> Array:
    host: Array = logits[0].float().contiguous().numpy()
    return host
