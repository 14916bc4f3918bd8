"""Refresh: a light decoder that mends the key frame's moved logits."""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 64
"""Channels at strides 8 and 16."""
FINE_WIDTH = 48
"""Channels at stride 4."""
DILATIONS = (1, 2)
"""Dilations of the 5x5 depthwise convolutions, in cells of 16 pixels (receptive field: 208)."""
TRUST = 3.0
"""Initial logit of the weight of the moved logits: 95 %."""
LOGIT_SCALE = 0.1
"""Factor of logits where they are read as features."""


class SeparableConv(nn.Sequential):
    """
    Depthwise and 1x1 convolution, each with batch norm and ReLU.

    :param size, dilation: of the depthwise convolution, in cells.
    """

    def __init__(self, inputs: int, outputs: int, size: int = 3, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, size, padding=size // 2 * dilation, dilation=dilation,
                      groups=inputs, bias=False),
            nn.BatchNorm2d(inputs), nn.ReLU(),
            nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Refresh(nn.Module):
    """
    Mends a key frame's moved logits by a current frame's shallow features.

    It decides where the moved logits hold, and what replaces them: from the shallow features at
    strides 4 and 8, the moved deep features, the moved logits themselves and the mismatch. It
    stands for the decoder, at a thirtieth of its cost. With initial weights the moved logits pass
    unchanged but for a factor.

    Logits are in blocks of 2x2 pixels of stride 2: Nx4Cxhxw at stride 4, as ``pixel_unshuffle``
    makes them.

    :param channels: of the shallow features at strides 4 and 8.
    :param deep: channels of the deep features.
    :param classes: C, the number of logits a pixel.
    """

    def __init__(self, channels: tuple[int, int], deep: int, classes: int) -> None:
        super().__init__()
        fine, coarse = channels
        self.coarse = _lateral(coarse + deep + 1, WIDTH)
        self.context = nn.ModuleList(
            SeparableConv(WIDTH, WIDTH, 5, dilation) for dilation in DILATIONS)
        self.narrow = SeparableConv(WIDTH, FINE_WIDTH)
        self.fine = _lateral(fine + 4 * classes + 1, FINE_WIDTH)
        self.refine = nn.Sequential(*(SeparableConv(FINE_WIDTH, FINE_WIDTH) for _ in range(2)))
        self.last = nn.Conv2d(FINE_WIDTH, 4 * classes + 1, 1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, fine: Tensor, coarse: Tensor, moved: Tensor, deep: Tensor,
                wrong: Tensor) -> Tensor:
        """
        Return the current frame's logits, Nx4Cx2hx2w at stride 4.

        :param fine, coarse: shallow features of the current frame, Nxcx2hx2w at stride 4 and
            Nxcxhxw at stride 8; h and w even.
        :param moved: Nx4Cx2hx2w logits of the key frame, moved to the current frame.
        :param deep: Nxcxhxw deep features of the key frame, moved likewise.
        :param wrong: Nx1xhxw, of ``mending.mismatch``.
        """
        features = F.relu(self.coarse(torch.cat((coarse, deep, wrong), 1)))  # Nx64xhxw
        context = F.avg_pool2d(features, 2)
        for step in self.context:
            context = context + step(context)
        features = self.narrow(features + _twice_as_fine(context))  # Nx48xhxw
        lateral = self.fine(torch.cat((fine, LOGIT_SCALE * moved, _twice_as_fine(wrong)), 1))
        features = self.refine(F.relu(lateral + _twice_as_fine(features)))  # Nx48x2hx2w
        result = self.last(features)  # Nx(4C+1)x2hx2w
        return torch.sigmoid(result[:, :1] + TRUST) * moved + result[:, 1:]


def _lateral(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


def _twice_as_fine(features: Tensor) -> Tensor:
    """Return NxCx2hx2w, bilinearly upsampled."""
    return F.interpolate(features, scale_factor=2, mode='bilinear', align_corners=False)
