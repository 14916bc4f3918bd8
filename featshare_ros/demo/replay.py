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
"""What the demo runs: the node as its own process, and a camera that replays a recording."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
import os
from pathlib import Path
import re
import signal
import subprocess
import threading
import time
from types import TracebackType
from typing import Any
import zlib

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from featshare_ros.launching import NODE_NAME
from featshare_ros.recordings.bag import RecordedImage
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import numpy as np
import numpy.typing as npt
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image

NAMESPACE = '/featshare_demo'
START_TIMEOUT = 120.0
"""Longest wait for the node to load, warm up and be discovered, in seconds."""
LAST_MASK_TIMEOUT = 10.0
"""Longest wait for another mask after the last frame, in seconds."""
TRANSITION_TIMEOUT = 30.0
"""Longest wait for a lifecycle transition of the node, in seconds."""


class ReplayError(RuntimeError):
    """The replay cannot continue; the text says why, mostly with the end of the node's log."""


class NodeProcess:
    """A child process that writes to a log file; a context manager that always ends it."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log
        # In a session of its own, so that Ctrl-C in the terminal reaches only this process.
        with log.open('wb') as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT,
                                             start_new_session=True)

    def check(self) -> None:
        """Raise ReplayError where the process has ended."""
        if self._process.poll() is not None:
            raise ReplayError(self.with_log(
                f'the node ended by itself with status {self._process.returncode}'))

    def with_log(self, text: str, lines: int = 25) -> str:
        """Return the text with the end of the process's output below it."""
        output = self._log.read_text(errors='replace').splitlines()[-lines:]
        return '\n'.join([f'{text}. The end of its log ({self._log}):',
                          *(f'    {line}' for line in output or ['(nothing)'])])

    def stop(self, patience: float = 10.0) -> None:
        """End the process: SIGINT as Ctrl-C would, then SIGTERM, then SIGKILL."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is not None:
                return
            os.killpg(self._process.pid, number)
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                continue

    def __enter__(self) -> NodeProcess:
        """Return the running process."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """End the process, even if Ctrl-C is pressed again meanwhile."""
        try:
            self.stop()
        except KeyboardInterrupt:
            self.stop(patience=2.0)
            raise


@dataclass
class Run:
    """
    What was sent and received in a replay.

    Frames and masks are matched by the stamps of their headers, in nanoseconds. ``sent`` and
    ``received`` hold monotonic times in seconds, by stamp.
    """

    sent: dict[int, float] = field(default_factory=dict)
    received: dict[int, float] = field(default_factory=dict)
    unmatched: int = 0
    """Number of masks with a stamp that no frame had."""
    diagnostics: dict[str, str] = field(default_factory=dict)
    """The node's newest values from /diagnostics, by key."""
    problem: str = ''
    """Messages of level ERROR in the node's newest /diagnostics."""
    _masks: dict[int, tuple[tuple[int, int], bytes]] = field(default_factory=dict)

    @property
    def dropped(self) -> int:
        """Return the number of frames that the node has dropped, by its newest /diagnostics."""
        return int(self.diagnostics.get('dropped', 0))

    def keep_mask(self, stamp_ns: int, message: Image) -> None:
        """Keep a mask, compressed: a long recording has thousands."""
        size = (message.height, message.width)
        self._masks[stamp_ns] = (size, zlib.compress(message.data, 1))

    def mask(self, stamp_ns: int) -> npt.NDArray[np.uint8] | None:
        """Return the mask of the frame with this stamp, HxW uint8; None where none came."""
        if stamp_ns not in self._masks:
            return None
        size, packed = self._masks[stamp_ns]
        return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(size)

    def mask_size(self, stamp_ns: int) -> tuple[int, int]:
        """Return (height, width) of a mask that was received."""
        return self._masks[stamp_ns][0]

    def latencies(self) -> list[float]:
        """Return the milliseconds from publishing a frame to receiving its mask, in order."""
        return [1e3 * (time - self.sent[stamp]) for stamp, time in self.received.items()]


def says_preparing(status: DiagnosticStatus) -> bool:
    """Return whether the node's status says that the engine is being prepared for a size."""
    return any(item.key == 'preparing' and re.search(r' for \d+ s$', item.value)
               for item in status.values)


