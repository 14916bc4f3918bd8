"""SplitNetwork: a segmentation network in three parts, so that its deep half can be shared."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from featshare_core.networks.alignment import displacement, warp
from featshare_core.networks.mending import mismatch

LANDMARK_CHANNELS = 16
"""So many tell places apart as well as twice as many, see docs/notes/ablation.md."""
FINER_CHANNELS = 8
"""Of the landmarks twice as fine, which need not tell far places apart."""
Tensors = tuple[Tensor, ...]
"""What passes between the parts: plain tensors, so that each part can be exported or captured."""


class SplitNetwork(nn.Module, ABC):
    """
    The thesis's split (ch. 3): ``N^lfe`` is ``low``, ``N^gfe`` is ``high``, ``N^d`` is ``decode``.

    A key frame runs all three and caches what ``high`` returns; a current frame runs ``low`` and
    ``decode`` with the cached tensors, which ``propagate``, ``S^prop``, carries over.
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

    aligned: bool = False
    """Whether ``propagate`` moves features along with the scene; the thesis's does not."""

    displacement: Callable[..., Tensor] = staticmethod(displacement)
    warp: Callable[[Tensor, Tensor, bool], Tensor] = staticmethod(warp)
    mismatch: Callable[[Tensor, Tensor], Tensor] = staticmethod(mismatch)
    """How features are carried over; an engine may put faster ways here."""

    mends: bool = False
    """Whether an aligned ``propagate`` corrects what it moved, by ``Mending``."""

    landmark_maps: int = 1
    """How many tensors ``_landmarks`` returns."""

    @property
    def cuts(self) -> tuple[int, ...]:
        """The values that ``shared_levels`` may take, 0 (nothing is shared) first."""
        return tuple(range(self.levels))

    @abstractmethod
    def low(self, image: Tensor) -> Tensors:
        """Return the shallow features of a normalised Nx3xHxW image; run on every frame."""

    def high(self, low: Tensors) -> Tensors:
        """Return all that depends on the key frame's deep features alone; run on key frames."""
        shared = self._high(low)
        return (*shared, *self._landmarks(low)) if self.aligned and shared else shared

    def propagate(self, low: Tensors, shared: Tensors, in_place: bool = False) -> Tensors:
        """
        Return a key frame's ``shared`` as the current frame of ``low`` takes it (``S^prop``).

        The thesis's has no parameters: it is the identity. Where the network is ``aligned``, each
        tensor is warped by how far the shallow features have moved since the key frame, and then
        mended where the network ``mends``.

        :param in_place: as if nothing had moved, which leaves more to mend: for training.
        """
        if not self.aligned or not shared:
            return shared
        deep, landmarks = self._deep(shared), self._landmarks(low)
        (ours, *finer), (theirs, *finer_key) = landmarks, shared[len(deep):]
        if not in_place:
            moved = self.displacement(ours, theirs, *finer, *finer_key)
            # What is one for the whole image does not move.
            deep = tuple(self.warp(t, moved, t.shape[-2] > ours.shape[-2])
                         if max(t.shape[-2:]) > 1 else t for t in deep)
            theirs = self.warp(theirs, moved, False) if self.mends else theirs
        if self.mends:
            deep = self._mended(low, deep, self.mismatch(ours, theirs))
        return (*deep, *landmarks)

    def decode(self, low: Tensors, shared: Tensors) -> Tensor:
        """
        Return NxCxhxw logits of a current frame from its ``low`` and a key frame's ``shared``.

        They may be smaller than the image: bilinear upsampling (corners not aligned) to whatever
        size is wanted is the caller's, which can then take the argmax without storing them.
        """
        return self.decode_propagated(low, self.propagate(low, shared))

    def decode_propagated(self, low: Tensors, shared: Tensors) -> Tensor:
        """Return the logits of a current frame from what ``propagate`` has returned."""
        return self._decode(low, self._deep(shared))

    def decode_key(self, low: Tensors, shared: Tensors) -> Tensor:
        """Return the logits of the frame that ``low`` and ``shared`` both come from."""
        return self._decode_key(low, self._deep(shared))

    def _deep(self, shared: Tensors) -> Tensors:
        """Return ``shared`` without the landmarks."""
        return shared[:-self.landmark_maps] if self.aligned else shared

    @abstractmethod
    def _high(self, low: Tensors) -> Tensors:
        """Return what ``_decode`` needs of the deep levels, ``()`` where nothing is shared."""

    @abstractmethod
    def _decode(self, low: Tensors, shared: Tensors) -> Tensor:
        """Return the logits of a frame, with tensors of ``_high`` that fit it."""

    def _decode_key(self, low: Tensors, shared: Tensors) -> Tensor:
        return self._decode(low, shared)

    def _mended(self, low: Tensors, carried: Tensors, wrong: Tensor) -> Tensors:
        """Return what ``_decode`` needs of the carried tensors; ``wrong`` is of ``mismatch``."""
        raise NotImplementedError(f'{type(self).__name__} does not mend')

    @abstractmethod
    def _landmarks(self, low: Tensors) -> Tensors:
        """
        Return the features by which frames are matched; few channels will do.

        They are at stride 8, and, where there are two, of others at stride 4.
        """

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of a frame on its own, which is what a key frame gets."""
        low = self.low(image)
        return self.decode_key(low, self.high(low))
