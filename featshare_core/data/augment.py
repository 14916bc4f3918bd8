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
"""The variation that ``pairs`` drew, applied to a batch on the device that trains."""
from __future__ import annotations

from featshare_core.labels import UNLABELLED
import torch
from torch import Tensor
from torch.nn import functional as F


def sampling_grid(views: Tensor, crop: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """
    Return the position of each of the crops' pixels in its image.

    :param views: Nx3x3 matrices from the crop's pixels (x, y, 1) to the image's.
    :param crop, size: (width, height) in pixels of the crops and of the images.
    :returns: Nxhxwx2 for ``grid_sample``: -1 to 1 between the image's outer edges.
    """
    y, x = torch.meshgrid(torch.arange(crop[1], device=views.device, dtype=views.dtype),
                          torch.arange(crop[0], device=views.device, dtype=views.dtype),
                          indexing='ij')
    pixels = torch.stack((x, y, torch.ones_like(x)), -1).view(1, -1, 3)  # 1x(hw)x3
    places = pixels @ views.transpose(1, 2)  # Nx(hw)x3
    places = places[..., :2] / places[..., 2:]
    places = (2 * places + 1) / places.new_tensor(size) - 1  # Nx(hw)x2, -1 to 1
    return places.view(-1, crop[1], crop[0], 2)


def warp_images(images: Tensor, grid: Tensor) -> Tensor:
    """Return NxHxWx3 uint8 images, sampled bilinearly and mirrored at edges: Nx3xhxw, 0 to 1."""
    planes = images.permute(0, 3, 1, 2).to(grid.dtype) / 255
    return F.grid_sample(planes, grid, 'bilinear', 'reflection', align_corners=False)


def warp_labels(labels: Tensor, grid: Tensor) -> Tensor:
    """Return NxHxW uint8 labels of the nearest pixels, Nxhxw int64; ``UNLABELLED`` outside."""
    shifted = labels[:, None].to(grid.dtype) - UNLABELLED
    sampled = F.grid_sample(shifted, grid, 'nearest', 'zeros', align_corners=False)
    return (sampled[:, 0] + UNLABELLED).long()


def recolour(images: Tensor, colours: Tensor, seeds: list[int]) -> Tensor:
    """
    Return images with changed colours and noise, Nx3xHxW, 0 to 1.

    :param images: Nx3xHxW, 0 to 1.
    :param colours: Nx6, see ``pairs.PLAIN``.
    :param seeds: N, the seed of each image's noise.
    """
    saturation, gains, gamma, noise = (
        part[..., None, None] for part in colours.split((1, 3, 1, 1), 1))  # Nx1x1x1, Nx3x1x1
    images = saturation * images + (1 - saturation) * images.mean(1, keepdim=True)
    images = (images * gains).clamp(0, 1) ** gamma
    generator = torch.Generator(images.device)
    grain = torch.stack([torch.randn(images.shape[1:], device=images.device, dtype=images.dtype,
                                     generator=generator.manual_seed(seed)) for seed in seeds])
    return (images + noise * grain).clamp(0, 1)


def augment(images: Tensor, labels: Tensor, views: Tensor, colours: Tensor, seeds: list[int],
            crop: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """
    Return the crops, Nx3xhxw of 0 to 1, and their labels, Nxhxw int64.

    :param images, labels: NxHxWx3 uint8; NxHxW uint8.
    :param views, colours, seeds: see ``sampling_grid`` and ``recolour``.
    :param crop: (width, height) in pixels.
    """
    # Mixed precision would round coordinates by several pixels.
    with torch.autocast(images.device.type, enabled=False):
        grid = sampling_grid(views, crop, (images.shape[2], images.shape[1]))
        return recolour(warp_images(images, grid), colours, seeds), warp_labels(labels, grid)
