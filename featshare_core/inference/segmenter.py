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
"""VideoSegmenter: frames in, masks out; the class that most programs use."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
import threading
from types import TracebackType
from typing import TYPE_CHECKING

from featshare_core.inference.engine import Engine, Frame, InputSize, Prediction
from featshare_core.inference.engines import make_engine
from featshare_core.inference.moving import checked_frames, Mover
from featshare_core.inference.pixels import as_rgb, Size
from featshare_core.inference.schedule import KeyFrameSchedule
from featshare_core.labels import LabelSet, recolored
from featshare_core.networks.weights import is_exported
from featshare_core.overlay import paint
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

KEY_MODES = ('blocking', 'deferred')
"""
How key frames are run.

``blocking``: the mask of a key frame uses its own deep features, so it takes longer than others.
``deferred``: no frame waits for the deep half, which runs in parallel with the frames that follow.
These use the older features until it has finished, and slow down if the device is saturated.
"""


@dataclass(frozen=True)
class Result:
    """
    The segmentation of one frame.

    :param mask: HxW uint8 class ids.
    :param confidence: HxW uint8, 255 times the winning class's probability, or None.
    :param is_key: whether the mask comes from this frame's own deep features.
    :param key_reason: why the deep half ran on it: ``first``, ``interval``, ``age``, ``change``,
        ``size``, ``source`` or ``backwards``; empty on current and moved frames.
    :param frames_since_key: the lag; 0 on a key frame.
    :param timings: milliseconds of each stage, in order.
    :param stand_in: whether this is a stand-in mask; see ``Engine.beside``.
    :param moved: whether the network did not run on this frame: an earlier frame's mask was moved.
    :param labels: the classes, in the order of the mask's ids; None only where a program makes a
        result itself.
    :param frame_size: (height, width) of the frame; None where ``labels`` is.
    """

    mask: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.uint8] | None
    is_key: bool
    key_reason: str
    frames_since_key: int
    timings: dict[str, float]
    stand_in: bool = False
    labels: LabelSet | None = field(default=None, repr=False)
    frame_size: Size | None = field(default=None, repr=False)
    moved: bool = False

    @property
    def kind(self) -> str:
        """Return ``key``, ``current`` or ``moved``: the kind of frame."""
        return 'key' if self.is_key else 'moved' if self.moved else 'current'

    def overlay(self, frame: Frame | PilImage, opacity: float = 0.5, color: str = 'rgb') -> Frame:
        """
        Return the frame with the classes' colours drawn over it, at the mask's size.

        :param frame, color: see ``VideoSegmenter.segment``; the order of channels is kept.
            It may have another size than the segmented frame, in the same aspect ratio.
        :param opacity: 0 shows the frame alone, 1 the colours alone.
        :raises ValueError: where ``frame`` is no such image or of another aspect ratio, or
            ``opacity`` is not 0 to 1.
        """
        if not isinstance(opacity, Real) or not 0 <= opacity <= 1:
            raise ValueError(f'opacity is a number from 0 to 1, not {opacity!r}')
        opacity = float(opacity)
        if self.labels is None:
            raise ValueError('the result has no labels, whose colours an overlay needs')
        picture = as_rgb(frame, color)
        height, width = self.frame_size or self.mask.shape
        rows, columns = picture.shape[:2]
        # Each side of a resized picture is rounded, by less than a pixel.
        if abs(rows * width - columns * height) > max(width + height, rows + columns):
            raise ValueError(f'the frame is {columns}x{rows}, in another aspect ratio than the '
                             f'{width}x{height} that were segmented')
        painted = paint(picture, self.mask, self.labels, opacity)
        return as_rgb(painted, color)


class VideoSegmenter:
    """
    Segments any number of video streams with one network.

        with VideoSegmenter.from_checkpoint('default', key_interval=5) as segmenter:
            for frame in video:                        # HxWx3 uint8 RGB
                mask = segmenter.segment(frame).mask   # HxW uint8 class ids

    The attributes of ``schedule`` may be changed between frames. Several threads may share a
    segmenter: a lock serialises the frames. ``reset`` never waits for the lock.
    """

    # A misspelt setting, which would have no effect, raises AttributeError.
    __slots__ = ('__weakref__', '_closed', '_key_mode', '_labels', '_lock', '_mover', '_resets',
                 'engine', 'schedule')

    def __init__(self, engine: Engine, key_interval: int = 5, max_key_age: float | None = None,
                 key_mode: str = 'blocking', change_threshold: float | None = None,
                 moved_frames: int = 0) -> None:
        self.engine = engine
        self._lock = threading.Lock()
        self._closed = False
        # By stream, None for all: setting and taking out an item are atomic.
        self._resets: dict[str | None, None] = {}
        self._labels = engine.labels
        self.key_mode = key_mode
        self._mover = Mover(0, engine.trained_size[0] * engine.trained_size[1])
        self.moved_frames = moved_frames
        self.schedule = KeyFrameSchedule(key_interval, max_key_age, change_threshold)

    @property
    def labels(self) -> LabelSet:
        """Return the classes, in the order of the mask's ids, with the colours of overlays."""
        return self._labels

    def recolor(self, colors: LabelSet, origin: str | Path) -> None:
        """
        Take the classes' colours from another label set that has the same names, in any order.

        :param origin: where the colours come from, for messages.
        :raises ValueError: where the two do not have the same names.
        """
        self._labels = recolored(self._labels, colors, origin)

    @property
    def key_mode(self) -> str:
        """``blocking`` or ``deferred``, see ``KEY_MODES``; may be changed between frames."""
        return self._key_mode

    @key_mode.setter
    def key_mode(self, value: str) -> None:
        self._key_mode = _checked_mode(value)

    @property
    def moved_frames(self) -> int:
        """
        Return the number of frames in a row that are moved, 0 to 10; it may be changed.

        After each frame that the network ran on, the mask is moved along optical flow for that
        many frames. A frame that is due as a key frame is not moved, unless it may be deferred:
        then the next frame that the network runs on is the key frame.

        :raises TypeError, ValueError: when it is set to no integer, or to one out of range.
        """
        return self._mover.frames

    @moved_frames.setter
    def moved_frames(self, value: int) -> None:
        self._mover.frames = checked_frames(value)

    @classmethod
    def from_checkpoint(cls, path_or_name: str | Path = 'default', key_interval: int = 5,
                        device: str = 'auto', precision: str = 'auto',
                        shared_levels: int | None = None, max_key_age: float | None = None,
                        input_size: InputSize | None = None,
                        full_size: bool = True, engine: str = 'auto',
                        key_mode: str = 'blocking',
                        change_threshold: float | None = None,
                        moved_frames: int = 0) -> VideoSegmenter:
        """
        Load a checkpoint onto a device.

        :param path_or_name: a .safetensors file, the name of a shipped checkpoint, a folder, or a
            name that ``featshare pull`` fetched: see ``networks.weights.find_weights``.
        :param key_interval: frames from one key frame to the next; 1 runs the whole network on
            every frame. Up to ``moved_frames + 1``, where no frame would reuse features, a
            checkpoint is loaded undivided, unless ``shared_levels`` is given or ``key_mode`` is
            ``deferred``; raising ``schedule.key_interval`` later shares nothing.
        :param device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        :param precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        :param shared_levels: number of levels that current frames reuse; None: the checkpoint's;
            0: every frame runs the whole network.
        :param max_key_age: seconds of stamps after which a key frame is due; None for no limit.
        :param input_size: (width, height) to run the network at, or text such as ``640x480``; None
            for the checkpoint's number of pixels in the image's aspect ratio.
        :param full_size: whether masks have the image's size; otherwise the network input's.
        :param engine: one of ``engines.ENGINE_NAMES``; ``auto`` is the fastest that is installed.
        :param key_mode: ``blocking``, or ``deferred``: see ``KEY_MODES``.
        :param change_threshold: mean difference of brightness from the key frame, 0 to 1, above
            which the next key frame is due; None for no such key frames.
        :param moved_frames: see the property of that name.
        :raises CheckpointError: where the checkpoint cannot be used.
        :raises ImportError: where the packages of the named engine are not installed.
        :raises RuntimeError: where the named CUDA device is missing, or the engine does not start.
        :raises TypeError: where ``key_interval``, ``shared_levels`` or ``moved_frames`` is not an
            integer, ``full_size`` not a bool, or another argument of a wrong type.
        :raises ValueError: where another argument is out of range, or the engine does not run on
            the device, in the precision, or these weights.
        """
        # Before the network is loaded.
        interval = KeyFrameSchedule(key_interval, max_key_age, change_threshold).key_interval
        checked_frames(moved_frames)
        _checked_mode(key_mode)
        if loads_undivided(path_or_name, shared_levels, interval, moved_frames, key_mode):
            shared_levels = 0
        chosen = make_engine(path_or_name, engine, device, precision, shared_levels, input_size,
                             full_size)
        return cls(chosen, key_interval, max_key_age, key_mode, change_threshold, moved_frames)

    def segment(self, frame: Frame | PilImage, stream: str = '', stamp: float | None = None,
                confidence: bool = False, source: str = '', color: str = 'rgb') -> Result:
        """
        Segment the next frame of a stream; waits for frames of other threads.

        :param frame: HxWx3 uint8 array, or a PIL image; any size, which may change between frames.
        :param stream: the camera's name; streams share nothing but the network.
        :param stamp: the frame's time in seconds; None where unknown.
        :param confidence: whether to compute ``Result.confidence``.
        :param source: which camera the frame is of, where a stream could carry several: a frame
            of another source than the one before is a key frame.
        :param color: order of the array's channels: ``rgb``, or ``bgr`` as OpenCV reads images.
        :raises ValueError: where ``frame`` is no such image, or ``stamp`` is not finite.
        :raises TypeError: where ``stamp`` is no number, ``confidence`` not a bool, or ``source``
            not text.
        :raises RuntimeError: where the segmenter is closed, or the device fails.
        """
        if not isinstance(confidence, (bool, np.bool_)):
            raise TypeError(f'confidence must be True or False, not {confidence!r}')
        if not isinstance(source, str):
            raise TypeError(f'source must be text, not {source!r}')
        picture = as_rgb(frame, color)
        with self._lock:
            if self._closed:
                raise RuntimeError('the engine is closed: `close` was called on this '
                                   'VideoSegmenter; create another one')
            return self._segment(picture, stream, stamp, confidence, source)

    def _segment(self, frame: Frame, stream: str, stamp: float | None,
                 confidence: bool, source: str) -> Result:
        while self._resets:
            self.schedule.reset(self._resets.popitem()[0])
        key_mode = self.key_mode  # may be set while the frame is in work
        size = (*frame.shape[:2], *self.engine.fit(frame, stream))
        turn = self.schedule.next(stream, size, stamp, frame, source)
        # For any other reason than the interval, the older features are of no use; without shared
        # levels there is no deep half to defer.
        deferred = key_mode == 'deferred' and turn.reason == 'interval' \
            and self.engine.shared_levels > 0
        run = self.engine.defer if deferred else \
            self.engine.key if turn.reason else self.engine.current
        try:
            # A key frame that is deferred may wait for the next frame that the network runs on.
            prediction = self._predict(run, frame, stream, stamp, confidence,
                                       not turn.reason or deferred)
        except Exception:
            # The cache may be missing or half written: the stream begins with a key frame.
            self.schedule.reset(stream)
            raise
        if deferred and not prediction.deferred:
            turn = self.schedule.postpone(stream)
        # Only the engine knows when deferred features are ready. Otherwise both counts agree, but
        # the schedule's also survives a new engine (a recording that is resumed).
        lag = prediction.lag if key_mode == 'deferred' else turn.frames_since_key
        return Result(prediction.mask, prediction.confidence, bool(turn.reason) and not deferred,
                      turn.reason, lag, prediction.timings, prediction.stand_in, self._labels,
                      (frame.shape[0], frame.shape[1]), prediction.moved)

    def _predict(self, run: Callable[..., Prediction], frame: Frame, stream: str,
                 stamp: float | None, confidence: bool, may_move: bool) -> Prediction:
        """Run the network, or move its last mask where ``moved_frames`` says so."""
        if not self._mover.frames:
            self._mover.forget(stream)  # otherwise it would be outdated when switched on again
            return run(frame, stream, confidence)
        moved = self._mover.moved(stream, frame, confidence, stamp) if may_move else None
        if moved is not None:
            self.engine.skip(stream)
            return moved
        prediction = run(frame, stream, confidence)
        self._mover.keep(stream, frame, prediction, stamp)
        return prediction

    def warm_up(self, sizes: Sequence[Size] = ()) -> None:
        """
        Run a key and a current frame of each size.

        The device prepares itself here instead of on the first image, and a device that cannot run
        the network fails here. Not thread-safe: must not run at the same time as ``segment``.

        :param sizes: (height, width) of images; none for the size that the network was trained on.
        :raises RuntimeError: where the device fails, or its results are not finite.
        """
        for size in sizes or (self.engine.trained_size,):
            self._warm_up(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
        self.engine.forget('warm-up')

    def _warm_up(self, frame: Frame) -> None:
        for run in (self.engine.key, self.engine.current):
            confidence = run(frame, 'warm-up', True).confidence
            # The winning class has at least 1/C of the probability; NaN becomes 0.
            if confidence is None or not confidence.min():
                raise RuntimeError(f'the network yields no finite numbers in '
                                   f'{self.engine.precision}: choose another precision, or the '
                                   f'weights are damaged')

    def forget(self, stream: str) -> None:
        """Free the state of a stream that has ended; waits for a frame that is being segmented."""
        with self._lock:
            self._resets.pop(stream, None)
            self.schedule.forget(stream)
            self._mover.forget(stream)
            self.engine.forget(stream)

    def close(self) -> None:
        """
        Free the engine and its threads; waits for a frame that is being segmented.

        Calling it again does nothing. ``segment`` raises RuntimeError afterwards. A ``with``
        statement calls it at its end.
        """
        with self._lock:
            self._closed = True
            self._mover.forget()
            self.engine.close()

    def __enter__(self) -> VideoSegmenter:
        """Return the segmenter itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        """Close the segmenter."""
        self.close()

    def reset(self, stream: str | None = None) -> None:
        """
        Make the next frame of a stream, or of every stream, a key frame.

        Returns at once. A frame that is being segmented is not affected; the one after it is.
        """
        self._resets[stream] = None


def loads_undivided(weights: str | Path, shared_levels: int | None, key_interval: int,
                    moved_frames: int, key_mode: str) -> bool:
    """
    Return whether no frame would reuse features: a divided network is slower on key frames.

    The cut of an exported folder is fixed, as is one that is given.
    """
    return shared_levels is None and key_interval <= moved_frames + 1 \
        and key_mode == 'blocking' and not is_exported(weights)


def _checked_mode(value: str) -> str:
    if value not in KEY_MODES:
        raise ValueError(f'key_mode {value!r} is none of {", ".join(KEY_MODES)}')
    return value
