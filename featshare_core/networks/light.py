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
"""A pyramid with a light decoder."""
from __future__ import annotations

from featshare_core.networks.backbones import (
    at_stride_8,
    BACKBONES,
    landmarks,
    load_pretrained,
    make_mendings,
    run_stages,
    upsample,
)
from featshare_core.networks.split import Normalisation, SplitNetwork, Tensors
from torch import nn, Tensor
from torch.nn import functional as F

WIDTHS = (64, 64, 128, 128)
"""Channels of the top-down path at strides 4, 8, 16 and 32."""
TAIL_CHANNELS = 32
"""Channels of the features that the classifier reads."""


class SeparableConv(nn.Sequential):
    """3x3 depthwise and 1x1 convolution, each with batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs), nn.ReLU(),
            nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class LightPyramid(SplitNetwork):
    """
    A top-down path of separable convolutions on a four-stage backbone; logits at stride 4.

    From coarse to fine, a level's features are upsampled, added to the next one's lateral (1x1
    convolution with batch norm) and refined. What is cached is the refined features of the finest
    shared level.

    :param classes: number of logits a pixel.
    :param shared_levels: levels cached on key frames, counted from the deepest, 0 to 3. The
        weights do not depend on it.
    :param backbone: a key of ``BACKBONES``.
    :param mending: add one ``Mending`` for each cut.
    :raises ValueError: for a cut that the network does not have.
    """

    input_multiple = 32
    landmark_maps = 2
    levels = len(WIDTHS)
    classifier_path = 'classifier'

    def __init__(self, classes: int, shared_levels: int = 2, backbone: str = 'efficientnet-lite0',
                 mending: bool = False) -> None:
        super().__init__()
        self.backbone = BACKBONES[backbone]()
        self.laterals = nn.ModuleList(map(_lateral, self.backbone.channels, WIDTHS))
        at_4, at_8, at_16, at_32 = WIDTHS
        self.refinements = nn.ModuleList((
            nn.Sequential(nn.Conv2d(at_4, TAIL_CHANNELS, 3, padding=1, bias=False),
                          nn.BatchNorm2d(TAIL_CHANNELS), nn.ReLU()),
            nn.Sequential(SeparableConv(at_8, at_8), SeparableConv(at_8, at_4)),
            nn.Sequential(SeparableConv(at_16, at_16), SeparableConv(at_16, at_8)),
            nn.Identity()))
        self.classifier = nn.Conv2d(TAIL_CHANNELS, classes, 1)
        if mending:
            self.mendings = make_mendings(self.backbone, self.levels, (at_32, at_8, at_4))
            self.mending_names = frozenset(f'mendings.{n}' for n in self.mendings.state_dict())
        self.configure(shared_levels=shared_levels)

    def load_backbone(self, weights: str | None) -> Normalisation:
        """Give the backbone pretrained weights; see ``backbones.load_pretrained``."""
        return load_pretrained(self.backbone, weights)

    def low(self, image: Tensor) -> Tensors:
        """Return the backbone's features of the levels that are not shared, finest first."""
        return run_stages(self.backbone, range(self.levels - self.shared_levels), image)

    def _high(self, low: Tensors) -> Tensors:
        """Return ``(features,)``, the refined ones of the finest shared level, at its stride."""
        if not self.shared_levels:
            return ()
        deep = run_stages(self.backbone, range(len(low), self.levels), low[-1])
        return (self._refined(deep, len(low), None),)

    def _decode(self, low: Tensors, shared: Tensors) -> Tensor:
        """Return NxCx(H/4)x(W/4) logits from the low levels and ``_high``'s tensors."""
        return self.classifier(self._refined(low, 0, shared[0] if shared else None))

    def _mended(self, low: Tensors, carried: Tensors, wrong: Tensor) -> Tensors:
        features, = carried
        # At stride 16, from stride 32, 16 or 8.
        context = F.avg_pool2d(features, 2) if self.shared_levels == 3 \
            else upsample(features, F.avg_pool2d(wrong, 2))
        mend = self.mendings[self.shared_levels - 1]
        return (mend(at_stride_8(low), features, context, wrong, self.ops.gate),)

    def _landmarks(self, low: Tensors) -> Tensors:
        return landmarks(low)

    def _refined(self, features: Tensors, first: int, deep: Tensor | None) -> Tensor:
        """
        Return the refined features of level ``first``.

        :param features: the backbone's of the levels from ``first`` on, finest first.
        :param deep: the refined features of the level below them; None where there is none.
        """
        for index in reversed(range(first, first + len(features))):
            found = self.laterals[index](features[index - first])  # Nxcxhxw at the level's stride
            if deep is not None:
                found = found + upsample(deep, found)
            deep = self.refinements[index](F.relu(found))
        assert deep is not None
        return deep


def _lateral(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
