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
An mcap file that is written in order and can be continued after any interruption.

The layout is that of https://mcap.dev/spec: header, schemas, channels, then chunks of messages
with their indexes, then a summary. After every chunk comes a metadata record with the writer's
state at that point, which other readers skip, and with a checksum of everything since the one
before. Opening the file again checks all of it; what follows the last intact state is discarded.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
import errno
import fcntl
import json
import mmap
import os
from pathlib import Path
import re
import struct
import time
from typing import Any
import zlib

from featshare_core.durable import sync_folder
from featshare_ros.recordings.mcap_records import (
    CHANNEL,
    Channel,
    CHUNK,
    Chunk,
    CHUNK_HEAD,
    CHUNK_INDEX,
    chunk_index,
    DATA_END,
    definitions,
    FOOTER,
    HEADER,
    header,
    MAGIC,
    MESSAGE,
    MESSAGE_INDEX,
    message_index,
    METADATA,
    metadata,
    parse_chunk_head,
    parse_metadata,
    PREFIX,
    record,
    SCHEMA,
    SETTINGS,
    STATE,
    STATISTICS,
    SUMMARY_OFFSET,
)

CHUNK_BYTES = 4 << 20
CHUNK_SECONDS = 5.0
"""Largest size and age of a chunk, in bytes and seconds: the most that a crash loses."""
ROOM = 2 * CHUNK_BYTES
"""Bytes that are given up at most on a full disk, for the file's summary and metadata.yaml."""
METADATA_BYTES = 64 << 20
"""Largest metadata record that is read, in bytes; bounds what a damaged length field allocates."""
BLOCK_BYTES = 1 << 20
"""Amount that is read at once for a checksum, in bytes."""

State = dict[str, Any]


class UnknownFileError(ValueError):
    """A file that this module did not write."""


