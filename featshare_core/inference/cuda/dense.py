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
"""Dense blocks that hold their features in one buffer."""
from __future__ import annotations

from featshare_core.networks.densenet import DenseBlock, GROWTH
import torch
from torch import nn, Tensor


class BufferedBlock(nn.Module):
    """
    A dense block whose layers all write into one tensor.

    ``DenseBlock`` concatenates all features after every layer, as autograd and exporters need.

    :param block: the layers are moved out of it.
    """

    def __init__(self, block: DenseBlock) -> None:
        super().__init__()
        self.layers = nn.ModuleList(block.values())

    def forward(self, features: Tensor) -> Tensor:
        """Return NxDxhxw: the input's channels, NxCxhxw, followed by those of every layer."""
        images, filled, height, width = features.shape
        block = torch.empty(
            (images, filled + len(self.layers) * GROWTH, height, width), dtype=features.dtype,
            device=features.device, memory_format=torch.channels_last)
        block[:, :filled] = features
        for layer in self.layers:
            block[:, filled:filled + GROWTH] = layer(block[:, :filled])
            filled += GROWTH
        return block


def buffer_dense_blocks(network: nn.Module) -> None:
    """Replace a network's dense blocks, in place; it cannot be trained afterwards."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, DenseBlock):
                setattr(module, name, BufferedBlock(child))
