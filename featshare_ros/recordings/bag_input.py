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
"""All messages of a recording in log order, grouped by the images to be segmented."""
from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
import re
import threading
from types import TracebackType
from typing import Any

from featshare_core.inference.engine import Frame
from featshare_core.text import printable
from featshare_ros.images import (
    decode_compressed,
    decode_image,
    FULL_RANGE,
    ImageError,
    stamp_seconds,
)
from featshare_ros.recordings.bag import (
    COMPRESSED_IMAGE,
    describe_topics,
    IMAGE,
    message_types,
    only_image_topic,
    open_bag,
    read_messages,
    RecordingError,
)
from featshare_ros.recordings.mcap_records import Channel
import yaml

GROUP_BYTES = 4 << 20
"""Size from which messages of other topics do not wait for the next image, in bytes."""


@dataclass(frozen=True)
class CameraTopic:
    """An image topic to be segmented; ``name`` is its stream, empty where it is the only one."""

    name: str
    topic: str
    message_type: str


@dataclass
class Group:
    """
    Messages that follow each other in the recording: any others, then at most one image.

    ``position`` counts the messages read up to the group's end.
    """

    position: int = 0
    copies: list[tuple[int, int, bytes]] = field(default_factory=list)
    """Messages to be copied: channel id, log time, content; the image too."""
    camera: CameraTopic | None = None
    log_time: int = 0
    image: bytes = b''


@dataclass(frozen=True)
class DecodedImage:
    """An image's header, and its picture or what is wrong with it."""

    header: Any
    frame: Frame | None
    problem: str = ''

    @property
    def stamp(self) -> float | None:
        """Return the header's stamp in seconds; None for zero, which means not set."""
        return stamp_seconds(self.header.stamp.sec, self.header.stamp.nanosec)


class BagInput:
    """
    A recording and which of its topics are cameras: a context manager.

    :param topics: image topics, each as TOPIC or NAME=TOPIC; empty for the only one there is.
    :param copy: whether to read the messages of all topics, or only those of the cameras.
    :raises RecordingError: where the recording or a topic of it is missing or unreadable.
    """

    def __init__(self, path: Path, topics: Sequence[str], copy: bool) -> None:
        self.path = path
        self._reader = open_bag(path)
        try:
            self.cameras = self._choose(topics)
        except RecordingError:
            self.close()
            raise
        by_topic = {camera.topic: camera for camera in self.cameras}
        wanted = [connection for connection in self._reader.connections
                  if copy or connection.topic in by_topic]
        self._connections = wanted
        self._cameras = {connection.id: by_topic[connection.topic] for connection in wanted
                         if connection.topic in by_topic and connection.msgtype
                         == by_topic[connection.topic].message_type}
        # As the reader numbers them, from 1 on.
        self._channels = {connection.id: number for number, connection in enumerate(wanted, 1)} \
            if copy else {}
        self.frame_count = sum(connection.msgcount for connection in wanted
                               if connection.id in self._cameras)
        self.identity = {'messages': self._reader.message_count,
                         'start': self._reader.start_time, 'duration': self._reader.duration}
        """Figures that identify the recording, whatever its path."""

    def _choose(self, wanted: Sequence[str]) -> list[CameraTopic]:
        """Find the connections of the wanted topics, or the only image topic."""
        types = {connection.topic: connection.msgtype for connection in self._reader.connections
                 if connection.msgtype in (IMAGE, COMPRESSED_IMAGE)}
        wanted = wanted or [only_image_topic(self._reader, self.path)]
        pairs = [(name, topic) for name, _, topic in (text.rpartition('=') for text in wanted)]
        for _, topic in pairs:
            if topic not in types:
                raise RecordingError(f'{self.path}: no image topic {topic!r}; '
                                     f'{describe_topics(self._reader)}')
        cameras = [CameraTopic(name or ('' if len(pairs) == 1 else camera_name(topic)), topic,
                               types[topic]) for name, topic in pairs]
        for camera in cameras:
            if len({c.name for c in cameras}) < len(cameras) or \
                    not re.fullmatch('([A-Za-z][A-Za-z0-9_]*)?', camera.name):
                raise RecordingError(
                    f'{", ".join(c.topic for c in cameras)} would get the camera names '
                    f'{", ".join(repr(c.name) for c in cameras)}: give each a different name of '
                    f'letters, digits and underscores, as in --topic front={camera.topic}')
        return cameras

    def channels(self) -> list[Channel]:
        """Return the channels to copy into, as ``Group.copies`` numbers them."""
        types = message_types()
        channels = []
        for connection in self._connections if self._channels else ():
            definition, encoding = connection.msgdef.data, connection.msgdef.format.name.lower()
            if not definition and connection.msgtype in types.types:
                # Humble's sqlite3 recordings contain no message definitions.
                definition = types.generate_msgdef(connection.msgtype, ros_version=2)[0]
                encoding = 'msg'
            channels.append(Channel(
                self._channels[connection.id], connection.topic, connection.msgtype, definition,
                {'msg': 'ros2msg', 'idl': 'ros2idl'}.get(encoding, '') if definition else '',
                dump_qos(connection.ext.offered_qos_profiles), connection.digest))
        return channels

    def groups(self, stop: threading.Event, start: int = 0,
               again: Collection[int] = ()) -> Iterator[Group]:
        """
        Read all messages in log order.

        :param stop: the reading ends early once this is set.
        :param start: the position to begin after.
        :param again: positions of images before ``start`` that are read nevertheless.
        :raises UnreadableError: as ``read_messages`` does.
        """
        messages = read_messages(self._reader, self._connections, self.path)
        position, size, group = 0, 0, Group()
        while not stop.is_set():
            try:
                entry = next(messages, None)
            except RecordingError:
                if group.copies:
                    yield group
                raise
            if entry is None:
                if group.copies:
                    yield group
                return
            connection, log_time, data = entry
            position += 1
            if position <= start:
                if position in again:
                    yield Group(position, [], self._cameras.get(connection.id), log_time, data)
                continue
            group.position = position
            channel = self._channels.get(connection.id)
            if channel is not None:
                group.copies.append((channel, log_time, data))
                size += len(data)
            group.camera = self._cameras.get(connection.id)
            if group.camera is not None:
                group.log_time, group.image = log_time, data
            if group.camera is not None or size >= GROUP_BYTES:
                yield group
                group, size = Group(), 0

    def close(self) -> None:
        """Close the file."""
        if self._reader.is_open:
            self._reader.close()

    def __enter__(self) -> BagInput:
        """Return the recording, which is open already."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Close the file."""
        self.close()


