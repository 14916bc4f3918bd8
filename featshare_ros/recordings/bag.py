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
Camera recordings: read from rosbag2 (mcap, sqlite3) and video files, written as rosbag2.

Reading and writing go through ``rosbags``, which needs no ROS installation; it is imported when a
recording is opened, so that the node runs without it.
"""
from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
import functools
import itertools
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
from featshare_core.text import printable
import numpy as np
import numpy.typing as npt

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
BAG_SUFFIXES = ('.mcap', '.db3')
VIDEO_SUFFIXES = ('.mp4', '.avi', '.mkv', '.mov', '.m4v', '.webm', '.mpg', '.mpeg')
VIDEO_TOPIC = '/camera/image_raw'
"""Default topic of a video file's frames."""

REPAIR = '`mcap recover`, which writes a new index, and `ros2 bag reindex` can repair some'
"""What to do with a damaged recording, for error messages."""
ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'
"""Start of data that zstd has compressed; a message in CDR starts with a zero."""

START_NS = 1_000_000_000
"""First stamp of a source without a clock, in nanoseconds; not 0, which tf reads as 'now'."""


class RecordingError(ValueError):
    """A recording that cannot be read or written; the text says why."""


class UnreadableError(RecordingError):
    """A recording that cannot be read as it is: a second attempt fails in the same way."""


@dataclass(frozen=True)
class RecordedImage:
    """One image message of a recording."""

    topic: str
    stamp_ns: int
    """The header's stamp, in nanoseconds."""
    log_time_ns: int
    """When it was recorded, in nanoseconds."""
    message: Any
    """An object with the fields of the message type, for ``featshare_ros.images``."""
    compressed: bool
    """Whether the message is a CompressedImage, not an Image."""
    serialized: bytes
    """The message in CDR, which a publisher of rclpy sends as it is."""


class Recording(abc.ABC):
    """
    The images of one topic of a recording: a context manager that iterates in log order.

    ``frame_count`` is exact for a rosbag2 recording and the container's own estimate for a video.
    ``duration`` is that of the whole recording, in seconds. Iterating again starts over.
    """

    topic: str
    message_type: str
    frame_count: int
    duration: float

    @abc.abstractmethod
    def __iter__(self) -> Iterator[RecordedImage]:
        """
        Read the images in log order.

        :raises RecordingError: where the file turns out to be damaged or incomplete.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Recording:
        """Return the recording, which is open already."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Close the file."""
        self.close()


def open_recording(path: str | Path, topic: str = '') -> Recording:
    """
    Open a recording of a camera.

    :param path: a rosbag2 directory, a single .mcap or .db3 file, or a video file.
    :param topic: the image topic; may be empty where the recording has only one. For a video, the
        topic that its frames get.
    :raises RecordingError: where the path is missing or unreadable, or the topic is missing or
        not unique; the message lists the topics of the recording.
    :raises ImportError: where rosbags is not installed.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        return _VideoRecording(path, topic or VIDEO_TOPIC)
    return _BagRecording(path, topic)


def open_bag(path: Path) -> Any:
    """
    Return rosbags' reader, open, of a rosbag2 directory or a single .mcap or .db3 file.

    :raises RecordingError, ImportError: as ``open_recording`` does.
    """
    if not path.exists():
        raise RecordingError(f'{path}: no such file or directory')
    if path.is_dir():
        if not (path / 'metadata.yaml').exists():
            raise RecordingError(f'{path}: a rosbag2 directory has a metadata.yaml, this one has '
                                 'none; name the .mcap or .db3 file, or run `ros2 bag reindex`')
    elif path.suffix not in BAG_SUFFIXES:
        raise _no_bag(path)
    reader_class = _import_rosbags('rosbag2').Reader
    try:
        reader = reader_class(path)
        reader.open()
        return reader
    except Exception as error:  # of any type: rosbags' own, sqlite's, yaml's, struct's, ...
        raise RecordingError(
            f'{path}: unreadable or truncated recording: {error}; {REPAIR}') from error


def read_messages(reader: Any, connections: Sequence[Any],
                  path: Path) -> Iterator[tuple[Any, int, bytes]]:
    """
    Yield connection, log time and content (CDR) of the messages in rosbags' reader, in log order.

    :param connections: those to be read, of the reader; at least one.
    :param path: the recording's, for messages.
    :raises UnreadableError: where the recording is damaged or compressed, or holds fewer messages
        than it counts.
    """
    count, expected = 0, sum(connection.msgcount for connection in connections)
    try:
        for connection, log_time, content in reader.messages(connections):
            if content[:4] == ZSTD_MAGIC:
                raise UnreadableError(
                    f'{path}: its messages are compressed one by one (zstd, compression mode '
                    '"message" of rosbag2), as its metadata.yaml says: name the folder that '
                    'holds both, not the file')
            count += 1
            yield connection, log_time, content
    except UnreadableError:
        raise
    except Exception as error:  # of any type: rosbags' own, sqlite's, zstd's, ...
        raise UnreadableError(f'{path}: unreadable after {count} messages: '
                              f'{str(error).rstrip(".")}; {REPAIR}') from error
    if count < expected:
        raise UnreadableError(f'{path}: only {count} of the {expected} messages that it counts '
                              f'can be read: its index or its metadata.yaml is wrong; {REPAIR}')


def _no_bag(path: Path) -> RecordingError:
    """Return the error for a file that is not a recording."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return RecordingError(f'{path} is a video, not a recording: `make_recording {path} OUT` '
                              f'makes a recording of it, `featshare segment {path} OUT` masks')
    hint = {'.bag': '; convert it with `rosbags-convert`',
            '.zstd': '; name the folder with its metadata.yaml'}.get(path.suffix, '')
    return RecordingError(f'{path}: not a rosbag2 directory, {", ".join(BAG_SUFFIXES)} or video '
                          f'file ({", ".join(VIDEO_SUFFIXES)}){hint}')


