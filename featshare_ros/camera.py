"""One camera: its subscriptions, the slot with its newest image, and its publishers."""
from __future__ import annotations

import copy
import threading
import time
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from featshare_core.inference.engine import Frame
from featshare_core.inference.segmenter import Result
from featshare_core.labels import LabelSet
from featshare_core.overlay import paint
from featshare_ros.diagnostics import CameraStatistics
from featshare_ros.images import decode_compressed, decode_image, encode_image, stamp_seconds

try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:
    # Not everywhere installed, and masks are of use without it.
    LabelInfo = None


# Functions, because rclpy writes the overrides of a topic into the profile that it is given.
def sensor_qos() -> QoSProfile:
    """
    Return sensor data's quality of service, with a queue.

    One image is wanted, but what is overtaken in the middleware's queue vanishes uncounted; the
    slot drops what is overtaken, and counts it.
    """
    return QoSProfile(depth=5, history=HistoryPolicy.KEEP_LAST,
                      reliability=ReliabilityPolicy.BEST_EFFORT)


def output_qos() -> QoSProfile:
    """
    Return the outputs' quality of service: reliable, because RViz and Foxglove ask for that.

    A few frames deep, so that a subscriber that acknowledges late loses none.
    """
    return QoSProfile(depth=5, history=HistoryPolicy.KEEP_LAST,
                      reliability=ReliabilityPolicy.RELIABLE)


