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
"""Recordings: what is written is read back, and what cannot be read says why."""
from __future__ import annotations

import itertools
from pathlib import Path
import sys

import cv2
from featshare_ros.images import decode_compressed, decode_image
from featshare_ros.recordings.bag import (
    COMPRESSED_IMAGE,
    IMAGE,
    open_recording,
    RecordingError,
    START_NS,
    write_recording,
)
import numpy as np
import pytest

SIZE, COUNT, FPS = (48, 64), 9, 12.5
RECORDINGS = Path(__file__).parents[2] / 'shared' / 'data' / 'recordings'


def picture(index: int) -> np.ndarray:
    """Return a smooth picture, another for every index, that JPEG keeps nearly as it is."""
    rows, columns = np.mgrid[:SIZE[0], :SIZE[1]]
    return np.dstack([rows * 4, columns * 3, np.full(SIZE, 20 + index * 20)]).astype(np.uint8)


def pictures() -> list[np.ndarray]:
    return [picture(index) for index in range(COUNT)]


@pytest.mark.parametrize('storage, suffix', [('mcap', '.mcap'), ('sqlite3', '.db3')])
@pytest.mark.parametrize('quality', [None, 95])
def test_round_trip(tmp_path: Path, storage: str, suffix: str, quality: int | None) -> None:
    directory = tmp_path / 'bag'
    assert write_recording(directory, pictures(), '/cam/image', FPS, quality, storage) == COUNT
    for path in (directory, directory / f'bag{suffix}'):
        with open_recording(path) as recording:
            assert recording.topic == '/cam/image'
            assert recording.message_type == (IMAGE if quality is None else COMPRESSED_IMAGE)
            assert recording.frame_count == COUNT
            assert recording.duration == pytest.approx((COUNT - 1) / FPS, abs=1e-6)
            for _ in range(2):  # iterating again starts over
                images = list(recording)
                assert len(images) == COUNT
        for index, image in enumerate(images):
            assert image.compressed == (quality is not None) and image.topic == '/cam/image'
            assert image.stamp_ns == image.log_time_ns == START_NS + round(index * 1e9 / FPS)
            assert image.message.header.frame_id == 'camera'
            decode = decode_compressed if image.compressed else decode_image
            error = np.abs(decode(image.message).astype(int) - picture(index)).max()
            assert error <= (8 if image.compressed else 0)


def test_serialized_is_what_rclpy_reads(tmp_path: Path) -> None:
    from rclpy.serialization import deserialize_message
    from sensor_msgs.msg import CompressedImage, Image

    for name, quality, kind in (('raw', None, Image), ('jpeg', 90, CompressedImage)):
        write_recording(tmp_path / name, pictures(), '/cam', FPS, quality)
        with open_recording(tmp_path / name) as recording:
            image = next(itertools.islice(recording, 3, None))
        message = deserialize_message(image.serialized, kind)
        stamp = message.header.stamp
        assert stamp.sec * 10**9 + stamp.nanosec == image.stamp_ns
        assert bytes(message.data) == image.message.data.tobytes()


def test_topic_is_chosen_or_named(tmp_path: Path) -> None:
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import get_typestore, Stores

    types = get_typestore(Stores.ROS2_JAZZY)
    header = types.types['std_msgs/msg/Header'](
        stamp=types.types['builtin_interfaces/msg/Time'](sec=7, nanosec=5), frame_id='x')
    text = types.types['std_msgs/msg/String'](data='hello')
    jpeg = types.types[COMPRESSED_IMAGE](header=header, format='jpeg', data=np.ones(4, np.uint8))

    def write(name: str, *topics: str) -> Path:
        with Writer(tmp_path / name, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            kind = 'std_msgs/msg/String'
            chatter = writer.add_connection('/chatter', kind, typestore=types)
            writer.write(chatter, 1, types.serialize_cdr(text, kind))
            writer.add_connection('/empty/image', IMAGE, typestore=types)
            for topic in topics:
                connection = writer.add_connection(topic, COMPRESSED_IMAGE, typestore=types)
                writer.write(connection, 2, types.serialize_cdr(jpeg, COMPRESSED_IMAGE))
        return tmp_path / name

    with open_recording(write('one', '/front')) as recording:  # without a word about the others
        assert (recording.topic, recording.frame_count) == ('/front', 1)
        assert [image.stamp_ns for image in recording] == [7_000_000_005]
    two = write('two', '/front', '/rear')
    with open_recording(two, '/rear') as recording:
        assert {image.topic for image in recording} == {'/rear'}
    with pytest.raises(RecordingError, match='choose with --topic: /front, /rear'):
        open_recording(two)
    with pytest.raises(RecordingError, match=r"no image topic '/left'.*/front .*/rear \(sensor_m"):
        open_recording(two, '/left')
    with pytest.raises(RecordingError, match=r"no image topic '/chatter'"):
        open_recording(two, '/chatter')
    with pytest.raises(RecordingError, match=r'no images in it; .*/chatter \(std_msgs/msg/Str'):
        open_recording(write('none'))


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match='no such file'):
        open_recording(tmp_path / 'missing')
    with pytest.raises(RecordingError, match=r'metadata\.yaml'):
        open_recording(tmp_path)
    for name, message in (('a.txt', 'not a rosbag2'), ('a.bag', 'rosbags-convert'),
                          ('a.mp4', 'cannot read it as a video'),
                          ('a.mcap', 'unreadable or truncated'),
                          ('a.db3', 'unreadable or truncated')):
        (tmp_path / name).write_bytes(b'no recording at all' * 50)
        with pytest.raises(RecordingError, match=message):
            open_recording(tmp_path / name)
    (tmp_path / 'metadata.yaml').write_text('rosbag2_bagfile_information: {version: 5}')
    with pytest.raises(RecordingError, match='unreadable or truncated'):
        open_recording(tmp_path)


