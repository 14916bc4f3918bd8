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
"""Files that are written completely or not at all, also if the power fails."""
from __future__ import annotations

from contextlib import suppress
import errno
import fcntl
import os
from pathlib import Path
import stat

SUFFIX = '.unfinished'
"""Ending of the name of a file that is being written."""
_CREATED = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC


def write_durably(path: str | Path, content: bytes | memoryview | str) -> None:
    """
    Write or replace a file; once this returns, the file survives a crash of the machine.

    The content is written to a temporary file in the same folder, which then replaces the target:
    other processes see either the old content or the new. After an error or a crash the old file
    is unchanged. A temporary file that a crash left is overwritten by the next write of the same
    target.

    :param content: text is written as UTF-8.
    :raises OSError: where the file cannot be written.
    """
    _replace(path, content, wait=True)


def write_atomically(path: str | Path, content: bytes | memoryview | str) -> None:
    """
    Write or replace a file as ``write_durably`` does, but without waiting.

    It waits neither for the disk nor for other writers of the file, of which the last one wins.
    A crash of the machine may damage the file, so it is for content that can be rebuilt; a crash
    of the process may leave a temporary file.

    :raises OSError: where the file cannot be written.
    """
    _replace(path, content, wait=False)


def _replace(path: str | Path, content: bytes | memoryview | str, wait: bool) -> None:
    path = Path(path).resolve()  # a link stays one
    if path.exists() and not path.is_file():  # such as /dev/stdout
        with path.open('wb') as device:
            device.write(content.encode() if isinstance(content, str) else content)
        return
    rest = memoryview(content.encode() if isinstance(content, str) else content)
    if wait:
        unfinished = path.with_name(path.name + SUFFIX)
        file = _open_locked(unfinished)
    else:  # a name that no other writer has needs no lock
        unfinished = path.with_name(f'{path.name}.{os.urandom(4).hex()}{SUFFIX}')
        file = os.open(unfinished, _CREATED, 0o666)
    try:
        os.ftruncate(file, 0)
        while rest:
            rest = rest[os.write(file, rest):]
        if wait:
            os.fsync(file)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)
    if wait:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """
    Make the names of new, replaced and removed files in a folder survive a crash of the machine.

    :raises OSError: where that fails.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot do it for folders
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """
    Make all files in a folder and its subfolders, and their names, survive a crash of the machine.

    Links, and what is neither a file nor a folder, stay as they are; files that another process
    removes meanwhile are skipped.

    :raises OSError: where that fails.
    """
    for place, _, names in os.walk(folder):
        with suppress(FileNotFoundError):
            for name in names:
                _sync_file(os.path.join(place, name))
            sync_folder(Path(place))


def _sync_file(path: str) -> None:
    """Force a file to the disk, unless it is removed meanwhile, or no regular file."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return  # opening a pipe could block, and opening a device could act on it
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _open_locked(path: Path) -> int:
    """Open a file without truncating it, and wait for other writers of it."""
    while True:
        file = os.open(path, _CREATED, 0o666)
        try:
            # Some network file systems have no locks. There, two processes that write the same
            # file at the same time are not kept apart.
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            # The previous holder of the lock has renamed or removed the file that it was for.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), os.stat(path)):
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)
