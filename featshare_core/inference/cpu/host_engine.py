"""HostEngine: what all engines share whose images and masks stay in host memory."""
from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from featshare_core.inference.cpu.masks import MaskMaker
from featshare_core.inference.engine import (
    Engine,
    Frame,
    Prediction,
    checked_input_size,
    named,
)
from featshare_core.inference.pixels import Size, as_planes, network_size, resize
from featshare_core.inference.timing import StageTimer
from featshare_core.networks.checkpoint import Config

Array = npt.NDArray[np.float32]
Mark = Callable[[str], None]
"""Ends a stage of the frame's timing and names it."""


@dataclass
class _Cache:
    """
    What is remembered of a stream's key frame.

    :param size: of the network's input.
    :param shared: what ``_run_key`` returned.
    :param lag: frames since that key frame.
    :param newer: the same of a newer frame, still on its way; ``newer_lag`` frames since that.
    """

    size: Size
    shared: Any
    lag: int = 0
    newer: Future[Any] | None = None
    newer_lag: int = 0

    def advance(self) -> None:
        """Go to the next frame, with the newer features if they are there."""
        self.lag += 1
        self.newer_lag += 1
        if self.newer is not None and self.newer.done():
            newer, self.newer = self.newer, None
            self.shared, self.lag = newer.result(), self.newer_lag


class HostEngine(Engine):
    """
    Resizes images and upsamples logits on the CPU; the network between is a subclass's.

    :param multiple: the network's input sides are multiples of it.
    :param input_size: (width, height) of the network's input; None for as many pixels as the
        network was trained on, in each image's own aspect ratio.
    :param full_size: masks have the image's size; otherwise that of the network's input.
    :raises ValueError: where ``input_size`` is not made of multiples.
    """

    device = 'cpu'

    def __init__(self, config: Config, multiple: int, shared_levels: int,
                 input_size: tuple[int, int] | None = None, full_size: bool = True) -> None:
        self.labels = config.labels
        self.network_name = named(config, shared_levels)
        self.trained_size = config.input_size[1], config.input_size[0]
        self._multiple = multiple
        self._input_size = checked_input_size(input_size, multiple)
        self._full_size = full_size
        self._caches: dict[str, _Cache] = {}
        self._timer = StageTimer(torch.device('cpu'))
        self._masks = MaskMaker()
        self._key_lock = threading.Lock()
        self._beside: ThreadPoolExecutor | None = None

    @abstractmethod
    def _run_key(self, image: Frame, mark: Mark) -> tuple[Array, Any]:
        """
        Return CxHxW logits of an image of the network's size, and what its stream remembers.

        Never called twice at a time.
        """

    @abstractmethod
    def _run_deep(self, image: Frame) -> Any:
        """
        Return what a stream remembers of an image of the network's size.

        Never called twice at a time, nor beside ``_run_key``, but beside ``_run_current``.
        """

    @abstractmethod
    def _run_current(self, image: Frame, shared: Any, mark: Mark) -> Array:
        """Return CxHxW logits with what the stream's key frame shares."""

    def key(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Run the whole network and remember the deep features for the stream."""
        size = self._size_for(frame)
        self._timer.start()
        image = self._image(frame, size)
        with self._key_lock:
            logits, shared = self._run_key(image, self._timer.mark)
        self._caches[stream] = _Cache(size, shared)
        return self._finish(frame, size, logits, 0, confidence)

    def current(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Run the shallow half with the stream's remembered deep features."""
        return self._current(frame, stream, confidence)[0]

    def defer(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Answer as ``current`` does, and run the deep half on this frame beside what follows."""
        prediction, image = self._current(frame, stream, confidence)
        cache = self._caches[stream]
        if cache.newer is not None:
            return prediction
        if self._beside is None:
            self._beside = ThreadPoolExecutor(1, 'deep half')
        # A copy: at the network's own size, the image is the caller's memory.
        cache.newer = self._beside.submit(self._shared_of, image.copy())
        cache.newer_lag = 0
        return replace(prediction, deferred=True)

    def _current(self, frame: Frame, stream: str, confidence: bool) -> tuple[Prediction, Frame]:
        size = self._size_for(frame)
        cache = self._caches.get(stream)
        if cache is None or cache.size != size:
            raise LookupError(f'stream {stream!r} has had no key frame of this size')
        cache.advance()
        self._timer.start()
        image = self._image(frame, size)
        logits = self._run_current(image, cache.shared, self._timer.mark)
        return self._finish(frame, size, logits, cache.lag, confidence), image

    def _shared_of(self, image: Frame) -> Any:
        with self._key_lock:
            return self._run_deep(image)

    def forget(self, stream: str) -> None:
        """Free what is remembered of a stream."""
        self._caches.pop(stream, None)

    def _size_for(self, frame: Frame) -> Size:
        height, width = frame.shape[:2]
        return self._input_size or network_size((height, width), self.trained_size, self._multiple)

    def _image(self, frame: Frame, size: Size) -> Frame:
        """Return the frame at the network's size."""
        image = resize(as_planes(frame), size).permute(1, 2, 0).contiguous().numpy()
        self._timer.mark('preprocess')
        return image

    def _finish(self, frame: Frame, size: Size, logits: Array, lag: int,
                wants_confidence: bool) -> Prediction:
        """Upsample and take the winning class."""
        wanted = frame.shape[:2] if self._full_size else size
        mask = self._masks.mask(logits, wanted)
        confidence = self._masks.confidence(logits, wanted) if wants_confidence else None
        self._timer.mark('postprocess')
        return Prediction(mask, confidence, lag, self._timer.stages())