def decode(camera: CameraTopic, content: bytes, bits: int = FULL_RANGE) -> DecodedImage:
    """
    Return the picture of a serialized image message (CDR), or what is wrong with it.

    :param bits: as for ``images.decode_image``.
    """
    try:
        message = message_types().deserialize_cdr(content, camera.message_type)
    except Exception as error:  # of any type
        return DecodedImage(None, None, f'damaged message: {printable(error, 200)}')
    compressed = camera.message_type == COMPRESSED_IMAGE
    try:
        frame = decode_compressed(message, bits=bits) if compressed \
            else decode_image(message, bits)
    except ImageError as error:
        return DecodedImage(message.header, None, str(error))
    return DecodedImage(message.header, frame)


def camera_name(topic: str) -> str:
    """Return a name for a camera from its topic: ``front`` for /front/image_raw/compressed."""
    parts = topic.strip('/').split('/')
    if len(parts) > 1 and parts[-1] == 'compressed':
        parts.pop()
    if len(parts) > 1 and 'image' in parts[-1]:
        parts.pop()
    return '_'.join(parts)


def dump_qos(profiles: Sequence[Any]) -> str:
    """Return rosbags' QoS profiles as rosbag2 writes them: a YAML list as a string."""
    if not profiles:
        return ''
    return yaml.safe_dump([{
        'history': qos.history.value, 'depth': qos.depth, 'reliability': qos.reliability.value,
        'durability': qos.durability.value,
        **{name: {'sec': time.sec, 'nsec': time.nsec} for name, time in (
            ('deadline', qos.deadline), ('lifespan', qos.lifespan))},
        'liveliness': qos.liveliness.value,
        'liveliness_lease_duration': {'sec': qos.liveliness_lease_duration.sec,
                                      'nsec': qos.liveliness_lease_duration.nsec},
        'avoid_ros_namespace_conventions': qos.avoid_ros_namespace_conventions,
    } for qos in profiles], sort_keys=False)
