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
"""The mcap files that segment_bag writes: durable, locked, and checked when they are reopened."""
import errno
import fcntl
import json
import os
from pathlib import Path
import zlib

from featshare_ros.recordings import mcap_file
from featshare_ros.recordings.mcap_file import McapFile, UnknownFileError
from featshare_ros.recordings.mcap_records import (
    Channel,
    CHUNK_HEAD,
    definitions,
    header,
    metadata,
    plain_metadata,
    SETTINGS,
    STATE,
)
import pytest
from rosbags.rosbag2 import Reader

CHANNELS = [Channel(1, '/chatter', 'std_msgs/msg/String', 'string data', 'ros2msg'),
            Channel(2, '/numbers', 'std_msgs/msg/Int32', 'int32 data', 'ros2msg')]
WANTED = {'weights': '"default"', 'recording': '{}'}
CHUNKS = 4


def write_chunks(file, first=0):
    """Write the chunks that are missing, and close the file."""
    if not file.settings:
        file.begin(WANTED)
    for index in range(first, CHUNKS):
        for channel in (1, 2, 1):
            file.write(channel, 10 * index + channel, bytes([0, 1, 0, 0, index, channel]))
        file.checkpoint({'frames': index + 1, 'complete': index + 1 == CHUNKS})
        file.flush()
    file.close(lambda: None)


@pytest.fixture
def path(tmp_path):
    write_chunks(McapFile(tmp_path / 'a.mcap', CHANNELS))
    return tmp_path / 'a.mcap'


def ends(path):
    """Return where the start and each chunk end."""
    file = McapFile(path, CHANNELS)
    file.abandon()
    return [file._begin, *(chunk.end for chunk in file._chunks)]


def test_others_read_it(path):
    with Reader(path) as reader:
        assert [(c.topic, c.msgcount) for c in reader.connections] == [('/chatter', 8),
                                                                       ('/numbers', 4)]
        assert len(list(reader.messages())) == 12


def test_an_intact_file_is_found_to_be_so(path):
    before = path.read_bytes()
    file = McapFile(path, CHANNELS)
    assert file.settings == WANTED
    assert file.state == {'frames': CHUNKS, 'complete': True}
    assert file.is_closed
    assert file.counts == {1: 8, 2: 4}
    file.abandon()
    assert path.read_bytes() == before


@pytest.mark.parametrize(('damage', 'step'), [
    (lambda whole, at: whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1:], 5),
    (lambda whole, at: whole[:at] + bytes(4096) + whole[at + 4096:], 11),
    (lambda whole, at: whole[:at], 11)], ids=['bit', 'zeros', 'cut'])
def test_the_first_damage_is_the_end(path, damage, step):
    """Wherever a file is damaged, what comes before is continued to the file of one run."""
    whole, boundaries = path.read_bytes(), ends(path)
    start = 8 + len(header())
    for count, at in enumerate(range(start, len(whole), step)):
        damaged = damage(whole, at)
        path.write_bytes(damaged)
        file = McapFile(path, CHANNELS)
        assert not file.is_closed, at
        first_bad = next(index for index in range(at, len(whole))
                         if damaged[index:index + 1] != whole[index:index + 1])
        intact = sum(end <= first_bad for end in boundaries) - 1
        assert file.state.get('frames', 0) == max(intact, 0), at
        assert bool(file.settings) == (intact >= 0), at
        if count % 20 == 0:
            write_chunks(file, max(intact, 0))
            assert path.read_bytes() == whole, at
        else:
            file.abandon()


def test_another_programs_file_is_not_touched(tmp_path):
    for content in (b'a text', b'\x89MCAP0\r\n\x01' + bytes(8) + b'other', bytes(9) + b'x'):
        (tmp_path / 'a.mcap').write_bytes(content)
        with pytest.raises(UnknownFileError):
            McapFile(tmp_path / 'a.mcap', CHANNELS)
        assert (tmp_path / 'a.mcap').read_bytes() == content


@pytest.mark.parametrize('state', [
    '[]', '{}', '"text"', '[' * 100_000, '{"frames": 1', 'NaN', ''],
    ids=['list', 'none', 'text', 'deep', 'cut', 'number', 'empty'])
def test_a_state_that_is_none_is_damage_whatever_its_checksum(path, state):
    boundaries = ends(path)
    file = McapFile(path, CHANNELS)
    chunk = file._chunks[-1]
    at = chunk.offset + chunk.length
    crc = file._crc(at, chunk.index_length, zlib.crc32(file._read(chunk.offset, CHUNK_HEAD.size)))
    file.abandon()
    content = path.read_bytes()[:at + chunk.index_length]
    path.write_bytes(content + metadata(STATE, {'json': state}, crc))
    file = McapFile(path, CHANNELS)
    assert file.state == {'frames': CHUNKS - 1, 'complete': False}
    assert file._end == boundaries[-2]
    file.abandon()


