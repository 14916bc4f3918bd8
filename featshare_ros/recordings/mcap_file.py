"""
An mcap file that is written in order and can be continued after any interruption.

The layout is that of https://mcap.dev/spec: header, schemas, channels, then chunks of messages
with their indexes, then a summary. After every chunk comes a metadata record with the writer's
state at that point, which other readers skip. What follows the last such record is incomplete;
``reopen`` discards it.
"""
from __future__ import annotations

import fcntl
import json
import os
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAGIC = b'\x89MCAP0\r\n'
LIBRARY = 'featshare_ros'
SETTINGS, STATE = f'{LIBRARY}/settings', f'{LIBRARY}/state'
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX, CHUNK_INDEX = range(1, 9)
STATISTICS, METADATA, SUMMARY_OFFSET, DATA_END = 0x0b, 0x0c, 0x0e, 0x0f

CHUNK_BYTES = 4 << 20
CHUNK_SECONDS = 5.0
"""Largest size and age of a chunk, in bytes and seconds: the most that a crash loses."""

State = dict[str, Any]


class UnknownFileError(ValueError):
    """A file that this module did not write."""


@dataclass(frozen=True)
class Channel:
    """
    A topic of the file.

    ``schema_encoding`` is ros2msg, ros2idl or empty for unknown, ``qos`` as rosbag2 writes it.
    """

    id: int
    topic: str
    message_type: str
    schema: str
    schema_encoding: str
    qos: str = ''
    type_hash: str = ''


@dataclass
class _Chunk:
    """A chunk's entry in the summary; ``end`` is where the state after the chunk ends."""

    offset: int
    length: int
    start_time: int
    end_time: int
    size: int
    end: int = 0
    index_length: int = 0
    index_offsets: dict[int, int] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)