class Replay:
    """A ROS 2 node that publishes recorded images as a camera does, and collects the masks."""

    def __init__(self, compressed: bool) -> None:
        self.run = Run()
        self._lock = threading.Lock()
        # Python handles Ctrl-C, not rclpy: KeyboardInterrupt must reach the code that stops the
        # node's process.
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node('camera', namespace=NAMESPACE)
        kind, topic = (CompressedImage, 'image/compressed') if compressed else (Image, 'image')
        # Best effort and a small depth, as camera drivers publish.
        self._publisher = self._node.create_publisher(kind, topic, qos_profile_sensor_data)
        reliable = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        self._mask_topic = f'{NAMESPACE}/{NODE_NAME}/mask'
        self._node.create_subscription(Image, self._mask_topic, self._on_mask, reliable)
        self._node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics,
                                       reliable)
        self._transition: Any = self._node.create_client(
            ChangeState, f'{NAMESPACE}/{NODE_NAME}/change_state')
        self.preparing = False
        """Whether the node's newest /diagnostics say that the engine is being prepared."""
        self._masked = threading.Event()
        self._diagnosed = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        """Serve the subscriptions until the end."""
        executor = SingleThreadedExecutor()
        executor.add_node(self._node)
        while not self._ending.is_set():
            executor.spin_once(timeout_sec=0.1)
        executor.shutdown()

    def _on_mask(self, message: Image) -> None:
        """Record the time at which a mask came, and keep it."""
        now = time.monotonic()
        stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        with self._lock:
            if stamp_ns not in self.run.sent:
                self.run.unmatched += 1
                return
        self.run.keep_mask(stamp_ns, message)
        self.run.received[stamp_ns] = now
        self._masked.set()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        """Keep the newest values that the node reports."""
        own = [status for status in message.status
               if status.name.lstrip('/').startswith(f'{NAMESPACE}/{NODE_NAME}'.lstrip('/'))]
        for status in own:
            self.run.diagnostics.update({item.key: item.value for item in status.values})
        if own:
            self.run.problem = ' '.join(
                status.message for status in own if status.level == DiagnosticStatus.ERROR)
            self.preparing = any(map(says_preparing, own))
            self._diagnosed.set()

    def wait_for_node(self, process: NodeProcess) -> None:
        """
        Wait until the node subscribes to the images and publishes masks.

        :raises ReplayError: where the node ends, reports an error, or is not ready in time.
        """
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            process.check()
            if self.run.problem:
                raise ReplayError(process.with_log(f'the node {self.run.problem}'))
            missing = []
            if self._publisher.get_subscription_count() == 0:
                missing.append(f'subscribes to {self._publisher.topic_name}')
            if self._node.count_publishers(self._mask_topic) == 0:
                missing.append(f'publishes {self._mask_topic}')
            if not missing:
                break
            if time.monotonic() > deadline:
                raise ReplayError(process.with_log(
                    f'after {START_TIMEOUT:.0f} s nobody {" or ".join(missing)}'))
            time.sleep(0.05)
        # Discovery reports a publisher a little before its data arrive.
        time.sleep(0.5)

    def ask(self, image: RecordedImage, process: NodeProcess, timeout: float) -> float | None:
        """
        Publish an image and wait for its mask.

        :param timeout: longest wait, in seconds.
        :returns: the seconds until the mask came, or None where none came in time.
        :raises ReplayError: where the node ends meanwhile.
        """
        with self._lock:
            self.run.received.pop(image.stamp_ns, None)
            sent = self.run.sent[image.stamp_ns] = time.monotonic()
        self._publisher.publish(image.serialized)
        while image.stamp_ns not in self.run.received:
            process.check()
            if time.monotonic() > sent + timeout:
                return None
            self._masked.wait(0.1)
            self._masked.clear()
        return self.run.received[image.stamp_ns] - sent

    def wait_for_reports(self, count: int) -> None:
        """
        Wait for the node's next /diagnostics, but no longer than two of its intervals for each.

        :param count: of messages; the first may have been made before this call, the second not.
        """
        for _ in range(count):
            self._diagnosed.clear()
            self._diagnosed.wait(2.0)

    def start_over(self, process: NodeProcess) -> None:
        """
        Deactivate and activate the node, and forget what was sent and received.

        The node's counts and latencies start again and the next frame is a key frame; the engine
        stays as it is.

        :raises ReplayError: where the node refuses, or does not do it in time.
        """
        self._change_state('deactivate', Transition.TRANSITION_DEACTIVATE, process)
        self._change_state('activate', Transition.TRANSITION_ACTIVATE, process)
        self.wait_for_node(process)
        self.run = Run()

    def _change_state(self, name: str, number: int, process: NodeProcess) -> None:
        """Have the node make a lifecycle transition."""
        deadline = time.monotonic() + TRANSITION_TIMEOUT
        self._transition.wait_for_service(TRANSITION_TIMEOUT)
        done = threading.Event()
        call = self._transition.call_async(ChangeState.Request(transition=Transition(id=number)))
        call.add_done_callback(lambda _: done.set())
        while not done.wait(0.1) and time.monotonic() < deadline:
            process.check()
        response = call.result() if call.done() else None
        if response is None or not response.success:
            raise ReplayError(process.with_log(f'the node did not {name}'))

    def play(self, images: Iterable[RecordedImage], process: NodeProcess,
             slowdown: float, most_dropped: float) -> bool:
        """
        Publish images at ``slowdown`` times the intervals of their log times; wait for the masks.

        The headers' stamps stay as recorded. The node computes the age of a key frame from them,
        so that it chooses the same key frames at every slowdown.

        :param most_dropped: number of dropped frames above which the replay ends early.
        :returns: whether the node dropped no more than that.
        :raises ReplayError: where the node ends meanwhile, or two images have the same stamp.
        """
        start = first_log_time = None
        stamp_ns = 0
        for image in images:
            if start is None or first_log_time is None:
                start, first_log_time = time.monotonic(), image.log_time_ns
            due = start + slowdown * (image.log_time_ns - first_log_time) / 1e9
            time.sleep(max(0.0, due - time.monotonic()))
            stamp_ns = image.stamp_ns
            if stamp_ns in self.run.sent:
                raise ReplayError(f'two images of the recording have the stamp {stamp_ns} ns: '
                                  'masks are matched by their stamps')
            with self._lock:
                self.run.sent[stamp_ns] = time.monotonic()
            self._publisher.publish(image.serialized)
            process.check()
            if self.run.dropped > most_dropped:
                return False
        count, quiet_since = -1, time.monotonic()
        while stamp_ns not in self.run.received:
            process.check()
            if len(self.run.received) > count:
                count, quiet_since = len(self.run.received), time.monotonic()
            if time.monotonic() - quiet_since > LAST_MASK_TIMEOUT:
                break
            time.sleep(0.02)
        self.wait_for_reports(2)
        return self.run.dropped <= most_dropped

    def close(self) -> None:
        """Stop the thread and shut rclpy down."""
        self._ending.set()
        self._thread.join(5.0)
        self._node.destroy_node()
        rclpy.try_shutdown()

    def __enter__(self) -> Replay:
        """Return the replay, which runs already."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Close the replay."""
        self.close()