@pytest.mark.parametrize('storage, suffix', [('mcap', '.mcap'), ('sqlite3', '.db3')])
def test_damaged(tmp_path: Path, storage: str, suffix: str) -> None:
    """Cut or overwritten anywhere, a recording raises RecordingError or still reads."""
    write_recording(tmp_path / 'bag', pictures(), '/cam', FPS, None, storage)
    content = (tmp_path / 'bag' / f'bag{suffix}').read_bytes()
    damaged = tmp_path / f'damaged{suffix}'
    failures = 0
    for tenth in range(10):
        at = len(content) * tenth // 10
        for data in (content[:at], content[:at] + bytes(64) + content[at + 64:],
                     content[:at] + b'\xff' * 64 + content[at + 64:]):
            damaged.write_bytes(data)
            try:
                with open_recording(damaged) as recording:
                    assert len(list(recording)) <= COUNT
            except RecordingError:
                failures += 1
    assert failures >= 10


def test_video(tmp_path: Path) -> None:
    path = tmp_path / 'clip.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 20, SIZE[::-1])
    for frame in pictures():
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    with open_recording(path, '/dashcam') as recording:
        assert (recording.topic, recording.message_type) == ('/dashcam', IMAGE)
        assert recording.frame_count == COUNT and recording.duration == pytest.approx(COUNT / 20)
        for _ in range(2):
            images = list(recording)
            assert len(images) == COUNT
    for index, image in enumerate(images):
        assert image.stamp_ns == START_NS + index * 50_000_000 and not image.compressed
        assert np.abs(decode_image(image.message).astype(int) - picture(index)).max() <= 16
    with open_recording(path) as recording:
        assert recording.topic == '/camera/image_raw'


def test_write_refuses(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match='exists already'):
        write_recording(tmp_path, pictures(), '/cam', FPS)
    with pytest.raises(RecordingError, match='frame 1 is float64'):
        write_recording(tmp_path / 'bag', [picture(0), np.zeros((4, 4, 3))], '/cam', FPS)
    with pytest.raises(RecordingError, match=r'metadata\.yaml'):  # was not finished: is not read
        open_recording(tmp_path / 'bag')


def test_without_rosbags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'a.mcap').write_bytes(b'')
    monkeypatch.setitem(sys.modules, 'rosbags.rosbag2', None)
    with pytest.raises(ImportError, match='pip install rosbags'):
        open_recording(tmp_path / 'a.mcap')


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason='the recordings of real drives are not here')
@pytest.mark.parametrize('name, count, shape, topic', [
    ('aachen_000000_17hz', 30, (1024, 2048, 3), '/camera/image_raw/compressed'),
    ('aachen_000000_17hz/aachen_000000_17hz.mcap', 30, (1024, 2048, 3),
     '/camera/image_raw/compressed'),
    ('highway_960x540_25fps.mp4', 221, (540, 960, 3), '/camera/image_raw'),
    ('highway_1280x720_25fps.mp4', 100, (720, 1280, 3), '/camera/image_raw')])
def test_real_recordings(name: str, count: int, shape: tuple[int, ...], topic: str) -> None:
    with open_recording(RECORDINGS / name) as recording:
        assert recording.topic == topic
        assert recording.frame_count == count or name.endswith('.mp4')  # which may overstate it
        read, last_stamp = 0, -1
        for image in recording:
            read += 1
            assert image.stamp_ns > last_stamp
            last_stamp = image.stamp_ns
            if read == 1:
                decode = decode_compressed if image.compressed else decode_image
                assert decode(image.message).shape == shape
        assert read == count


def test_make_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from featshare_ros.recordings.make_recording import main

    (tmp_path / 'images').mkdir()
    for index in range(3):
        cv2.imwrite(str(tmp_path / 'images' / f'{index}.png'), picture(index)[..., ::-1])
    assert main([str(tmp_path / 'images'), str(tmp_path / 'a'), '--raw', '--fps', '10']) == 0
    with open_recording(tmp_path / 'a') as recording:
        images = list(recording)
        assert recording.topic == '/camera/image_raw'
    assert [image.stamp_ns - START_NS for image in images] == [0, 100_000_000, 200_000_000]
    np.testing.assert_array_equal(decode_image(images[2].message), picture(2))
    assert main(['street', str(tmp_path / 'b'), '--frames', '2', '--topic', '/front',
                 '--storage', 'sqlite3']) == 0
    assert '2 images of /front, 25 Hz' in capsys.readouterr().out
    with open_recording(tmp_path / 'b') as recording:
        assert recording.message_type == COMPRESSED_IMAGE and recording.frame_count == 2
    assert main([str(tmp_path / 'missing'), str(tmp_path / 'c')]) == 1
    assert 'missing does not exist' in capsys.readouterr().err
    assert not (tmp_path / 'c').exists()
