"""What a segmented recording holds beside the original: topics, messages, and metadata.yaml."""
from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import yaml

from featshare_core.inference.segmenter import Result
from featshare_core.labels import LabelSet
from featshare_core.overlay import paint
from featshare_ros.recordings.bag import COMPRESSED_IMAGE, IMAGE, image_message, message_types
from featshare_ros.recordings.bag_input import CameraTopic, DecodedImage
from featshare_ros.recordings.mcap_file import Channel, McapFile

NODE = '/segmentation'
"""Topics are called as the live node's."""

TIMING = 'diagnostic_msgs/msg/DiagnosticArray'
LABEL_INFO = 'vision_msgs/msg/LabelInfo'
OVERLAY_OPACITY, OVERLAY_QUALITY = 0.5, 90

# As the node offers them: reliable, and latched for the class names.
_QOS = """\
- history: 1
  depth: {depth}
  reliability: 1
  durability: {durability}
  deadline: {{sec: 9223372036, nsec: 854775807}}
  lifespan: {{sec: 9223372036, nsec: 854775807}}
  liveliness: 1
  liveliness_lease_duration: {{sec: 9223372036, nsec: 854775807}}
  avoid_ros_namespace_conventions: false"""
RELIABLE = _QOS.format(depth=5, durability=2)
LATCHED = _QOS.format(depth=1, durability=1)


@dataclass(frozen=True)
class Wanted:
    """Which outputs a recording gets."""

    raw: bool = False
    """Masks and confidences as raw Image; otherwise as PNG, which loses nothing."""
    overlay: bool = False
    confidence: bool = False


@functools.cache
def output_types() -> Any:
    """Return rosbags' message types with LabelInfo, which needs no vision_msgs that way."""
    from rosbags.typesys import get_types_from_msg
    types = message_types()
    types.register({
        **get_types_from_msg('uint16 class_id\nstring class_name', 'vision_msgs/msg/VisionClass'),
        **get_types_from_msg('std_msgs/Header header\nvision_msgs/VisionClass[] class_map\n'
                             'float32 threshold', LABEL_INFO)})
    return types


class Outputs:
    """
    The topics that are written for some cameras, and their messages.

    :param first_id: of the channels, the number of the first.
    """

    def __init__(self, cameras: Sequence[CameraTopic], wanted: Wanted, first_id: int) -> None:
        self._wanted = wanted
        self.channels: list[Channel] = []
        self._ids: dict[tuple[str, str], int] = {}
        picture, suffix = (IMAGE, '') if wanted.raw else (COMPRESSED_IMAGE, '/compressed')
        for camera in cameras:
            prefix = f'{NODE}/{camera.name}' if camera.name else NODE
            topics = [('mask', f'mask{suffix}', picture, RELIABLE)]
            if wanted.confidence:
                topics.append(('confidence', f'confidence{suffix}', picture, RELIABLE))
            if wanted.overlay:
                topics.append(('overlay', 'overlay/compressed', COMPRESSED_IMAGE, RELIABLE))
            topics += [('timing', 'timing', TIMING, RELIABLE),
                       ('label_info', 'label_info', LABEL_INFO, LATCHED)]
            for kind, name, message_type, qos in topics:
                channel = first_id + len(self.channels)
                self._ids[camera.name, kind] = channel
                types = output_types()
                self.channels.append(Channel(
                    channel, f'{prefix}/{name}', message_type,
                    types.generate_msgdef(message_type, ros_version=2)[0], 'ros2msg', qos,
                    types.hash_rihs01(message_type)))

    def messages(self, camera: CameraTopic, image: DecodedImage, result: Result | None,
                 labels: LabelSet, device: str) -> list[tuple[int, bytes]]:
        """Return channel id and content of what is written for an image, in the node's order."""
        made: list[tuple[str, str, Any]] = []
        if result is not None:
            assert image.frame is not None
            made.append(self._picture('mask', result.mask, image.header))
            if result.confidence is not None:
                made.append(self._picture('confidence', result.confidence, image.header))
            if self._wanted.overlay:
                rgb = paint(image.frame, result.mask, labels, OVERLAY_OPACITY)
                jpeg = cv2.imencode('.jpg', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR),
                                    [cv2.IMWRITE_JPEG_QUALITY, OVERLAY_QUALITY])[1]
                made.append(('overlay', COMPRESSED_IMAGE, _compressed(
                    image.header, 'rgb8; jpeg compressed bgr8', jpeg)))
        if image.header is not None:
            made.append(('timing', TIMING, _timing(camera, image, result, device)))
        types = output_types()
        return [(self._ids[camera.name, kind], bytes(types.serialize_cdr(message, message_type)))
                for kind, message_type, message in made]

    def label_info(self, camera: CameraTopic, header: Any, labels: LabelSet) -> tuple[int, bytes]:
        """Return channel id and content of the class names, with the header of an image."""
        types = output_types()
        entry = types.types['vision_msgs/msg/VisionClass']
        message = types.types[LABEL_INFO](header=header, threshold=0.0, class_map=[
            entry(class_id=index, class_name=name) for index, name in enumerate(labels.names)])
        return (self._ids[camera.name, 'label_info'],
                bytes(types.serialize_cdr(message, LABEL_INFO)))

    def _picture(self, kind: str, pixels: npt.NDArray[np.uint8], header: Any,
                 ) -> tuple[str, str, Any]:
        """Return kind, type and message of a picture of bytes."""
        if self._wanted.raw:
            return kind, IMAGE, image_message(pixels, 'mono8', header)
        # Masks are runs of equal ids: little is gained by a search for longer patterns.
        png = cv2.imencode('.png', pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1,
                                            cv2.IMWRITE_PNG_STRATEGY,
                                            cv2.IMWRITE_PNG_STRATEGY_RLE])[1]
        return kind, COMPRESSED_IMAGE, _compressed(header, 'mono8; png compressed ', png)


