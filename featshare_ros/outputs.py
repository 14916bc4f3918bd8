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
What is published and recorded of each camera: name, type, quality of service, and content.

The live node (``Publishers``) and recordings (``recordings/bag_output.py``) both read ``OUTPUTS``.
Importing this needs no ROS: recordings are segmented where none is installed.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
import copy
from dataclasses import dataclass
from importlib import import_module
import time
from typing import Any, NamedTuple, TYPE_CHECKING

from featshare_core.inference.engine import Frame
from featshare_core.inference.segmenter import Result
from featshare_core.labels import LabelSet
from featshare_core.overlay import draw_legend, paint
from featshare_ros.images import encode_image
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.publisher import Publisher
    from rclpy.qos import QoSProfile

IMAGE = 'sensor_msgs/msg/Image'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
LABEL_INFO = 'vision_msgs/msg/LabelInfo'
DIAGNOSTICS = 'diagnostic_msgs/msg/DiagnosticArray'

OVERLAY_OPACITY = 0.5
"""Default opacity of the classes in the overlay, 0 to 1."""

MessageTypes = Callable[[str], Any]
"""Returns the message class of a type's name: rclpy's or rosbags'."""


class Qos(NamedTuple):
    """Quality of service; all outputs are reliable (as RViz and Foxglove request), keep last."""

    depth: int
    latched: bool
    """Transient local: kept for subscribers that come later, and sent once per camera."""


# A few frames deep, so that a subscriber that acknowledges late loses none.
STREAM = Qos(5, False)
LATCHED = Qos(1, True)


class OutputError(ValueError):
    """An output that cannot be made for an image; the text says what is wrong with the inputs."""


class Picture(NamedTuple):
    """Content that is an image: raw where it is published, perhaps compressed in a recording."""

    pixels: npt.NDArray[np.uint8]
    encoding: str
    """``mono8`` for HxW, ``rgb8`` for HxWx3."""


@dataclass(frozen=True)
class Answer:
    """
    The input of every output: an image, and the network's result for it.

    :param header: of the image, which its outputs carry unchanged.
    :param camera: name, as in the parameter ``cameras``.
    :param frame: HxWx3 uint8 RGB; None where the image could not be decoded.
    :param result: None where there is no mask.
    :param problem: why there is no mask, or ''.
    :param device: where the network runs, as text.
    :param info: the camera's newest CameraInfo, or None.
    :param opacity: of the classes in the overlay, 0 to 1.
    :param legend: whether the overlay has a legend.
    """

    header: Any
    labels: LabelSet
    camera: str = ''
    frame: Frame | None = None
    result: Result | None = None
    problem: str = ''
    device: str = ''
    info: Any = None
    opacity: float = OVERLAY_OPACITY
    legend: bool = False


@dataclass(frozen=True)
class Output:
    """
    One topic per camera.

    :param name: follows the node's name and the camera's.
    :param content: returns a ``Picture``, a message, or None where there is nothing to send;
        raises OutputError where the inputs do not allow it.
    :param on_demand: computed only while there are subscribers, or if a recording requests it.
    """

    name: str
    message_type: str
    content: Callable[[Answer, MessageTypes], Any]
    qos: Qos = STREAM
    live: bool = True
    recorded: bool = True
    on_demand: bool = False


def mask(answer: Answer, types: MessageTypes) -> Picture | None:
    """Return the class ids, HxW uint8."""
    return Picture(answer.result.mask, 'mono8') if answer.result is not None else None


def confidence(answer: Answer, types: MessageTypes) -> Picture | None:
    """Return 255 times the winning class's probability, HxW uint8, where it was computed."""
    if answer.result is None or answer.result.confidence is None:
        return None
    return Picture(answer.result.confidence, 'mono8')


def overlay(answer: Answer, types: MessageTypes) -> Picture | None:
    """Return the image with the classes' colours over it, HxWx3 uint8, of the mask's size."""
    if answer.frame is None or answer.result is None:
        return None
    picture = paint(answer.frame, answer.result.mask, answer.labels, answer.opacity)
    if answer.legend:
        draw_legend(picture, answer.result.mask, answer.labels)
    return Picture(picture, 'rgb8')