def describe_topics(reader: Any) -> str:
    """Return one line with every topic of rosbags' reader and its type."""
    topics = {f'{printable(connection.topic)} ({printable(connection.msgtype)}, '
              f'{connection.msgcount} messages)'
              for connection in reader.connections}
    return f'its topics: {", ".join(sorted(topics))}' if topics else 'it has no topics'


def only_image_topic(reader: Any, path: Path) -> str:
    """
    Return the only topic of rosbags' reader that has images.

    :raises RecordingError: where there is none, or several.
    """
    topics = sorted({connection.topic for connection in reader.connections
                     if connection.msgtype in (IMAGE, COMPRESSED_IMAGE) and connection.msgcount})
    if not topics:
        raise RecordingError(f'{path}: no images in it; {describe_topics(reader)}')
    if len(topics) > 1:
        raise RecordingError(f'{path}: several image topics, choose with --topic: '
                             f'{", ".join(topics)}')
    return topics[0]


class _BagRecording(Recording):
    """A rosbag2 recording."""

    # Not rosbags' AnyReader: it parses the definition of every type in the recording, and fails
    # on one that it does not understand, even if no image needs it.

    def __init__(self, path: Path, topic: str) -> None:
        self._path = path
        self._reader = open_bag(path)
        self._types = message_types()
        try:
            self._choose(topic)
        except RecordingError:
            self.close()
            raise
        self.duration = self._reader.duration / 1e9

    def _choose(self, topic: str) -> None:
        """Find the connections of the wanted topic, or of the only image topic."""
        images = [connection for connection in self._reader.connections
                  if connection.msgtype in (IMAGE, COMPRESSED_IMAGE)]
        topic = topic or only_image_topic(self._reader, self._path)
        chosen = [connection for connection in images if connection.topic == topic]
        if not chosen:
            raise RecordingError(f'{self._path}: no image topic {topic!r}; '
                                 f'{describe_topics(self._reader)}')
        self.topic, self.message_type = topic, chosen[0].msgtype
        self._connections = [connection for connection in chosen
                             if connection.msgtype == self.message_type]
        self.frame_count = sum(connection.msgcount for connection in self._connections)

    def __iter__(self) -> Iterator[RecordedImage]:
        """Read the images in log order."""
        messages = read_messages(self._reader, self._connections, self._path)
        compressed = self.message_type == COMPRESSED_IMAGE
        for index, (_, log_time_ns, serialized) in enumerate(messages):
            try:
                message = self._types.deserialize_cdr(serialized, self.message_type)
                stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            except Exception as error:  # of any type, as in open_bag
                raise RecordingError(f'{self._path}: image {index} of {self.topic} is unreadable: '
                                     f'{error}') from error
            yield RecordedImage(self.topic, stamp_ns, log_time_ns, message, compressed,
                                bytes(serialized))

    def close(self) -> None:
        """Close the file."""
        if self._reader.is_open:
            self._reader.close()


