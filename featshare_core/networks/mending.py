"""Learns what to put where a key frame's features, moved along, do not fit the current frame."""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN_CHANNELS = 64
DILATIONS = (1, 2)
"""Of the 5x5 depthwise convolutions at stride 16: together they see 13 cells, 208 pixels."""
STEEPNESS = 4
"""With which a correction sets in, by the mismatch: what nearly fits is better left alone."""


def mismatch(current: Tensor, carried: Tensor) -> Tensor:
    """
    Return Nx1xhxw, 0 and up: how badly features that were moved along fit the current frame's.

    It is their difference, that of neighbours included, over the current ones' mean size. What is
    wrong with a mask is where this is large: on CamVid val the tenth of the cells in which it is
    largest holds nine tenths of what a lag of 4 costs (docs/notes/ablation.md).

    :param current, carried: NxCxhxw, shallow features of the current frame, and the key frame's.
    """
    wrong = (current - carried).abs().mean(1, keepdim=True)
    wrong = F.avg_pool2d(wrong, 3, 1, 1, count_include_pad=False)
    return wrong / current.abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-6)


class Mending(nn.Module):
    """
    Corrects carried features by what the current frame's shallow ones and the surroundings say.

    It changes nothing where the frames match, and, with fresh weights, anywhere. What to put there
    is found at stride 16, which costs a fourth of stride 8 and is as good; where, at stride 8.

    :param low_channels: of the shallow features, at stride 8.
    :param channels: of the carried features, at stride 4.
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

    def forward(self, low: Tensor, carried: Tensor, context: Tensor, wrong: Tensor) -> Tensor:
        """
        Return the carried features, corrected.

        :param low: NxLxhxw at stride 8; ``carried``: NxCx2hx2w; ``context``: the same at stride
            16; ``wrong``: Nx1xhxw, of ``mismatch``.
        """
        features = torch.cat((F.avg_pool2d(low, 2), context, F.avg_pool2d(wrong, 2)), 1)
        features = F.relu(self.first(features))
        for depthwise, pointwise in zip(self.depthwise, self.pointwise):
            features = features + F.relu(pointwise(depthwise(features)))
        # The CUDA engine looks for 1 - exp(-x), see ``fuse``.
        correction = _twice_as_fine(self.last(features)) \
            * (1 - torch.exp(-(1.5 * wrong.pow(STEEPNESS))))
        return carried + _twice_as_fine(correction)


def _twice_as_fine(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2, mode='bilinear', align_corners=False)
