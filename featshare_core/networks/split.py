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
"""SplitNetwork: a segmentation network in three parts, so that its deep half can be shared."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

from featshare_core.networks import alignment, mending
from torch import nn, Tensor

LANDMARK_CHANNELS = 16
"""Channels of the features by which frames are matched, at stride 8."""
FINER_CHANNELS = 8
"""Channels of the features by which frames are matched, at stride 4."""
Normalisation = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation of RGB in 0 to 1."""
IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""ImageNet's mean and standard deviation of RGB in 0 to 1."""
Tensors = tuple[Tensor, ...]
"""What passes between the parts: plain tensors, so that each part can be exported or captured."""


class Ops(NamedTuple):
    """
    The operations that align and mend a key frame's features for a current frame.

    The defaults use PyTorch; an engine may supply faster ones with the same signatures and
    results.

    :param displacement, warp: see ``alignment``.
    :param mismatch, gate: see ``mending``.
    """

    displacement: Callable[..., Tensor] = alignment.displacement
    warp: Callable[[Tensor, Tensor, bool], Tensor] = alignment.warp
    mismatch: Callable[[Tensor, Tensor], Tensor] = mending.mismatch
    gate: Callable[[Tensor, Tensor], Tensor] = mending.gate


class SplitNetwork(nn.Module, ABC):
    """
    The thesis's split (ch. 3): ``N^lfe`` is ``low``, ``N^gfe`` is ``high``, ``N^d`` is ``decode``.

    A key frame runs all three and caches what ``high`` returns; a current frame runs ``low`` and
    ``decode`` with the cached tensors, which ``propagate``, ``S^prop``, carries over.
    """

    input_multiple: int
    """Divisor of the height and width of input images, in pixels."""

    levels: int
    """Number of levels: an encoder's stages, a pyramid's maps."""

    backbone: Any
    """Module that the features come from; training may freeze its statistics."""

    classifier_path: str
    """Path of the module whose parameters depend on the number of classes."""

    mending_names: frozenset[str] = frozenset()
    """Names of the parameters of the mending; empty in a network without mending."""

    landmark_maps: int = 1
    """Number of tensors that ``_landmarks`` returns."""

    shared_levels: int = 0
    """Number of levels, counted from the deepest, that are cached; set by ``configure``."""

    aligned: bool = False
    """Whether ``propagate`` aligns features to the current frame; set by ``configure``."""

    ops: Ops = Ops()
    """The operations of alignment and mending; set by ``configure``."""

    def configure(self, shared_levels: int | None = None, aligned: bool | None = None,
                  ops: Ops | None = None) -> None:
        """
        Set how the network shares features; None leaves a setting as it is.

        After a change of cut or alignment, tensors that ``high`` returned before are invalid.

        :param shared_levels: the cut, one of ``cuts``; the weights do not depend on it.
        :param aligned: whether cached features are aligned; in the thesis they are not.
        :param ops: the operations of alignment and mending.
        :raises ValueError: where ``shared_levels`` is none of ``cuts``.
        """
        if shared_levels is not None:
            if shared_levels not in self.cuts:
                raise ValueError(f'shared_levels is one of {", ".join(map(str, self.cuts))} in '
                                 f'this network, not {shared_levels}')
            self.shared_levels = shared_levels
        if aligned is not None:
            self.aligned = aligned
        if ops is not None:
            self.ops = ops

    @property
    def mends(self) -> bool:
        """Whether ``propagate`` corrects aligned features by ``Mending``."""
        return bool(self.mending_names)

    @property
    def classifier_names(self) -> frozenset[str]:
        """Return the names of the parameters that depend on the number of classes."""
        return frozenset(f'{self.classifier_path}.{name}'
                         for name in self.get_submodule(self.classifier_path).state_dict())

    def load_backbone(self, weights: str | None) -> Normalisation:
        """
        Load pretrained weights into the backbone; return the mean and deviation it expects.

        :param weights: None for no change; other values depend on the network.
        :raises ValueError: where the network takes no such weights.
        """
        if weights:
            raise ValueError(f'{type(self).__name__} takes no backbone_weights')
        return IMAGENET

    @property
    def cuts(self) -> tuple[int, ...]:
        """Return the values that ``shared_levels`` may take, 0 (nothing is shared) first."""
        return tuple(range(self.levels))

    @abstractmethod
    def low(self, image: Tensor) -> Tensors:
        """Return the shallow features of a normalised Nx3xHxW image; run on every frame."""

    def high(self, low: Tensors) -> Tensors:
        """Return all that depends only on the key frame's deep features; run on key frames."""
        shared = self._high(low)
        return (*shared, *self._landmarks(low)) if self.aligned and shared else shared

    def propagate(self, low: Tensors, shared: Tensors, in_place: bool = False) -> Tensors:
        """
        Return a key frame's ``shared``, carried over to the current frame of ``low`` (``S^prop``).

        The thesis's (ch. 3) is the identity. In an ``aligned`` network each tensor is warped by
        the displacement of the shallow features since the key frame, and then mended where the
        network ``mends``.

        :param low: tensors of ``low``, of the current frame.
        :param shared: tensors of ``high``, of the key frame.
        :param in_place: omit the warp, so that mending has more to correct: for training.
        """
        if not self.aligned or not shared:
            return shared
        deep, landmarks = self.without_landmarks(shared), self._landmarks(low)
        # Nx16xhxw at stride 8, and in some networks Nx8x2hx2w at stride 4.
        (ours, *finer), (theirs, *finer_key) = landmarks, shared[len(deep):]
        if not in_place:
            # Nx2xhxw, or Nx2x2hx2w where there are finer landmarks
            moved = self.ops.displacement(ours, theirs, *finer, *finer_key)
            # A tensor of one cell, such as a global average, does not move.
            deep = tuple(self.ops.warp(t, moved, t.shape[-2] > ours.shape[-2])
                         if max(t.shape[-2:]) > 1 else t for t in deep)
            theirs = self.ops.warp(theirs, moved, False) if self.mends else theirs
        if self.mends:
            deep = self._mended(low, deep, self.ops.mismatch(ours, theirs))
        return (*deep, *landmarks)

    def decode(self, low: Tensors, shared: Tensors) -> Tensor:
        """
        Return NxCxhxw logits of a current frame from its ``low`` and a key frame's ``shared``.

        They may be smaller than the image. The caller upsamples them bilinearly (corners not
        aligned) to the size that it needs, and can take the argmax without storing the result.
        """
        return self.decode_key(low, self.propagate(low, shared))

    def decode_key(self, low: Tensors, shared: Tensors) -> Tensor:
        """
        Return NxCxhxw logits of a frame from its ``low`` and ``shared`` tensors that fit it.

        :param shared: of ``high`` of the same frame (a key frame), or of ``propagate``.
        """
        return self._decode(low, self.without_landmarks(shared))

    def without_landmarks(self, shared: Tensors) -> Tensors:
        """Return those tensors of ``high`` or ``propagate`` that the decoder reads."""
        return shared[:-self.landmark_maps] if self.aligned else shared

    @abstractmethod
    def _high(self, low: Tensors) -> Tensors:
        """Return what ``_decode`` needs of the deep levels, ``()`` where nothing is shared."""

    @abstractmethod
    def _decode(self, low: Tensors, shared: Tensors) -> Tensor:
        """Return the logits of a frame, with tensors of ``_high`` that fit it."""

    def _mended(self, low: Tensors, carried: Tensors, wrong: Tensor) -> Tensors:
        """Return what ``_decode`` needs of the carried tensors; ``wrong`` is of ``mismatch``."""
        raise NotImplementedError(f'{type(self).__name__} does not mend')

    @abstractmethod
    def _landmarks(self, low: Tensors) -> Tensors:
        """
        Return the features by which frames are matched.

        They are Nx16xhxw at stride 8 and, where there are two tensors, Nx8x2hx2w at stride 4.
        """

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of a frame on its own, which is what a key frame gets."""
        low = self.low(image)
        return self.decode_key(low, self.high(low))
