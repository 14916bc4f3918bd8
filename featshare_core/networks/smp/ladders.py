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
"""Decoders of segmentation_models_pytorch that climb stage by stage: U-Nets and their kin."""
from __future__ import annotations

from abc import abstractmethod
from typing import Any

from featshare_core.networks.smp.base import columns, finish, SmpNetwork
from featshare_core.networks.split import Tensors
from featshare_core.networks.stages import Features, size_at
import torch
from torch import nn, Tensor
from torch.nn import functional as F


class Ladder(SmpNetwork):
    """
    A decoder that climbs from the deepest features, one block a stage, up to stage ``top``.

    Deep blocks run on key frames, and so does the first part of the block that takes the
    features of the last shallow stage (``begin``); the rest of that block is ``end``.
    """

    top = 0

    def deep(self, features: Features) -> Tensors:
        """Return what ``begin`` does."""
        x = self.base(features[self.levels])
        for stage in range(self.levels - 1, self.shallow, -1):
            x = self.step(stage, x, features)
        return self.begin(self.block(self.shallow), x, features[self.shallow].shape[-2:])

    def merge(self, low: Features, shared: Tensors) -> Tensor:
        """Climb the rest."""
        if shared:
            x = self.end(self.block(self.shallow), shared, low[self.shallow])
        else:
            x = self.base(low[self.levels])
        for stage in range(self.shallow - 1, self.top - 1, -1):
            x = self.step(stage, x, low)
        return x

    def base(self, features: Tensor) -> Tensor:
        """Return what the climb starts from."""
        return self.decoder.center(features)

    def block(self, stage: int) -> Any:
        """Return the block that takes a stage's features; the last one, 0, takes none."""
        return self.decoder.blocks[self.levels - 1 - stage]

    def step(self, stage: int, x: Tensor, features: Features) -> Tensor:
        """Return the whole block's output."""
        return self.block(stage)(x, features.get(stage))

    @abstractmethod
    def begin(self, block: Any, x: Tensor, size: torch.Size) -> Tensors:
        """Return what a block does before it takes in a stage's features of that size."""

    @abstractmethod
    def end(self, block: Any, begun: Tensors, skip: Tensor) -> Tensor:
        """Return the block's output from what ``begin`` returned and the stage's features."""


def begin_block(block: Any, x: Tensor, size: torch.Size) -> Tensor:
    """Upsample and, unless attention needs all channels together, convolve: U-Net's block."""
    x = F.interpolate(x, size=size, mode=block.interpolation_mode)
    return x if _attends(block) else columns(block.conv1[0], x, 0)


def end_block(block: Any, begun: Tensor, skip: Tensor) -> Tensor:
    """Return the block's output."""
    if _attends(block):
        x = block.conv1(block.attention1(torch.cat((begun, skip), 1)))
    else:
        conv = block.conv1[0]
        first = conv.in_channels - skip.shape[1]
        x = finish(block.conv1, begun + columns(conv, skip, first))
    return block.attention2(block.conv2(x))


def _attends(block: Any) -> bool:
    return not isinstance(block.attention1.attention, nn.Identity)


class Unet(Ladder):
    """U-Net: upsample, concatenate, two convolutions a block."""

    def step(self, stage: int, x: Tensor, features: Features) -> Tensor:
        """Return the whole block's output."""
        height, width = size_at(features, stage)
        skip = features.get(stage)
        if skip is None and stage:  # attention is for blocks with a skip, be it an empty one
            skip = x.new_empty(x.shape[0], 0, height, width)
        return self.block(stage)(x, height, width, skip)

    def begin(self, block: Any, x: Tensor, size: torch.Size) -> Tensors:
        """Return the first convolution over the channels from below."""
        return (begin_block(block, x, size),)

    def end(self, block: Any, begun: Tensors, skip: Tensor) -> Tensor:
        """Return the block's output."""
        return end_block(block, begun[0], skip)