class McapFile:
    """
    A file whose channels are all known when it is created.

    Opening takes the file's lock, which is held until ``close`` or ``abandon``, creates the file
    where there is none, and finds what an earlier run has finished: ``state`` is that after its
    last intact chunk. If ``settings`` is empty, there is nothing to continue: call ``begin`` next.

    :raises BlockingIOError: where another process holds the lock.
    :raises UnknownFileError: where another program wrote the file.
    :raises OSError: where it cannot be opened.
    """

    def __init__(self, path: Path, channels: Sequence[Channel]) -> None:
        # Not truncated on opening: another process may be writing the file.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._file = os.fdopen(descriptor, 'r+b', buffering=0)
        self._path = path
        self._channels = channels
        self.settings: dict[str, str] = {}
        self.state: State = {}
        self._chunks: list[Chunk] = []
        self._begin = self._end = 0
        self._pending: State | None = None
        self._clear()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Removed by the previous holder of the lock, which could not begin.
            if not os.fstat(descriptor).st_nlink:
                raise FileNotFoundError(errno.ENOENT, 'another process has removed it', str(path))
            self._scan()
        except BaseException:
            self._file.close()
            raise

    def begin(self, settings: dict[str, str]) -> None:
        """
        Discard the content, and write the start of the file.

        :param settings: stored in the file, and available again when it is reopened.
        :raises OSError: where writing fails.
        """
        self._end = 0
        start = [MAGIC, header(), *definitions(self._channels)]
        self._append([*start, metadata(SETTINGS, settings, zlib.crc32(b''.join(start)))])
        sync_folder(self._path.parent)
        self.settings, self._begin = settings, self._end

    @property
    def counts(self) -> dict[int, int]:
        """Return the number of messages in finished chunks, by channel id."""
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

    @property
    def is_closed(self) -> bool:
        """Whether the file ends with the summary of its chunks, intact, as ``close`` leaves it."""
        summary = b''.join(self._summary())
        return self._read(self._end, len(summary) + 1) == summary

    @property
    def lost_chunks(self) -> int:
        """
        Return how many finished chunks cannot be continued: the file is damaged before them.

        A crash leaves none: settings and chunks reach the disk one after the other.
        """
        if not os.fstat(self._file.fileno()).st_size:
            return 0
        with mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            states = len(re.compile(re.escape(STATE.encode())).findall(content, self._end))
        # With settings, a chunk may have been in work, with its state on the disk already.
        return max(0, states - bool(self.settings))

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
        """Write chunk and state, and force them to the disk (fsync); raises as ``checkpoint``."""
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

        Where the disk has no room for both, chunks are removed from the end until it has.

        :raises OSError: where it fails for another reason, or still has no room. The chunks that
            are left can be continued.
        """
        freed = 0
        try:
            while True:
                try:
                    self._append(self._summary())
                    return then()
                except OSError as error:
                    # Room may be short in other ways too, such as the number of files, in which
                    # removing chunks does not help.
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._chunks \
                            or freed > ROOM:
                        raise
                    freed += self._chunks[-1].end - self._chunks[-1].offset
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
            self._end = last.end
            start = last.offset + CHUNK_HEAD.size + last.size
            at = start + last.index_length
            crc = self._crc(start, last.index_length, zlib.crc32(
                self._read(last.offset, CHUNK_HEAD.size)))
            body = self._read(at + PREFIX.size, last.end - at - PREFIX.size)
            self.state = json.loads(parse_metadata(body, crc)[1]['json'])

    def _clear(self) -> None:
        """Start a new chunk."""
        self._parts: list[bytes | memoryview] = []
        self._index: dict[int, list[tuple[int, int]]] = {}
        self._size = 0
        self._since = time.monotonic()
        self._pending = None

    def _compose(self) -> tuple[Chunk, list[bytes | memoryview]]:
        """Return the chunk with its records: head, messages, indexes, state."""
        times = [entry[0] for entries in self._index.values() for entry in entries]
        chunk = Chunk(self._end, min(times, default=0), max(times, default=0), self._size)
        crc = 0
        for part in self._parts:
            crc = zlib.crc32(part, crc)
        head = chunk.head(crc)
        indexes = []
        for channel, entries in self._index.items():
            indexes.append(message_index(channel, entries))
            chunk.index_offsets[channel] = chunk.offset + chunk.length + chunk.index_length
            chunk.counts[channel] = len(entries)
            chunk.index_length += len(indexes[-1])
        # The messages have their own checksum, in the head.
        state = metadata(STATE, {'json': json.dumps(self._pending)},
                         zlib.crc32(b''.join(indexes), zlib.crc32(head)))
        return chunk, [head, *self._parts, *indexes, state]

    def _append(self, parts: Sequence[bytes | memoryview]) -> None:
        """Write at the end, to the disk itself, or leave the file as it was and raise."""
        # An earlier run's remainder goes first: partly overwritten, it could look complete.
        self._file.truncate(self._end)
        self._file.seek(self._end)
        try:
            for part in parts:
                rest = memoryview(part)
                while rest:
                    rest = rest[self._file.write(rest):]
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(self._end)
            raise
        self._end = self._file.tell()

    def _summary(self) -> list[bytes]:
        """Return everything from the end of the data to the end of the file."""
        data_end = record(DATA_END, bytes(4))
        start = at = self._end + len(data_end)
        defined = definitions(self._channels)
        schemas = len(defined) - len(self._channels)
        groups = {SCHEMA: defined[:schemas], CHANNEL: defined[schemas:],
                  CHUNK_INDEX: [chunk_index(chunk) for chunk in self._chunks],
                  STATISTICS: [self._statistics(schemas)]}
        offsets = []
        for kind, records in groups.items():
            length = sum(map(len, records))
            if length:
                offsets.append(record(SUMMARY_OFFSET, struct.pack('<BQQ', kind, at, length)))
            at += length
        footer = record(FOOTER, struct.pack('<QQI', start, at, 0))
        return [data_end, *(item for records in groups.values() for item in records),
                *offsets, footer, MAGIC]

    def _statistics(self, schemas: int) -> bytes:
        counts = self.counts
        body = struct.pack('<QHIIIIQQ', sum(counts.values()), schemas, len(self._channels), 0,
                           1 + len(self._chunks), len(self._chunks), *self.times)
        body += struct.pack('<I', 10 * len(counts))
        return record(STATISTICS, body + b''.join(
            struct.pack('<HQ', *entry) for entry in sorted(counts.items())))

    def _scan(self) -> None:
        """Find the settings and the intact chunks; the first damage is the end."""
        start = MAGIC + header()
        # After a loss of power the file may contain zeros.
        found = self._read(0, len(start)).rstrip(b'\0')
        if not start.startswith(found):
            raise UnknownFileError('another program wrote it' if found.startswith(MAGIC)
                                   else 'it is not an mcap file')
        with suppress(ValueError, KeyError, RecursionError, struct.error):
            self._find_chunks()

    def _find_chunks(self) -> None:
        """
        Read records up to the end, or to one that is not complete.

        :raises ValueError, KeyError, RecursionError, struct.error: at the first damaged record.
        """
        size = os.fstat(self._file.fileno()).st_size
        at, crc = len(MAGIC), zlib.crc32(MAGIC)
        chunk: Chunk | None = None
        while at + PREFIX.size <= size:
            kind, length = PREFIX.unpack(self._read(at, PREFIX.size))
            body, following = at + PREFIX.size, at + PREFIX.size + length
            if following > size:
                return
            if kind == CHUNK:
                head = self._read(at, CHUNK_HEAD.size)
                chunk, checksum = parse_chunk_head(head, at)
                if self._crc(at + CHUNK_HEAD.size, chunk.size) != checksum:
                    return
                crc = zlib.crc32(head, crc)
            elif kind == METADATA and length <= METADATA_BYTES:
                self._take_metadata(self._read(body, length), chunk, crc, following)
                chunk, crc = None, 0
            elif kind in (HEADER, SCHEMA, CHANNEL, MESSAGE_INDEX):
                if kind == MESSAGE_INDEX and chunk is not None:
                    channel, entries = struct.unpack('<HI', self._read(body, 6))
                    chunk.index_offsets[channel] = at
                    chunk.counts[channel] = entries // 16
                    chunk.index_length += following - at
                crc = self._crc(at, following - at, crc)
            else:
                return  # the summary, or the remains after a loss of power
            at = following

    def _take_metadata(self, body: bytes, chunk: Chunk | None, crc: int, end: int) -> None:
        """
        Take the settings, or a chunk with the state after it, which end the part that is intact.

        :param crc: of the records since the metadata before.
        :param end: position after the record.
        :raises ValueError, KeyError, RecursionError, struct.error: where it is damaged.
        """
        name, content = parse_metadata(body, crc)
        if name == SETTINGS and not self.settings:
            self.settings = content
            self._begin = self._end = end
        elif name == STATE and chunk is not None and self.settings:
            state = json.loads(content['json'])
            known = {channel.id for channel in self._channels}
            if not isinstance(state, dict) or not state or not chunk.counts.keys() <= known:
                raise ValueError('a state of another file')
            self.state = state
            chunk.end = self._end = end
            self._chunks.append(chunk)
        else:
            raise ValueError(f'unexpected metadata {name!r}')

    def _crc(self, at: int, length: int, crc: int = 0) -> int:
        """Return the CRC-32 of a part of the file, continuing from ``crc``."""
        for start in range(at, at + length, BLOCK_BYTES):
            crc = zlib.crc32(self._read(start, min(BLOCK_BYTES, at + length - start)), crc)
        return crc

    def _read(self, at: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, at)
