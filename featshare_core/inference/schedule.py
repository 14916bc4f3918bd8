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
"""Which frames are key frames: by the interval, or earlier for another reason."""
from __future__ import annotations

import base64
from dataclasses import asdict, dataclass
import math
from numbers import Real
from typing import Any, NamedTuple
import zlib

import cv2
import numpy as np
import numpy.typing as npt

THUMBNAIL = (32, 24)
"""Width and height in pixels at which frames are compared: small enough to average noise out."""

Picture = npt.NDArray[np.uint8]

GOLDEN = 0.6180339887
"""Offset between the key frames of one stream and those of the next, in intervals."""


class Turn(NamedTuple):
    """
    The role of a frame in its stream: key frame or current frame.

    ``reason`` says why it is a key frame: ``first`` (or first after a reset), ``size``,
    ``source``, ``backwards``, ``age``, ``change`` or ``interval``; it is empty for a current
    frame.
    """

    reason: str
    frames_since_key: int


@dataclass
class _Stream:
    size: tuple[int, ...]
    key_stamp: float | None
    stamp: float | None
    since_key: int = 0
    phase: float = 0.0
    source: int = 0


def thumbnail(frame: Picture) -> Picture:
    """Return a small grey picture (24x32 uint8) of an HxWx3 uint8 RGB frame."""
    # 180 rows are enough for means over 24, and fewer to read.
    step = max(1, min(frame.shape[:2]) // 180)
    small = cv2.resize(np.ascontiguousarray(frame[::step, ::step]), THUMBNAIL,
                       interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)


def difference(first: Picture, second: Picture) -> float:
    """Return the mean absolute difference of two thumbnails, 0 to 1."""
    return cv2.norm(first, second, cv2.NORM_L1) / (255 * first.size)


class KeyFrameSchedule:
    """
    Decides for each stream which frames are key frames: after a fixed interval, or earlier.

    Streams are staggered: the interval after a stream's first key frame is shortened by a
    fraction that differs between streams, so that key frames of several cameras do not coincide.

    Three attributes may be set between frames; each is checked when it is set:

    - ``key_interval``: frames from one key frame to the next, an integer of 1 or more;
    - ``max_key_age``: seconds of stamps after which a key frame is due, above 0; None: no limit;
    - ``change_threshold``: ``difference`` from the key frame above which the next one is due, 0
      to 1; None: no limit.

    :raises TypeError, ValueError: where one of them is of another type or out of range.
    :raises AttributeError: where another attribute is set.
    """

    __slots__ = ('_change_threshold', '_key_interval', '_key_pictures', '_max_key_age', '_phases',
                 '_replaced', '_streams')

    def __init__(self, key_interval: int, max_key_age: float | None = None,
                 change_threshold: float | None = None) -> None:
        self.key_interval = key_interval
        self.max_key_age = max_key_age
        self.change_threshold = change_threshold
        self._key_pictures: dict[str, Picture] = {}
        self._streams: dict[str, _Stream] = {}
        self._phases: dict[str, float] = {}
        self._replaced: tuple[_Stream | None, Picture | None] = None, None

    @property
    def key_interval(self) -> int:
        """Frames from one key frame to the next, 1 or more."""
        return self._key_interval

    @key_interval.setter
    def key_interval(self, value: int) -> None:
        value = whole_number('key_interval', value)
        if value < 1:
            raise ValueError(f'key_interval must be 1 or more, not {value}')
        self._key_interval = value

    @property
    def max_key_age(self) -> float | None:
        """Seconds of stamps after which a key frame is due, above 0; None for no limit."""
        return self._max_key_age

    @max_key_age.setter
    def max_key_age(self, value: float | None) -> None:
        if value is not None and not _number('max_key_age', value) > 0:
            raise ValueError(f'max_key_age must be above 0 s or None, not {value}')
        self._max_key_age = None if value is None else float(value)

    @property
    def change_threshold(self) -> float | None:
        """Difference from the key frame above which the next is due, 0 to 1; None: no limit."""
        return self._change_threshold

    @change_threshold.setter
    def change_threshold(self, value: float | None) -> None:
        if value is not None and not 0 <= _number('change_threshold', value) <= 1:
            raise ValueError(f'change_threshold must be 0 to 1 or None, not {value}')
        self._change_threshold = None if value is None else float(value)

    def next(self, stream: str, size: tuple[int, ...], stamp: float | None = None,  # noqa: A003
             frame: Picture | None = None, source: str = '') -> Turn:
        """
        Advance a stream by one frame and return the role of that frame.

        :param size: the image's (height, width), and any further values that must stay the same
            for features to be reusable; a change makes a key frame.
        :param source: which camera the frame is of; a change makes a key frame.
        :param stamp: seconds; None where unknown, which never causes a key frame.
        :param frame: HxWx3 uint8 RGB; used only with a ``change_threshold``.
        :raises TypeError, ValueError: where ``stamp`` is no number or not finite; the stream
            is then unchanged.
        """
        if stamp is not None:
            stamp = float(_number('stamp', stamp))
            if not math.isfinite(stamp):
                raise ValueError(f'stamp must be a finite number of seconds or None, not {stamp}')
        state = self._streams.get(stream)
        # A checksum: the state is stored, and the text may be long.
        origin = zlib.crc32(source.encode(errors='replace'))
        reason = self._reason(state, size, stamp, origin)
        self._replaced = state, self._key_pictures.get(stream)
        threshold = self.change_threshold  # another thread may set it in the meantime
        if reason and threshold is None:
            self._key_pictures.pop(stream, None)  # of an earlier key frame
        if frame is not None and threshold is not None:
            picture = thumbnail(frame)
            known = self._key_pictures.get(stream)
            if not reason and known is not None \
                    and difference(picture, known) > threshold:
                reason = 'change'
            if reason:
                self._key_pictures[stream] = picture
        if state is None or reason:
            # The golden ratio keeps any number of streams apart, in whatever order they come.
            phase = self._phases.setdefault(stream, len(self._phases) * GOLDEN % 1)
            regular = reason in ('interval', 'age', 'change')
            state = _Stream(size, stamp, stamp, 0, 0.0 if regular else phase, origin)
            self._streams[stream] = state
        else:
            state.since_key += 1
            if stamp is not None:
                state.stamp = stamp
        return Turn(reason, state.since_key)

    def postpone(self, stream: str) -> Turn:
        """
        Undo the key frame that ``next`` has just returned, because it could not be run as one.

        It becomes due again with the next frame; ages count from the previous key frame.

        :returns: the frame's role instead.
        """
        state, picture = self._replaced
        now = self._streams.get(stream)
        if state is None or now is None:  # reset in the meantime, which holds
            return Turn('', 0)
        state.since_key += 1
        state.stamp = now.stamp if now.stamp is not None else state.stamp
        self._streams[stream] = state
        if picture is not None:
            self._key_pictures[stream] = picture
        return Turn('', state.since_key)

    def reset(self, stream: str | None = None) -> None:
        """Make the next frame of one stream, or of every stream, a key frame."""
        if stream is None:
            self._streams.clear()
        else:
            self._streams.pop(stream, None)

    def forget(self, stream: str) -> None:
        """Free the state of a stream, including its stagger."""
        self._streams.pop(stream, None)
        self._phases.pop(stream, None)
        self._key_pictures.pop(stream, None)

    def state(self) -> dict[str, Any]:
        """Return the state of every stream as values that JSON can hold, for ``restore``."""
        return {'phases': dict(self._phases),
                'streams': {name: asdict(stream) for name, stream in self._streams.items()},
                'pictures': {name: base64.b64encode(picture.tobytes()).decode()
                             for name, picture in self._key_pictures.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a result of ``state``."""
        self._phases = dict(state['phases'])
        self._streams = {name: _Stream(**{**fields, 'size': tuple(fields['size'])})
                         for name, fields in state['streams'].items()}
        # States written by older versions have no pictures.
        self._key_pictures = {
            name: np.frombuffer(base64.b64decode(text), np.uint8).reshape(THUMBNAIL[::-1])
            for name, text in state.get('pictures', {}).items()}

    def _reason(self, state: _Stream | None, size: tuple[int, ...], stamp: float | None,
                source: int) -> str:
        if state is None:
            return 'first'
        if size != state.size:
            return 'size'
        if source != state.source:
            return 'source'
        if stamp is not None and state.stamp is not None and stamp < state.stamp:
            return 'backwards'
        longest = self.max_key_age  # another thread may set it in the meantime
        if longest is not None and stamp is not None and state.key_stamp is not None \
                and stamp - state.key_stamp > longest:
            return 'age'
        skipped = int(state.phase * self.key_interval)
        if state.since_key + 1 + skipped >= self.key_interval:
            return 'interval'
        return ''


def whole_number(name: str, value: Any) -> int:
    """Return an integer, also of numpy; raise TypeError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f'{name} must be an integer, not {value!r}')
    return int(value)


def _number(name: str, value: Any) -> Any:
    """Return a real number; raise TypeError for anything else."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f'{name} must be a number or None, not {value!r}')
    return value
