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
Alignment: a key frame's features are warped to the current frame, without parameters.

The displacement is estimated from features that both frames compute anyway, coarse to fine as in
PWC-Net (arXiv 1709.02371), by the soft argmin over matching costs of GC-Net (arXiv 1703.04309).
At each step but the last, a cell chooses among the displacements of the coarser cells around it,
as in PatchMatch, so that a small fast thing keeps a motion of its own.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

RADII = (5, 1, 1)
"""Search radius of each level, coarse to fine, in cells; a cell covers 2x2 of the next level."""
SHARPNESS = 10.0
"""Inverse temperature of the softmax over costs; costs are relative to their mean."""
BLUR = 0.5
"""Inverse temperature of the coarsest level's second, smooth field, as a share of SHARPNESS."""
AROUND = ((0, 0), (-1, 0), (0, -1), (0, 1), (1, 0))
"""Rows and columns to the coarser cells whose displacements are candidates, in their cells."""
STILL = 0.02
"""Preference for a nearer shift on the coarsest level, in inverse temperatures per cell."""
OUTSIDE = 3.0
"""Cost added to a match outside the key frame, relative to the mean cost."""

Frames = tuple[Tensor, Tensor]
"""Features of the current frame and of its key frame, both NxCxhxw."""


class Level(NamedTuple):
    """The arguments of one step of the search: see ``_search``."""

    ours: Tensor
    theirs: Tensor
    radius: int
    unit: int
    cross: bool


def displacement(current: Tensor, key: Tensor, finer: Tensor | None = None,
                 finer_key: Tensor | None = None) -> Tensor:
    """
    Return the displacement from each cell to its match in the key frame, (x, y) in cells.

    The result is Nx2xhxw, at most 23 cells along each axis. With finer features it is Nx2x2hx2w
    in the finer cells, at most 47 along each axis.

    :param current, key: NxCxhxw, the same features of both frames.
    :param finer, finer_key: NxDx2hx2w, other features of both frames, which refine the result.
    """
    fine = None if finer is None or finer_key is None else (finer.float(), finer_key.float())
    first, *others = levels((current.float(), key.float()), fine, _halved)
    moved, smooth = matched(first)
    also: Tensor | None = smooth
    for ours, theirs, radius, unit, cross in others:
        height, width = ours.shape[-2:]
        if cross:
            start = F.interpolate(moved, scale_factor=2, mode='bilinear', align_corners=False)
            start = start[:, :, :height, :width]  # Nx2xhxw of this level
        else:
            start, also = chosen(ours, theirs, moved, also, unit), None
        moved = start + _search(ours, _sampled(theirs, start, unit), radius, unit, cross)
    return moved


def levels(frames: Frames, finer: Frames | None,
           halved: Callable[[Tensor, Tensor], Frames]) -> list[Level]:
    """Return the levels of the search, coarse to fine; ``halved`` pools both frames by 2x2."""
    unit = 1 if finer is None else 2
    found: list[Level] = []
    for radius in reversed(RADII):
        if found:
            frames, unit = halved(*frames), 2 * unit
        found.insert(0, Level(*frames, radius, unit, False))
    return found if finer is None else [*found, Level(*finer, 1, 1, True)]


def matched(level: Level) -> tuple[Tensor, Tensor]:
    """
    Return two fields of displacements Nx2xhxw of the coarsest level, without any before it.

    The first has the best shift and its eight neighbours averaged, the second all shifts, so that
    it is smooth; both are weighted by a softmax of the costs.
    """
    ours, theirs, radius, unit, _ = level
    height, width = ours.shape[-2:]
    side = torch.arange(-radius, radius + 1, device=ours.device)
    shifts = torch.stack(torch.meshgrid(side, side, indexing='xy')).view(2, -1)  # 2xP
    costs = _shifted_differences(ours, theirs, radius)  # NxPxhxw
    y = torch.arange(height, device=ours.device)[:, None] + shifts[1, :, None, None]  # Pxhx1
    x = torch.arange(width, device=ours.device) + shifts[0, :, None, None]  # Px1xw
    outside = ((y < 0) | (y >= height) | (x < 0) | (x >= width)).to(costs.dtype)  # Pxhxw
    match = _smoothed(costs / (_scale(costs) * (-1 / SHARPNESS)) - SHARPNESS * OUTSIDE * outside)
    far = (shifts[:, :, None] - shifts[:, None]).abs().amax(0) > 1  # PxP
    never = far.to(match.dtype) * -1e4
    # Where nothing is to be seen, all match alike: then the scene stands still.
    best = (match - STILL * shifts.abs().amax(0)[:, None, None]).argmax(1)  # Nxhxw
    near = match + never[best].permute(0, 3, 1, 2)
    moves = unit * shifts.to(match.dtype).T[:, :, None, None]  # Px2x1x1
    weights = torch.stack((near, BLUR * match), 1).softmax(2)  # Nx2xPxhxw
    moved, smooth = (weights[:, :, :, None] * moves).sum(2).unbind(1)
    return moved, smooth


