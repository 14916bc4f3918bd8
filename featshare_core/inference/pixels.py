"""From an image to the network's input, without a GPU."""
from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]
"""(height, width) in pixels."""


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
