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
"""Bilinear upsampling, the gate and the warp as Triton kernels, for channels that lie together."""
from __future__ import annotations

import math

from featshare_core.networks.mending import GATE_FACTOR, GATE_POWER
import torch
from torch import Tensor
import triton
import triton.language as tl

CELLS, CHANNELS = 32, 64  # of one program
SIZES = ['height', 'width', 'source_height', 'source_width', 'moved_height', 'moved_width',
         'source_cell', 'addend_cell', 'result_cell', 'channels']


@triton.jit
def interpolated(source, y, x, height, width, row_step, cell_step, known):
    """Return what lies at places between cells, in fp32; both coordinates are within the map."""
    y0, x0 = y.to(tl.int32), x.to(tl.int32)
    y1, x1 = tl.minimum(y0 + 1, height - 1), tl.minimum(x0 + 1, width - 1)
    down, right = y - y0.to(tl.float32), x - x0.to(tl.float32)
    y0, y1, x0, x1 = y0 * row_step, y1 * row_step, x0 * cell_step, x1 * cell_step
    up = (1 - right) * tl.load(source + y0 + x0, mask=known, other=0).to(tl.float32) \
        + right * tl.load(source + y0 + x1, mask=known, other=0).to(tl.float32)
    low = (1 - right) * tl.load(source + y1 + x0, mask=known, other=0).to(tl.float32) \
        + right * tl.load(source + y1 + x1, mask=known, other=0).to(tl.float32)
    return (1 - down) * up + down * low


@triton.jit
def source_place(place, size, source_size):
    """Return where the centres of cells lie in a map of another size, corners not aligned."""
    ratio = source_size.to(tl.float32) / size.to(tl.float32)
    return tl.minimum(tl.maximum((place.to(tl.float32) + 0.5) * ratio - 0.5, 0),
                      source_size - 1.0)