def chosen(ours: Tensor, theirs: Tensor, coarse: Tensor, smooth: Tensor | None,
           unit: int) -> Tensor:
    """
    Return Nx2xhxw, the best of each cell's candidates: their mean, weighted by how they match.

    Candidates are the displacements of the coarser cells around it. Interpolated between two
    motions, a displacement would fit neither.

    :param ours, theirs: NxCxhxw features of the current frame and of the key frame.
    :param coarse: Nx2x(h/2)x(w/2), of the coarser cells, ``AROUND`` each of which are candidates.
    :param smooth: of their size, one more candidate of each of them; None for none.
    :param unit: length of a cell in all displacements.
    """
    height, width = ours.shape[-2:]
    rows, columns = coarse.shape[-2:]
    padded = F.pad(coarse, (1,) * 4, mode='replicate')
    fields = [padded[:, :, 1 + y:1 + y + rows, 1 + x:1 + x + columns] for y, x in AROUND]
    candidates = torch.cat(fields if smooth is None else [*fields, smooth], 1)
    candidates = F.interpolate(candidates, scale_factor=2)[:, :, :height, :width]
    candidates = candidates.unflatten(1, (-1, 2))  # NxPx2xhxw
    sampled = _sampled(theirs, candidates.transpose(1, 2).flatten(2, 3), unit)  # NxCx(Ph)xw
    costs = _differences(ours, sampled.unflatten(2, (-1, height)))
    weights = _smoothed(costs / (_scale(costs) * (-1 / SHARPNESS))).softmax(1)
    return (weights[:, :, None] * candidates).sum(1)


def warp(features: Tensor, moved: Tensor, nearest: bool = False) -> Tensor:
    """
    Return NxCxHxW features, each cell sampled at its displacement.

    :param features: NxCxHxW, of the key frame.
    :param moved: Nx2xhxw displacement in its own cells, finer or coarser than the features'.
    :param nearest: sample the nearest cell instead of interpolating: at stride 4 equally
        accurate, and several times faster.
    """
    height, width = features.shape[-2:]
    unit = moved.shape[-1] / width
    if moved.shape[-2:] != (height, width):
        moved = F.interpolate(moved / unit if nearest else moved, (height, width),
                              mode='bilinear', align_corners=False)
    return _taken(features, moved.float()) if nearest else _sampled(features, moved, unit)


def _halved(current: Tensor, key: Tensor) -> Frames:
    # A side of one cell is not pooled: OpenVINO 2026.4 crashes where it is below the window.
    cell = [min(2, int(side)) for side in current.shape[-2:]]
    return F.avg_pool2d(current, cell, ceil_mode=True), F.avg_pool2d(key, cell, ceil_mode=True)