def test_files_of_earlier_versions_have_no_checksums(path):
    """Their chunks are checked by mcap's own."""
    whole = path.read_bytes()
    old = whole[:8] + header() + b''.join(definitions(CHANNELS)) + plain_metadata(
        SETTINGS, WANTED)
    begin = len(old)
    file = McapFile(path, CHANNELS)
    chunk = file._chunks[0]
    file.abandon()
    old += whole[chunk.offset:chunk.offset + chunk.length + chunk.index_length]
    old += plain_metadata(STATE, {'json': json.dumps({'frames': 1})})
    path.write_bytes(old)
    file = McapFile(path, CHANNELS)
    assert (file.settings, file.state) == (WANTED, {'frames': 1})
    file.abandon()
    at = begin + 60  # in the chunk's messages
    path.write_bytes(old[:at] + bytes([old[at] ^ 1]) + old[at + 1:])
    file = McapFile(path, CHANNELS)
    assert (file.settings, file.state) == (WANTED, {})
    file.abandon()


def test_every_chunk_is_on_the_disk_before_it_counts(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, 'fsync', lambda file: (
        synced.append((tmp_path / 'a.mcap').stat().st_size), fsync(file)))
    file = McapFile(tmp_path / 'a.mcap', CHANNELS)
    file.begin(WANTED)
    assert synced == [file._end] * 2  # the file, and its name
    for index in range(3):
        file.write(1, index, b'content')
        file.checkpoint({'frames': index})
        file.flush()
        assert synced[-1] == file._end and len(synced) == 3 + index
    file.close(lambda: None)
    assert synced[-1] == (tmp_path / 'a.mcap').stat().st_size and len(synced) == 6


def test_a_chunk_that_does_not_reach_the_disk_is_no_chunk(path, monkeypatch):
    file = McapFile(path, CHANNELS)
    end = file._end
    file.write(1, 99, b'content')
    file.checkpoint({'frames': 99})

    def fail(descriptor):
        raise OSError(errno.EIO, 'Input/output error')
    with monkeypatch.context() as patch:
        patch.setattr(mcap_file.os, 'fsync', fail)
        with pytest.raises(OSError, match='Input/output error'):
            file.flush()
    assert path.stat().st_size == end
    file.abandon()
    file = McapFile(path, CHANNELS)
    assert file.state['frames'] == CHUNKS
    file.abandon()


def test_a_process_that_is_refused_has_changed_nothing(tmp_path, monkeypatch):
    """It may have found no file, and there was one when it opened it."""
    path = tmp_path / 'a.mcap'
    file = McapFile(path, CHANNELS)
    for content in (b'', None):
        if content is None:
            file.begin(WANTED)
            content = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(Path, 'exists', lambda self: False)
            with pytest.raises(BlockingIOError):
                McapFile(path, CHANNELS)
        assert path.read_bytes() == content
    write_chunks(file)
    McapFile(path, CHANNELS).abandon()


def test_a_file_that_its_writer_has_removed_is_not_continued(path, monkeypatch):
    flock = fcntl.flock

    def remove_first(*arguments):
        path.unlink()  # by the holder of the lock, who has waited
        flock(*arguments)
    monkeypatch.setattr(mcap_file.fcntl, 'flock', remove_first)
    with pytest.raises(FileNotFoundError, match='another process has removed it'):
        McapFile(path, CHANNELS)


@pytest.mark.parametrize(('number', 'kept'), [
    (errno.EACCES, 40), (errno.EIO, 40), (errno.ENOSPC, 37)])
def test_chunks_are_given_up_only_for_room_and_not_all(tmp_path, monkeypatch, number, kept):
    # Every chunk was lost where metadata.yaml could not be written for any other reason.
    monkeypatch.setattr(mcap_file, 'ROOM', 300)
    file = McapFile(tmp_path / 'a.mcap', CHANNELS)
    file.begin(WANTED)
    for index in range(40):
        file.write(1, index, bytes(50))
        file.checkpoint({'frames': index + 1, 'complete': False})
        file.flush()
    sizes = {chunk.end - chunk.offset for chunk in file._chunks}

    def then():
        raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=os.strerror(number)):
        file.close(then)
    assert min(sizes) > 100
    again = McapFile(tmp_path / 'a.mcap', CHANNELS)
    assert len(again._chunks) >= kept
    assert again.state['frames'] == len(again._chunks)
    again.abandon()


def test_finished_chunks_after_damage_are_counted(path):
    """What a crash leaves counts none: chunks are on the disk one after the other."""
    whole, (begin, first, second, third, _) = path.read_bytes(), ends(path)
    start = 8 + len(header())
    for content, lost in (
            (whole, 0), (b'', 0), (whole[:start] + bytes(99) + whole[start + 99:], CHUNKS),
            (whole[:begin + 50] + bytes(20) + whole[begin + 70:], CHUNKS - 1),
            (whole[:begin + 50] + bytes(20) + whole[begin + 70:first], 0),
            (whole[:begin + 50] + bytes(20) + whole[begin + 70:second], 1),
            (whole[:start + 9] + bytes(4096), 0), (whole[:begin], 0),
            (whole[:first + 50] + bytes(20) + whole[first + 70:], 2),
            (whole[:first + 50] + bytes(20) + whole[first + 70:second], 0),
            (whole[:third + 50] + bytes(20) + whole[third + 70:], 0)):
        path.write_bytes(content)
        file = McapFile(path, CHANNELS)
        assert file.lost_chunks == lost
        file.abandon()
