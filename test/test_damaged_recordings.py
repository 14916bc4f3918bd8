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
"""Recordings of which not everything can be read: a failure, and advice that helps."""
import struct
import threading
import zlib

from bags import contents, outputs, write_bag
from featshare_core.durable import write_durably
from featshare_ros.recordings.bag import (
    message_types,
    open_recording,
    RecordingError,
    UnreadableError,
)
from featshare_ros.recordings.bag_input import BagInput
from featshare_ros.recordings.compare import main as compare_bags
from featshare_ros.recordings.fleet import segment_one
from featshare_ros.recordings.mcap_records import (
    Channel,
    Chunk,
    CHUNK_HEAD,
    chunk_index,
    DATA_END,
    definitions,
    FOOTER,
    header,
    MAGIC,
    MESSAGE,
    record,
    STATISTICS,
)
from featshare_ros.recordings.segment_bag import main
from featshare_ros.recordings.segment_recording import Job
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

IMAGE = 'sensor_msgs/msg/Image'


def write_mcap(path, messages, index):
    """
    Write messages of one camera, (log time, content), as recorders do that omit parts of mcap.

    :param index: whether there is a chunk, with an index of chunks but not of messages.
    """
    definition = message_types().generate_msgdef(IMAGE, ros_version=2)[0]
    defined = definitions([Channel(1, '/camera/image_raw', IMAGE, definition, 'ros2msg')])
    start = b''.join((MAGIC, header(), *defined))
    data = b''.join(record(MESSAGE, struct.pack('<HIQQ', 1, 0, time, time) + content)
                    for time, content in messages)
    summary = b''
    if index:
        chunk = Chunk(len(start), messages[0][0], messages[-1][0], len(data))
        data = chunk.head(zlib.crc32(data)) + data
        assert len(data) == chunk.length and chunk.length > CHUNK_HEAD.size
        summary = b''.join((*defined, chunk_index(chunk), record(STATISTICS, struct.pack(
            '<QHIIIIQQIHQ', len(messages), 1, 1, 0, 0, 1, messages[0][0], messages[-1][0], 10, 1,
            len(messages)))))
    end = record(DATA_END, bytes(4))
    at = len(start) + len(data) + len(end) if index else 0
    write_durably(path, start + data + end + summary
                  + record(FOOTER, struct.pack('<QQI', at, 0, 0)) + MAGIC)


@pytest.fixture(scope='module')
def messages(tmp_path_factory):
    bag = tmp_path_factory.mktemp('whole') / 'bag'
    write_bag(bag, cameras=('camera',), frames=6, chatter=False)
    return [(time, content) for _, time, content in contents(bag)]


@pytest.fixture
def run(random_checkpoint, capsys):
    """Call segment_bag; return its exit status and what it printed."""
    def call(*arguments):
        status = main([*map(str, arguments), '--weights', str(random_checkpoint),
                       '--device', 'cpu', '--engine', 'torch', '--precision', 'fp32'])
        said = capsys.readouterr()
        return status, said.out + said.err
    return call


def test_an_index_of_chunks_alone(tmp_path, run, messages, random_checkpoint):
    """The reader finds no message by it, though the file counts six."""
    path = tmp_path / 'in.mcap'
    write_mcap(path, messages, index=True)
    for options in ((), ('--resume',)):  # nor is it complete the second time
        status, said = run(path, tmp_path / 'out', *options)
        assert status == 1
        assert 'only 0 of the 6 messages that it counts can be read' in said
        assert '`mcap recover`, which writes a new index' in said
        assert 'complete' not in said and '--resume' not in said
    row = segment_one('in', str(path), str(tmp_path / 'out'),
                      Job(weights=str(random_checkpoint), device='cpu', engine='torch',
                          precision='fp32'))
    assert row.state == 'failed'
    with open_recording(path) as recording, pytest.raises(RecordingError, match='only 0 of the 6'):
        list(recording)
    for copy in (False, True):
        with BagInput(path, (), copy) as bag, pytest.raises(UnreadableError, match='only 0 of'):
            list(bag.groups(threading.Event()))


def test_a_folder_that_counts_more_than_its_file(tmp_path, run):
    write_bag(tmp_path / 'in', cameras=('front',), frames=4, chatter=False)
    metadata = tmp_path / 'in' / 'metadata.yaml'
    metadata.write_text(metadata.read_text().replace('message_count: 4', 'message_count: 5'))
    status, said = run(tmp_path / 'in', tmp_path / 'out')
    assert status == 1
    assert 'only 4 of the 5 messages that it counts can be read' in said
    assert 'The 4 images until then are in' in said
    assert len(outputs(tmp_path / 'out')['/segmentation/mask/compressed']) == 4


def test_masks_that_are_missing_are_not_compared(tmp_path, capsys, run):
    write_bag(tmp_path / 'in', cameras=('front',), frames=4, chatter=False)
    assert run(tmp_path / 'in', tmp_path / 'out')[0] == 0
    metadata = tmp_path / 'out' / 'metadata.yaml'
    metadata.write_text(metadata.read_text().replace('message_count: 4', 'message_count: 5'))
    assert compare_bags([str(tmp_path / 'out'), str(tmp_path / 'out')]) == 1
    assert 'only 4 of the 5 messages' in capsys.readouterr().err


def test_messages_out_of_order_without_an_index(tmp_path, run, messages):
    order = [0, 1, 3, 2, 4, 5]
    write_mcap(tmp_path / 'in.mcap', [messages[index] for index in order], index=False)
    status, said = run(tmp_path / 'in.mcap', tmp_path / 'out')
    assert status == 1
    assert 'not in timestamp order' in said and '`mcap recover`, which writes a new index' in said
    assert 'The 3 images until then are in' in said
    assert '--resume' not in said


def test_a_file_without_an_index_in_order_is_read(tmp_path, run, messages):
    write_mcap(tmp_path / 'in.mcap', messages, index=False)
    assert run(tmp_path / 'in.mcap', tmp_path / 'out')[0] == 0
    assert len(outputs(tmp_path / 'out')['/segmentation/mask/compressed']) == 6


@pytest.mark.parametrize('storage', ['MCAP', 'SQLITE3'])
def test_compressed_messages_need_their_folder(tmp_path, run, messages, storage):
    types = message_types()
    writer = Writer(tmp_path / 'in', version=8, storage_plugin=StoragePlugin[storage])
    writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection('/camera/image_raw', IMAGE, typestore=types)
        for time, content in messages:
            writer.write(connection, time, content)
    assert run(tmp_path / 'in', tmp_path / 'folder')[0] == 0
    file, = (file for file in (tmp_path / 'in').iterdir() if file.suffix != '.yaml')
    status, said = run(file, tmp_path / 'file')
    assert status == 1
    assert 'compressed one by one (zstd' in said and 'name the folder' in said
    with open_recording(file) as recording, pytest.raises(RecordingError, match='name the folder'):
        next(iter(recording))
