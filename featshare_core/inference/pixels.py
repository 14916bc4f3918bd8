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
"""From an image to the network's input, without a GPU."""
from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]
"""(height, width) in pixels."""
PIL_MODES = ('RGB', 'RGBA', 'RGBX', 'L', 'P')
"""Modes of PIL images of 8 bits per channel, which turn into RGB without a loss."""


def as_rgb(image: Any, color: str = 'rgb') -> npt.NDArray[np.uint8]:
    """
    Return an image as an HxWx3 uint8 RGB array: the array itself where it is one.

    :param image: HxWx3 uint8 array, or a PIL image of one of ``PIL_MODES``, of which alpha is left
        out and whose pixels are taken as they are stored (an EXIF orientation is not applied).
    :param color: order of an array's channels, ``rgb`` or ``bgr``.
    :raises ValueError: where it is no such image.
    """
    if color not in ('rgb', 'bgr'):
        raise ValueError(f"color is 'rgb' or 'bgr', not {color!r}")
    if not isinstance(image, np.ndarray):
        pil = sys.modules.get('PIL.Image')  # which has made the image, if it is one
        if pil is None or not isinstance(image, pil.Image):
            raise ValueError(f'a frame is an HxWx3 uint8 RGB array, or a PIL image, not a '
                             f'{type(image).__name__}')
        if color != 'rgb':
            raise ValueError("a PIL image says the order of its channels itself: color='bgr' is "
                             'for arrays')
        if image.mode not in PIL_MODES:
            raise ValueError(f"a PIL image in mode {image.mode}, not {', '.join(PIL_MODES)}: "
                             f"convert it with .convert('RGB')")
        image = np.asarray(image.convert('RGB'))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f'a frame is an HxWx3 uint8 array, not a {image.dtype} array of '
                         f'shape {image.shape}')
    return image if color == 'rgb' else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def network_size(image: Size, trained: Size, multiple: int) -> Size:
    """
    Return the size at which to run the network on images of a given size.

    As many pixels as it was trained on, in the image's own aspect ratio: stretching a wide image
    to the training images' shape would change every object's. Only a strip thinner than
    ``multiple`` is stretched, so that its other side stays bounded.
    """
    pixels = trained[0] * trained[1]
    scale = (pixels / (image[0] * image[1])) ** 0.5
    longest = max(1, pixels // multiple**2)
    height, width = (min(longest, max(1, round(side * scale / multiple))) * multiple
                     for side in image)
    return height, width


def as_planes(frame: npt.NDArray[np.uint8]) -> Tensor:
    """Return an HxWx3 uint8 image as a 3xHxW uint8 tensor, on the same memory where possible."""
    # PyTorch accepts neither padded rows nor read-only memory: such views are copied.
    return torch.from_numpy(np.require(frame, requirements=('C', 'W'))).permute(2, 0, 1)


def resized(frame: npt.NDArray[np.uint8], size: Size) -> npt.NDArray[np.uint8]:
    """Return an HxWx3 uint8 image as hxwx3."""
    image: npt.NDArray[np.uint8] = resize(as_planes(frame), size).permute(1, 2, 0).contiguous() \
        .numpy()
    return image


def resize(planes: Tensor, size: Size) -> Tensor:
    """Return 3xHxW planes, uint8 on the CPU and float on CUDA, as 3xhxw; smooth when shrinking."""
    if planes.shape[1:] == size:
        return planes
    return F.interpolate(planes[None], size=size, mode='bilinear', antialias=True)[0]
