"""SplitNetwork: a segmentation network in three parts, so that its deep half can be shared."""
from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

Tensors = tuple[Tensor, ...]
"""What passes between the parts: plain tensors, so that each part can be exported or captured."""


class SplitNetwork(nn.Module, ABC):
    """
    The thesis's split (ch. 3): ``N^lfe`` is ``low``, ``N^gfe`` is ``high``, ``N^d`` is ``decode``.

    A key frame runs all three and caches what ``high`` returns; a current frame runs ``low`` and
    ``decode`` with the cached tensors. The cache is used as it is (``S^prop`` is the identity).
    """

    input_multiple: int
    """The height and width of an input image are multiples of this."""

    levels: int
    """How many levels the network has: an encoder's stages, a pyramid's maps."""

    shared_levels: int
    """How many levels, counted from the deepest, current frames take from the cache."""

    backbone: Any
    """What the features come from; training may freeze its statistics."""

    key_norms: bool = False
    """Whether ``decode_key`` has norms of its own."""

    @property
    def cuts(self) -> tuple[int, ...]:
        """The values that ``shared_levels`` may take, 0 (nothing is shared) first."""
        return tuple(range(self.levels))

    @abstractmethod
    def low(self, image: Tensor) -> Tensors:
        """Return the shallow features of a normalised Nx3xHxW image; run on every frame."""

    @abstractmethod
    def high(self, low: Tensors) -> Tensors:
        """Return all that depends on the key frame's deep features alone; run on key frames."""

    @abstractmethod
    def decode(self, low: Tensors, shared: Tensors) -> Tensor:
        """
        Return NxCxhxw logits, run on every frame.

        They may be smaller than the image: bilinear upsampling (corners not aligned) to whatever
        size is wanted is the caller's, which can then take the argmax without storing them.
        """

    def decode_key(self, low: Tensors, shared: Tensors) -> Tensor:
        """Return the logits of the key frame that ``shared`` comes from; usually ``decode``'s."""
        return self.decode(low, shared)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of a frame on its own, which is what a key frame gets."""
        low = self.low(image)
        return self.decode_key(low, self.high(low))
