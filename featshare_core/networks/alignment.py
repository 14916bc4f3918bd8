"""
Alignment: a key frame's features are warped to the current frame, without parameters.

The displacement is estimated from features that both frames compute anyway, coarse to fine as in
PWC-Net (arXiv 1709.02371), by the soft argmin over matching costs of GC-Net (arXiv 1703.04309).
"""
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

RADII = (2, 1, 1, 1)
"""Search radius of each level, coarse to fine, in cells; a cell covers 2x2 of the next level."""
SHARPNESS = 10.0
"""Inverse temperature of the softmax over costs; costs are relative to their mean."""
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
    moved: Tensor | None = None
    for ours, theirs, radius, unit, cross in levels((current.float(), key.float()), fine, _halved):
        if moved is None:
            moved = _search(ours, theirs, radius, unit, cross)
        else:
            height, width = ours.shape[-2:]
            moved = F.interpolate(moved, scale_factor=2, mode='bilinear', align_corners=False)
            moved = moved[:, :, :height, :width]  # Nx2xhxw of this level
            moved = moved + _search(ours, _sampled(theirs, moved, unit), radius, unit, cross)
    assert moved is not None
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
    """Return NxCxhxw features, bilinear at Nx2xhxw displacements in ``1 / unit`` of a cell."""
    height, width = features.shape[-2:]
    # grid_sample has -1 and 1 for the image's borders.
    x, y = ((2 * torch.arange(side, device=moved.device) + 1) / side - 1
            for side in (width, height))
    still = torch.stack(torch.meshgrid(x, y, indexing='xy'), -1)  # hxwx2
    borders = torch.cat([torch.full((1,), 2 / (unit * side), device=moved.device)
                         for side in (width, height)])
    # Nxhxwx2
    grid = torch.addcmul(still, moved.float().permute(0, 2, 3, 1), borders)
    return F.grid_sample(features.float(), grid, mode='bilinear', padding_mode='border',
                         align_corners=False).to(features.dtype)


def _taken(features: Tensor, moved: Tensor) -> Tensor:
    """Return NxCxhxw features of the nearest cells; channels last, so that rows are copied."""
    count, channels, height, width = features.shape
    # Integers from here on: an engine may compute floats in bf16, which cannot count to 257.
    x, y = (torch.arange(side, device=moved.device) for side in (width, height))
    still = torch.stack(torch.meshgrid(x, y, indexing='xy'))
    x, y = (still + moved.round().long()).unbind(1)  # Nxhxw each
    cell = torch.add(x.clamp(0, width - 1), y.clamp(0, height - 1), alpha=width)
    if count > 1:
        cell = cell + torch.arange(count, device=moved.device)[:, None, None] * (height * width)
    rows = features.permute(0, 2, 3, 1).reshape(-1, channels)  # (Nhw)xC
    return rows[cell].permute(0, 3, 1, 2)


def _search(ours: Tensor, theirs: Tensor, radius: int, unit: int, cross: bool) -> Tensor:
    """
    Return Nx2xhxw, the expected shift: the mean of all shifts, weighted by a softmax of the costs.

    :param ours, theirs: NxCxhxw features of the current frame and of the key frame.
    :param radius: largest shift along each axis, in cells.
    :param unit: length of a cell in the result.
    :param cross: search shifts of one cell along one axis only, five in all.
    """
    count, _, height, width = ours.shape
    padded = F.pad(theirs, (radius,) * 4, mode='replicate')
    outside = F.pad(torch.zeros(1, 1, height, width, device=ours.device), (radius,) * 4,
                    value=OUTSIDE)
    steps = range(2 * radius + 1)
    places = [(slice(None), slice(None), slice(y, y + height), slice(x, x + width))
              for y in steps for x in steps if not cross or y == radius or x == radius]
    # All P shifts in one batch: few large operations cost less than many small ones.
    costs = torch.cat([padded[place] for place in places])  # (PN)xCxhxw
    costs = costs - (ours if count == 1 else ours.repeat(len(places), 1, 1, 1))
    costs = torch.linalg.vector_norm(costs, 1, 1).view(len(places), count, height, width)
    costs = costs.transpose(0, 1)  # NxPxhxw
    # Scaled before anything else: what follows may be in bf16.
    scale = costs.mean((1, 2, 3), keepdim=True).clamp(min=1e-6)
    never = -SHARPNESS * torch.cat([outside[place] for place in places], 1)
    costs = costs / (scale * (-1 / SHARPNESS)) + never
    # Costs are averaged over 3x3 cells, which reduces ambiguous matches.
    weights = F.avg_pool2d(costs, 3, 1, 1, count_include_pad=False).softmax(1)
    if cross:
        up, left, _, right, down = weights.split(1, 1)
        return unit * torch.cat((right - left, down - up), 1)
    shifts = unit * torch.arange(-radius, radius + 1, dtype=weights.dtype, device=ours.device)
    shifts = torch.stack(torch.meshgrid(shifts, shifts, indexing='xy')).view(2, -1, 1, 1)
    return F.conv2d(weights, shifts)
