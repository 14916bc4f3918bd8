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
"""Recordings for tests: two cameras with interleaved stamps, other topics, and what is in them."""
from pathlib import Path

import cv2
from featshare_ros.recordings.bag import COMPRESSED_IMAGE, IMAGE, message_types
from featshare_ros.recordings.bag_output import output_types
import numpy as np
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import Reader, StoragePlugin, Writer

STRING = 'std_msgs/msg/String'
QOS = [Qos(QosHistory.KEEP_LAST, 7, QosReliability.BEST_EFFORT, QosDurability.VOLATILE,
           QosTime(0, 0), QosTime(0, 0), QosLiveliness.AUTOMATIC, QosTime(0, 0), False)]


def picture(index, height=48, width=64):
    """Return a smooth picture that changes with the index."""
    y, x = np.arange(height)[:, None], np.arange(width)[None]
    wave = 120 + 100 * np.sin(x / 9 + index / 3) * np.cos(y / 7 - index / 5)
    return np.dstack([wave, 255 - wave, (x + y + 9 * index) % 256]).astype(np.uint8)


def write_bag(path, *, storage='mcap', compressed=False, frames=14, cameras=('front', 'rear'),
              size=(48, 64), chatter=True, stamps=None):
    """Write a recording; its log times are 3 ms after the stamps. Return it as a list."""
    types = message_types()
    time_type, header_type = (types.types[name] for name in (
        'builtin_interfaces/msg/Time', 'std_msgs/msg/Header'))
    kind = COMPRESSED_IMAGE if compressed else IMAGE
    messages = []
    with Writer(path, version=8, storage_plugin=StoragePlugin[storage.upper()]) as writer:
        topics = {camera: writer.add_connection(
            f'/{camera}/image_raw' + '/compressed' * compressed, kind, typestore=types,
            offered_qos_profiles=QOS) for camera in cameras}
        text = writer.add_connection('/chatter', STRING, typestore=types)
        for index in range(frames * len(cameras)):
            camera = cameras[index % len(cameras)]
            stamp = stamps[index] if stamps else 10**9 + index * 33_333_333
            header = header_type(stamp=time_type(*divmod(stamp, 10**9)), frame_id=camera)
            rgb = picture(index, *size)
            if compressed:
                data = cv2.imencode('.jpg', rgb[..., ::-1])[1].reshape(-1)
                message = types.types[kind](header=header, format='rgb8; jpeg', data=data)
            else:
                message = types.types[kind](
                    header=header, height=size[0], width=size[1], encoding='rgb8',
                    is_bigendian=0, step=3 * size[1], data=rgb.reshape(-1))
            log_time = 10**9 + index * 33_333_333 + 3_000_000
            entries = [(topics[camera], log_time, bytes(types.serialize_cdr(message, kind)))]
            if chatter:
                note = types.types[STRING](data=f'note {index}')
                entries.append((text, log_time + 1_000_000,
                                bytes(types.serialize_cdr(note, STRING))))
            for connection, time, content in entries:
                writer.write(connection, time, content)
                messages.append((connection.topic, time, content))
    return messages


def contents(path):
    """Return topic, log time and content of every message, in order."""
    with Reader(Path(path)) as reader:
        return [(connection.topic, time, bytes(data))
                for connection, time, data in reader.messages(reader.connections)]


def outputs(path):
    """Return {topic: [(log time, message), ...]} of what segment_bag wrote."""
    types, found = output_types(), {}
    with Reader(Path(path)) as reader:
        for connection, time, data in reader.messages(
                [c for c in reader.connections if c.topic.startswith('/segmentation')]):
            found.setdefault(connection.topic, []).append(
                (time, types.deserialize_cdr(data, connection.msgtype)))
    return found


def without_times(path):
    """Return ``contents`` with the milliseconds, which no two runs share, taken out."""
    types, result = output_types(), []
    for topic, time, content in contents(path):
        if topic.endswith('/timing'):
            message = types.deserialize_cdr(content, 'diagnostic_msgs/msg/DiagnosticArray')
            status = message.status[0]
            content = (str(message.header), status.message, [
                (value.key, '' if '(ms)' in value.key else value.value)
                for value in status.values])
        result.append((topic, time, content))
    return result
