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
"""
The displacement's pooling and refinement, and ``mending.mismatch``, as Triton kernels.

As operations of PyTorch they were several times as many, and on a large GPU each small one takes
as long as its launch. The coarsest level and the choice among candidates run as PyTorch's
operations. All arithmetic is in fp32; the kernels take sums in a fixed order.
"""
from __future__ import annotations

from featshare_core.inference.cuda.kernels.sampling import channels_last, interpolated
from featshare_core.networks import alignment
import torch
from torch import Tensor
import triton
import triton.language as tl

CELLS, FEW_CELLS = 64, 16  # a program's: with more, what it holds does not fit its registers


@triton.jit
def _halve(current, key, result, height, width, channels: tl.constexpr,
           image_step, row_step, cell_step, key_image_step, key_row_step, key_cell_step,
           padded: tl.constexpr, cells: tl.constexpr):
    """Average 2x2 cells of both frames; at the far borders, those that are there."""
    half_height, half_width = (height + 1) // 2, (width + 1) // 2
    place = tl.program_id(0) * cells + tl.arange(0, cells)
    image, frame = tl.program_id(1), tl.program_id(2)
    inside = place < half_height * half_width
    half_y, half_x = place // half_width, place % half_width
    channel = tl.arange(0, padded)
    # Not assigned in the branch: steps of one are constants to Triton, others are not.
    row_step = tl.where(frame == 0, row_step, key_row_step)
    cell_step = tl.where(frame == 0, cell_step, key_cell_step)
    source = current
    if frame == 1:
        source = key
    source += image * tl.where(frame == 0, image_step, key_image_step)
    total = tl.zeros((cells, padded), tl.float32)
    for cell in tl.static_range(4):
        y, x = 2 * half_y + cell // 2, 2 * half_x + cell % 2
        there = inside & (y < height) & (x < width)
        total += tl.load(source + (y * row_step + x * cell_step)[:, None] + channel[None],
                         mask=there[:, None] & (channel < channels)[None], other=0).to(tl.float32)
    count = tl.minimum(height - 2 * half_y, 2) * tl.minimum(width - 2 * half_x, 2)
    which = frame * tl.num_programs(1) + image
    tl.store(result + (which * half_height * half_width + place)[:, None] * padded
             + channel[None], total / tl.maximum(count, 1).to(tl.float32)[:, None],
             mask=inside[:, None])


@triton.jit
def _start(moved, y, x, height, width, coarse: tl.constexpr):
    """Return (x, y) of a field of displacements at cells of its own size or twice as fine."""
    if not coarse:
        place = y * width + x
        return tl.load(moved + place), tl.load(moved + height * width + place)
    y = tl.maximum(0.5 * y.to(tl.float32) - 0.25, 0)
    x = tl.maximum(0.5 * x.to(tl.float32) - 0.25, 0)
    return (interpolated(moved, y, x, height, width, width, 1, y >= 0),
            interpolated(moved + height * width, y, x, height, width, width, 1, y >= 0))


@triton.jit
def _shift(index, radius: tl.constexpr, cross: tl.constexpr):
    """Return (y, x) of a place that is searched: row by row, with ``cross`` without corners."""
    if cross:
        return ((index == 4).to(tl.int32) - (index == 0).to(tl.int32),
                (index == 3).to(tl.int32) - (index == 1).to(tl.int32))
    else:
        side: tl.constexpr = 2 * radius + 1
        return index // side - radius, index % side - radius


@triton.jit
def _compare(current, key, moved, costs, sums, height, width, moved_height, moved_width,
             channels: tl.constexpr, image_step, row_step, cell_step,
             key_image_step, key_row_step, key_cell_step, radius: tl.constexpr,
             cross: tl.constexpr, unit: tl.constexpr, coarse: tl.constexpr,
             padded: tl.constexpr, cells: tl.constexpr):
    """Write what a shift of each cell costs, and the sum of every program's costs."""
    place = tl.program_id(0) * cells + tl.arange(0, cells)
    image, shift = tl.program_id(1), tl.program_id(2)
    inside = place < height * width
    place = tl.minimum(place, height * width - 1)
    y, x = place // width, place % width
    channel = tl.arange(0, padded)
    known = (channel < channels)[None]
    current += image * image_step
    key += image * key_image_step
    moved += image * 2 * moved_height * moved_width
    ours = tl.load(current + (y * row_step + x * cell_step)[:, None] + channel[None],
                   mask=known, other=0).to(tl.float32)
    shift_y, shift_x = _shift(shift, radius, cross)
    # Beyond the border lies what is at the border.
    there_y = tl.minimum(tl.maximum(y + shift_y, 0), height - 1)
    there_x = tl.minimum(tl.maximum(x + shift_x, 0), width - 1)
    by_x, by_y = _start(moved, there_y, there_x, moved_height, moved_width, coarse)
    at_y = tl.minimum(tl.maximum(there_y.to(tl.float32) + by_y / unit, 0), height - 1.0)
    at_x = tl.minimum(tl.maximum(there_x.to(tl.float32) + by_x / unit, 0), width - 1.0)
    theirs = interpolated(key + channel[None], at_y[:, None], at_x[:, None], height, width,
                          key_row_step, key_cell_step, known)
    cost = tl.sum(tl.abs(theirs - ours), 1)
    which = image * tl.num_programs(2) + shift
    tl.store(costs + which * height * width + place, cost, mask=inside)
    tl.store(sums + which * tl.num_programs(0) + tl.program_id(0),
             tl.sum(tl.where(inside, cost, 0), 0))