def latched_qos() -> QoSProfile:
    """Return the quality of service of what late joiners need too."""
    return QoSProfile(depth=1, history=HistoryPolicy.KEEP_LAST,
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
        self._kind = CompressedImage if compressed else Image
        self._image_qos = sensor_qos()
        self._labels = labels
        self._wake = wake
        self._prefix = f'{name}/' if name else ''
        self._image_topic = f'{self._prefix}image' + ('/compressed' if compressed else '')
        self._slot: Arrival | None = None
        self._stamped = False
        self._info: CameraInfo | None = None
        self._subscriptions: list[Any] = []
        self._publishers: list[Publisher] = []
        self.statistics = CameraStatistics(node.resolve_topic_name(self._image_topic))
        self._label_info = None
        try:
            self._mask = self._publisher(Image, 'mask')
            self._confidence = self._publisher(Image, 'confidence')
            self._overlay = self._publisher(Image, 'overlay')
            self._camera_info = self._publisher(CameraInfo, 'camera_info')
            if LabelInfo is not None:
                self._label_info = self._publisher(LabelInfo, 'label_info', latched_qos())
        except Exception:
            self.destroy()
            raise

    def start(self) -> None:
        """Begin to count and to receive images, with nothing left over from before."""
        self.statistics = CameraStatistics(self.statistics.topic)
        self._info = None
        self.subscribe()
        if self._label_info is not None:
            self._label_info.publish(self._label_message())

    def subscribe(self) -> None:
        """Receive images; on the executor's thread, as ``unsubscribe``."""
        self._image_qos = sensor_qos()
        for kind, topic, callback, qos in (
                (self._kind, self._image_topic, self._on_image, self._image_qos),
                (CameraInfo, f'{self._prefix}camera_info', self._on_info, sensor_qos())):
            self._subscriptions.append(self._node.create_subscription(
                kind, topic, callback, qos,
                qos_overriding_options=QoSOverridingOptions.with_default_policies()))

    def unsubscribe(self) -> None:
        """Stop to receive images; on the executor's thread, as Humble needs it."""
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())
        with self._wake:
            if self._slot is not None:
                self.statistics.counts.dropped += 1
            self._slot = None
            self.statistics.interrupted()

    def destroy(self) -> None:
        """Take the camera's topics from the graph."""
        self.unsubscribe()
        while self._publishers:
            self._node.destroy_publisher(self._publishers.pop())

    @property
    def publishers(self) -> int:
        """How many publishers there are of the image topic."""
        return self._node.count_publishers(self.statistics.topic)

    def mismatch(self) -> str:
        """Return why the image topic's publishers, if any, can all not be received from, or ''."""
        wanted = f'sensor_msgs/msg/{self._kind.__name__}'
        reason = ''
        for publisher in self._node.get_publishers_info_by_topic(self.statistics.topic):
            if publisher.topic_type != wanted:
                reason = f'{self.statistics.topic} carries {publisher.topic_type}, not {wanted}'
                continue
            fits, problem = qos_check_compatible(publisher.qos_profile, self._image_qos)
            if fits != QoSCompatibility.ERROR:
                return ''
            reason = (f'the QoS of {self.statistics.topic} does not match, nothing can arrive: '
                      f'{problem.strip()}')
        return reason

    @property
    def waiting(self) -> bool:
        """Whether an image waits in the slot."""
        return self._slot is not None

    def take(self) -> Arrival:
        """Return the image that waits, and empty the slot."""
        arrival, self._slot = self._slot, None
        assert arrival is not None
        return arrival

    def time_of(self, arrival: Arrival) -> float | None:
        """
        Return the seconds by which key frames are scheduled: the stamp's, None where it is zero.

        Of a camera that has never set a stamp, gaps show in the times of arrival; mixed with
        stamps they would seem to leap.
        """
        header = arrival.message.header
        stamp = stamp_seconds(header.stamp.sec, header.stamp.nanosec)
        self._stamped |= stamp is not None
        return stamp if self._stamped else arrival.time

    def decode(self, message: Image | CompressedImage) -> Frame:
        """
        Return an image message as HxWx3 uint8 RGB.

        :raises ImageError: where it cannot be decoded.
        """
        frame = decode_compressed(message) if self._compressed else decode_image(message)
        kind = message.format if self._compressed else message.encoding
        self.statistics.image = f'{frame.shape[1]}x{frame.shape[0]} {kind}'
        return frame

    def publish_mask(self, frame: Frame, result: Result, header: Header) -> None:
        """Publish what consumers wait for: mask, confidence and camera info, in that order."""
        self._mask.publish(encode_image(result.mask, 'mono8', header))
        if result.confidence is not None:
            self._confidence.publish(encode_image(result.confidence, 'mono8', header))
        info = self._info
        if info is None:
            return
        (height, width), (mask_height, mask_width) = frame.shape[:2], result.mask.shape
        described = described_size(info) or (width, height)
        # The image may have been scaled, without its info, but not cropped.
        if abs(width - described[0] * height / described[1]) > 1:
            self.statistics.calibration = (
                f'camera_info is of {described[0]}x{described[1]}, of another shape than the '
                f'images of {width}x{height}: it is not published with the masks')
            return
        self.statistics.calibration = ''
        self._camera_info.publish(scaled_camera_info(
            info, mask_width / described[0], mask_height / described[1], header))

    def publish_overlay(self, frame: Frame, result: Result, header: Header,
                        opacity: float) -> None:
        """Draw and publish the overlay, if somebody subscribes to it."""
        if self._overlay.get_subscription_count():
            picture = paint(frame, result.mask, self._labels, opacity)
            self._overlay.publish(encode_image(picture, 'rgb8', header))

    def _publisher(self, kind: type, name: str, qos: QoSProfile | None = None) -> Publisher:
        self._publishers.append(self._node.create_publisher(
            kind, f'~/{self._prefix}{name}', qos or output_qos(),
            qos_overriding_options=QoSOverridingOptions.with_default_policies()))
        return self._publishers[-1]

    def _on_image(self, message: Image | CompressedImage) -> None:
        now = time.monotonic()
        statistics = self.statistics
        statistics.arrived(now)
        with self._wake:
            if self._slot is not None:
                statistics.counts.dropped += 1
            self._slot = Arrival(message, now)
            self._wake.notify()

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    def _label_message(self) -> Any:
        message = LabelInfo()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.class_map = [VisionClass(class_id=index, class_name=name)
                             for index, name in enumerate(self._labels.names)]
        message.threshold = 0.0
        return message


def described_size(info: CameraInfo) -> tuple[int, int] | None:
    """Return (width, height) of the image that a camera info describes; None if it tells none."""
    width = (info.roi.width or info.width) // max(1, info.binning_x)
    height = (info.roi.height or info.height) // max(1, info.binning_y)
    return (width, height) if width and height else None


def scaled_camera_info(info: CameraInfo, x: float, y: float, header: Header) -> CameraInfo:
    """
    Return the camera info of an image that was scaled by ``x`` and ``y``, with another header.

    Sizes, focal lengths, principal point, baseline terms and region of interest scale with the
    image; distortion and rectification do not depend on its size.
    """
    scaled = copy.copy(info)
    scaled.header = header
    if x == y == 1:
        return scaled
    scaled.width, scaled.height = round(info.width * x), round(info.height * y)
    scaled.k = [k * s for k, s in zip(info.k, (x, x, x, y, y, y, 1, 1, 1))]
    scaled.p = [p * s for p, s in zip(info.p, (x, x, x, x, y, y, y, y, 1, 1, 1, 1))]
    scaled.roi = copy.copy(info.roi)
    scaled.roi.x_offset, scaled.roi.width = round(info.roi.x_offset * x), round(info.roi.width * x)
    scaled.roi.y_offset = round(info.roi.y_offset * y)
    scaled.roi.height = round(info.roi.height * y)
    return scaled