def _compressed(header: Any, form: str, data: Any) -> Any:
    return message_types().types[COMPRESSED_IMAGE](
        header=header, format=form, data=np.asarray(data, np.uint8).reshape(-1))


def _timing(camera: CameraTopic, image: DecodedImage, result: Result | None, device: str) -> Any:
    """Return what is known of an image: key or current, its lag, the milliseconds of stages."""
    types = message_types().types
    values = {}
    if result is not None:
        values = {'key frame': str(result.is_key), 'key reason': result.key_reason,
                  'frames since key': str(result.frames_since_key),
                  **{f'{stage} (ms)': f'{ms:.3f}' for stage, ms in result.timings.items()}}
    entry = types['diagnostic_msgs/msg/KeyValue']
    level = 0 if result is not None else 2
    status = types['diagnostic_msgs/msg/DiagnosticStatus'](
        level=level, name=f'segmentation: {camera.name or "camera"}',
        message=image.problem and f'image left out: {image.problem}', hardware_id=device,
        values=[entry(key=key, value=value) for key, value in values.items()])
    return types[TIMING](header=image.header, status=[status])


def write_metadata(path: Path, file: McapFile, channels: Sequence[Channel]) -> None:
    """Write the metadata.yaml that makes the folder of an mcap file a rosbag2 recording."""
    counts, (start, end) = file.counts, file.times

    def times() -> dict[str, Any]:  # anew for each place, or YAML would write references
        return {'starting_time': {'nanoseconds_since_epoch': start},
                'duration': {'nanoseconds': end - start}, 'message_count': sum(counts.values())}

    topics = [{'topic_metadata': {
        'name': channel.topic, 'type': channel.message_type, 'serialization_format': 'cdr',
        'offered_qos_profiles': channel.qos, 'type_description_hash': channel.type_hash},
        'message_count': counts[channel.id]} for channel in channels]
    content = yaml.safe_dump({'rosbag2_bagfile_information': {
        # What comes after version 8 is not readable for Humble's ros2 bag.
        'version': 8, 'storage_identifier': 'mcap', **times(),
        'relative_file_paths': [path.name], 'topics_with_message_count': topics,
        'compression_format': '', 'compression_mode': '',
        'files': [{'path': path.name, **times()}],
        'custom_data': None, 'ros_distro': 'featshare_ros'}}, sort_keys=False)
    temporary = path.with_name('metadata.yaml.part')
    try:
        temporary.write_text(content)
        temporary.replace(path.with_name('metadata.yaml'))
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