@triton.jit
def _choose(costs, sums, summands, moved, result, height, width, moved_height, moved_width,
            radius: tl.constexpr, cross: tl.constexpr, unit: tl.constexpr,
            coarse: tl.constexpr, sharpness: tl.constexpr, outside: tl.constexpr,
            shifts: tl.constexpr, most_shifts: tl.constexpr, most_summands: tl.constexpr,
            cells: tl.constexpr):
    """Write the mean of the shifts, by how well each cell and its neighbours match."""
    place = tl.program_id(0) * cells + tl.arange(0, cells)
    image = tl.program_id(1)
    inside = place < height * width
    y, x = place // width, place % width
    shift = tl.arange(0, most_shifts)
    by_y, by_x = _shift(shift, radius, cross)
    summand = tl.arange(0, most_summands)
    total = tl.sum(tl.load(sums + image * summands + summand, mask=summand < summands, other=0), 0)
    scale = tl.maximum(total / (1.0 * shifts * height * width), 1e-6)
    costs += image * shifts * height * width
    summed = tl.zeros((cells, most_shifts), tl.float32)
    count = tl.zeros((cells,), tl.float32)
    for neighbour in tl.static_range(9):
        near_y, near_x = y + neighbour // 3 - 1, x + neighbour % 3 - 1
        there = inside & (near_y >= 0) & (near_y < height) & (near_x >= 0) & (near_x < width)
        cost = tl.load(costs + (shift * height * width)[None] + (near_y * width + near_x)[:, None],
                       mask=there[:, None] & (shift < shifts)[None], other=0)
        key_y, key_x = near_y[:, None] + by_y[None], near_x[:, None] + by_x[None]
        beyond = (key_y < 0) | (key_y >= height) | (key_x < 0) | (key_x >= width)
        cost = cost / scale + tl.where(beyond, outside, 0.0)
        summed += tl.where(there[:, None], cost, 0.0)
        count += there.to(tl.float32)
    match = -sharpness * summed / tl.maximum(count, 1)[:, None]
    match = tl.where((shift < shifts)[None], match, float('-inf'))
    weight = tl.exp(match - tl.max(match, 1)[:, None])
    weight /= tl.sum(weight, 1)[:, None]
    move_x = unit * tl.sum(weight * by_x.to(tl.float32)[None], 1)
    move_y = unit * tl.sum(weight * by_y.to(tl.float32)[None], 1)
    moved += image * 2 * moved_height * moved_width
    before_x, before_y = _start(moved, tl.minimum(y, height - 1), x, moved_height, moved_width,
                                coarse)
    move_x += before_x
    move_y += before_y
    result += image * 2 * height * width
    tl.store(result + place, move_x, mask=inside)
    tl.store(result + height * width + place, move_y, mask=inside)


@torch.library.custom_op('featshare::displacement', mutates_args=())
def displacement(current: Tensor, key: Tensor, finer: Tensor | None = None,
                 finer_key: Tensor | None = None) -> Tensor:
    """
    Return what ``alignment.displacement`` does.

    An operation of its own, so that what is traced holds it whole.

    :param current, key: NxCxhxw of one type, on a CUDA device.
    :param finer, finer_key: NxCx2hx2w or None; in cells of these the displacement is then.
    """
    frames = _channels_adjacent(current), _channels_adjacent(key)
    fine = None if finer is None or finer_key is None else (
        _channels_adjacent(finer), _channels_adjacent(finer_key))
    first, *others = alignment.levels(frames, fine, _halved)
    moved, also = alignment.matched(first._replace(ours=first.ours.float(),
                                                   theirs=first.theirs.float()))
    smooth: Tensor | None = also
    for ours, theirs, radius, unit, cross in others:
        count, channels, *size = ours.shape
        if not cross:
            moved = alignment.chosen(ours.float(), theirs.float(), moved, smooth, unit)
            smooth = None
        moved = moved.contiguous()
        shifts = 5 if cross else (2 * radius + 1) ** 2
        programs = triton.cdiv(size[0] * size[1], CELLS)
        costs = current.new_empty(count, shifts, *size, dtype=torch.float32)
        sums = current.new_empty(count, shifts * programs, dtype=torch.float32)
        _compare[programs, count, shifts](
            ours, theirs, moved, costs, sums, *size, *moved.shape[2:], channels, *_steps(ours),
            *_steps(theirs), radius, cross, unit, cross, _padded(channels), CELLS)
        result = current.new_empty(count, 2, *size, dtype=torch.float32)
        _choose[triton.cdiv(size[0] * size[1], FEW_CELLS), count](
            costs, sums, shifts * programs, moved, result, *size, *moved.shape[2:], radius, cross,
            unit, cross, alignment.SHARPNESS, alignment.OUTSIDE, shifts,
            triton.next_power_of_2(shifts), triton.next_power_of_2(shifts * programs), FEW_CELLS)
        moved = result
    return moved


