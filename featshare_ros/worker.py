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
"""The one thread that segments: it takes the cameras' newest images in turn."""
from __future__ import annotations

from collections.abc import Callable, Sequence
import threading

from featshare_ros.camera import Arrival, Camera


class Worker:
    """
    Calls ``process(camera, arrival)`` for the newest image of each camera, round robin.

    No image waits for longer than one image of each other camera takes, at whatever rate they
    arrive: an image that is replaced in its slot is never processed.
    """

    def __init__(self, cameras: Sequence[Camera], wake: threading.Condition,
                 process: Callable[[Camera, Arrival], None]) -> None:
        self._cameras = list(cameras)
        self._wake = wake
        self._process = process
        self._stopping = False
        self._ended = False
        self._release: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._run, name='segmentation', daemon=True)
        self._thread.start()

    def stop(self, patience: float) -> bool:
        """
        Finish the image in work, then end the thread.

        :param patience: longest wait, in seconds.
        :returns: whether the thread has ended; called again, it waits again.
        """
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self._thread.join(patience)
        return not self._thread.is_alive()

    def abandon(self, release: Callable[[], None]) -> None:
        """Have the thread call ``release`` when it ends; call it here if it has ended already."""
        with self._wake:
            if not self._ended:
                self._release = release
                return
        release()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or self._next() is not None)
                camera = self._next()
                if self._stopping or camera is None:
                    self._ended = True
                    break
                # The camera whose turn it is goes to the end of the queue.
                self._cameras.remove(camera)
                self._cameras.append(camera)
                arrival = camera.take()
            self._process(camera, arrival)
        if self._release is not None:
            self._release()

    def _next(self) -> Camera | None:
        """Return, of the cameras with a waiting image, the one whose last turn is longest ago."""
        return next((camera for camera in self._cameras if camera.waiting), None)
