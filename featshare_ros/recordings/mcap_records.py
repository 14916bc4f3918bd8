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
"""Records of mcap files (https://mcap.dev/spec): encoding, and decoding of those written here."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import struct
import zlib

MAGIC = b'\x89MCAP0\r\n'
LIBRARY = 'featshare_ros'
SETTINGS, STATE = f'{LIBRARY}/settings', f'{LIBRARY}/state'
CHECKED = '/checked'
"""Ending of the names of metadata with a checksum; that of earlier versions has none."""
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX, CHUNK_INDEX = range(1, 9)
STATISTICS, METADATA, SUMMARY_OFFSET, DATA_END = 0x0b, 0x0c, 0x0e, 0x0f
PREFIX = struct.Struct('<BQ')
"""Kind and length of a record, before its content."""
CHUNK_HEAD = struct.Struct('<BQQQQIIQ')
"""A chunk before its messages: uncompressed, so that the name of the compression is empty."""


@dataclass(frozen=True)
class Channel:
    """
    A topic of the file.

    ``schema_encoding`` is ros2msg, ros2idl or empty for unknown, ``qos`` as rosbag2 writes it.
    """

    id: int  # noqa: A003
    topic: str
    message_type: str
    schema: str
    schema_encoding: str
    qos: str = ''
    type_hash: str = ''


@dataclass
class Chunk:
    """A chunk's entry in the summary; ``end`` is where the state after the chunk ends."""

    offset: int
    start_time: int
    end_time: int
    size: int
    """Bytes of its messages."""
    end: int = 0
    index_length: int = 0
    index_offsets: dict[int, int] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Bytes of its record."""
        return CHUNK_HEAD.size + self.size

    def head(self, crc: int) -> bytes:
        """Return the start of its record, up to the messages whose CRC-32 is ``crc``."""
        return CHUNK_HEAD.pack(CHUNK, self.length - PREFIX.size, self.start_time, self.end_time,
                               self.size, crc, 0, self.size)


def parse_chunk_head(head: bytes, offset: int) -> tuple[Chunk, int]:
    """
    Return a chunk that starts at ``offset``, and the CRC-32 of its messages.

    :raises ValueError: where it is none that ``Chunk.head`` writes.
    """
    if len(head) < CHUNK_HEAD.size:
        raise ValueError('truncated chunk')
    _, _, start, end, size, crc, _, _ = CHUNK_HEAD.unpack(head)
    chunk = Chunk(offset, start, end, size)
    if chunk.head(crc) != head:
        raise ValueError('not an uncompressed chunk')
    return chunk, crc


def record(kind: int, body: bytes) -> bytes:
    """Return a record of any kind."""
    return PREFIX.pack(kind, len(body)) + body


def plain_metadata(name: str, content: dict[str, str]) -> bytes:
    """Return a metadata record."""
    pairs = _pairs(content)
    return record(METADATA, _string(name) + struct.pack('<I', len(pairs)) + pairs)


def metadata(name: str, content: dict[str, str], crc: int) -> bytes:
    """
    Return a metadata record with a checksum.

    :param crc: CRC-32 of the records before it that the checksum is to cover too.
    """
    checksum = zlib.crc32(_pairs(content), crc)
    return plain_metadata(name + CHECKED, {**content, 'crc': f'{checksum:08x}'})


def parse_metadata(body: bytes, crc: int) -> tuple[str, dict[str, str]]:
    """
    Return name and content of a metadata record.

    :param crc: as for ``metadata``.
    :raises ValueError, KeyError, struct.error: where it is damaged.
    """
    length, = struct.unpack_from('<I', body)
    texts = _strings(body[8 + length:])
    content = dict(zip(texts[::2], texts[1::2], strict=True))
    name = body[4:4 + length].decode()
    if name.endswith(CHECKED):
        name = name.removesuffix(CHECKED)
        content.pop('crc')
        intact = metadata(name, content, crc)
    else:
        intact = plain_metadata(name, content)
    if record(METADATA, body) != intact:
        raise ValueError('wrong checksum')
    return name, content


def header() -> bytes:
    """Return the record that names the writer."""
    return record(HEADER, _string('ros2') + _string(LIBRARY))


def definitions(channels: Sequence[Channel]) -> list[bytes]:
    """Return the records of all schemas, then of all channels."""
    schemas: dict[str, int] = {}
    records = []
    for channel in channels:
        if channel.message_type not in schemas:
            schemas[channel.message_type] = len(schemas) + 1
            records.append(record(SCHEMA, struct.pack('<H', len(schemas)) + b''.join(map(
                _string, (channel.message_type, channel.schema_encoding, channel.schema)))))
    for channel in channels:
        qos = _pairs({'offered_qos_profiles': channel.qos})
        records.append(record(CHANNEL, struct.pack(
            '<HH', channel.id, schemas[channel.message_type]) + _string(channel.topic)
            + _string('cdr') + struct.pack('<I', len(qos)) + qos))
    return records


def message_index(channel: int, entries: Sequence[tuple[int, int]]) -> bytes:
    """Return the index of a channel's messages in a chunk: log time and offset of each."""
    return record(MESSAGE_INDEX, struct.pack('<HI', channel, 16 * len(entries))
                  + b''.join(struct.pack('<QQ', *entry) for entry in entries))


def chunk_index(chunk: Chunk) -> bytes:
    """Return a chunk's entry in the summary."""
    offsets = b''.join(struct.pack('<HQ', *entry) for entry in chunk.index_offsets.items())
    return record(CHUNK_INDEX, struct.pack(
        '<QQQQI', chunk.start_time, chunk.end_time, chunk.offset, chunk.length, len(offsets))
        + offsets + struct.pack('<QIQQ', chunk.index_length, 0, chunk.size, chunk.size))


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack('<I', len(data)) + data


def _pairs(content: dict[str, str]) -> bytes:
    return b''.join(_string(key) + _string(value) for key, value in content.items())


def _strings(data: bytes) -> list[str]:
    """Return the strings in a sequence of length-prefixed ones."""
    texts, at = [], 0
    while at < len(data):
        length, = struct.unpack_from('<I', data, at)
        at += 4 + length
        texts.append(data[at - length:at].decode())
    return texts
