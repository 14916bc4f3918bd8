"""The one thread that segments: it takes the cameras' newest images in turn."""
from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from featshare_ros.camera import Arrival, Camera


class Worker:
    """
    Calls ``process(camera, arrival)`` for the newest image of each camera, round robin.

    However fast images come, none waits longer than the one before it takes, times the cameras:
    what is overtaken in its slot is never processed.
    """

    def __init__(self, cameras: Sequence[Camera], wake: threading.Condition,
                 process: Callable[[Camera, Arrival], None]) -> None:
        self._cameras = list(cameras)
        self._wake = wake
        self._process = process
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name='segmentation', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let the image in work be finished, then end the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self._thread.join()

    def _run(self) -> None:
        turn = 0
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or self._next(turn) is not None)
                following = self._next(turn)
                if self._stopping or following is None:
                    return
                turn = following
                camera = self._cameras[turn]
                arrival = camera.take()
            self._process(camera, arrival)

    def _next(self, turn: int) -> int | None:
        """Return the first camera after ``turn`` whose image waits."""
        count = len(self._cameras)
        return next((index % count for index in range(turn + 1, turn + 1 + count)
                     if self._cameras[index % count].waiting), None)
