"""One camera: its subscriptions, the slot with its newest image, and its publishers."""
from __future__ import annotations

import copy
import threading
import time
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from featshare_core.inference.engine import Frame
from featshare_core.inference.segmenter import Result
from featshare_core.labels import LabelSet
from featshare_core.overlay import paint
from featshare_ros.diagnostics import CameraStatistics
from featshare_ros.images import decode_compressed, decode_image, encode_image

try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:
    # Not everywhere installed, and masks are of use without it.
    LabelInfo = None

# Sensor data. Deeper than the one image that is wanted, because what is overtaken in the
# middleware's queue vanishes uncounted; the slot drops what is overtaken, and counts it.
SENSOR_QOS = QoSProfile(depth=5, history=HistoryPolicy.KEEP_LAST,
                        reliability=ReliabilityPolicy.BEST_EFFORT)
# Reliable, because RViz and Foxglove ask for that; a few frames deep, so that a subscriber that
# acknowledges late loses none.
OUTPUT_QOS = QoSProfile(depth=5, history=HistoryPolicy.KEEP_LAST,
                        reliability=ReliabilityPolicy.RELIABLE)
LATCHED_QOS = QoSProfile(depth=1, history=HistoryPolicy.KEEP_LAST,
                         reliability=ReliabilityPolicy.RELIABLE,
                         durability=DurabilityPolicy.TRANSIENT_LOCAL)


@dataclass(frozen=True)
class Arrival:
    """An image message, and the monotonic time in seconds at which it arrived."""

    message: Any
    time: float


class Camera:
    """
    The ROS side of one image stream.

    Its callbacks only store the newest message in the slot, under the lock of ``wake``, which is
    notified; the worker takes it from there. ``take`` and ``waiting`` are called with that lock.
    """

    def __init__(self, node: Node, name: str, compressed: bool, labels: LabelSet,
                 wake: threading.Condition) -> None:
        self.name = name
        self._node = node
        self._compressed = compressed
        self._labels = labels
        self._wake = wake
        self._prefix = f'{name}/' if name else ''
        self._image_topic = f'{self._prefix}image' + ('/compressed' if compressed else '')
        self._slot: Arrival | None = None
        self._info: CameraInfo | None = None
        self._subscriptions: list[Any] = []
        self.statistics = CameraStatistics(node.resolve_topic_name(self._image_topic))
        self._mask = self._publisher(Image, 'mask')
        self._confidence = self._publisher(Image, 'confidence')
        self._overlay = self._publisher(Image, 'overlay')
        self._camera_info = self._publisher(CameraInfo, 'camera_info')
        self._label_info = None
        if LabelInfo is not None:
            self._label_info = self._publisher(LabelInfo, 'label_info', LATCHED_QOS)

    def subscribe(self) -> None:
        """Start to receive images, with nothing left over from before."""
        self.statistics = CameraStatistics(self.statistics.topic)
        self._info = None
        self._subscriptions = [
            self._node.create_subscription(
                CompressedImage if self._compressed else Image, self._image_topic,
                self._on_image, SENSOR_QOS,
                qos_overriding_options=QoSOverridingOptions.with_default_policies()),
            self._node.create_subscription(
                CameraInfo, f'{self._prefix}camera_info', self._on_info, SENSOR_QOS,
                qos_overriding_options=QoSOverridingOptions.with_default_policies()),
        ]
        if self._label_info is not None:
            self._label_info.publish(self._label_message())

    def unsubscribe(self) -> None:
        """Stop to receive images; on the executor's thread, as Humble needs it."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []
        with self._wake:
            if self._slot is not None:
                self.statistics.counts.dropped += 1
            self._slot = None

    def destroy(self) -> None:
        """Take the camera's topics from the graph."""
        self.unsubscribe()
        for publisher in (self._mask, self._confidence, self._overlay, self._camera_info,
                          self._label_info):
            if publisher is not None:
                self._node.destroy_publisher(publisher)

    @property
    def publishers(self) -> int:
        """How many publishers there are of the image topic."""
        return self._node.count_publishers(self.statistics.topic)

    @property
    def waiting(self) -> bool:
        """Whether an image waits in the slot."""
        return self._slot is not None

    def take(self) -> Arrival:
        """Return the image that waits, and empty the slot."""
        arrival, self._slot = self._slot, None
        assert arrival is not None
        return arrival

    def decode(self, message: Image | CompressedImage) -> Frame:
        """
        Return an image message as HxWx3 uint8 RGB.

        :raises ImageError: where it cannot be decoded.
        """
        frame = decode_compressed(message) if self._compressed else decode_image(message)
        kind = message.format if self._compressed else message.encoding
        self.statistics.image = f'{frame.shape[1]}x{frame.shape[0]} {kind}'
        return frame

    def publish_mask(self, result: Result, header: Header) -> None:
        """Publish what consumers wait for: mask, confidence and camera info, in that order."""
        self._mask.publish(encode_image(result.mask, 'mono8', header))
        if result.confidence is not None:
            self._confidence.publish(encode_image(result.confidence, 'mono8', header))
        if self._info is not None:
            height, width = result.mask.shape
            self._camera_info.publish(scaled_camera_info(self._info, width, height, header))

    def publish_overlay(self, frame: Frame, result: Result, header: Header,
                        opacity: float) -> None:
        """Draw and publish the overlay, if somebody subscribes to it."""
        if self._overlay.get_subscription_count():
            picture = paint(frame, result.mask, self._labels, opacity)
            self._overlay.publish(encode_image(picture, 'rgb8', header))

    def _publisher(self, kind: type, name: str, qos: QoSProfile = OUTPUT_QOS) -> Publisher:
        return self._node.create_publisher(
            kind, f'~/{self._prefix}{name}', qos,
            qos_overriding_options=QoSOverridingOptions.with_default_policies())

    def _on_image(self, message: Image | CompressedImage) -> None:
        now = time.monotonic()
        counts = self.statistics.counts
        with self._wake:
            counts.received += 1
            if self._slot is not None:
                counts.dropped += 1
            self._slot = Arrival(message, now)
            self._wake.notify()
        self.statistics.last_arrival = now

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    def _label_message(self) -> Any:
        message = LabelInfo()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.class_map = [VisionClass(class_id=index, class_name=name)
                             for index, name in enumerate(self._labels.names)]
        message.threshold = 0.0
        return message


def scaled_camera_info(info: CameraInfo, width: int, height: int, header: Header) -> CameraInfo:
    """
    Return the camera info of an image scaled to ``width`` x ``height``, with another header.

    Focal lengths, principal point and baseline terms scale with the image; distortion and
    rectification do not depend on its size.
    """
    scaled = copy.copy(info)
    scaled.header, scaled.width, scaled.height = header, width, height
    if 0 in (info.width, info.height) or (info.width, info.height) == (width, height):
        return scaled
    x, y = width / info.width, height / info.height
    scaled.k = [k * s for k, s in zip(info.k, (x, x, x, y, y, y, 1, 1, 1))]
    scaled.p = [p * s for p, s in zip(info.p, (x, x, x, x, y, y, y, y, 1, 1, 1, 1))]
    scaled.roi = copy.copy(info.roi)
    scaled.roi.x_offset, scaled.roi.width = round(info.roi.x_offset * x), round(info.roi.width * x)
    scaled.roi.y_offset = round(info.roi.y_offset * y)
    scaled.roi.height = round(info.roi.height * y)
    return scaled
