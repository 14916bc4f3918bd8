"""From an image to the network's input and from logits to a mask, without a GPU."""
from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]
"""(height, width) in pixels."""
CLASSES_A_THREAD, PIXELS_A_THREAD = 4, 2**17
"""With fewer, a thread more saves little, and waits where the machine has much else to do."""


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

    The same result as upsampling all logits, then argmax, but few full-size planes are held,
    which stay in cache. Several threads have some of the classes each, and then the winners of
    these meet. Buffers of the largest size are kept.
    """

    def __init__(self) -> None:
        self._ready_for: tuple[Size, int] | None = None
        self._all_heats: list[_Heat] = []
        self._heats: list[_Heat] = []
        self._helpers = ThreadPoolExecutor(thread_name_prefix='masks')

    def mask(self, logits: npt.NDArray[np.float32], size: Size) -> npt.NDArray[np.uint8]:
        """Return the HxW uint8 class ids of CxHxW float32 logits, upsampled to ``size``."""
        if self._ready_for != (size, len(logits)):
            self._make_ready(size, len(logits))
        final, *others = self._heats
        mask = np.empty(size, np.uint8)
        running = [self._helpers.submit(heat.run, logits, heat.winner) for heat in others]
        final.run(logits, mask)
        for heat, run in zip(others, running):
            run.result()
            final.meet(heat, mask)
        return mask

    def _make_ready(self, size: Size, classes: int) -> None:
        threads = max(1, min(torch.get_num_threads(), classes // CLASSES_A_THREAD,
                             size[0] * size[1] // PIXELS_A_THREAD))
        while len(self._all_heats) < threads:
            self._all_heats.append(_Heat())
        self._heats = self._all_heats[:threads]
        for heat, group in zip(self._heats, np.array_split(np.arange(classes), threads)):
            heat.make_ready(size, group.tolist())
        self._ready_for = size, classes

    def confidence(self, logits: npt.NDArray[np.float32], size: Size) -> npt.NDArray[np.uint8]:
        """Return 255 times the winning class's softmax; only right after ``mask`` of the same."""
        height, width = size
        total = np.zeros(size, np.float32)
        plane, best = self._heats[0].plane, self._heats[0].best
        for values in logits:
            cv2.resize(values, (width, height), dst=plane)
            cv2.subtract(plane, best, dst=plane)
            cv2.exp(plane, dst=plane)
            cv2.add(total, plane, dst=total)
        return cv2.convertScaleAbs(cv2.divide(255.0, total)).astype(np.uint8, copy=False)


class _Heat:
    """The contest of some of the classes, ascending, at each pixel."""

    def __init__(self) -> None:
        self._logits = np.empty((2, 0), np.float32)
        self._ids = np.empty((2, 0), np.uint8)

    def make_ready(self, size: Size, classes: Sequence[int]) -> None:
        """Lay the buffers out for masks of a size, in memory that is there if it suffices."""
        pixels = size[0] * size[1]
        if pixels > self._ids.shape[1]:
            self._logits = np.empty((2, pixels), np.float32)
            self._ids = np.empty((2, pixels), np.uint8)
        self.plane, self.best = self._logits[:, :pixels].reshape(2, *size)
        self.wins, self.winner = self._ids[:, :pixels].reshape(2, *size)
        self.classes = classes

    def run(self, logits: npt.NDArray[np.float32], winner: npt.NDArray[np.uint8]) -> None:
        """Write into ``winner`` which of the classes has the largest logit."""
        height, width = winner.shape
        first, *later = self.classes
        cv2.resize(logits[first], (width, height), dst=self.best)
        winner.fill(first)
        for index in later:
            cv2.resize(logits[index], (width, height), dst=self.plane)
            cv2.compare(self.plane, self.best, cv2.CMP_GT, dst=self.wins)
            cv2.max(self.plane, self.best, dst=self.best)
            # Later classes have larger ids: the largest is the last that won.
            cv2.bitwise_and(self.wins, index, dst=self.wins)
            cv2.max(winner, self.wins, dst=winner)

    def meet(self, other: _Heat, winner: npt.NDArray[np.uint8]) -> None:
        """Let another contest's winners, of larger ids, win over ``winner``."""
        cv2.compare(other.best, self.best, cv2.CMP_GT, dst=self.wins)
        cv2.max(other.best, self.best, dst=self.best)
        cv2.copyTo(other.winner, self.wins, dst=winner)
