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
"""
The decoders of segmentation_models_pytorch (0.6), each divided between key and current frames.

Each class does what the decoder's own ``forward`` does, in two halves; the parameters, and their
names, stay those of the decoder. What is linear is divided even within a convolution, exactly:
over a concatenation, it is the sum of convolutions over its parts.
"""
from __future__ import annotations

from featshare_core.networks.smp.base import columns, finish, resize, SmpNetwork
from featshare_core.networks.smp.ladders import Linknet, MAnet, PAN, Unet, UnetPlusPlus
from featshare_core.networks.split import Tensors
from featshare_core.networks.stages import Features, size_at
import torch
from torch import Tensor
from torch.nn import functional as F


class FPN(SmpNetwork):
    """Feature pyramid network: four levels' segmentation maps, summed or concatenated."""

    @staticmethod
    def reads(filled: list[int], last: int) -> list[int]:
        """Return the four deepest stages."""
        if len(filled) < 4 or filled[-4] != last - 3:
            raise ValueError('an FPN needs an encoder of four stages with features')
        return filled[-4:]

    def deep(self, features: Features) -> Tensors:
        """Return the deep levels' upsampled top-down sum and their merged segmentation maps."""
        return self._levels(range(self.levels, self.shallow, -1), features, ())

    def merge(self, low: Features, shared: Tensors) -> Tensor:
        """Return all levels' merged segmentation maps."""
        *_, merged = self._levels(range(self.shallow, self.levels - 4, -1), low, shared)
        return self.decoder.dropout(merged)

    def _levels(self, stages: range, features: Features, above: Tensors) -> Tensors:
        for stage in stages:
            lateral = getattr(self.decoder, f'p{5 - self.levels + stage}')
            pyramid = lateral.skip_conv(features[stage]) + above[0] if above \
                else lateral(features[stage])
            merged = self.decoder.seg_blocks[self.levels - stage](pyramid)  # NxSxhxw, stride 4
            if above:
                merged = above[1] + merged if self.decoder.merge.policy == 'add' \
                    else torch.cat((above[1], merged), 1)
            if stage > self.levels - 3:
                pyramid = F.interpolate(pyramid, scale_factor=2.0,
                                        mode=self.decoder.p4.interpolation_mode)
            above = pyramid, merged
        return above


