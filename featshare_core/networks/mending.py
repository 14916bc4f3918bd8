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
"""Mending: a learned correction of carried features where they do not fit the current frame."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn, Tensor
from torch.nn import functional as F

HIDDEN_CHANNELS = 64
"""Width of the hidden layers, in channels."""
DILATIONS = (1, 2)
"""Dilations of the 5x5 depthwise convolutions, in cells of 16 pixels (receptive field: 208)."""
GATE_FACTOR = 1.5
"""Factor of the mismatch's power in the gate, without a unit."""
GATE_POWER = 4
"""Power of the mismatch in the gate: high, so that a slight mismatch is not corrected."""


def mismatch(current: Tensor, carried: Tensor) -> Tensor:
    """
    Return the mismatch of carried features, Nx1xhxw, at least 0 and without a unit.

    It is the mean absolute difference over the channels and a 3x3 window, divided by the mean
    absolute value of the image's current features. It is large where masks are wrong: occlusions,
    thin objects and failed matches.

    :param current: NxCxhxw shallow features of the current frame.
    :param carried: NxCxhxw, those of the key frame, warped to the current one.
    """
    wrong = (current - carried).abs().mean(1, keepdim=True)  # Nx1xhxw
    wrong = F.avg_pool2d(wrong, 3, 1, 1, count_include_pad=False)
    return wrong / current.abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-6)


def gate(correction: Tensor, wrong: Tensor) -> Tensor:
    """
    Return an NxCx2hx2w correction, upsampled and weighted by ``1 - exp(-1.5 wrong^4)``.

    :param correction: NxCxhxw.
    :param wrong: Nx1x2hx2w, of ``mismatch``; where it is 0, so is the result.
    """
    return _twice_as_fine(correction) * (1 - torch.exp(-(GATE_FACTOR * wrong.pow(GATE_POWER))))


class Mending(nn.Module):
    """
    Corrects carried features from the current frame's shallow features and the mismatch.

    The output equals the input where the frames match; with initial weights, everywhere. The
    correction is computed at stride 16, at a quarter of the cost of stride 8 and without loss of
    accuracy, and gated at stride 8.

    :param low_channels: channels of the shallow features, at stride 8.
    :param channels: channels of the carried features.
    """

    def __init__(self, low_channels: int, channels: int) -> None:
        super().__init__()
        hidden = HIDDEN_CHANNELS
        self.first = nn.Conv2d(low_channels + channels + 1, hidden, 1)
        self.depthwise = nn.ModuleList(
            nn.Conv2d(hidden, hidden, 5, padding=2 * d, dilation=d, groups=hidden)
            for d in DILATIONS)
        self.pointwise = nn.ModuleList(nn.Conv2d(hidden, hidden, 1) for _ in DILATIONS)
        self.last = nn.Conv2d(hidden, channels, 1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, low: Tensor, carried: Tensor, context: Tensor, wrong: Tensor,
                gate: Callable[[Tensor, Tensor], Tensor] = gate) -> Tensor:
        """
        Return the corrected carried features.

        :param low: NxLxhxw shallow features of the current frame, at stride 8; h and w even.
        :param carried: carried features: NxCx2hx2w at stride 4, or at stride 8, 16 or 32.
        :param context: NxCx(h/2)x(w/2), the carried features at stride 16.
        :param wrong: Nx1xhxw, of ``mismatch``.
        :param gate: see ``Ops``.
        """
        # Nx(L+C+1)x(h/2)x(w/2)
        features = torch.cat((F.avg_pool2d(low, 2), context, F.avg_pool2d(wrong, 2)), 1)
        features = F.relu(self.first(features))  # Nx64x(h/2)x(w/2)
        for depthwise, pointwise in zip(self.depthwise, self.pointwise):
            features = features + F.relu(pointwise(depthwise(features)))
        correction = gate(self.last(features), wrong)  # NxCxhxw
        factor = int(correction.shape[-2]) // int(carried.shape[-2])
        if factor > 1:
            return carried + F.avg_pool2d(correction, factor)
        return carried + (correction if factor else _twice_as_fine(correction))


def _twice_as_fine(features: Tensor) -> Tensor:
    """Return NxCx2hx2w, bilinearly upsampled."""
    return F.interpolate(features, scale_factor=2, mode='bilinear', align_corners=False)