def _sampled(features: Tensor, moved: Tensor, unit: float) -> Tensor:
    """
    Return NxCxhxw features, bilinear at Nx2xhxw displacements in ``1 / unit`` of a cell.

    With P displacements for each cell, Nx2x(Ph)xw, the result is NxCx(Ph)xw.
    """
    height, width = features.shape[-2:]
    # grid_sample has -1 and 1 for the image's borders.
    x, y = ((2 * torch.arange(side, device=moved.device) + 1) / side - 1
            for side in (width, height))
    still = torch.stack(torch.meshgrid(x, y, indexing='xy'), -1)  # hxwx2
    if moved.shape[-2] > height:
        still = still.repeat(moved.shape[-2] // height, 1, 1)  # (Ph)xwx2
    borders = torch.cat([torch.full((1,), 2 / (unit * side), device=moved.device)
                         for side in (width, height)])
    # Nxhxwx2
    grid = torch.addcmul(still, moved.float().permute(0, 2, 3, 1), borders)
    return F.grid_sample(features.float(), grid, mode='bilinear', padding_mode='border',
                         align_corners=False).to(features.dtype)


def _taken(features: Tensor, moved: Tensor) -> Tensor:
    """Return NxCxhxw features of the cells nearest to Nx2xhxw displacements, in cells."""
    count, channels, height, width = features.shape
    # Integers from here on: an engine may compute floats in bf16, which cannot count to 257.
    x, y = (torch.arange(side, device=moved.device) for side in (width, height))
    still = torch.stack(torch.meshgrid(x, y, indexing='xy'))  # 2xhxw
    x, y = (still + moved.round().long()).unbind(1)  # Nxhxw each
    cell = torch.add(x.clamp(0, width - 1), y.clamp(0, height - 1), alpha=width)
    if count > 1:
        cell = cell + torch.arange(count, device=moved.device)[:, None, None] * (height * width)
    # Channels last, so that whole rows are copied.
    rows = features.permute(0, 2, 3, 1).reshape(-1, channels)  # (Nhw)xC
    return rows[cell].permute(0, 3, 1, 2)


def _search(ours: Tensor, theirs: Tensor, radius: int, unit: int, cross: bool) -> Tensor:
    """
    Return Nx2xhxw, the expected shift: the mean of all shifts, weighted by a softmax of the costs.

    :param ours, theirs: NxCxhxw features of the current frame and of the key frame.
    :param radius: largest shift along each axis, in cells.
    :param unit: length of a cell in the result.
    :param cross: search along one axis at a time: 4 * radius + 1 shifts.
    """
    count, channels, height, width = ours.shape
    steps = range(-radius, radius + 1)
    shifts = [(x, y) for y in steps for x in steps if not cross or 0 in (x, y)]
    places = [(slice(None), slice(radius + y, radius + y + height),
               slice(radius + x, radius + x + width)) for x, y in shifts]
    # Three axes: with four, OpenVINO converts to channels last here, and back again.
    padded = F.pad(theirs.flatten(0, 1), (radius,) * 4, mode='replicate')
    # All P shifts at once: few large operations cost less than many small ones.
    shifted = torch.stack([padded[place] for place in places], 1)  # (NC)xPxhxw
    costs = _differences(ours, shifted.unflatten(0, (count, channels)))  # NxPxhxw
    outside = F.pad(torch.zeros(1, height, width, device=ours.device), (radius,) * 4,
                    value=OUTSIDE)
    never = -SHARPNESS * torch.cat([outside[place] for place in places])  # Pxhxw
    weights = _smoothed(costs / (_scale(costs) * (-1 / SHARPNESS)) + never).softmax(1)
    # Shift by shift: autocast would compute a product of matrices in bf16.
    parts = weights.split(1, 1)  # P of Nx1xhxw
    means = [reduce(add, (distance * part for distance, part in zip(axis, parts) if distance))
             for axis in zip(*shifts)]  # x and y
    return unit * torch.cat(means, 1)


def _shifted_differences(ours: Tensor, theirs: Tensor, radius: int) -> Tensor:
    """
    Return NxPxhxw costs of all shifts of up to ``radius`` cells, row by row: x changes fastest.

    :param ours, theirs: NxCxhxw features of the current frame and of the key frame; the latter's
        border is repeated.
    """
    count, channels, height, width = ours.shape
    padded = F.pad(theirs.flatten(0, 1), (radius,) * 4, mode='replicate')
    side = torch.arange(2 * radius + 1, device=ours.device)[:, None]
    y, x = ((side + torch.arange(length, device=ours.device)).flatten()
            for length in (height, width))
    # One axis after the other, so that the second copies whole rows. S squared is P.
    shifted = padded[:, :, x][:, y]  # (NC)x(Sh)x(Sw)
    shifted = shifted.view(count, channels, -1, height, len(side), width)  # NxCxSxhxSxw
    # Not vector_norm: over channels it is not vectorised on a CPU, and many times slower.
    costs = (shifted - ours[:, :, None, :, None]).abs().sum(1)  # NxSxhxSxw
    return costs.transpose(2, 3).flatten(1, 2)


def _differences(ours: Tensor, candidates: Tensor) -> Tensor:
    """Return NxPxhxw costs: how NxCxhxw features differ from P candidates, NxCxPxhxw."""
    return (candidates - ours[:, :, None]).abs().sum(1)


def _scale(costs: Tensor) -> Tensor:
    """Return each image's mean cost, Nx1x1x1: costs are scaled first, what follows may be bf16."""
    return costs.mean((1, 2, 3), keepdim=True).clamp(min=1e-6)


def _smoothed(costs: Tensor) -> Tensor:
    """Return NxPxhxw costs averaged over 3x3 cells, which reduces ambiguous matches."""
    return F.avg_pool2d(costs, 3, 1, 1, count_include_pad=False)
