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
"""What a segmented recording adds to the original: topics, messages, and metadata.yaml."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import functools
from pathlib import Path
from typing import Any

import cv2
from featshare_core.inference.segmenter import Result
from featshare_core.labels import LabelSet
from featshare_ros.outputs import Answer, IMAGE, LABEL_INFO, Output, OUTPUTS, Picture, Qos
from featshare_ros.recordings.bag import COMPRESSED_IMAGE, image_message, message_types
from featshare_ros.recordings.bag_input import CameraTopic, DecodedImage
from featshare_ros.recordings.mcap_file import McapFile
from featshare_ros.recordings.mcap_records import Channel
import numpy as np
import yaml

METADATA_FILE = 'metadata.yaml'
NODE = '/segmentation'
"""Prefix of the written topics: the live node's name."""

OVERLAY_QUALITY = 90
"""JPEG quality of recorded overlays, 0 to 100."""

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


@dataclass(frozen=True)
class Wanted:
    """Which outputs a recording gets."""

    raw: bool = False
    """Masks and confidences as raw Image; otherwise as PNG, which is lossless."""
    overlay: bool = False
    confidence: bool = False


@functools.cache
def output_types() -> Any:
    """Return rosbags' message types and LabelInfo, so that vision_msgs need not be installed."""
    from rosbags.typesys import get_types_from_msg
    types = message_types()
    types.register({
        **get_types_from_msg('uint16 class_id\nstring class_name', 'vision_msgs/msg/VisionClass'),
        **get_types_from_msg('std_msgs/Header header\nvision_msgs/VisionClass[] class_map\n'
                             'float32 threshold', LABEL_INFO)})
    return types


class Outputs:
    """
    The topics that are written for each camera, and their messages.

    :param first_id: id of the first channel.
    """

    def __init__(self, cameras: Sequence[CameraTopic], wanted: Wanted, first_id: int) -> None:
        self._wanted = wanted
        self.channels: list[Channel] = []
        self._ids: dict[tuple[str, str], int] = {}
        chosen = {'confidence': wanted.confidence, 'overlay': wanted.overlay}
        self._outputs = [output for output in OUTPUTS
                         if output.recorded and chosen.get(output.name, not output.on_demand)]
        types = output_types()
        for camera in cameras:
            prefix = f'{NODE}/{camera.name}' if camera.name else NODE
            for output in self._outputs:
                compressed = self._compresses(output)
                message_type = COMPRESSED_IMAGE if compressed else output.message_type
                channel = first_id + len(self.channels)
                self._ids[camera.name, output.name] = channel
                self.channels.append(Channel(
                    channel, f'{prefix}/{output.name}' + '/compressed' * compressed, message_type,
                    types.generate_msgdef(message_type, ros_version=2)[0], 'ros2msg',
                    _offered(output.qos), types.hash_rihs01(message_type)))

    def messages(self, camera: CameraTopic, image: DecodedImage, result: Result | None,
                 labels: LabelSet, device: str) -> list[tuple[int, bytes]]:
        """Return channel id and content of what is written for an image, in the node's order."""
        answer = Answer(image.header, labels, camera.name, image.frame, result, image.problem,
                        device)
        return self._made(answer, latched=False)

    def label_info(self, camera: CameraTopic, header: Any, labels: LabelSet) -> tuple[int, bytes]:
        """Return channel id and content of the class names, with the header of an image."""
        return self._made(Answer(header, labels, camera.name), latched=True)[0]

    def _made(self, answer: Answer, latched: bool) -> list[tuple[int, bytes]]:
        types, made = output_types(), []
        for output in self._outputs:
            if output.qos.latched != latched:
                continue
            content = output.content(answer, types.types.__getitem__)
            if content is None:
                continue
            message_type = output.message_type
            if isinstance(content, Picture):
                if self._compresses(output):
                    message_type = COMPRESSED_IMAGE
                    content = _compressed(answer.header, content)
                else:
                    content = image_message(content.pixels, content.encoding, answer.header)
            made.append((self._ids[answer.camera, output.name],
                         bytes(types.serialize_cdr(content, message_type))))
        return made

    def _compresses(self, output: Output) -> bool:
        """Return whether an output is compressed: overlays always, others unless raw is wanted."""
        return output.message_type == IMAGE and (output.on_demand or not self._wanted.raw)


def _compressed(header: Any, picture: Picture) -> Any:
    """Return rgb8 as JPEG and mono8 (class ids, confidence) as PNG, which is lossless."""
    if picture.encoding == 'rgb8':
        form = 'rgb8; jpeg compressed bgr8'
        data = cv2.imencode('.jpg', cv2.cvtColor(picture.pixels, cv2.COLOR_RGB2BGR),
                            [cv2.IMWRITE_JPEG_QUALITY, OVERLAY_QUALITY])[1]
    else:
        # Masks are runs of equal ids: run-length encoding is enough.
        form = 'mono8; png compressed '
        data = cv2.imencode('.png', picture.pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1,
                                                     cv2.IMWRITE_PNG_STRATEGY,
                                                     cv2.IMWRITE_PNG_STRATEGY_RLE])[1]
    return message_types().types[COMPRESSED_IMAGE](
        header=header, format=form, data=np.asarray(data, np.uint8).reshape(-1))


def _offered(qos: Qos) -> str:
    """Return a quality of service as metadata.yaml holds it."""
    return _QOS.format(depth=qos.depth, durability=1 if qos.latched else 2)


def bag_metadata(path: Path, file: McapFile, channels: Sequence[Channel]) -> str:
    """Return the metadata.yaml that makes the folder of an mcap file a rosbag2 recording."""
    counts, (start, end) = file.counts, file.times

    def times() -> dict[str, Any]:  # a new one per place, or YAML would write references
        return {'starting_time': {'nanoseconds_since_epoch': start},
                'duration': {'nanoseconds': end - start}, 'message_count': sum(counts.values())}

    topics = [{'topic_metadata': {
        'name': channel.topic, 'type': channel.message_type, 'serialization_format': 'cdr',
        'offered_qos_profiles': channel.qos, 'type_description_hash': channel.type_hash},
        'message_count': counts[channel.id]} for channel in channels]
    return str(yaml.safe_dump({'rosbag2_bagfile_information': {
        # Humble's ros2 bag reads versions up to 8.
        'version': 8, 'storage_identifier': 'mcap', **times(),
        'relative_file_paths': [path.name], 'topics_with_message_count': topics,
        'compression_format': '', 'compression_mode': '',
        'files': [{'path': path.name, **times()}],
        'custom_data': None, 'ros_distro': 'featshare_ros'}}, sort_keys=False))
