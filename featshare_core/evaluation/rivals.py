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
"""
The cheap alternatives to feature sharing, on the same network: each an ``Engine`` around another.

A reader asks of every video method whether something simpler would have done. These are scored
and timed like the network itself.
"""
from __future__ import annotations

from featshare_core.inference.engine import Engine, Frame, Prediction
from featshare_core.inference.moving import Mover


class Rival(Engine):
    """What all have in common: the engine inside, whose key frames they use."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.name, self.labels, self.licence = engine.name, engine.labels, engine.licence
        self.device, self.precision = engine.device, engine.precision
        self.network_name, self.trained_size = engine.network_name, engine.trained_size

    def key(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Run the whole network."""
        return self.engine.key(frame, stream, confidence)

    def defer(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Answer as ``current`` does: none of them has a deep half to put off."""
        return self.current(frame, stream, confidence)

    def forget(self, stream: str) -> None:
        """Free what is kept of a stream."""
        self.engine.forget(stream)

    def close(self) -> None:
        """Free the engine inside."""
        self.engine.close()


class PerFrame(Rival):
    """The whole network on every frame: what all others are measured by."""

    def current(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Run the whole network."""
        return self.engine.key(frame, stream, confidence)


class RepeatMask(Rival):
    """The key frame's mask again, without any work."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._last: dict[str, Prediction] = {}

    def key(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Run the whole network, and remember the mask."""
        self._last[stream] = self.engine.key(frame, stream, confidence)
        return self._last[stream]

    def current(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Return the key frame's mask."""
        return self._last[stream]


class Clockwork(Rival):
    """
    Deep stages on every other frame (Shelhamer et al., arXiv 1608.03609, the alternating clock).

    Their stages are ours, cut where the engine is; no weights are trained for it. Between key
    frames every second frame updates the deep stages too, so features are one frame old at most.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._since: dict[str, int] = {}

    def key(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Run all stages."""
        self._since[stream] = 0
        return self.engine.key(frame, stream, confidence)

    def current(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Run the shallow stages, and on every second frame the deep ones."""
        self._since[stream] += 1
        run = self.engine.current if self._since[stream] % 2 else self.engine.key
        return run(frame, stream, confidence)


class Moving(Rival):
    """
    Masks moved along optical flow between frames that the network runs on.

    With an undivided engine and as many moved frames as lie between key frames, this is the usual
    method without feature sharing.

    :param frames: moved frames in a row, see ``Mover``.
    """

    def __init__(self, engine: Engine, frames: int) -> None:
        super().__init__(engine)
        height, width = engine.trained_size
        self._mover = Mover(frames, height * width)

    def key(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Run the whole network, and remember mask and image."""
        prediction = self.engine.key(frame, self._inner(stream), confidence)
        self._mover.keep(stream, frame, prediction)
        return prediction

    def current(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Return the last mask, moved to this frame; run the network where it cannot be moved."""
        moved = self._mover.moved(stream, frame, confidence)
        if moved is not None:
            self.engine.skip(self._inner(stream))
            return moved
        prediction = self.engine.current(frame, self._inner(stream), confidence)
        self._mover.keep(stream, frame, prediction)
        return prediction

    def forget(self, stream: str) -> None:
        """Free what is kept of a stream."""
        self._mover.forget(stream)
        self.engine.forget(self._inner(stream))

    def _inner(self, stream: str) -> str:
        # Of its own: the same engine may run beside this one on the same frames.
        return f'{stream} moved'
