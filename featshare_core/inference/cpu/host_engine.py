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
"""HostEngine: the base of the engines whose images and masks stay in host memory."""
from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
import threading
from typing import Any

from featshare_core.inference.cpu.masks import MaskMaker
from featshare_core.inference.engine import (
    checked_input_size,
    Engine,
    Frame,
    named,
    Prediction,
)
from featshare_core.inference.pixels import network_size, resized, Size
from featshare_core.inference.streams import cache_of, StreamCache
from featshare_core.inference.timing import StageTimer
from featshare_core.networks.checkpoint import Config
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Mark = Callable[[str], None]
"""Ends a stage of the frame's timing and names it."""


class HostEngine(Engine):
    """
    Resizes images and upsamples logits on the CPU; a subclass runs the network between.

    :param multiple: the sides of the network's input are multiples of it.
    :param input_size: (width, height) of the network's input; None for as many pixels as the
        network was trained on, in each image's own aspect ratio.
    :param full_size: masks have the image's size; otherwise that of the network's input.
    :raises ValueError: where a side of ``input_size`` is not such a multiple.
    """

    device = 'cpu'

    def __init__(self, config: Config, multiple: int, shared_levels: int,
                 input_size: tuple[int, int] | None = None, full_size: bool = True) -> None:
        self.labels, self.licence = config.labels, config.licence
        self.network_name, self.shared_levels = named(config, shared_levels), shared_levels
        self.trained_size = config.input_size[1], config.input_size[0]
        self._multiple = multiple
        self._input_size = checked_input_size(input_size, multiple)
        self._full_size = full_size
        self._caches: dict[str, StreamCache] = {}
        self._timer = StageTimer()
        self._masks = MaskMaker()
        self._key_lock = threading.Lock()
        self._beside: ThreadPoolExecutor | None = None

    @abstractmethod
    def _run_key(self, image: Frame, mark: Mark) -> tuple[Array, Any]:
        """
        Return CxHxW logits of an image of the network's size, and its deep features.

        Called by one thread at a time.
        """

    @abstractmethod
    def _deep_half(self, image: Frame) -> Callable[[Frame], Any]:
        """
        Return the function from an image of the network's size to its deep features.

        It is called on another thread, beside ``_run_current`` but never beside ``_run_key`` nor
        beside itself.

        :param image: of the size that the function is for.
        """

    @abstractmethod
    def _run_current(self, image: Frame, shared: Any, mark: Mark) -> Array:
        """Return CxHxW logits, with the deep features of the stream's key frame."""

    @abstractmethod
    def _free(self) -> None:
        """Free the network; called once, when no thread uses it."""

    def key(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Run the whole network and keep the deep features for the stream."""
        self._check_open()
        size = self._size_for(frame)
        self._timer.start()
        image = self._image(frame, size)  # hxwx3
        with self._key_lock:
            logits, shared = self._run_key(image, self._timer.mark)  # Cxh'xw'
        self._caches[stream] = StreamCache(size, shared)
        return self._finish(frame, size, logits, 0, confidence)

    def current(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Run the shallow half with the deep features kept for the stream."""
        return self._current(frame, stream, confidence)[0]

    def defer(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Return what ``current`` does, and start the deep half on this frame."""
        prediction, image = self._current(frame, stream, confidence)
        cache = self._caches[stream]
        if cache.newer is not None:
            return prediction
        if self._beside is None:
            self._beside = ThreadPoolExecutor(1, 'deep half')
        # A copy: at the network's own size, the image is the caller's memory.
        cache.defer(self._beside.submit(self._run_beside, self._deep_half(image), image.copy()))
        return replace(prediction, deferred=True)

    def skip(self, stream: str = '') -> None:
        """Advance the lag of the stream's features by a frame without a run of the network."""
        if stream in self._caches:
            self._caches[stream].advance()

    def _current(self, frame: Frame, stream: str, confidence: bool) -> tuple[Prediction, Frame]:
        self._check_open()
        size = self._size_for(frame)
        cache = cache_of(self._caches, stream, size)
        cache.advance()
        self._timer.start()
        image = self._image(frame, size)  # hxwx3
        logits = self._run_current(image, cache.shared, self._timer.mark)  # Cxh'xw'
        return self._finish(frame, size, logits, cache.lag, confidence), image

    def _run_beside(self, deep_half: Callable[[Frame], Any], image: Frame) -> Any:
        with self._key_lock:
            return deep_half(image)

    def forget(self, stream: str) -> None:
        """Free what is kept of a stream."""
        self._caches.pop(stream, None)

    def close(self) -> None:
        """Free the network, what is kept of every stream, and the threads."""
        if self.closed:
            return
        self.closed = True
        if self._beside is not None:
            self._beside.shutdown(cancel_futures=True)
        self._masks.close()
        self._caches.clear()
        self._free()

    def _size_for(self, frame: Frame) -> Size:
        """Return the (height, width) at which the network runs on a frame."""
        return self._own_size(frame)

    def _own_size(self, frame: Frame) -> Size:
        """Return the (height, width) at which the network runs once prepared for the frame."""
        height, width = frame.shape[:2]
        return self._input_size or network_size((height, width), self.trained_size, self._multiple)

    def _image(self, frame: Frame, size: Size) -> Frame:
        """Return the HxWx3 frame at the network's size, hxwx3."""
        image = resized(frame, size)
        self._timer.mark('preprocess')
        return image

    def _finish(self, frame: Frame, size: Size, logits: Array, lag: int,
                confidence: bool) -> Prediction:
        """Upsample the logits and take each pixel's winning class."""
        mask, confidences = self._masks.make(logits, frame.shape[:2] if self._full_size else size,
                                             confidence)  # HxW each
        self._timer.mark('postprocess')
        return Prediction(mask, confidences, lag, self._timer.stages(),
                          stand_in=size != self._own_size(frame))