class _VideoRecording(Recording):
    """A video file, its frames as bgr8 images that are stamped by the frame rate."""

    message_type = IMAGE

    def __init__(self, path: Path, topic: str) -> None:
        self._types = message_types()
        self._path, self.topic = path, topic
        self._video = self._open()
        self._fps = self._video.get(cv2.CAP_PROP_FPS)
        if not 0 < self._fps < 10_000:
            self.close()
            raise RecordingError(f'{path}: the video has no usable frame rate ({self._fps})')
        self.frame_count = max(0, int(self._video.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.duration = self.frame_count / self._fps

    def _open(self) -> cv2.VideoCapture:
        """Open the file at its first frame."""
        video = cv2.VideoCapture(str(self._path))
        if not video.isOpened() or not video.grab():
            raise RecordingError(f'{self._path}: OpenCV cannot read it as a video: it is '
                                 'truncated, or in a format that is not built in')
        video.release()
        return cv2.VideoCapture(str(self._path))

    def __iter__(self) -> Iterator[RecordedImage]:
        """Read the frames in order."""
        self._video.release()
        self._video = self._open()
        index = 0
        while True:
            ok, bgr = self._video.read()
            if not ok:
                return
            stamp_ns = START_NS + round(index * 1e9 / self._fps)
            message = image_message(bgr, 'bgr8', _header(self._types, stamp_ns))
            serialized = bytes(self._types.serialize_cdr(message, IMAGE))
            yield RecordedImage(self.topic, stamp_ns, stamp_ns, message, False, serialized)
            index += 1

    def close(self) -> None:
        """Close the file."""
        self._video.release()


def write_recording(path: str | Path, frames: Iterable[npt.NDArray[np.uint8]], topic: str,
                    fps: float, jpeg_quality: int | None = None, storage: str = 'mcap') -> int:
    """
    Write pictures as a rosbag2 recording and return their number.

    metadata.yaml is written last: a recording without it is incomplete.

    :param path: the directory to create; it must not exist.
    :param frames: HxWx3 uint8 RGB arrays.
    :param topic: for example /camera/image_raw, and /camera/image_raw/compressed for JPEG.
    :param fps: frames per second; stamps and log times follow it from ``START_NS`` on.
    :param jpeg_quality: 1 to 100 for JPEG in CompressedImage, None for Image of rgb8.
    :param storage: 'mcap' or 'sqlite3'.
    :raises RecordingError: where the path exists, or a frame is not HxWx3 uint8.
    """
    rosbag2 = _import_rosbags('rosbag2')
    types = message_types()
    if Path(path).exists():
        raise RecordingError(f'{path}: exists already, not overwritten')
    # Read before the directory is made: a source that cannot be read leaves nothing behind.
    rest = iter(frames)
    first = list(itertools.islice(rest, 1))
    # Humble's ros2 bag reads versions up to 8.
    writer = rosbag2.Writer(path, version=8, storage_plugin=rosbag2.StoragePlugin[storage.upper()])
    message_type = IMAGE if jpeg_quality is None else COMPRESSED_IMAGE
    count = 0
    with writer:
        connection = writer.add_connection(topic, message_type, typestore=types)
        for count, rgb in enumerate(itertools.chain(first, rest), start=1):
            if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
                raise RecordingError(f'frame {count - 1} is {rgb.dtype} of shape {rgb.shape}, '
                                     'not HxWx3 uint8')
            stamp_ns = START_NS + round((count - 1) * 1e9 / fps)
            if jpeg_quality is None:
                message = image_message(rgb, 'rgb8', _header(types, stamp_ns))
            else:
                message = _jpeg_message(types, rgb, jpeg_quality, stamp_ns)
            writer.write(connection, stamp_ns, types.serialize_cdr(message, message_type))
    return count


def image_message(pixels: npt.NDArray[np.uint8], encoding: str, header: Any) -> Any:
    """Return rosbags' Image of HxW or HxWx3 samples, its rows unpadded."""
    height, width = pixels.shape[:2]
    return message_types().types[IMAGE](
        header=header, height=height, width=width, encoding=encoding, is_bigendian=0,
        step=pixels.size // height, data=np.ascontiguousarray(pixels).reshape(-1))


def _jpeg_message(types: Any, rgb: npt.NDArray[np.uint8], quality: int, stamp_ns: int) -> Any:
    """Return rosbags' CompressedImage with an RGB picture as JPEG."""
    _, jpeg = cv2.imencode('.jpg', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR),
                           [cv2.IMWRITE_JPEG_QUALITY, quality])
    return types.types[COMPRESSED_IMAGE](header=_header(types, stamp_ns),
                                         format='rgb8; jpeg compressed bgr8', data=jpeg)


def _header(types: Any, stamp_ns: int) -> Any:
    """Return rosbags' Header of a camera."""
    sec, nanosec = divmod(stamp_ns, 10**9)
    stamp = types.types['builtin_interfaces/msg/Time'](sec=sec, nanosec=nanosec)
    return types.types['std_msgs/msg/Header'](stamp=stamp, frame_id='camera')


@functools.cache
def message_types() -> Any:
    """Return rosbags' message types; those used here are the same in every ROS 2."""
    typesys = _import_rosbags('typesys')
    return typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)


def _import_rosbags(module: str) -> Any:
    """Return a module of rosbags; raise ImportError with the install command without it."""
    try:
        import rosbags.rosbag2
        import rosbags.typesys
    except ImportError as error:
        raise ImportError('recordings are read and written with rosbags, which is not installed: '
                          'pip install rosbags') from error
    return getattr(rosbags, module)