def camera_info(answer: Answer, types: MessageTypes) -> Any:
    """
    Return the camera's calibration, scaled to the mask.

    :raises OutputError: where it belongs to images of another aspect ratio, its region of interest
        lies outside its image, or a number does not fit its field.
    """
    info = answer.info
    if info is None or answer.frame is None or answer.result is None:
        return None
    problem = region_problem(info)
    if problem:
        raise OutputError(f'{problem}: it is not published; remap camera_info')
    (height, width), (mask_height, mask_width) = answer.frame.shape[:2], answer.result.mask.shape
    described = described_size(info) or (width, height)
    # The image may have been scaled, without its info, but not cropped.
    if abs(width - described[0] * height / described[1]) > 1:
        raise OutputError(
            f'camera_info is for {described[0]}x{described[1]} images, but the images are '
            f'{width}x{height}, another aspect ratio: it is not published; remap camera_info')
    return scaled_camera_info(info, mask_width / described[0], mask_height / described[1],
                              answer.header)


def label_info(answer: Answer, types: MessageTypes) -> Any:
    """Return the classes' names by id."""
    entry = types('vision_msgs/msg/VisionClass')
    return types(LABEL_INFO)(header=answer.header, threshold=0.0, class_map=[
        entry(class_id=index, class_name=name) for index, name in enumerate(answer.labels.names)])


def timing(answer: Answer, types: MessageTypes) -> Any:
    """Return key or current, lag and milliseconds per stage, or why there is no mask."""
    if answer.header is None:
        return None
    result, values = answer.result, {}
    if result is not None:
        values = {'key frame': str(result.is_key), 'key reason': result.key_reason,
                  'frames since key': str(result.frames_since_key),
                  **{f'{stage} (ms)': f'{ms:.3f}' for stage, ms in result.timings.items()}}
    entry = types('diagnostic_msgs/msg/KeyValue')
    status = types('diagnostic_msgs/msg/DiagnosticStatus')(
        level=0 if result is not None else 2, name=f'segmentation: {answer.camera or "camera"}',
        message=answer.problem and f'image left out: {answer.problem}', hardware_id=answer.device,
        values=[entry(key=key, value=value) for key, value in values.items()])
    return types(DIAGNOSTICS)(header=answer.header, status=[status])


OUTPUTS = (
    Output('mask', IMAGE, mask),
    Output('confidence', IMAGE, confidence),
    Output('camera_info', CAMERA_INFO, camera_info, recorded=False),
    Output('overlay', IMAGE, overlay, on_demand=True),
    Output('timing', DIAGNOSTICS, timing, live=False),
    Output('label_info', LABEL_INFO, label_info, LATCHED),
)
"""Every output, in the order in which those of one image are sent: the mask first."""


class Published(NamedTuple):
    """
    The outcome of publishing an answer.

    :param time: monotonic seconds at which the mask was sent; None where it could not be.
    :param clock: the node's clock at that moment, in nanoseconds.
    :param failures: (output's name, error) for each output that could not be made or sent.
    """

    time: float | None
    clock: int
    failures: Sequence[tuple[str, Exception]]


class Publishers:
    """
    The live topics of one camera; ``label_info`` is missing where vision_msgs is.

    :param on_match: called on the executor's thread when somebody subscribes to an output or
        unsubscribes, where rclpy (not Humble's) and the middleware report it.
    """

    def __init__(self, node: Node, camera: str,
                 on_match: Callable[[], None] | None = None) -> None:
        self._node = node
        self._publishers: list[tuple[Output, Publisher]] = []
        prefix = f'~/{camera}/' if camera else '~/'
        try:
            for output in OUTPUTS:
                if not output.live:
                    continue
                try:
                    kind = message_class(output.message_type)
                except ImportError:
                    continue
                self._publishers.append((output, _publisher(
                    node, kind, prefix + output.name, output.qos, on_match)))
        except Exception:
            self.destroy()
            raise

    @property
    def wanted(self) -> bool:
        """Whether anybody subscribes to an output that is made of images."""
        return any(publisher.get_subscription_count() for output, publisher in self._publishers
                   if not output.qos.latched)

    def publish(self, answer: Answer) -> Published:
        """Publish the outputs of one image; one that fails does not keep the others back."""
        at, clock = None, 0
        failures: list[tuple[str, Exception]] = []
        for output, publisher in self._publishers:
            if output.qos.latched:
                continue
            try:
                self._send(output, publisher, answer)
            except Exception as error:
                failures.append((output.name, error))
                continue
            if output is OUTPUTS[0]:
                at, clock = time.monotonic(), self._node.get_clock().now().nanoseconds
        return Published(at, clock, failures)

    def introduce(self, labels: LabelSet) -> None:
        """Publish the latched outputs, which are sent once and kept for late subscribers."""
        header = message_class('std_msgs/msg/Header')(
            stamp=self._node.get_clock().now().to_msg())
        for output, publisher in self._publishers:
            if output.qos.latched:
                self._send(output, publisher, Answer(header, labels))

    def destroy(self) -> None:
        """Destroy the publishers."""
        while self._publishers:
            self._node.destroy_publisher(self._publishers.pop()[1])

    def _send(self, output: Output, publisher: Publisher, answer: Answer) -> None:
        if output.on_demand and not publisher.get_subscription_count():
            return
        content = output.content(answer, message_class)
        if content is not None:
            publisher.publish(encode_image(content.pixels, content.encoding, answer.header)
                              if isinstance(content, Picture) else content)