class MAnet(Ladder):
    """MA-Net: U-Net with attention over a position and over both inputs' channels."""

    def begin(self, block: Any, x: Tensor, size: torch.Size) -> Tensors:
        """Return the upsampled channels from below and their attention."""
        x = F.interpolate(block.hl_conv(x), scale_factor=2.0, mode=block.interpolation_mode)
        return x, block.SE_hl(x)

    def end(self, block: Any, begun: Tensors, skip: Tensor) -> Tensor:
        """Return the block's output."""
        x, attention = begun
        x = x * (attention + block.SE_ll(skip))
        return block.conv2(block.conv1(torch.cat((x, skip), 1)))


class Linknet(Ladder):
    """LinkNet: convolve, upsample, add."""

    def base(self, features: Tensor) -> Tensor:
        """Return the features as they are."""
        return features

    def begin(self, block: Any, x: Tensor, size: torch.Size) -> Tensors:
        """Return all but the sum."""
        return (block.block(x),)

    def end(self, block: Any, begun: Tensors, skip: Tensor) -> Tensor:
        """Return the sum."""
        return begun[0] + skip


class PAN(Ladder):
    """Pyramid attention network: global attention upsampling from stage to stage."""

    top = 2

    @staticmethod
    def reads(filled: list[int], last: int) -> list[int]:
        """Return the stages from stride 4 on."""
        return [stage for stage in filled if stage >= 2]

    def base(self, features: Tensor) -> Tensor:
        """Return the feature pyramid attention."""
        return self.decoder.fpa(features)

    def block(self, stage: int) -> Any:
        """Return the attention block."""
        return getattr(self.decoder, f'gau{stage - 1}')

    def step(self, stage: int, x: Tensor, features: Features) -> Tensor:
        """Return the whole block's output."""
        return self.block(stage)(features[stage], x)

    def begin(self, block: Any, x: Tensor, size: torch.Size) -> Tensors:
        """Return the upsampled deep features and the gate that they make."""
        return F.interpolate(x, size=size, mode=block.interpolation_mode,
                             align_corners=block.align_corners), block.conv1(x)

    def end(self, block: Any, begun: Tensors, skip: Tensor) -> Tensor:
        """Return the sum."""
        return begun[0] + block.conv2(skip) * begun[1]


class UnetPlusPlus(SmpNetwork):
    """U-Net++: a column of blocks a stage, each fed by the column before and by those below it."""

    def deep(self, features: Features) -> Tensors:
        """Return the beginnings of the blocks in the first shallow stage's column."""
        column = [features[self.levels]]
        for stage in range(self.levels - 1, self.shallow, -1):
            column = self._column(stage, column, features[stage])
        size = features[self.shallow].shape[-2:]
        return tuple(begin_block(self._block(row, self.shallow), x, size)
                     for row, x in enumerate(column))

    def merge(self, low: Features, shared: Tensors) -> Tensor:
        """Return the last column's block."""
        column, stage = [low[self.levels]] if not shared else list(shared), self.shallow
        if shared:
            column = self._column(stage, column, low[stage], begun=True)
        for stage in range(self.shallow - 1, 0, -1):
            skip = low.get(stage)
            if skip is None:
                skip = column[0].new_empty(len(column[0]), 0, *size_at(low, stage))
            column = self._column(stage, column, skip)
        return self._block(0, 0)(column[0])

    def _column(self, stage: int, before: list[Tensor], skip: Tensor,
                begun: bool = False) -> list[Tensor]:
        """Return the column's outputs and, last, the features that they met."""
        outputs: list[Tensor] = []
        for row in reversed(range(len(before))):
            met = torch.cat((*outputs, skip), 1) if outputs else skip
            block = self._block(row, stage)
            outputs.insert(0, end_block(block, before[row], met) if begun
                           else block(before[row], met))
        return [*outputs, skip]

    def _block(self, row: int, stage: int) -> Any:
        return self.decoder.blocks[f'x_{row}_{self.levels - 1 - stage}']