@displacement.register_fake
def _(current: Tensor, key: Tensor, finer: Tensor | None = None,
      finer_key: Tensor | None = None) -> Tensor:
    size = (current if finer is None else finer).shape[2:]
    return current.new_empty(current.shape[0], 2, *size, dtype=torch.float32)


@triton.jit
def _differ(current, carried, differences, sums, cells, channels: tl.constexpr, current_cell,
            carried_cell, padded: tl.constexpr, some_cells: tl.constexpr):
    """Write each cell's mean difference, and the sum of every program's current features."""
    place = tl.program_id(0) * some_cells + tl.arange(0, some_cells)
    channel = tl.arange(0, padded)
    known = (place < cells)[:, None] & (channel < channels)[None]
    ours = tl.load(current + place[:, None] * current_cell + channel[None], mask=known,
                   other=0).to(tl.float32)
    theirs = tl.load(carried + place[:, None] * carried_cell + channel[None], mask=known,
                     other=0).to(tl.float32)
    tl.store(differences + place, tl.sum(tl.abs(ours - theirs), 1) / channels, mask=place < cells)
    tl.store(sums + tl.program_id(0), tl.sum(tl.sum(tl.abs(ours), 1), 0))


@triton.jit
def _relate(differences, sums, summands, result, height, width, channels: tl.constexpr,
            most_summands: tl.constexpr, some_cells: tl.constexpr):
    """Write the neighbourhoods' mean differences over the mean size of the features."""
    place = tl.program_id(0) * some_cells + tl.arange(0, some_cells)
    y, x = place // width, place % width
    summand = tl.arange(0, most_summands)
    size = tl.sum(tl.load(sums + summand, mask=summand < summands, other=0), 0)
    size = tl.maximum(size / (1.0 * channels * height * width), 1e-6)
    total = tl.zeros((some_cells,), tl.float32)
    count = tl.zeros((some_cells,), tl.float32)
    for neighbour in tl.static_range(9):
        near_y, near_x = y + neighbour // 3 - 1, x + neighbour % 3 - 1
        there = (near_y >= 0) & (near_y < height) & (near_x >= 0) & (near_x < width)
        total += tl.load(differences + near_y * width + near_x, mask=there, other=0)
        count += there.to(tl.float32)
    tl.store(result + place, (total / tl.maximum(count, 1) / size).to(result.dtype.element_ty),
             mask=place < height * width)


@torch.library.custom_op('featshare::mismatch', mutates_args=())
def mismatch(current: Tensor, carried: Tensor) -> Tensor:
    """Return what ``mending.mismatch`` does, for one image's features on a CUDA device."""
    current, carried = channels_last(current), channels_last(carried)
    channels, height, width = current.shape[1:]
    programs = triton.cdiv(height * width, CELLS)
    differences = current.new_empty(height * width, dtype=torch.float32)
    sums = current.new_empty(programs, dtype=torch.float32)
    _differ[programs,](current, carried, differences, sums, height * width, channels,
                       current.stride(3), carried.stride(3),
                       max(triton.next_power_of_2(channels), 2), CELLS)
    result = current.new_empty(1, 1, height, width)
    _relate[programs,](differences, sums, programs, result, height, width, channels,
                       triton.next_power_of_2(programs), CELLS)
    return result


@mismatch.register_fake
def _(current: Tensor, carried: Tensor) -> Tensor:
    return current.new_empty(current.shape[0], 1, *current.shape[2:])


def _halved(current: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Return both frames with 2x2 cells pooled to one, in fp32."""
    count, channels, height, width = current.shape
    padded = _padded(channels)
    result = current.new_empty(2, count, triton.cdiv(height, 2), triton.cdiv(width, 2), padded,
                               dtype=torch.float32)
    _halve[triton.cdiv(result.shape[2] * result.shape[3], FEW_CELLS), count, 2](
        current, key, result, height, width, channels, *_steps(current), *_steps(key), padded,
        FEW_CELLS)
    ours, theirs = result.permute(0, 1, 4, 2, 3).unbind()
    return ours, theirs


def _padded(channels: int) -> int:
    """Return how many channels a program holds."""
    return max(triton.next_power_of_2(channels), 2)


def _channels_adjacent(features: Tensor) -> Tensor:
    return features if features.stride(1) == 1 else features.contiguous(
        memory_format=torch.channels_last)


def _steps(features: Tensor) -> tuple[int, int, int]:
    """Return the steps from an image, a row and a cell to the next."""
    return features.stride(0), features.stride(2), features.stride(3)
