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
"""The thesis's network (ch. 3): a feature pyramid on a four-stage backbone, cut at a level."""
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
import torch
from torch import nn, Tensor
from torch.nn import functional as F

PYRAMID_CHANNELS = 128
"""Channels of each level of the pyramid."""
HEAD_CHANNELS = 64
"""Channels of each level's head, and of the fusion."""
TAIL_CHANNELS = 32
"""Channels of the features that the classifier reads."""


class FPN(SplitNetwork):
    """
    Feature pyramid network on a four-stage backbone, with ``shared_levels`` levels cached.

    1x1 laterals, top-down upsampling and addition, and one linear 3x3 head a level. The decoder
    concatenates the heads at stride 4, upsampled x2 at a time: conv-BN-ReLU, x2, conv-BN-ReLU,
    conv; the last x2 is left to the caller, which upsamples to its own size anyway.

    The thesis does not print the first and the last decoder convolution's kernel size. We take
    1x1, because a 1x1 convolution commutes with bilinear upsampling, so that all is linear up to
    the decoder's first batch norm. Hence what the deep levels add there is one tensor, computed
    once, on the key frame; and on every frame lateral, head and fusion of a low level are one
    3x3 convolution. The last convolution runs before its upsampling. Each is exact.

    :param classes: number of logits a pixel.
    :param shared_levels: levels cached on key frames, counted from the deepest; 0 to levels - 1.
        The weights do not depend on it.
    :param levels: pyramid levels, 1 to 4; 2 is the thesis's truncated (-2) network.
    :param backbone: a key of ``BACKBONES``; the thesis's is DenseNet-121.
    :param mending: add one ``Mending`` per cut.
    :raises ValueError: for a cut or a number of levels that the network does not have.
    """

    input_multiple = 32
    landmark_maps = 2
    classifier_path = 'classifier'

    def __init__(self, classes: int, shared_levels: int = 2, levels: int = 4,
                 backbone: str = 'densenet121', mending: bool = False) -> None:
        super().__init__()
        self.levels = levels
        self.configure(shared_levels=shared_levels)
        self.backbone = BACKBONES[backbone](levels)
        self.laterals = nn.ModuleList(
            nn.Conv2d(c, PYRAMID_CHANNELS, 1) for c in self.backbone.channels[:levels])
        self.heads = nn.ModuleList(
            nn.Conv2d(PYRAMID_CHANNELS, HEAD_CHANNELS, 3, padding=1) for _ in range(levels))
        self.fusion = nn.Conv2d(levels * HEAD_CHANNELS, HEAD_CHANNELS, 1, bias=False)
        self.fusion_norm = nn.BatchNorm2d(HEAD_CHANNELS)
        self.tail = nn.Conv2d(HEAD_CHANNELS, TAIL_CHANNELS, 3, padding=1, bias=False)
        self.tail_norm = nn.BatchNorm2d(TAIL_CHANNELS)
        self.classifier = nn.Conv2d(TAIL_CHANNELS, classes, 1)
        if mending:
            self.mendings = make_mendings(self.backbone, levels, (levels - 1) * [HEAD_CHANNELS])
            self.mending_names = frozenset(f'mendings.{n}' for n in self.mendings.state_dict())

    def load_backbone(self, weights: str | None) -> Normalisation:
        """
        Give the backbone pretrained weights; return the mean and deviation of its images.

        :param weights: ``imagenet``, a file of its state dict, or None for no change.
        :raises ValueError, OSError: where the weights are missing or another network's.
        """
        return load_pretrained(self.backbone, weights)

    def low(self, image: Tensor) -> Tensors:
        """Return the backbone's features of the levels that are not shared, finest first."""
        return run_stages(self.backbone, range(self.levels - self.shared_levels), image)

    def _high(self, low: Tensors) -> Tensors:
        """
        Return ``(fused,)``, Nx64 at stride 4: the deep levels' part of the fusion.

        A network that mends returns it at stride 16 too, so that current frames need not pool it.
        """
        if not self.shared_levels:
            return ()
        deep = run_stages(self.backbone, range(len(low), self.levels), low[-1])
        fused = self._fused(deep, low)
        return (fused, F.avg_pool2d(fused, 4)) if self.mends and self.aligned else (fused,)

    def _decode(self, low: Tensors, shared: Tensors) -> Tensor:
        """Return NxCx(H/2)x(W/2) logits from the low levels and ``_high``'s tensors."""
        # Nx64x(H/4)x(W/4)
        fused = self._low_fused(low) + shared[0] if shared else self._fused(low, ())
        features = F.relu(self.fusion_norm(fused))
        features = F.interpolate(features, scale_factor=2, mode='bilinear', align_corners=False)
        features = F.relu(self.tail_norm(self.tail(features)))  # Nx32x(H/2)x(W/2)
        return self.classifier(features)

    def _mended(self, low: Tensors, carried: Tensors, wrong: Tensor) -> Tensors:
        mend = self.mendings[self.shared_levels - 1]
        return (mend(at_stride_8(low), *carried, wrong, self.ops.gate),)

    def _landmarks(self, low: Tensors) -> Tensors:
        return landmarks(low)

    def _fused(self, deep: Tensors, low: Tensors) -> Tensor:
        """
        Return the fusion's output at stride 4, as if the features of ``low`` were zero.

        :param deep: the features of the deepest levels, finest first.
        :param low: those of the levels above, whose shapes alone matter.
        """
        # At a level's stride: ``pyramid`` Nx128xhxw, ``head`` and ``fused`` Nx64xhxw.
        pyramid, fused = None, None
        for index in reversed(range(self.levels)):
            if index >= len(low):
                lateral = self.laterals[index](deep[index - len(low)])
                pyramid = lateral if pyramid is None else lateral + upsample(pyramid, lateral)
            else:
                bias = self.laterals[index].bias
                assert pyramid is not None and isinstance(bias, Tensor)
                pyramid = upsample(pyramid, low[index]) + bias.view(1, -1, 1, 1)
            head = F.conv2d(self.heads[index](pyramid), self._columns(index)[:, :, None, None])
            fused = head if fused is None else head + upsample(fused, head)
        assert fused is not None
        return fused

    def _low_fused(self, low: Tensors) -> Tensor:
        """Return what ``low`` adds to the fusion, Nx64 at stride 4; ``_fused`` has the biases."""
        # Laterals commute with the upsampling that follows them, and so become a part of the
        # heads; unless they read more channels than they return.
        narrow = sum(self.backbone.channels[:len(low)]) < PYRAMID_CHANNELS
        # At a level's stride: ``above`` NxPxhxw, ``head`` and ``fused`` Nx64xhxw; P is 128, or,
        # where laterals are merged into heads, the channels of this level and those below it.
        above, lateral, fused = None, None, None
        for index, features in reversed(tuple(enumerate(low))):
            weight = self.laterals[index].weight
            assert isinstance(weight, Tensor)
            if narrow:
                weight = weight[:, :, 0, 0]
                lateral = weight if lateral is None else torch.cat((weight, lateral), 1)
                above = features if above is None else torch.cat(
                    (features, upsample(above, features)), 1)
            else:
                features = F.conv2d(features, weight)
                above = features if above is None else features + upsample(above, features)
            head = F.conv2d(above, self._kernel(index, lateral), padding=1)
            fused = head if fused is None else head + upsample(fused, head)
        assert fused is not None
        return fused

    def _kernel(self, index: int, lateral: Tensor | None) -> Tensor:
        """
        Return one kernel for a level's lateral, head and part of the fusion, 64xPx3x3.

        :param lateral: 128xP, or None where the features are the pyramid's own, P = 128.
        """
        head = self.heads[index].weight
        assert isinstance(head, Tensor)
        if lateral is not None:
            head = torch.einsum('hpyx,pc->hcyx', head, lateral)
        return torch.einsum('fh,hcyx->fcyx', self._columns(index), head)

    def _columns(self, index: int) -> Tensor:
        """Return the first decoder convolution's columns for one level's head, 64x64."""
        weight = torch.narrow(self.fusion.weight, 1, index * HEAD_CHANNELS, HEAD_CHANNELS)
        return weight[:, :, 0, 0]