@triton.jit(do_not_specialize=SIZES)
def _upsample(source, gate, addend, result, height, width, source_height, source_width,
              source_cell, addend_cell, result_cell, channels, has_gate: tl.constexpr,
              factor: tl.constexpr, power: tl.constexpr, has_addend: tl.constexpr,
              unit: tl.constexpr, some_cells: tl.constexpr, some_channels: tl.constexpr):
    channels, source_cell = channels * unit, source_cell * unit
    result_cell *= 8
    place = tl.program_id(0) * some_cells + tl.arange(0, some_cells)
    channel = tl.program_id(1) * some_channels + tl.arange(0, some_channels)
    inside = place < height * width
    known = inside[:, None] & (channel < channels)[None]
    y = source_place(place // width, height, source_height)
    x = source_place(place % width, width, source_width)
    values = interpolated(source + channel[None], y[:, None], x[:, None], source_height,
                          source_width, source_width * source_cell, source_cell, known)
    if has_gate:
        wrong = tl.load(gate + place, mask=inside, other=0).to(tl.float32)
        exponent = factor * wrong
        for _ in tl.static_range(power - 1):
            exponent *= wrong
        values *= (1 - tl.exp(-exponent))[:, None]
    if has_addend:
        values += tl.load(addend + place[:, None] * (addend_cell * unit) + channel[None],
                          mask=known, other=0).to(tl.float32)
    tl.store(result + place[:, None] * result_cell + channel[None],
             values.to(result.dtype.element_ty), mask=known)


@triton.jit(do_not_specialize=SIZES)
def _warp(source, moved, result, height, width, moved_height, moved_width, source_cell,
          result_cell, channels, nearest: tl.constexpr, unit: tl.constexpr,
          some_cells: tl.constexpr, some_channels: tl.constexpr):
    channels, source_cell = channels * unit, source_cell * unit
    result_cell *= 8
    place = tl.program_id(0) * some_cells + tl.arange(0, some_cells)
    channel = tl.program_id(1) * some_channels + tl.arange(0, some_channels)
    inside = place < height * width
    known = inside[:, None] & (channel < channels)[None]
    y, x = place // width, place % width
    at_y = source_place(y, height, moved_height)
    at_x = source_place(x, width, moved_width)
    cells = width.to(tl.float32) / moved_width.to(tl.float32)
    by_x = cells * interpolated(moved, at_y, at_x, moved_height, moved_width, moved_width, 1,
                                inside)
    by_y = cells * interpolated(moved + moved_height * moved_width, at_y, at_x, moved_height,
                                moved_width, moved_width, 1, inside)
    if nearest:
        by_x, by_y = tl.floor(by_x + 0.5), tl.floor(by_y + 0.5)
    there_x = tl.minimum(tl.maximum(x.to(tl.float32) + by_x, 0), width - 1.0)
    there_y = tl.minimum(tl.maximum(y.to(tl.float32) + by_y, 0), height - 1.0)
    if nearest:
        offset = (there_y.to(tl.int32) * width + there_x.to(tl.int32)) * source_cell
        values = tl.load(source + offset[:, None] + channel[None], mask=known, other=0)
    else:
        values = interpolated(source + channel[None], there_y[:, None], there_x[:, None], height,
                              width, width * source_cell, source_cell, known)
    tl.store(result + place[:, None] * result_cell + channel[None],
             values.to(result.dtype.element_ty), mask=known)


def upsample(source: Tensor, size: tuple[int, int], addend: Tensor | None = None,
             gate: Tensor | None = None) -> Tensor:
    """
    Return features of another size, bilinearly, corners not aligned.

    :param source: 1xCxhxw on a CUDA device.
    :param addend: 1xCxHxW to add.
    :param gate: 1x1xHxW, a mismatch; what is interpolated is first multiplied by the weight that
        ``mending.gate`` gives it.
    """
    source = channels_last(source)
    addend = None if addend is None else channels_last(addend)
    channels, height, width = source.shape[1:]
    result = new_map(source, channels, *size)
    addend_cell = 0 if addend is None else addend.stride(3)
    unit = unit_of(channels, source.stride(3), addend_cell)
    some = min(CHANNELS, triton.next_power_of_2(channels))
    _upsample[triton.cdiv(size[0] * size[1], CELLS), triton.cdiv(channels, some)](
        source, or_any(None if gate is None else gate.contiguous(), source),
        or_any(addend, source), result, *size, height, width, source.stride(3) // unit,
        addend_cell // unit, result.stride(3) // 8, channels // unit, gate is not None,
        GATE_FACTOR, GATE_POWER, addend is not None, unit, CELLS, some)
    return result


@torch.library.custom_op('featshare::gate', mutates_args=())
def gate(correction: Tensor, wrong: Tensor) -> Tensor:
    """Return what ``mending.gate`` does, for one image's features on a CUDA device."""
    return upsample(correction, (wrong.shape[2], wrong.shape[3]), gate=wrong)


@gate.register_fake
def _(correction: Tensor, wrong: Tensor) -> Tensor:
    return new_map(correction, correction.shape[1], *wrong.shape[2:])


@torch.library.custom_op('featshare::warp', mutates_args=())
def warp(features: Tensor, moved: Tensor, nearest: bool = False) -> Tensor:
    """Return what ``alignment.warp`` does, for one image's features on a CUDA device."""
    features, moved = channels_last(features), moved.contiguous()
    channels, height, width = features.shape[1:]
    result = new_map(features, channels, height, width)
    unit = unit_of(channels, features.stride(3))
    some = min(CHANNELS, triton.next_power_of_2(channels))
    _warp[triton.cdiv(height * width, CELLS), triton.cdiv(channels, some)](
        features, moved, result, height, width, *moved.shape[2:], features.stride(3) // unit,
        result.stride(3) // 8, channels // unit, nearest, unit, CELLS, some)
    return result


@warp.register_fake
def _(features: Tensor, moved: Tensor, nearest: bool = False) -> Tensor:
    return new_map(features, *features.shape[1:])


def channels_last(features: Tensor) -> Tensor:
    """Return 1xCxhxw features whose channels lie together, row after row; most do already."""
    rows, cells = features.stride()[2:]
    if (features.stride(1) == 1 or features.shape[1] == 1) and rows == cells * features.shape[3]:
        return features
    return features.contiguous(memory_format=torch.channels_last)


def new_map(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Return 1xCxhxw to be written, channels last; cells begin where eight values can be read."""
    wide = channels if channels % 8 == 0 else max(8, triton.next_power_of_2(channels))
    return like.new_empty(1, height, width, wide)[..., :channels].permute(0, 3, 1, 2)


def unit_of(*counts: int) -> int:
    """Return the largest of 8, 4, 2 and 1 that divides all."""
    return math.gcd(8, *counts)


def or_any(given: Tensor | None, other: Tensor) -> Tensor:
    """Return a tensor to pass where none is read."""
    return other if given is None else given
