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
"""Pooling as a Triton kernel, with the bound before it."""
from __future__ import annotations

from featshare_core.inference.cuda.kernels.sampling import (
    channels_last,
    new_map,
    or_any,
    SIZES,
    unit_of,
)
from torch import Tensor
import triton
import triton.language as tl

CELLS, CHANNELS = 16, 64  # of one program


@triton.jit(do_not_specialize=[*SIZES, 'stride', 'padding'])
def _pool_cells(source, floor, result, height, width, source_height, source_width, source_cell,
                result_cell, channels, stride, padding, side: tl.constexpr, largest: tl.constexpr,
                has_floor: tl.constexpr, unit: tl.constexpr, some_cells: tl.constexpr,
                some_channels: tl.constexpr):
    channels, source_cell, result_cell = channels * unit, source_cell * unit, result_cell * unit
    place = tl.program_id(0) * some_cells + tl.arange(0, some_cells)
    channel = tl.program_id(1) * some_channels + tl.arange(0, some_channels)
    y, x = place // width * stride - padding, place % width * stride - padding
    known = channel < channels
    total = tl.full((some_cells, some_channels), float('-inf') if largest else 0.0, tl.float32)
    for tap in tl.static_range(side * side):
        there_y, there_x = y + tap // side, x + tap % side
        inside = (place < height * width) & (there_y >= 0) & (there_y < source_height) \
            & (there_x >= 0) & (there_x < source_width)
        values = tl.load(source + ((there_y * source_width + there_x) * source_cell)[:, None]
                         + channel[None], mask=inside[:, None] & known[None],
                         other=float('-inf') if largest else 0.0).to(tl.float32)
        if has_floor:
            least = tl.load(floor + channel, mask=known, other=0).to(tl.float32)
            values = tl.maximum(values, least[None])
        if largest:
            total = tl.maximum(total, values)
        else:
            total += values / (side * side)
    tl.store(result + place[:, None] * result_cell + channel[None],
             total.to(result.dtype.element_ty),
             mask=(place < height * width)[:, None] & known[None])


def pool(source: Tensor, side: int, stride: int, padding: int = 0, largest: bool = False,
         floor: Tensor | None = None, result: Tensor | None = None) -> Tensor:
    """
    Return the means, or the largest values, of ``side`` x ``side`` cells of max(source, floor).

    :param source: 1xCxHxW on a CUDA device.
    :param padding: cells around it that do not count; 0 for means.
    :param floor: C values, where there is no padding.
    :param result: 1xCxhxw to write into, as ``convolve`` does.
    """
    source = channels_last(source)
    channels, source_height, source_width = source.shape[1:]
    height, width = ((length + 2 * padding - side) // stride + 1 for length in source.shape[2:])
    if result is None:
        result = new_map(source, channels, height, width)
    unit = unit_of(channels, source.stride(3), result.stride(3))
    some = min(CHANNELS, triton.next_power_of_2(channels))
    _pool_cells[triton.cdiv(height * width, CELLS), triton.cdiv(channels, some)](
        source, or_any(floor, source), result, height, width, source_height, source_width,
        source.stride(3) // unit, result.stride(3) // unit, channels // unit, stride, padding,
        side, largest, floor is not None, unit, CELLS, some)
    return result
