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
"""Upsampling and argmax on the device, one band of rows at a time."""
from __future__ import annotations

from featshare_core.inference.pixels import Size
import torch
from torch import Tensor
from torch.nn import functional as F

TILE_BYTES = 16 << 20
"""Size of a band's full-width fp32 logits, in bytes: they fit a GPU's second-level cache."""


def winning_class(logits: Tensor, size: Size, mask: Tensor, confidence: Tensor | None) -> None:
    """
    Upsample logits bilinearly and write the winning class of each pixel.

    The result is that of upsampling all logits (corners not aligned), but full-size logits are
    never held.

    :param logits: 1xCxhxw, of any floating type.
    :param mask: HxW uint8, of ``size``: the class ids.
    :param confidence: HxW uint8 or None: 255 times the winning class's probability.
    """
    height, width = size
    classes, rows = logits.shape[1], logits.shape[2]
    logits = logits.float()
    # F.interpolate's own source rows and weights (align_corners=False).
    centres = (torch.arange(height, device=logits.device) + 0.5) * (rows / height) - 0.5
    centres = centres.clamp(0, rows - 1)
    first = centres.floor().long()
    second = (first + 1).clamp(max=rows - 1)
    weight = (centres - first).view(1, 1, -1, 1)
    band = max(1, TILE_BYTES // (4 * classes * width))
    for start in range(0, height, band):
        part = slice(start, min(height, start + band))
        lines = torch.lerp(logits.index_select(2, first[part]),
                           logits.index_select(2, second[part]), weight[:, :, part])  # 1xCxbxw
        scores = F.interpolate(lines, (lines.shape[2], width), mode='bilinear')  # 1xCxbxW
        winner = scores.max(1)  # values and indices, 1xbxW
        mask[part] = winner.indices[0]
        if confidence is not None:
            probability = (winner.values - scores.logsumexp(1)).exp()  # 1xbxW
            confidence[part] = (255 * probability).round()[0]
