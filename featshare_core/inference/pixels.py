"""From an image to the network's input and from logits to a mask, without a GPU."""
from __future__ import annotations

import cv2
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
    to the training images' shape would change every object's. A strip thinner than ``multiple``
    is stretched all the same, lest its other side grow without bound.
    """
    pixels = trained[0] * trained[1]
    scale = (pixels / (image[0] * image[1])) ** 0.5
    longest = max(1, pixels // multiple**2)
    height, width = (min(longest, max(1, round(side * scale / multiple))) * multiple
                     for side in image)
    return height, width


def as_planes(frame: npt.NDArray[np.uint8]) -> Tensor:
    """Return an HxWx3 uint8 image as a 3xHxW uint8 tensor that shares its memory if it can."""
    # PyTorch takes neither padded rows nor read-only memory: such views are copied.
    return torch.from_numpy(np.require(frame, requirements=('C', 'W'))).permute(2, 0, 1)


def resize(planes: Tensor, size: Size) -> Tensor:
    """Return 3xHxW planes, uint8 on the CPU and float on CUDA, as 3xhxw; smooth when shrinking."""
    if planes.shape[1:] == size:
        return planes
    return F.interpolate(planes[None], size=size, mode='bilinear', antialias=True)[0]


class MaskMaker:
    """
    Upsamples logits to an image's size and takes the winning class, a class at a time.

    The same result as upsampling all logits, then argmax, but it never holds more than two
    full-size planes, which stay in cache. Buffers are kept between frames of one size.
    """

    def __init__(self) -> None:
        self._size: Size = (0, 0)

    def _buffers(self, size: Size) -> None:
        if self._size != size:
            self._plane = np.empty(size, np.float32)
            self._best = np.empty(size, np.float32)
            self._wins = np.empty(size, np.uint8)
            self._size = size

    def mask(self, logits: npt.NDArray[np.float32], size: Size) -> npt.NDArray[np.uint8]:
        """Return the HxW uint8 class ids of CxHxW float32 logits, upsampled to ``size``."""
        self._buffers(size)
        height, width = size
        mask = np.zeros(size, np.uint8)
        cv2.resize(logits[0], (width, height), dst=self._best)
        for index in range(1, len(logits)):
            cv2.resize(logits[index], (width, height), dst=self._plane)
            cv2.compare(self._plane, self._best, cv2.CMP_GT, dst=self._wins)
            cv2.max(self._plane, self._best, dst=self._best)
            # Later classes have larger ids: the largest is the last that won.
            cv2.bitwise_and(self._wins, index, dst=self._wins)
            cv2.max(mask, self._wins, dst=mask)
        return mask

    def confidence(self, logits: npt.NDArray[np.float32], size: Size) -> npt.NDArray[np.uint8]:
        """Return 255 times the winning class's softmax; only right after ``mask`` of the same."""
        height, width = size
        total = np.zeros(size, np.float32)
        for plane in logits:
            cv2.resize(plane, (width, height), dst=self._plane)
            cv2.subtract(self._plane, self._best, dst=self._plane)
            cv2.exp(self._plane, dst=self._plane)
            cv2.add(total, self._plane, dst=total)
        return cv2.convertScaleAbs(cv2.divide(255.0, total)).astype(np.uint8, copy=False)