class UPerNet(SmpNetwork):
    """UPerNet: pyramid pooling on the deepest stage, a feature pyramid, one fusion at stride 4."""

    @staticmethod
    def reads(filled: list[int], last: int) -> list[int]:
        """Return the stages from stride 4 on."""
        return [stage for stage in filled if stage >= 2]

    def deep(self, features: Features) -> Tensors:
        """Return the upsampled top-down sum and the deep levels' part of the fusion."""
        state, maps = self._levels(range(self.levels, self.shallow, -1), features, None)
        fusion = self.decoder.fusion_block[0]
        first = fusion.in_channels - maps.shape[1]
        return resize(state, features[self.shallow].shape[-2:]), columns(fusion, maps, first)

    def merge(self, low: Features, shared: Tensors) -> Tensor:
        """Fuse all levels."""
        _, maps = self._levels(range(self.shallow, 1, -1), low, shared[0] if shared else None)
        fusion = self.decoder.fusion_block
        if not shared:
            return fusion(maps)
        return finish(fusion, columns(fusion[0], maps, 0) + shared[1])

    def _levels(self, stages: range, features: Features,
                state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the top-down sum at the finest of the stages, and their maps, finest first."""
        decoder = self.decoder
        maps: list[Tensor] = []
        for stage in stages:
            normed = decoder.feature_norms[stage - 2](features[stage])
            if state is None:
                state = level = decoder.psp(normed)
            else:
                number = self.levels - 1 - stage
                lateral = decoder.fpn_lateral_blocks[number].conv_norm_relu(normed)
                state = resize(state, lateral.shape[-2:]) + lateral
                level = decoder.fpn_conv_blocks[number](state)
            maps.insert(0, resize(level, size_at(features, 2)))  # NxPxhxw, stride 4
        assert state is not None
        return state, torch.cat(maps, 1)


class Segformer(SmpNetwork):
    """Segformer: a linear layer a stage, resized to stride 4 and fused by a 1x1 convolution."""

    def deep(self, features: Features) -> Tensors:
        """Return the deep stages' part of the fusion."""
        return (self._fused(range(self.levels, self.shallow, -1), features),)

    def merge(self, low: Features, shared: Tensors) -> Tensor:
        """Fuse all stages."""
        fused = self._fused(range(self.shallow, self.used[0] - 1, -1), low)
        return finish(self.decoder.fuse_stage, fused + shared[0] if shared else fused)

    def _fused(self, stages: range, features: Features) -> Tensor:
        """Fuse before upsampling: both are linear, and so exact in either order."""
        fusion, size = self.decoder.fuse_stage[0], size_at(features, 2)
        parts = []
        for stage in stages:
            number = self.levels - stage
            mapped = self.decoder.mlp_stage[number](features[stage])
            if stage < 2:
                mapped = resize(mapped, size)
            parts.append(resize(columns(fusion, mapped, number * mapped.shape[1]), size))
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


class DeepLabV3Plus(SmpNetwork):
    """DeepLabV3+: atrous pyramid pooling on the deepest stage, met by stride 4 alone."""

    @staticmethod
    def reads(filled: list[int], last: int) -> list[int]:
        """Return stride 4 and the deepest stage."""
        return [2, last]

    def deep(self, features: Features) -> Tensors:
        """Return the upsampled pooling's part of the separable convolution."""
        pooled = self.decoder.up(self.decoder.aspp(features[self.levels]))  # NxAxhxw, stride 4
        return (self._convolve(pooled, 0),)

    def merge(self, low: Features, shared: Tensors) -> Tensor:
        """Add that of stride 4."""
        deep, = shared or self.deep(low)
        fine = self.decoder.block1(low[2])  # NxBxhxw, stride 4
        _, norm, activation = self.decoder.block2
        first = self.decoder.block2[0][0].in_channels - fine.shape[1]
        return activation(norm(deep + self._convolve(fine, first)))

    def _convolve(self, features: Tensor, first: int) -> Tensor:
        depthwise, pointwise = self.decoder.block2[0]
        weight = torch.narrow(depthwise.weight, 0, first, features.shape[1])
        features = F.conv2d(features, weight, None, padding=depthwise.padding,
                            groups=features.shape[1])
        return columns(pointwise, features, first)


class Context(SmpNetwork):
    """
    A decoder that reads the deepest stage alone.

    Behind a cached stage, nothing of a current frame would reach its mask. What can be shared
    is the wide context that the decoder adds to each position: that is its one level.
    """

    @staticmethod
    def reads(filled: list[int], last: int) -> list[int]:
        """Return the deepest stage."""
        return [last]

    @property
    def cuts(self) -> tuple[int, ...]:
        """Nothing, or the context."""
        return 0, 1

    @property
    def shallow(self) -> int:
        """Return the last stage: all run on every frame."""
        return self.levels


class PSPNet(Context):
    """PSPNet: the context is the pooled pyramid."""

    def deep(self, features: Features) -> Tensors:
        """Return the pyramid's part of the convolution."""
        size = features[self.levels].shape[-2:]
        pooled = [F.interpolate(block.pool(features[self.levels]), size=size, mode='bilinear',
                                align_corners=True) for block in self.decoder.psp.blocks]
        return (columns(self.decoder.conv[0], torch.cat(pooled, 1), 0),)

    def merge(self, low: Features, shared: Tensors) -> Tensor:
        """Add that of the features themselves."""
        features, conv = low[self.levels], self.decoder.conv
        context, = shared or self.deep(low)
        own = columns(conv[0], features, conv[0].in_channels - features.shape[1])
        return self.decoder.dropout(finish(conv, context + own))


class DeepLabV3(Context):
    """DeepLabV3: the context is what the dilated convolutions and the pooling see."""

    def deep(self, features: Features) -> Tensors:
        """Return their part of the projection."""
        aspp = self.decoder.aspp
        seen = torch.cat([branch(features[self.levels]) for branch in aspp.convs[1:]], 1)
        return (columns(aspp.project[0], seen, aspp.project[0].in_channels - seen.shape[1]),)

    def merge(self, low: Features, shared: Tensors) -> Tensor:
        """Add that of the 1x1 convolution."""
        decoder, aspp = self.decoder, self.decoder.aspp
        context, = shared or self.deep(low)
        x = context + columns(aspp.project[0], aspp.convs[0](low[self.levels]), 0)
        for step in (*list(aspp.project)[1:], decoder.conv, decoder.bn, decoder.relu):
            x = step(x)
        return x


class Undivided(SmpNetwork):
    """Any other decoder: deep features are cached as they are, and all of it runs each time."""

    def low(self, image: Tensor) -> Tensors:
        """Return the image, which the decoder may read, before the shallow features."""
        return image, *super().low(image)

    def _high(self, low: Tensors) -> Tensors:
        """Return the deep features."""
        return super()._high(low[1:])

    def _landmarks(self, low: Tensors) -> Tensors:
        return super()._landmarks(low[1:])

    def _decode(self, low: Tensors, shared: Tensors) -> Tensor:
        """Return the logits, of the image's size."""
        image, *features = low
        given = {0: image, **dict(zip(self.used, (*features, *shared)))}
        empty = image.new_empty(len(image), 0, image.shape[2] // 2, image.shape[3] // 2)
        return self.segmentation_head(
            self.decoder([given.get(stage, empty) for stage in range(self.levels + 1)]))

    def deep(self, features: Features) -> Tensors:
        """Return the deep features."""
        return tuple(features[stage] for stage in self.used if stage > self.shallow)

    def merge(self, low: Features, shared: Tensors) -> Tensor:
        """Not used: see ``_decode``."""
        raise NotImplementedError


DECODERS: dict[str, type[SmpNetwork]] = {kind.__name__: kind for kind in (
    Unet, UnetPlusPlus, MAnet, Linknet, FPN, PSPNet, DeepLabV3, DeepLabV3Plus, PAN, UPerNet,
    Segformer)}
