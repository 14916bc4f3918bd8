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
"""Key and current frames as one module each, from uint8 pixels to logits, to be exported."""
from __future__ import annotations

from featshare_core.inference.device import PRECISIONS
from featshare_core.networks.checkpoint import Config
from featshare_core.networks.split import SplitNetwork, Tensors
import torch
from torch import nn, Tensor


class Pixels(nn.Module):
    """Normalises NxHxWx3 uint8 RGB to Nx3xHxW, by the checkpoint's mean and deviation."""

    scale: Tensor
    shift: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        mean, std = (torch.tensor(values) for values in (config.mean, config.std))
        self.register_buffer('scale', 1 / (255 * std))
        self.register_buffer('shift', -mean / std)

    def forward(self, image: Tensor) -> Tensor:
        """Return the Nx3xHxW normalised image, in fp32: bf16 would round its eight bits."""
        # A view of NxHxWx3 memory: an engine that works with channels last transposes nothing.
        return (image.float() * self.scale + self.shift).permute(0, 3, 1, 2)


class Part(nn.Module):
    """What one kind of frame runs: a network and the normalisation of its pixels."""

    def __init__(self, network: SplitNetwork, pixels: Pixels) -> None:
        super().__init__()
        self.network = network
        self.pixels = pixels


class KeyPart(Part):
    """A key frame: the whole network."""

    def forward(self, image: Tensor) -> Tensors:
        """Return (NxCxhxw logits, *shared) of an NxHxWx3 uint8 image."""
        low = self.network.low(self.pixels(image))  # tuple of NxCxhxw
        shared = self.network.high(low)  # tuple of tensors, as current frames take them
        return self.network.decode_key(low, shared), *shared


class CurrentPart(Part):
    """A current frame: the shallow half, with a key frame's shared tensors."""

    def forward(self, image: Tensor, *shared: Tensor) -> Tensor:
        """Return NxCxhxw logits of an NxHxWx3 uint8 image."""
        return self.network.decode(self.network.low(self.pixels(image)), shared)


def parts(network: SplitNetwork, config: Config) -> tuple[KeyPart, CurrentPart]:
    """Return the modules of both kinds of frame, on the same weights, in evaluation mode."""
    pixels = Pixels(config)
    return KeyPart(network, pixels).eval(), CurrentPart(network, pixels).eval()


def prepare(network: SplitNetwork, device: torch.device, precision: str) -> SplitNetwork:
    """
    Return the network, changed in place: evaluation mode, on the device, cast, channels last.

    :param precision: a key of ``PRECISIONS``.
    """
    network = network.eval().to(device, PRECISIONS[precision])
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in network.modules():
        # In 16 bits the statistics would shift whole channels; kernels take them in fp32.
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    return network