class McapFile:
    """
    A file whose channels are all known when it is created.

    One process at a time can open it; for others, opening raises BlockingIOError.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open('r+b' if path.exists() else 'w+b', buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.settings: dict[str, str] = {}
        self.state: State = {}
        self._channels: Sequence[Channel] = ()
        self._chunks: list[_Chunk] = []
        self._begin = self._end = 0
        self._pending: State | None = None
        self._clear()

    @classmethod
    def create(cls, path: Path, channels: Sequence[Channel], settings: dict[str, str]) -> McapFile:
        """
        Create a file, or overwrite one.

        :param settings: stored in the file, and available again when it is reopened.
        """
        file = cls(path)
        file._channels = channels
        parts = [MAGIC, _record(HEADER, _string('ros2') + _string(LIBRARY)),
                 *_definitions(channels), _metadata(SETTINGS, settings)]
        file.settings = settings
        file._append(parts)
        file._begin = file._end
        return file

    @classmethod
    def reopen(cls, path: Path, channels: Sequence[Channel]) -> McapFile:
        """
        Continue a file: what follows the last state is discarded with the first chunk written.

        :param channels: the same as when it was created.
        :raises UnknownFileError: where another program wrote the file. A file that ends before
            its settings is returned without settings.
        """
        file = cls(path)
        file._channels = channels
        try:
            file._scan()
        except BaseException:
            file._file.close()
            raise
        return file

    @property
    def counts(self) -> dict[int, int]:
        """Number of messages in finished chunks, by channel id."""
        total = dict.fromkeys((channel.id for channel in self._channels), 0)
        for chunk in self._chunks:
            for channel, count in chunk.counts.items():
                total[channel] += count
        return total

    @property
    def times(self) -> tuple[int, int]:
        """First and last log time of finished chunks, in nanoseconds; zeros without chunks."""
        chunks = [chunk for chunk in self._chunks if chunk.counts]
        return (min((chunk.start_time for chunk in chunks), default=0),
                max((chunk.end_time for chunk in chunks), default=0))

    def write(self, channel: int, log_time: int, data: bytes | memoryview) -> None:
        """Add a message (CDR, log time in nanoseconds) to the chunk, which is held in memory."""
        self._index.setdefault(channel, []).append((log_time, self._size))
        head = struct.pack('<BQHIQQ', MESSAGE, 22 + len(data), channel, 0, log_time, log_time)
        self._parts += (head, data)
        self._size += len(head) + len(data)

    def checkpoint(self, state: State) -> None:
        """
        Store the state after the messages so far; write the chunk if it is large or old enough.

        :raises OSError: where writing fails. The file then ends with the previous chunk.
        """
        self._pending = state
        if self._size >= CHUNK_BYTES or time.monotonic() - self._since >= CHUNK_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the chunk and the state; raises as ``checkpoint`` does."""
        if self._pending is None or (not self._parts and self._pending == self.state):
            return
        chunk, parts = self._compose()
        state = self._pending
        self._clear()
        self._append(parts)
        chunk.end = self._end
        self.state = state
        self._chunks.append(chunk)

    def close(self, then: Callable[[], None]) -> None:
        """
        Write the summary, which makes the file readable for others, call ``then``, and close it.

        Where there is no room for both, chunks are removed from the end until there is.

        :raises OSError: where it fails even without chunks.
        """
        try:
            while True:
                try:
                    self._append(self._summary())
                    return then()
                except OSError:
                    if not self._chunks:
                        raise
                    self._give_up_chunk()
        finally:
            self._file.close()

    def abandon(self) -> None:
        """Close the file as it is, to be reopened later."""
        self._file.close()

    def _give_up_chunk(self) -> None:
        """Remove the last chunk, and restore the state before it."""
        self._chunks.pop()
        self.state, self._end = {}, self._begin
        if self._chunks:
            last = self._chunks[-1]
            at = last.offset + last.length + last.index_length
            self._end = last.end
            content = _parse_metadata(self._read(at + 9, last.end - at - 9))[1]
            self.state = json.loads(content['json'])

    def _clear(self) -> None:
        """Start a new chunk."""
        self._parts: list[bytes | memoryview] = []
        self._index: dict[int, list[tuple[int, int]]] = {}
        self._size = 0
        self._since = time.monotonic()
        self._pending = None

    def _compose(self) -> tuple[_Chunk, list[bytes | memoryview]]:
        """Return the chunk with its records: head, messages, indexes, state."""
        times = [entry[0] for entries in self._index.values() for entry in entries]
        start, end = min(times, default=0), max(times, default=0)
        crc = 0
        for part in self._parts:
            crc = zlib.crc32(part, crc)
        head = struct.pack('<BQQQQIIQ', CHUNK, 40 + self._size, start, end, self._size, crc, 0,
                           self._size)
        chunk = _Chunk(self._end, len(head) + self._size, start, end, self._size)
        at = chunk.offset + chunk.length
        indexes = []
        for channel, entries in self._index.items():
            body = struct.pack('<HI', channel, 16 * len(entries))
            body += b''.join(struct.pack('<QQ', *entry) for entry in entries)
            indexes.append(_record(MESSAGE_INDEX, body))
            chunk.index_offsets[channel] = at
            chunk.counts[channel] = len(entries)
            at += len(indexes[-1])
        chunk.index_length = at - chunk.offset - chunk.length
        state = _metadata(STATE, {'json': json.dumps(self._pending)})
        return chunk, [head, *self._parts, *indexes, state]

    def _append(self, parts: Sequence[bytes | memoryview]) -> None:
        """Write at the end, or leave the file as it was and raise."""
        # An earlier run's remainder goes first: partly overwritten, it could look complete.
        self._file.truncate(self._end)
        self._file.seek(self._end)
        try:
            for part in parts:
                rest = memoryview(part)
                while rest:
                    rest = rest[self._file.write(rest):]
        except OSError:
            self._file.truncate(self._end)
            raise
        self._end = self._file.tell()

    def _summary(self) -> list[bytes]:
        """Return everything from the end of the data to the end of the file."""
        data_end = _record(DATA_END, bytes(4))
        start = at = self._end + len(data_end)
        definitions = _definitions(self._channels)
        schemas = len(definitions) - len(self._channels)
        groups = {SCHEMA: definitions[:schemas], CHANNEL: definitions[schemas:],
                  CHUNK_INDEX: [_chunk_index(chunk) for chunk in self._chunks],
                  STATISTICS: [self._statistics(schemas)]}
        offsets = []
        for kind, records in groups.items():
            length = sum(map(len, records))
            if length:
                offsets.append(_record(SUMMARY_OFFSET, struct.pack('<BQQ', kind, at, length)))
            at += length
        footer = _record(FOOTER, struct.pack('<QQI', start, at, 0))
        return [data_end, *(record for records in groups.values() for record in records),
                *offsets, footer, MAGIC]

    def _statistics(self, schemas: int) -> bytes:
        counts = self.counts
        body = struct.pack('<QHIIIIQQ', sum(counts.values()), schemas, len(self._channels), 0,
                           1 + len(self._chunks), len(self._chunks), *self.times)
        body += struct.pack('<I', 10 * len(counts))
        return _record(STATISTICS, body + b''.join(
            struct.pack('<HQ', *entry) for entry in sorted(counts.items())))

    def _scan(self) -> None:
        """Find the chunks up to the last state."""
        size = self._file.seek(0, os.SEEK_END)
        head = self._read(0, 8)
        # After a loss of power the file may contain zeros.
        if not MAGIC.startswith(head.rstrip(b'\0')):
            raise UnknownFileError('it is not an mcap file')
        at, chunk = len(MAGIC), None
        while at + 9 <= size:
            kind, length = struct.unpack('<BQ', self._read(at, 9))
            body, following = at + 9, at + 9 + length
            if following > size:
                break
            if kind == HEADER and _strings(self._read(body, length)) != ['ros2', LIBRARY]:
                raise UnknownFileError('another program wrote it')
            if kind == CHUNK:
                times = struct.unpack('<QQQ', self._read(body, 24))
                chunk = _Chunk(at, 9 + length, *times)
            elif kind == MESSAGE_INDEX and chunk is not None:
                channel, entries = struct.unpack('<HI', self._read(body, 6))
                chunk.index_offsets[channel] = at
                chunk.counts[channel] = entries // 16
                chunk.index_length += 9 + length
            elif kind == METADATA:
                name, content = _parse_metadata(self._read(body, length))
                if name == SETTINGS:
                    self.settings = content
                    self._begin = self._end = following
                elif name == STATE and chunk is not None:
                    self.state = json.loads(content['json'])
                    chunk.end = self._end = following
                    self._chunks.append(chunk)
                    chunk = None
            elif kind not in (HEADER, SCHEMA, CHANNEL):
                break  # the summary, or the remains after a loss of power
            at = following

    def _read(self, at: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, at)