def _publisher(node: Node, kind: Any, topic: str, qos: Qos,
               on_match: Callable[[], None] | None) -> Publisher:
    """Return a publisher; ``on_match`` as for ``Publishers``."""
    from rclpy.qos_overriding_options import QoSOverridingOptions

    def create(events: Any = None) -> Publisher:
        return node.create_publisher(
            kind, topic, qos_profile(qos), event_callbacks=events,
            qos_overriding_options=QoSOverridingOptions.with_default_policies())

    if on_match is None:
        return create()
    try:
        from rclpy.event_handler import PublisherEventCallbacks, UnsupportedEventTypeError
    except ImportError:  # Humble
        return create()
    try:
        return create(PublisherEventCallbacks(matched=lambda event: on_match()))
    except UnsupportedEventTypeError:
        return create()


def message_class(name: str) -> Any:
    """
    Return rclpy's class of a message type.

    :raises ImportError: where its package is not installed.
    """
    package, _, message = name.split('/')
    return getattr(import_module(f'{package}.msg'), message)


def qos_profile(qos: Qos) -> QoSProfile:
    """Return rclpy's profile; a new one per topic, as rclpy writes a topic's overrides into it."""
    from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
    return QoSProfile(
        depth=qos.depth, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if qos.latched else DurabilityPolicy.VOLATILE)


def region_problem(info: Any) -> str:
    """Return why a camera info's region of interest lies outside its image, or ''."""
    roi = info.roi
    if (not info.width or roi.x_offset + roi.width <= info.width) \
            and (not info.height or roi.y_offset + roi.height <= info.height):
        return ''
    return (f'camera_info has a region of interest of {roi.width}x{roi.height} pixels at '
            f'({roi.x_offset}, {roi.y_offset}), outside its image of {info.width}x{info.height}')


def described_size(info: Any) -> tuple[int, int] | None:
    """Return (width, height) of the image that a camera info describes; None if it has none."""
    width = (info.roi.width or info.width) // max(1, info.binning_x)
    height = (info.roi.height or info.height) // max(1, info.binning_y)
    return (width, height) if width and height else None


def scaled_camera_info(info: Any, x: float, y: float, header: Any) -> Any:
    """
    Return the camera info of an image that was scaled by ``x`` and ``y``, with another header.

    Sizes, focal lengths, principal point, baseline terms and region of interest scale with the
    image; distortion and rectification do not depend on its size.

    :raises OutputError: where a size does not fit its field.
    """
    scaled = copy.copy(info)
    scaled.header = header
    if x == y == 1:
        return scaled
    roi = info.roi
    sizes = [round(pixels * scale) for pixels, scale in (
        (info.width, x), (info.height, y), (roi.x_offset, x), (roi.width, x), (roi.y_offset, y),
        (roi.height, y))]
    if max(sizes) >= 1 << 32:
        raise OutputError(f'camera_info, scaled to the mask, has a side of {max(sizes)} pixels: '
                          f'it is not published; remap camera_info')
    scaled.roi = copy.copy(roi)
    (scaled.width, scaled.height, scaled.roi.x_offset, scaled.roi.width, scaled.roi.y_offset,
     scaled.roi.height) = sizes
    scaled.k = [float(k) * s for k, s in zip(info.k, (x, x, x, y, y, y, 1, 1, 1))]
    scaled.p = [float(p) * s for p, s in zip(info.p, (x, x, x, x, y, y, y, y, 1, 1, 1, 1))]
    return scaled
