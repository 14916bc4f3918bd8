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
"""The four-stage backbones by name, and what the pyramids on them share."""
from __future__ import annotations

from collections.abc import Iterable, Sequence

from featshare_core.networks.densenet import DenseNet121
from featshare_core.networks.efficientnet_lite import EfficientNetLite0
from featshare_core.networks.mending import Mending
from featshare_core.networks.split import (
    FINER_CHANNELS,
    LANDMARK_CHANNELS,
    Normalisation,
    Tensors,
)
from torch import nn, Tensor
from torch.nn import functional as F

Backbone = DenseNet121 | EfficientNetLite0
BACKBONES: dict[str, type[DenseNet121] | type[EfficientNetLite0]] = {
    'densenet121': DenseNet121, 'efficientnet-lite0': EfficientNetLite0}
"""Backbones by name."""


def load_pretrained(backbone: Backbone, weights: str | None) -> Normalisation:
    """
    Give a backbone pretrained weights; return the mean and deviation of its images.

    :param weights: ``imagenet``, a file of its state dict, or None for no change.
    :raises ValueError, OSError: where the weights are missing or another network's.
    """
    if weights:
        backbone.load_imagenet_weights(
            backbone.imagenet_file() if weights == 'imagenet' else weights)
    return backbone.mean, backbone.std


def run_stages(backbone: Backbone, indices: Iterable[int], features: Tensor) -> Tensors:
    """
    Return the features of consecutive stages, finest first.

    :param features: what the first of them takes: the image for stage 0.
    """
    found: list[Tensor] = []
    for index in indices:
        features = backbone.stage(index, features)
        found.append(features)
    return tuple(found)


def make_mendings(backbone: Backbone, levels: int, channels: Sequence[int]) -> nn.ModuleList:
    """
    Return one ``Mending`` for each cut, 1 to ``levels`` - 1.

    They read the level at stride 8, or the one at stride 4 where it alone is not shared.

    :param channels: of the carried features of each cut.
    """
    return nn.ModuleList(Mending(backbone.channels[min(1, levels - cut - 1)], carried)
                         for cut, carried in enumerate(channels, 1))


def upsample(features: Tensor, like: Tensor) -> Tensor:
    """Return ``features`` bilinearly upsampled to the height and width of ``like``."""
    if features.shape[-2:] == like.shape[-2:]:
        return features
    return F.interpolate(features, size=like.shape[-2:], mode='bilinear', align_corners=False)


def at_stride_8(low: Tensors) -> Tensor:
    """Return the shallow features at stride 8; where none are, those at stride 4, pooled."""
    return low[1] if len(low) > 1 else F.avg_pool2d(low[0], 2)


def landmarks(low: Tensors) -> Tensors:
    """Return what ``SplitNetwork._landmarks`` does, of the features from stride 4 on."""
    return at_stride_8(low)[:, :LANDMARK_CHANNELS], low[0][:, :FINER_CHANNELS]
