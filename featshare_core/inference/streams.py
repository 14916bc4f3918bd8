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
"""StreamCache: the deep features that an engine keeps for one stream, and their lag."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class Pending(Protocol):
    """Deep features that are being computed beside the frames that follow."""

    def done(self) -> bool:
        """Return whether they have been computed, or have failed."""

    def result(self) -> Any:
        """Return them; only called once ``done``. Raises what computing them raised."""


@dataclass
class StreamCache:
    """
    The deep features that a stream's current frames reuse.

    The rule of lags, for all engines: a lag counts the frames of the stream since the one that the
    features were computed from, 0 on that frame itself. Each later frame adds one. Deferred
    features replace the older ones on the first frame that finds them done, and their own count,
    which began at the frame that they were deferred on, is the lag from then on.

    :param prepared: what the features fit to: the network's input size, or the buffers for it.
    :param shared: the deep features, in the engine's own form.
    :param lag: of the features, in frames.
    :param newer: the features of a later frame, while they are being computed; else None.
    :param newer_lag: of these, in frames.
    """

    prepared: Any
    shared: Any
    lag: int = 0
    newer: Pending | None = None
    newer_lag: int = 0

    def restart(self) -> None:
        """Begin at a key frame, which is newer than any features still being computed."""
        self.lag, self.newer = 0, None

    def defer(self, newer: Pending) -> None:
        """Note that features are being computed from the stream's newest frame."""
        self.newer, self.newer_lag = newer, 0

    def advance(self) -> None:
        """Go to the stream's next frame, with the newer features if they are done."""
        self.lag += 1
        self.newer_lag += 1
        self.take()

    def take(self) -> None:
        """
        Replace the features by the newer ones if they are done, without going to another frame.

        :raises Exception: what computing them raised; the older ones stay.
        """
        if self.newer is None or not self.newer.done():
            return
        newer, self.newer = self.newer, None
        self.shared, self.lag = newer.result(), self.newer_lag


def cache_of(caches: Mapping[str, StreamCache], stream: str, prepared: Any) -> StreamCache:
    """
    Return a stream's cache.

    :raises LookupError: where there is none, or its features do not fit to ``prepared``.
    """
    cache = caches.get(stream)
    if cache is None or cache.prepared != prepared:
        raise LookupError(f'stream {stream!r} has had no key frame of this size')
    return cache