def _record(kind: int, body: bytes) -> bytes:
    return struct.pack('<BQ', kind, len(body)) + body


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack('<I', len(data)) + data


def _metadata(name: str, content: dict[str, str]) -> bytes:
    pairs = b''.join(_string(key) + _string(value) for key, value in content.items())
    return _record(METADATA, _string(name) + struct.pack('<I', len(pairs)) + pairs)


def _strings(data: bytes) -> list[str]:
    """Return the strings in a sequence of length-prefixed ones."""
    texts, at = [], 0
    while at < len(data):
        length, = struct.unpack_from('<I', data, at)
        texts.append(data[at + 4:at + 4 + length].decode())
        at += 4 + length
    return texts


def _parse_metadata(body: bytes) -> tuple[str, dict[str, str]]:
    length, = struct.unpack_from('<I', body)
    pairs = _strings(body[8 + length:])
    return body[4:4 + length].decode(), dict(zip(pairs[::2], pairs[1::2]))


def _definitions(channels: Sequence[Channel]) -> list[bytes]:
    """Return the records of all schemas, then of all channels."""
    schemas: dict[str, int] = {}
    records = []
    for channel in channels:
        if channel.message_type not in schemas:
            schemas[channel.message_type] = len(schemas) + 1
            records.append(_record(SCHEMA, struct.pack('<H', len(schemas)) + b''.join(map(
                _string, (channel.message_type, channel.schema_encoding, channel.schema)))))
    for channel in channels:
        qos = _string('offered_qos_profiles') + _string(channel.qos)
        records.append(_record(CHANNEL, struct.pack(
            '<HH', channel.id, schemas[channel.message_type]) + _string(channel.topic)
            + _string('cdr') + struct.pack('<I', len(qos)) + qos))
    return records


def _chunk_index(chunk: _Chunk) -> bytes:
    offsets = b''.join(struct.pack('<HQ', *entry) for entry in chunk.index_offsets.items())
    return _record(CHUNK_INDEX, struct.pack(
        '<QQQQI', chunk.start_time, chunk.end_time, chunk.offset, chunk.length, len(offsets))
        + offsets + struct.pack('<QIQQ', chunk.index_length, 0, chunk.size, chunk.size))
