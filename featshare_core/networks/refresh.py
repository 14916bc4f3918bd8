"""Refresh: what a current frame's half-size image says, joined with the moved logits."""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featshare_core.networks.split import Tensors

WIDTH = 64
"""Channels at strides 8 and 16, and half those at strides 32 and 64."""
FINE_WIDTH = 32
"""Channels at stride 4."""
TRUST = 3.0
"""Initial logit of the weight of the moved logits: 95 %."""


class SeparableConv(nn.Sequential):
    """3x3 depthwise and 1x1 convolution, each with batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs), nn.ReLU(),
            nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Refresh(nn.Module):
    """
    A light decoder over the backbone's features of the half-size image and the moved logits.

    A current frame whose deep features are all the key frame's would never see what has come into
    view since. At half its size, the whole backbone costs a quarter: it recognises what is new,
    the moved logits know the outlines. (AR-Seg, arXiv 2303.07224, runs current frames at low
    resolution too, and moves full-size features by a video codec's motion vectors.) From coarse
    to fine, features are upsampled and added as in a feature pyramid; the last layer yields
    logits and the weight of the moved ones, at stride 4. With initial weights the moved logits
    pass unchanged but for a factor.

    :param channels: of the backbone's five maps, at strides 4 to 64 of the whole image.
    :param classes: number of logits a pixel.
    """

    def __init__(self, channels: tuple[int, ...], classes: int) -> None:
        super().__init__()
        widths = (FINE_WIDTH, WIDTH, WIDTH, 2 * WIDTH, 2 * WIDTH)
        # The two finest levels read the moved logits' classes and the mismatch as well.
        extra = (classes + 1, classes + 1, 0, 0, 0)
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c + more, width, 1, bias=False), nn.BatchNorm2d(width))
            for c, more, width in zip(channels, extra, widths))
        # A level's result has the width of the next finer one.
        self.refine = nn.ModuleList(
            nn.Sequential(SeparableConv(width, width), SeparableConv(width, finer))
            for width, finer in zip(widths[:4], (FINE_WIDTH, *widths[:3])))
        self.last = nn.Conv2d(FINE_WIDTH, classes + 1, 1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, half: Tensors, moved: Tensor, wrong: Tensor) -> Tensor:
        """
        Return the current frame's logits, NxCx2hx2w at stride 2.

        :param half: the backbone's five maps of the half-size current frame: Nxchxw at stride 4
            of the whole image to stride 64.
        :param moved: NxCx2hx2w logits of the key frame, moved to the current frame.
        :param wrong: Nx1x(h/2)x(w/2) at stride 8, of ``mending.mismatch``.
        """
        finest = F.avg_pool2d(moved, 2).softmax(1)  # NxCxhxw
        seen = (torch.cat((finest, _upsampled(wrong, finest)), 1),
                torch.cat((F.avg_pool2d(finest, 2), wrong), 1))
        features: Tensor | None = None
        for index in reversed(range(len(half))):
            lateral = half[index]
            if index < len(seen):
                lateral = torch.cat((lateral, seen[index]), 1)
            lateral = self.laterals[index](lateral)
            features = F.relu(lateral if features is None
                              else lateral + _upsampled(features, lateral))
            if index < len(self.refine):
                features = self.refine[index](features)
        assert features is not None
        result = _upsampled(self.last(features), moved)  # Nx(C+1)x2hx2w
        return torch.sigmoid(result[:, -1:] + TRUST) * moved + result[:, :-1]


def _upsampled(features: Tensor, like: Tensor) -> Tensor:
    """Return ``features`` bilinearly upsampled to the height and width of ``like``."""
    return F.interpolate(features, size=like.shape[-2:], mode='bilinear', align_corners=False)
