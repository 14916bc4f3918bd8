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
"""From an image's bytes to what a network takes, and from its logits to the mask's bytes."""
from __future__ import annotations

import math

from featshare_core.inference.cuda.kernels.sampling import (
    channels_last,
    interpolated,
    source_place,
    unit_of,
)
import torch
from torch import Tensor
import triton
import triton.language as tl

PIXELS = 64  # of one program


@triton.jit(do_not_specialize=['height', 'width', 'image_height', 'image_width'])
def _normalise(image, scale, shift, result, height, width, image_height, image_width,
               down: tl.constexpr, across: tl.constexpr, some_pixels: tl.constexpr):
    """Resize with antialiasing as ``F.interpolate`` does, and normalise."""
    place = tl.program_id(0) * some_pixels + tl.arange(0, some_pixels)
    channel = tl.arange(0, 4)
    inside = place < height * width
    known = inside[:, None] & (channel < 3)[None]
    y, x = place // width, place % width
    if down == 1 and across == 1:
        total = tl.load(image + place[:, None] * 3 + channel[None], mask=known,
                        other=0).to(tl.float32)
    else:
        ratio_y = image_height.to(tl.float32) / height.to(tl.float32)
        ratio_x = image_width.to(tl.float32) / width.to(tl.float32)
        reach_y, reach_x = tl.maximum(ratio_y, 1.0), tl.maximum(ratio_x, 1.0)
        centre_y = (y.to(tl.float32) + 0.5) * ratio_y
        centre_x = (x.to(tl.float32) + 0.5) * ratio_x
        first_y = tl.maximum(centre_y - reach_y + 0.5, 0).to(tl.int32)
        first_x = tl.maximum(centre_x - reach_x + 0.5, 0).to(tl.int32)
        total = tl.zeros((some_pixels, 4), tl.float32)
        weights = tl.zeros((some_pixels,), tl.float32)
        # A row is unrolled, so that its loads do not wait for each other.
        for down_step in range(down):
            there_y = first_y + down_step
            weight_y = 1 - tl.abs(there_y.to(tl.float32) - centre_y + 0.5) / reach_y
            weight_y = tl.where(there_y < image_height, tl.maximum(weight_y, 0), 0)
            for step in tl.static_range(across):
                there_x = first_x + step
                weight = 1 - tl.abs(there_x.to(tl.float32) - centre_x + 0.5) / reach_x
                weight = weight_y * tl.where(there_x < image_width, tl.maximum(weight, 0), 0)
                weights += weight
                # Pixels that weigh nothing need not be read; nor do those outside exist.
                values = tl.load(image + (there_y * image_width + there_x)[:, None] * 3
                                 + channel[None], mask=known & (weight > 0)[:, None], other=0)
                total += weight[:, None] * values.to(tl.float32)
        total /= tl.maximum(weights, 1e-6)[:, None]
    total = total * tl.load(scale + channel, mask=channel < 3, other=0)[None] \
        + tl.load(shift + channel, mask=channel < 3, other=0)[None]
    tl.store(result + place[:, None] * 3 + channel[None], total.to(result.dtype.element_ty),
             mask=known)


@triton.jit(do_not_specialize=['height', 'width', 'rows', 'columns', 'cell_step'])
def _decide(logits, planes, height, width, rows, columns, cell_step, classes: tl.constexpr,
            padded: tl.constexpr, unit: tl.constexpr, confidence: tl.constexpr,
            some_pixels: tl.constexpr):
    """Write each pixel's winning class; where ``confidence``, its probability too."""
    cell_step *= unit
    place = tl.program_id(0) * some_pixels + tl.arange(0, some_pixels)
    one = tl.arange(0, padded)
    inside = place < height * width
    known = inside[:, None]
    if unit < 8:  # what is behind the last class is another cell's
        known &= (one < classes)[None]
    y = source_place(place // width, height, rows)
    x = source_place(place % width, width, columns)
    scores = interpolated(logits + one[None], y[:, None], x[:, None], rows, columns,
                          columns * cell_step, cell_step, known)
    scores = tl.where((one < classes)[None], scores, float('-inf'))
    # Of NaN, any class of those that there are.
    winner = tl.minimum(tl.argmax(scores, 1), classes - 1)
    tl.store(planes + place, winner.to(tl.uint8), mask=inside)
    if confidence:
        share = 1 / tl.sum(tl.exp(scores - tl.max(scores, 1)[:, None]), 1)
        tl.store(planes + height * width + place, (255 * share + 0.5).to(tl.uint8), mask=inside)


@torch.library.custom_op('featshare::normalise', mutates_args=())
def normalise(image: Tensor, scale: Tensor, shift: Tensor, height: int, width: int,
              dtype: torch.dtype) -> Tensor:
    """
    Return 1x3xhxw, resized bilinearly with antialiasing, times ``scale`` plus ``shift``.

    :param image: 1xHxWx3 uint8, on a CUDA device; ``scale``, ``shift``: 3 fp32 values.
    """
    image = image.contiguous()
    taps = (1 if length == size else 2 * math.ceil(max(length / size, 1)) + 1
            for length, size in zip(image.shape[1:3], (height, width)))
    result = _normalised(image, height, width, dtype)
    _normalise[triton.cdiv(height * width, PIXELS),](
        image, scale, shift, result, height, width, image.shape[1], image.shape[2], *taps, PIXELS)
    return result


@normalise.register_fake
def _(image: Tensor, scale: Tensor, shift: Tensor, height: int, width: int,
      dtype: torch.dtype) -> Tensor:
    return _normalised(image, height, width, dtype)


def _normalised(image: Tensor, height: int, width: int, dtype: torch.dtype) -> Tensor:
    return image.new_empty(1, height, width, 3, dtype=dtype).permute(0, 3, 1, 2)


@torch.library.custom_op('featshare::decide', mutates_args=())
def decide(logits: Tensor, height: int, width: int, confidence: bool) -> Tensor:
    """
    Return what ``tiles.winning_class`` writes: 1xHxW uint8, or 2xHxW with the confidence.

    :param logits: 1xCxhxw, on a CUDA device.
    """
    logits = channels_last(logits)
    planes = logits.new_empty(1 + confidence, height, width, dtype=torch.uint8)
    classes, rows, columns = logits.shape[1:]
    padded = max(triton.next_power_of_2(classes), 2)
    room = logits.stride(3) >= padded and not logits.storage_offset()
    unit = unit_of(logits.stride(3)) if room else 1
    _decide[triton.cdiv(height * width, PIXELS),](
        logits, planes, height, width, rows, columns, logits.stride(3) // unit,
        classes, padded, unit, confidence, PIXELS)
    return planes


@decide.register_fake
def _(logits: Tensor, height: int, width: int, confidence: bool) -> Tensor:
    return logits.new_empty(1 + confidence, height, width, dtype=torch.uint8)
