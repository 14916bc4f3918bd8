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
Damaged mcap files: a reason or an answer, in little time and memory, and never another exception.

FUZZ_EXAMPLES (200) is their number; the number of a damaged file is the seed that makes it.
"""
import os
import random
import struct
import threading
import zlib

from bags import write_bag
from budget import mutated
from featshare_ros.recordings.bag import RecordingError
from featshare_ros.recordings.bag_input import BagInput, decode
from featshare_ros.recordings.mcap_file import McapFile
from featshare_ros.recordings.mcap_records import (
    CHUNK,
    CHUNK_HEAD,
    metadata,
    PREFIX,
    STATE,
)
import pytest
from test_mcap_file import CHANNELS, write_chunks

EXAMPLES = int(os.environ.get('FUZZ_EXAMPLES', '200'))
BUDGET_S = 2.0
"""Limit of the CPU time for one file, in seconds."""
BUDGET_MIB = 64
"""Limit by which one file may raise the largest memory of the process, in MiB."""


def with_checksums(content: bytes) -> bytes:
    """Return an mcap file of uncompressed chunks without checksums, with them."""
    data, at = bytearray(content), 8
    while at + PREFIX.size < len(data):
        kind, length = PREFIX.unpack_from(data, at)
        if kind == CHUNK:
            messages = data[at + CHUNK_HEAD.size:at + PREFIX.size + length]
            struct.pack_into('<I', data, at + PREFIX.size + 24, zlib.crc32(messages))
        at += PREFIX.size + length
    assert data != content
    return bytes(data)


@pytest.mark.parametrize('checksums', [True, False])
def test_recordings(tmp_path, checksums, budget):
    limits = budget(BUDGET_S, BUDGET_MIB)
    path = tmp_path / 'in' / 'in.mcap'
    write_bag(tmp_path / 'in', frames=4, size=(16, 24), cameras=('front',), compressed=True)
    content = with_checksums(path.read_bytes()) if checksums else path.read_bytes()
    found = {'read': 0, 'refused': 0}

    def read():
        try:
            with BagInput(path, (), copy=True) as bag:
                bag.channels()
                for group in bag.groups(threading.Event()):
                    if group.camera is not None:
                        decode(group.camera, group.image)
            found['read'] += 1
        except RecordingError:
            found['refused'] += 1

    path.write_bytes(content)
    read()
    assert found == {'read': 1, 'refused': 0}
    for number in range(EXAMPLES):
        path.write_bytes(mutated(content, random.Random(number)))
        with limits.one_input(f'file {number}'):
            read()
    assert min(found.values()) > EXAMPLES / 20, found


@pytest.mark.parametrize('checksums', [True, False])
def test_outputs_that_are_reopened(tmp_path, checksums, budget):
    """Of the file, or of the JSON in it, whose checksum is that of what is there."""
    limits = budget(BUDGET_S, BUDGET_MIB)
    path = tmp_path / 'a.mcap'
    write_chunks(McapFile(path, CHANNELS))
    whole = path.read_bytes()
    file = McapFile(path, CHANNELS)
    chunk = file._chunks[-1]
    at = chunk.offset + CHUNK_HEAD.size + chunk.size
    crc = zlib.crc32(whole[at:at + chunk.index_length],
                     zlib.crc32(whole[chunk.offset:chunk.offset + CHUNK_HEAD.size]))
    file.abandon()
    found = set()

    def reopen():
        try:
            file = McapFile(path, CHANNELS)
        except ValueError:  # another program's
            return
        found.add(len(file._chunks))
        file.abandon()

    for number in range(EXAMPLES):
        rng = random.Random(number)
        if checksums:
            path.write_bytes(mutated(whole, rng))
        else:
            text = mutated(b'{"frames": 4, "complete": true, "keys": {"front": 3}}', rng)
            path.write_bytes(whole[:at + chunk.index_length] + metadata(
                STATE, {'json': text.decode(errors='replace')}, crc))
        with limits.one_input(f'file {number}'):
            reopen()
    assert len(found) > 1, found
