"""Engine: the interface of "run a key frame / run a current frame on a device"."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featshare_core.inference.pixels import Size
from featshare_core.labels import LabelSet
from featshare_core.networks.checkpoint import Config

Frame = npt.NDArray[np.uint8]

KEPT_SIZES = 4
"""Image sizes that an engine stays prepared for, beside those that streams have."""


@dataclass(frozen=True)
class Prediction:
    """
    What an engine says of a frame.

    :param mask: HxW uint8 class ids.
    :param confidence: HxW uint8, 255 times the winning class's probability; None unless wanted.
    :param lag: frames since the one whose deep features it used; 0 where those are its own.
    :param timings: milliseconds of each stage, in order.
    :param deferred: whether the deep half was begun on this frame, to run beside what follows.
    """

    mask: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.uint8] | None
    lag: int
    timings: dict[str, float]
    deferred: bool = False


class Engine(ABC):
    """
    Runs a network on frames of any number of streams; one frame at a time.

    A frame is an HxWx3 uint8 RGB array. All work between it and the mask is the engine's: resize,
    normalise, network, upsample, argmax. Engines agree on masks and differ in speed.
    """

    name: str
    """Which engine this is, as in ``engines.ENGINES``, without ONNX Runtime's provider."""

    fallback: str = ''
    """Why a slower engine than the one that was meant runs; empty where none does."""

    device: str
    """Where it runs, for people: ``cpu``, ``cuda:0 (NVIDIA ...)``."""

    precision: str
    """``fp32``, ``bf16`` or ``fp16``."""

    labels: LabelSet
    """The classes, in the order of the masks' ids."""

    network_name: str
    """Which network it runs, for people."""

    trained_size: tuple[int, int]
    """(height, width) of the images that the network was trained on."""

    @abstractmethod
    def key(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Run the whole network and remember the deep features for the stream."""

    @abstractmethod
    def current(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """
        Run the shallow half with the stream's remembered deep features.

        :raises LookupError: where the stream has had no key frame of this size.
        """

    @abstractmethod
    def defer(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """
        Answer as ``current`` does, and let the deep half run on this frame beside what follows.

        Later frames of the stream use its features as soon as they are there. Where those of an
        earlier frame are still on their way, no others are begun: ``Prediction.deferred`` tells.

        :raises LookupError: as ``current``.
        """

    @abstractmethod
    def forget(self, stream: str) -> None:
        """Free what is remembered of a stream."""


def drop_oldest(prepared: OrderedDict[Size, Any], used: Collection[Size]) -> None:
    """
    Free what was prepared for a size that no stream has, if there is too much.

    :param prepared: by size, the one used last at the end; that one stays.
    """
    spare = [size for size in list(prepared)[:-1] if size not in used]
    if len(prepared) > KEPT_SIZES and spare:
        del prepared[spare[0]]


def named(config: Config, shared_levels: int) -> str:
    """Return which network it is and where it is cut, for people."""
    words = (value for value in config.options.values() if isinstance(value, str))
    name = f'{" ".join((config.network, *words))}, {shared_levels} shared levels'
    if config.options.get('aligned'):
        name += ', aligned, mending' if config.options.get('mending') else ', aligned'
    return name


def checked_input_size(wanted: tuple[int, int] | None, multiple: int) -> Size | None:
    """Return (width, height) as (height, width); raise ValueError where a network cannot."""
    if wanted is None:
        return None
    if min(wanted) <= 0 or any(side % multiple for side in wanted):
        raise ValueError(f'input_size {wanted[0]}x{wanted[1]} is not made of multiples of '
                         f'{multiple}')
    return wanted[1], wanted[0]
