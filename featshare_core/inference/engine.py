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
"""Engine: the interface that runs key frames and current frames on a device."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import index
from typing import TypeVar

from featshare_core.inference.pixels import Size
from featshare_core.labels import LabelSet
from featshare_core.networks.checkpoint import Config, UNKNOWN_LICENCE
from featshare_core.text import parse_size
import numpy as np
import numpy.typing as npt

Frame = npt.NDArray[np.uint8]
InputSize = tuple[int, int] | str
"""(width, height) in pixels, or text such as ``640x480``."""

KEPT_SIZES = 4
"""Number of image sizes that an engine stays prepared for, unless streams use more."""

Prepared = TypeVar('Prepared')


@dataclass(frozen=True)
class Prediction:
    """
    What an engine computes from a frame.

    :param mask: HxW uint8 class ids.
    :param confidence: HxW uint8, 255 times the winning class's probability; None unless asked
        for.
    :param lag: frames since the key frame whose deep features were used; 0 for its own.
    :param timings: milliseconds of each stage, in order.
    :param deferred: whether the deep half was started on this frame, in parallel with the next.
    :param stand_in: whether this is a stand-in mask; see ``Engine.beside``.
    :param moved: whether this is an earlier frame's mask, moved to this frame; see ``Mover``.
    """

    mask: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.uint8] | None
    lag: int
    timings: dict[str, float]
    deferred: bool = False
    stand_in: bool = False
    moved: bool = False


class Engine(ABC):
    """
    Runs a network on frames of any number of streams; one frame at a time.

    A frame is an HxWx3 uint8 RGB array. The engine does everything from frame to mask: resize,
    normalise, network, upsample, argmax. Engines agree on masks up to rounding.
    """

    name: str
    """A key of ``engines.ENGINES``, without ONNX Runtime's provider."""

    fallback: str = ''
    """Why a slower engine than the first choice runs; empty where the first choice does."""

    closed: bool = False
    """Whether ``close`` has been called."""

    beside: bool = False
    """
    Whether the engine is prepared for a new image size in parallel with the frames.

    Until it is, frames of that size get stand-in masks, computed at another size or more slowly.
    Otherwise the first frame of a size waits for the preparation, so that the masks of a video do
    not depend on timing. May be set at any time.
    """

    device: str
    """Name of the device, for display: ``cpu``, ``cuda:0 (NVIDIA ...)``."""

    precision: str
    """``fp32``, ``bf16`` or ``fp16``."""

    labels: LabelSet
    """The classes, in the order of the masks' ids."""

    licence: str = UNKNOWN_LICENCE
    """Licence of the weights, as ``Config.licence``."""

    network_name: str
    """Name of the network, for display."""

    shared_levels: int = 0
    """Number of levels that current frames reuse; 0: every frame runs the whole network."""

    trained_size: tuple[int, int]
    """(height, width) of the images that the network was trained on."""

    @abstractmethod
    def key(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """
        Run the whole network and keep the deep features for the stream.

        :raises RuntimeError: where the engine is closed, as ``current`` and ``defer``.
        """

    @abstractmethod
    def current(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """
        Run the shallow half with the deep features kept for the stream.

        :raises LookupError: where the stream has had no key frame of this size.
        """

    @abstractmethod
    def defer(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """
        Return what ``current`` does, and start the deep half of this frame in parallel.

        Later frames of the stream use its features as soon as they are ready. If the deep half of
        an earlier frame is still running, none is started; see ``Prediction.deferred``.

        :raises LookupError: as ``current``.
        """

    def skip(self, stream: str = '') -> None:  # noqa: B027
        """Advance the lag of the stream's features by a frame without a run of the network."""

    def fit(self, frame: Frame, stream: str = '') -> tuple[int, ...]:
        """
        Return a value that identifies how this frame will be run; empty unless ``beside``.

        Features fit only frames with the same value: where it differs from that of the stream's
        previous frame, the frame must be a key frame. Called before each frame; also begins and
        ends preparations for new sizes.
        """
        return ()

    @property
    def preparing(self) -> str:
        """Return the size that the engine is being prepared for, or why that failed; or ''."""
        return ''

    @abstractmethod
    def forget(self, stream: str) -> None:
        """Free the cached features of a stream."""

    @abstractmethod
    def close(self) -> None:
        """
        Free the models, the cached features and the threads, and wait for the threads to end.

        Must not be called while a frame is being run. Calling it again does nothing.
        """

    def _check_open(self) -> None:
        if self.closed:
            raise RuntimeError('the engine is closed')


def drop_oldest(prepared: OrderedDict[Size, Prepared], used: Collection[Size]) -> Prepared | None:
    """
    Drop the oldest entry of an unused size, if there are more than ``KEPT_SIZES`` entries.

    :param prepared: by size; the one used last is at the end and is never dropped.
    :param used: the sizes that streams use, which are never dropped.
    :returns: the dropped entry, or None.
    """
    spare = [size for size in list(prepared)[:-1] if size not in used]
    return prepared.pop(spare[0]) if len(prepared) > KEPT_SIZES and spare else None


def named(config: Config, shared_levels: int) -> str:
    """Return the network's name and its cut, for display."""
    words = (value for value in config.options.values() if isinstance(value, str))
    name = f'{" ".join((config.network, *words))}, ' + (
        f'{shared_levels} shared levels' if shared_levels else 'undivided')
    if shared_levels and config.options.get('aligned'):
        name += ', aligned, mending' if config.options.get('mending') else ', aligned'
    return name


def as_input_size(wanted: InputSize | None) -> tuple[int, int] | None:
    """
    Return a network's input size as (width, height); None for None.

    :param wanted: text such as ``640x480``, or a sequence or an array of two whole numbers.
    :raises ValueError: where it is neither.
    """
    if wanted is None:
        return None
    try:
        if isinstance(wanted, str):
            return parse_size(wanted)
        # A set has no order, bytes are numbers too, and True counts as 1.
        is_sequence = isinstance(wanted, Sequence | np.ndarray) \
            and not isinstance(wanted, bytes | bytearray | memoryview)
        if not is_sequence or any(isinstance(side, bool) for side in wanted):
            raise TypeError('no sequence of numbers')
        width, height = wanted
        return index(width), index(height)
    except (TypeError, ValueError) as error:
        raise ValueError("input_size is (width, height) or text such as '640x480', not "
                         f'{wanted!r}') from error


def checked_input_size(wanted: tuple[int, int] | None, multiple: int) -> Size | None:
    """
    Return a network's input size, (width, height), as (height, width); None for None.

    :raises ValueError: where a side is not a positive multiple of ``multiple``.
    """
    if wanted is None:
        return None
    if min(wanted) <= 0 or any(side % multiple for side in wanted):
        raise ValueError(f'input_size {wanted[0]}x{wanted[1]} is not made of multiples of '
                         f'{multiple}')
    return wanted[1], wanted[0]
