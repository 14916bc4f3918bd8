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
"""One camera: its subscriptions, and the slot with its newest image."""
from __future__ import annotations

from collections.abc import Callable
import threading
import time
from typing import Any, NamedTuple

from diagnostic_msgs.msg import DiagnosticStatus
from featshare_core.text import printable
from featshare_ros.diagnostics import CameraStatistics, Idle
from featshare_ros.images import stamp_seconds
from featshare_ros.level_log import LevelLog
from featshare_ros.loss import LossWatch
from rclpy.node import Node
from rclpy.qos import (
    HistoryPolicy,
    qos_check_compatible,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError


# A function, because rclpy writes the overrides of a topic into the profile that it is given.
def sensor_qos() -> QoSProfile:
    """
    Return the quality of service of camera subscriptions: best effort, keep last 5.

    Only the newest image is used, but the middleware does not count what it replaces in its
    queue. With room for 5, images are replaced in the slot, which counts them as dropped.
    """
    return QoSProfile(depth=5, history=HistoryPolicy.KEEP_LAST,
                      reliability=ReliabilityPolicy.BEST_EFFORT)


class Arrival(NamedTuple):
    """
    An image message that arrived.

    :param time: monotonic seconds at which it arrived.
    :param stamp: seconds by which key frames are scheduled: the message's stamp, None where it is
        not set. For a camera that has set no stamp since it was subscribed to it is ``time``, so
        that gaps are noticed. The two are never mixed: their difference would look like a jump.
    """

    message: Image | CompressedImage
    time: float
    stamp: float | None


class Camera:
    """
    The subscriptions of one image stream.

    Its callbacks only store the newest message in the slot, under the lock of ``wake``, which is
    notified; the worker takes it from there. ``take`` and ``waiting`` are called with that lock.
    ``info`` is the newest CameraInfo, None before the first. ``level_log`` logs changes of the
    camera's status.
    """

    def __init__(self, node: Node, name: str, compressed: bool, wake: threading.Condition) -> None:
        self.name = name
        self.compressed = compressed
        self._node = node
        self._kind = CompressedImage if compressed else Image
        self._image_qos = sensor_qos()
        self._wake = wake
        self._prefix = f'{name}/' if name else ''
        self._image_topic = f'{self._prefix}image' + ('/compressed' if compressed else '')
        self._info_topic = f'{self._prefix}camera_info'
        self._slot: Arrival | None = None
        self._stamped = False
        self.info: CameraInfo | None = None
        self._subscriptions: list[Any] = []
        self.statistics = CameraStatistics(node.resolve_topic_name(self._image_topic))
        self._losses = LossWatch()
        self.level_log = LevelLog(node.get_logger(), name or 'camera')

    def start(self) -> None:
        """Reset the statistics and forget the CameraInfo, before the first ``subscribe``."""
        self.statistics = CameraStatistics(self.statistics.topic)
        self.info = None

    def subscribe(self) -> None:
        """Subscribe to the images; on the executor's thread, as ``unsubscribe``."""
        # The driver may have been replaced by one that sets no stamps.
        self._stamped = False
        self.statistics.interrupted()
        self._losses = LossWatch()
        self._image_qos = sensor_qos()
        on_lost = SubscriptionEventCallbacks(
            message_lost=lambda event: self._losses.lost(event.total_count_change))
        try:
            try:
                self._subscribe(self._kind, self._image_topic, self._on_image, self._image_qos,
                                on_lost)
            except UnsupportedEventTypeError:
                # The middleware does not report lost messages.
                self._subscribe(self._kind, self._image_topic, self._on_image, self._image_qos)
            self._subscribe(CameraInfo, self._info_topic, self._on_info, sensor_qos())
        except BaseException:
            self.unsubscribe()
            raise

    def _subscribe(self, kind: Any, topic: str, callback: Callable[[Any], None], qos: QoSProfile,
                   events: SubscriptionEventCallbacks | None = None) -> None:
        self._subscriptions.append(self._node.create_subscription(
            kind, topic, callback, qos, event_callbacks=events,
            qos_overriding_options=QoSOverridingOptions.with_default_policies()))

    def unsubscribe(self) -> None:
        """Unsubscribe, on the executor's thread as Humble requires; drop the waiting image."""
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())
        with self._wake:
            if self._slot is not None:
                self.statistics.counts.dropped += 1
            self._slot = None
            self.statistics.interrupted()

    @property
    def subscribed(self) -> bool:
        """Whether the images are subscribed to."""
        return bool(self._subscriptions)

    def status(self, name: str, hardware_id: str, idle: Idle | None,
               decoding: tuple[str, float] | None) -> DiagnosticStatus:
        """
        Return the camera's status since the last call; on the executor's thread.

        :param idle: level and message where the node segments nothing at present, else None.
        :param decoding: the topic whose image is being decoded, and since when (monotonic
            seconds); None where none is.
        """
        statistics = self.statistics
        publishers = self._node.count_publishers(statistics.topic)
        quiet, loss = statistics.quiet, self._losses.evaluate(self._has_one_source)
        mixed = self._several_publishers() if publishers > 1 and not quiet else ''
        return statistics.status(name, hardware_id, publishers, self._mismatch() if quiet else '',
                                 idle, '; '.join(filter(None, (mixed, loss))), decoding)

    def _several_publishers(self) -> str:
        """Return a message where several publishers send images on the topic, else ''."""
        names = sorted(f'{info.node_namespace.rstrip("/")}/{info.node_name}' for info in
                       self._node.get_publishers_info_by_topic(self.statistics.topic)
                       if not self._obstacle(info))
        if len(names) < 2:
            return ''
        return (f'{len(names)} publishers on {self.statistics.topic} '
                f'({printable(", ".join(names), 200)}): images of different cameras may be mixed; '
                f'stop all but one, or remap their topics')

    def _has_one_source(self) -> bool:
        """Return whether the same nodes publish the images and camera_info."""
        images, infos = ({(info.node_namespace, info.node_name)
                          for info in self._node.get_publishers_info_by_topic(topic)}
                         for topic in (self.statistics.topic,
                                       self._node.resolve_topic_name(self._info_topic)))
        return images == infos

    def _mismatch(self) -> str:
        """
        Return why nothing can be received from the publishers of the image topic.

        :returns: an empty string where one of them can be received from, or where there are none.
        """
        reason = ''
        for publisher in self._node.get_publishers_info_by_topic(self.statistics.topic):
            reason = self._obstacle(publisher)
            if not reason:
                return ''
        return reason

    def _obstacle(self, publisher: Any) -> str:
        """Return why nothing can be received from a publisher of the image topic, or ''."""
        topic, wanted = self.statistics.topic, f'sensor_msgs/msg/{self._kind.__name__}'
        if publisher.topic_type != wanted:
            return f'{topic} carries {printable(publisher.topic_type)}, not {wanted}'
        fits, problem = qos_check_compatible(publisher.qos_profile, self._image_qos)
        if fits != QoSCompatibility.ERROR:
            return ''
        return f'the QoS of {topic} does not match, nothing can arrive: {problem.strip()}'

    @property
    def waiting(self) -> bool:
        """Whether an image waits in the slot."""
        return self._slot is not None

    def take(self) -> Arrival:
        """Return the image that waits, and empty the slot."""
        arrival, self._slot = self._slot, None
        assert arrival is not None
        return arrival

    def _on_image(self, message: Image | CompressedImage) -> None:
        now = time.monotonic()
        stamp = stamp_seconds(message.header.stamp.sec, message.header.stamp.nanosec)
        self._stamped |= stamp is not None
        statistics = self.statistics
        statistics.arrived(now)
        self._losses.image(stamp)
        with self._wake:
            if self._slot is not None:
                statistics.counts.dropped += 1
            self._slot = Arrival(message, now, stamp if self._stamped else now)
            self._wake.notify()

    def _on_info(self, message: CameraInfo) -> None:
        self.info = message
        self._losses.info(stamp_seconds(message.header.stamp.sec, message.header.stamp.nanosec))
