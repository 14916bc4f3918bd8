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
"""What the divided decoders of segmentation_models_pytorch (0.6) have in common."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from featshare_core.networks.smp.encoders import encoder_normalisation, load_encoder_weights
from featshare_core.networks.split import Normalisation, Tensors
from featshare_core.networks.stages import StagedNetwork, Step
import torch
from torch import nn, Tensor
from torch.nn import functional as F


def columns(conv: Any, features: Tensor, first: int) -> Tensor:
    """Return, without the bias, what the input channels from ``first`` on are convolved to."""
    weight = torch.narrow(conv.weight, 1, first, features.shape[1])
    return F.conv2d(features, weight, None, conv.stride, conv.padding, conv.dilation)


def finish(conv_norm_relu: nn.Sequential, convolved: Tensor) -> Tensor:
    """Return what follows the sum of all ``columns``: bias, norm and activation."""
    conv: Any
    conv, norm, activation = conv_norm_relu
    if conv.bias is not None:
        convolved = convolved + conv.bias.view(-1, 1, 1)
    return activation(norm(convolved))


def resize(features: Tensor, size: Sequence[int]) -> Tensor:
    """Return features bilinearly resized, corners not aligned."""
    if tuple(features.shape[-2:]) == tuple(size):
        return features
    return F.interpolate(features, size=list(size), mode='bilinear', align_corners=False)


class ExportablePool(nn.AdaptiveAvgPool2d):
    """Adaptive average pooling that ONNX exporters know also where sizes do not divide."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Average each row's window, then each column's: two constant matrices."""
        if not torch.onnx.is_in_onnx_export():
            return super().forward(input)
        size: Any = self.output_size
        counts = size if isinstance(size, tuple) else (size, size)
        rows, columns = (self._windows(int(side), count).to(input)
                         for side, count in zip(input.shape[-2:], counts))
        return rows @ input @ columns.T

    @staticmethod
    def _windows(side: int, count: int) -> Tensor:
        windows = torch.zeros(count, side)
        for index in range(count):
            first, end = index * side // count, -(-(index + 1) * side // count)
            windows[index, first:end] = 1 / (end - first)
        return windows


class SmpNetwork(StagedNetwork):
    """
    A model of segmentation_models_pytorch; its parameters keep their names.

    :param model: taken over, but for its classification head and its activation.
    :param encoder: the encoder's name.
    :param stages: see ``StagedNetwork``.
    :raises ValueError: where the decoder cannot read these stages or be cut there.
    """

    decoder: Any
    segmentation_head: nn.Sequential

    classifier_path = 'segmentation_head.0'

    def __init__(self, model: Any, encoder: str, stages: Sequence[Sequence[Step]],
                 shared_levels: int) -> None:
        filled = [number for number, steps in enumerate(stages, 1) if steps]
        super().__init__(model.encoder, stages, self.reads(filled, len(stages)), shared_levels)
        self.encoder_name = encoder
        self.decoder = model.decoder
        for module in self.decoder.modules():
            for name, child in module.named_children():
                if isinstance(child, nn.AdaptiveAvgPool2d):
                    setattr(module, name, ExportablePool(child.output_size))
        # Its third part is the activation, which logits have not.
        self.segmentation_head = nn.Sequential(*list(model.segmentation_head)[:2])
        self.input_multiple = model.encoder.output_stride

    @staticmethod
    def reads(filled: list[int], last: int) -> list[int]:
        """Return those of the stages with features that the decoder reads."""
        return filled

    def load_backbone(self, weights: str | None) -> Normalisation:
        """
        Give the encoder pretrained weights; return the mean and deviation of its images.

        :param weights: see ``load_encoder_weights``; None for no change and ImageNet's mean and
            deviation.
        :raises ValueError: where they cannot be had, or are another encoder's.
        """
        if not weights:
            return super().load_backbone(None)
        load_encoder_weights(self.encoder, self.encoder_name, weights)
        return encoder_normalisation(self.encoder_name, weights)

    def _decode(self, low: Tensors, shared: Tensors) -> Tensor:
        """Return the logits, of the image's size."""
        return self.segmentation_head(super()._decode(low, shared))
