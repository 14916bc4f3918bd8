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
Convolutions of one image as Triton kernels, with what comes before and after them in one.

cuDNN convolves as fast, but its bias, bounds, sums and copies are kernels of their own, each of
which takes a GPU about as long as the convolution of a small image. All sums are in fp32.

Numbers of channels are given in units that divide them, so that Triton knows how they divide and
loads several at once, without a kernel for each number.
"""
from __future__ import annotations

import math

from featshare_core.inference.cuda.kernels.sampling import channels_last, new_map, or_any, unit_of
import torch
from torch import Tensor
import triton
from triton import cdiv, next_power_of_2
import triton.language as tl

PROGRAMS = 132  # least number of programs where the image allows it: multiprocessors of an H100
MOST_CELLS, MOST_OUTPUTS = 128, 64  # of the results that one program computes
FLAT = 16  # inputs from which on a convolution takes tap after tap
MANY_CELLS = 1 << 14
CELLS = ((MANY_CELLS, 128, 32), (512, 32, 64), (0, 16, 64))
"""From how many cells on, how many of them and of the channels a depthwise program convolves."""
VALUES = 1024  # of a program that finishes
UNBOUNDED = (-math.inf, math.inf)
NONE = (0, 0, 0, 0)

SIZES = ['cells', 'width', 'source_height', 'source_width', 'stride', 'top', 'left', 'dilation',
         'inputs', 'outputs', 'source_cell', 'addend_cell', 'result_cell', 'channels']


@triton.jit(do_not_specialize=SIZES)
def _convolve(source, kernel, floor, bias, addend, result, cells, width, source_height,
              source_width, source_cell, addend_cell, result_cell, inputs, outputs, stride, top,
              left, dilation, low, high, side: tl.constexpr, has_floor: tl.constexpr,
              has_addend: tl.constexpr, flat: tl.constexpr, unit: tl.constexpr,
              result_unit: tl.constexpr, some_cells: tl.constexpr, some_inputs: tl.constexpr,
              some_outputs: tl.constexpr):
    """Convolve some cells of the result, some of its channels; where ``flat``, taps together."""
    inputs, source_cell = inputs * unit, source_cell * unit
    outputs, result_cell = outputs * result_unit, result_cell * result_unit
    place = tl.program_id(0) * some_cells + tl.arange(0, some_cells)
    output = tl.program_id(1) * some_outputs + tl.arange(0, some_outputs)
    y, x = place // width * stride - top, place % width * stride - left
    total = tl.zeros((some_cells, some_outputs), tl.float32)
    if flat:
        for first in range(0, side * side * inputs, some_inputs):
            product = first + tl.arange(0, some_inputs)
            tap = product // inputs
            there_y = y[:, None] + (tap // side * dilation)[None]
            there_x = x[:, None] + (tap % side * dilation)[None]
            inside = (place < cells)[:, None] & (there_y >= 0) & (there_y < source_height) \
                & (there_x >= 0) & (there_x < source_width)
            known = product < side * side * inputs
            values = tl.load(source + (there_y * source_width + there_x) * source_cell
                             + (product - tap * inputs)[None], mask=inside & known[None], other=0)
            weights = tl.load(kernel + product[:, None] * outputs + output[None],
                              mask=known[:, None] & (output < outputs)[None], other=0)
            total = tl.dot(values, weights, total)
    else:
        parts = (inputs + some_inputs - 1) // some_inputs
        for step in range(side * side * parts):
            tap, part = step // parts, step % parts
            channel = part * some_inputs + tl.arange(0, some_inputs)
            there_y, there_x = y + tap // side * dilation, x + tap % side * dilation
            inside = (place < cells) & (there_y >= 0) & (there_y < source_height) \
                & (there_x >= 0) & (there_x < source_width)
            known = channel < inputs
            values = tl.load(source + ((there_y * source_width + there_x) * source_cell)[:, None]
                             + channel[None], mask=inside[:, None] & known[None], other=0)
            if has_floor:
                values = tl.maximum(values, tl.load(floor + channel, mask=known, other=0)[None])
                values = values.to(source.dtype.element_ty)  # of bf16 it makes fp32
            weights = tl.load(kernel + (tap * inputs + channel)[:, None] * outputs + output[None],
                              mask=known[:, None] & (output < outputs)[None], other=0)
            total = tl.dot(values, weights, total)
    total += tl.load(bias + output, mask=output < outputs, other=0).to(tl.float32)[None]
    total = tl.minimum(tl.maximum(total, low), high)
    known = (place < cells)[:, None] & (output < outputs)[None]
    if has_addend:
        total += tl.load(addend + place[:, None] * (addend_cell * result_unit) + output[None],
                         mask=known, other=0).to(tl.float32)
    tl.store(result + place[:, None] * result_cell + output[None],
             total.to(result.dtype.element_ty), mask=known)


@triton.jit(do_not_specialize=SIZES)
def _convolve_depthwise(source, kernel, bias, result, cells, width, source_height, source_width,
                        source_cell, result_cell, channels, stride, top, left, dilation, low,
                        high, side: tl.constexpr, unit: tl.constexpr,
                        some_cells: tl.constexpr, some_channels: tl.constexpr):
    """Convolve some cells of the result, some of its channels, each with its own kernel."""
    channels, source_cell = channels * unit, source_cell * unit
    result_cell *= 8
    place = tl.program_id(0) * some_cells + tl.arange(0, some_cells)
    channel = tl.program_id(1) * some_channels + tl.arange(0, some_channels)
    y, x = place // width * stride - top, place % width * stride - left
    known = channel < channels
    total = tl.zeros((some_cells, some_channels), tl.float32)
    for tap in tl.static_range(side * side):
        there_y, there_x = y + tap // side * dilation, x + tap % side * dilation
        inside = (place < cells) & (there_y >= 0) & (there_y < source_height) \
            & (there_x >= 0) & (there_x < source_width)
        values = tl.load(source + ((there_y * source_width + there_x) * source_cell)[:, None]
                         + channel[None], mask=inside[:, None] & known[None], other=0)
        weights = tl.load(kernel + tap * channels + channel, mask=known, other=0)
        total += values.to(tl.float32) * weights.to(tl.float32)[None]
    total += tl.load(bias + channel, mask=known, other=0).to(tl.float32)[None]
    total = tl.minimum(tl.maximum(total, low), high)
    tl.store(result + place[:, None] * result_cell + channel[None],
             total.to(result.dtype.element_ty), mask=(place < cells)[:, None] & known[None])


@triton.jit(do_not_specialize=['count', 'channels'])
def _finish(first, second, scale, shift, result, count, channels, low,
            high, has_second: tl.constexpr, has_scale: tl.constexpr,
            unit: tl.constexpr, values: tl.constexpr):
    """Write bounds(scale (first + second) + shift) of some values."""
    place = tl.program_id(0) * values + tl.arange(0, values)
    known = place < count * unit
    channel = place % (channels * unit)
    total = tl.load(first + place, mask=known, other=0).to(tl.float32)
    if has_second:
        total += tl.load(second + place, mask=known, other=0).to(tl.float32)
    if has_scale:
        total *= tl.load(scale + channel)
    total += tl.load(shift + channel)
    total = tl.minimum(tl.maximum(total, low), high)
    tl.store(result + place, total.to(result.dtype.element_ty), mask=known)


def packed(weight: Tensor) -> Tensor:
    """Return OxIxkxk weights as ``convolve`` takes them, kxkxIxO; depthwise ones as kxkxO."""
    weight = weight.permute(2, 3, 1, 0).contiguous()
    return weight[:, :, 0] if weight.shape[2] == 1 else weight


def convolve(source: Tensor, kernel: Tensor, bias: Tensor, stride: int = 1,
             padding: tuple[int, int, int, int] = NONE, dilation: int = 1,
             bounds: tuple[float, float] = UNBOUNDED, floor: Tensor | None = None,
             addend: Tensor | None = None, result: Tensor | None = None) -> Tensor:
    """
    Return ``bounds(conv(max(source, floor)) + bias) + addend``.

    :param source: 1xIxHxW, bf16 or fp16, on a CUDA device, channels last.
    :param kernel: kxkxIxO, see ``packed``.
    :param bias: O values; ``floor``: I values, for 1x1 kernels; ``addend``: 1xOxhxw.
    :param padding: zeros at the left, right, top and bottom.
    :param result: 1xOxhxw to write into, channels last, or a slice of such channels.
    """
    side, inputs, outputs = kernel.shape[1:]
    source = channels_last(source)
    addend = None if addend is None else channels_last(addend)
    height, width = _result_size(source, side, stride, padding, dilation)
    if result is None:
        result = new_map(source, outputs, height, width)
    cells, source_cell, result_cell = height * width, source.stride(3), result.stride(3)
    addend_cell = 0 if addend is None else addend.stride(3)
    unit, result_unit = unit_of(inputs, source_cell), unit_of(outputs, result_cell, addend_cell)
    flat = inputs < FLAT and side > 1
    some_cells, some_inputs, some_outputs = tile(
        cells, inputs * side**2 if flat else inputs, outputs, side)
    _convolve[cdiv(cells, some_cells), cdiv(outputs, some_outputs)](
        source, kernel, or_any(floor, kernel), bias, or_any(addend, kernel), result, cells,
        width, source.shape[2], source.shape[3], source_cell // unit, addend_cell // result_unit,
        result_cell // result_unit, inputs // unit, outputs // result_unit, stride, padding[2],
        padding[0], dilation, *bounds, side, floor is not None, addend is not None, flat, unit,
        result_unit, some_cells, some_inputs, some_outputs)
    return result


def convolve_depthwise(source: Tensor, kernel: Tensor, bias: Tensor, stride: int = 1,
                       padding: tuple[int, int, int, int] = NONE, dilation: int = 1,
                       bounds: tuple[float, float] = UNBOUNDED) -> Tensor:
    """Return ``bounds(conv(source) + bias)``, each channel by itself; see ``convolve``."""
    side, channels = kernel.shape[1:]
    source = channels_last(source)
    height, width = _result_size(source, side, stride, padding, dilation)
    result = new_map(source, channels, height, width)
    unit = unit_of(channels, source.stride(3))
    cells, most = next(found[1:] for found in CELLS if height * width >= found[0])
    some = min(most, next_power_of_2(channels))
    _convolve_depthwise[cdiv(height * width, cells), cdiv(channels, some)](
        source, kernel, bias, result, height * width, width, source.shape[2], source.shape[3],
        source.stride(3) // unit, result.stride(3) // 8, channels // unit, stride,
        padding[2], padding[0], dilation, *bounds, side, unit, cells, some)
    return result


def finish(first: Tensor, second: Tensor | None, scale: Tensor | None, shift: Tensor,
           bounds: tuple[float, float] = UNBOUNDED) -> Tensor:
    """
    Return ``bounds(scale (first + second) + shift)``.

    :param first, second: 1xCxhxw; ``scale`` and ``shift``: C fp32 values.
    """
    first, second = _dense(first), None if second is None else _dense(second)
    result = torch.empty_like(first)
    unit = unit_of(first.shape[1])
    _finish[cdiv(first.numel(), VALUES),](
        first, or_any(second, first), or_any(scale, shift), shift, result, first.numel() // unit,
        first.shape[1] // unit, *bounds, second is not None, scale is not None, unit, VALUES)
    return result


def tile(cells: int, inputs: int, outputs: int, side: int) -> tuple[int, int, int]:
    """
    Return of how many cells, inputs at a time and outputs a program takes care.

    Of a few dozen tiles that were tried on an H200 for fourteen of our networks' layers, the best
    ones are a sixteenth faster in all.
    """
    some_cells, some_outputs = MOST_CELLS, max(16, min(MOST_OUTPUTS, next_power_of_2(outputs)))
    while cdiv(cells, some_cells) * cdiv(outputs, some_outputs) < PROGRAMS and some_cells > 16:
        if some_cells <= 32 < some_outputs:
            some_outputs //= 2
        else:
            some_cells //= 2
    most = 128 if inputs > 256 or (side > 1 and inputs >= 128) else 64
    if side > 1 and cells > MANY_CELLS:
        most = 32
    return some_cells, max(32, min(most, next_power_of_2(inputs))), some_outputs


def _dense(features: Tensor) -> Tensor:
    return features.contiguous(memory_format=torch.channels_last)


def _result_size(source: Tensor, side: int, stride: int, padding: tuple[int, int, int, int],
                 dilation: int) -> tuple[int, int]:
    left, right, top, bottom = padding
    reach = dilation * (side - 1) + 1
    return ((source.shape[2] + top + bottom - reach) // stride + 1,
            (source.shape[3] + left + right - reach) // stride + 1)
