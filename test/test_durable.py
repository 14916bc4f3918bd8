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
"""Files that are written durably: whole or not at all, whatever fails."""
import errno
import fcntl
import os
import threading

from featshare_core import durable
from featshare_core.durable import SUFFIX, sync_tree, write_atomically, write_durably
from os_faults import KilledError
import pytest


@pytest.mark.parametrize('content', [b'', b'bytes', memoryview(bytes(3 << 20)), 'straße'])
def test_content_is_written_and_replaced(tmp_path, content):
    for before in (None, b'old and longer than the new content'):
        if before is not None:
            (tmp_path / 'file.json').write_bytes(before)
        write_durably(tmp_path / 'file.json', content)
        expected = content.encode() if isinstance(content, str) else bytes(content)
        assert (tmp_path / 'file.json').read_bytes() == expected
        assert [file.name for file in tmp_path.iterdir()] == ['file.json']


def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_return(
        tmp_path, monkeypatch):
    steps = []
    for name in ('fsync', 'replace'):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *arguments, name=name, call=call: (
            steps.append((name, sorted(file.name for file in tmp_path.iterdir()))),
            call(*arguments)))
    write_durably(tmp_path / 'a', b'content')
    assert steps == [('fsync', [f'a{SUFFIX}']), ('replace', [f'a{SUFFIX}']), ('fsync', ['a'])]


@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, 'No space left on device'),
                                   KilledError()])
@pytest.mark.parametrize('step', ['write', 'fsync', 'replace'])
def test_a_failure_leaves_the_old_file_alone(tmp_path, monkeypatch, step, error):
    (tmp_path / 'a').write_bytes(b'old')

    def fail(*arguments):
        raise error
    with monkeypatch.context() as patch:
        patch.setattr(durable.os, step, fail)
        with pytest.raises(type(error)):
            write_durably(tmp_path / 'a', b'new')
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [('a', b'old')]


def test_links_and_devices_stay_what_they_are(tmp_path):
    (tmp_path / 'link').symlink_to('target')
    write_durably(tmp_path / 'link', b'content')
    assert (tmp_path / 'link').is_symlink()
    assert (tmp_path / 'target').read_bytes() == b'content'
    os.mkfifo(tmp_path / 'pipe')
    reader = os.open(tmp_path / 'pipe', os.O_RDONLY | os.O_NONBLOCK)
    write_durably(tmp_path / 'pipe', 'text')
    assert os.read(reader, 100) == b'text'
    os.close(reader)
    assert (tmp_path / 'pipe').is_fifo()


def test_a_file_system_that_cannot_sync_folders_is_no_failure(tmp_path, monkeypatch):
    def fsync(file):
        if os.path.samestat(os.fstat(file), os.stat(tmp_path)):
            raise OSError(errno.EINVAL, 'Invalid argument')

    monkeypatch.setattr(durable.os, 'fsync', fsync)
    write_durably(tmp_path / 'a', b'content')
    assert (tmp_path / 'a').read_bytes() == b'content'


def test_what_a_crash_has_left_is_overwritten(tmp_path):
    (tmp_path / f'a{SUFFIX}').write_bytes(b'half of a file that is longer than the next')
    write_durably(tmp_path / 'a', b'new')
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [('a', b'new')]


def test_short_writes_are_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(durable.os, 'write', lambda file, data: write(file, data[:3]))
    write_durably(tmp_path / 'a', b'longer than three')
    assert (tmp_path / 'a').read_bytes() == b'longer than three'


def test_several_writers_of_one_file(tmp_path):
    """Each content is there completely or not at all; no writer fails."""
    contents = {bytes([index]) * 100_000 for index in range(8)}
    found, problems = set(), []

    def write(content):
        try:
            for _ in range(10):
                write_durably(tmp_path / 'a', content)
                found.add((tmp_path / 'a').read_bytes())
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert found <= contents
    assert [file.name for file in tmp_path.iterdir()] == ['a']


def test_the_file_system_may_have_no_locks(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOLCK, 'No locks available')
    monkeypatch.setattr(durable.fcntl, 'flock', fail)
    write_durably(tmp_path / 'a', b'new')
    assert (tmp_path / 'a').read_bytes() == b'new'


def test_what_can_be_rebuilt_is_written_without_waiting_for_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'fsync', None)
    for content in (b'old', b'new'):
        write_atomically(tmp_path / 'a', content)
        assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [('a', content)]


@pytest.mark.timeout(10)
def test_what_can_be_rebuilt_does_not_wait_for_other_writers(tmp_path):
    with (tmp_path / f'a{SUFFIX}').open('w') as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        write_atomically(tmp_path / 'a', b'content')
        assert (tmp_path / 'a').read_bytes() == b'content'
    assert sorted(file.name for file in tmp_path.iterdir()) == ['a', f'a{SUFFIX}']


@pytest.mark.timeout(10)
def test_a_tree_is_synced_whatever_else_is_in_it(tmp_path, monkeypatch):
    (tmp_path / 'masks').mkdir()
    for name in ('masks/0.png', 'masks/1.png', 'labels.json', 'removed'):
        (tmp_path / name).write_bytes(b'content')
    (tmp_path / 'dangling').symlink_to('nothing')
    os.mkfifo(tmp_path / 'pipe')
    synced, walk = [], list(os.walk(tmp_path))
    (tmp_path / 'removed').unlink()  # by another process, since the folder was listed
    monkeypatch.setattr(durable.os, 'walk', lambda folder: [*walk, (f'{folder}/gone', [], [])])
    monkeypatch.setattr(durable.os, 'fsync', lambda file: synced.append(
        os.path.relpath(os.readlink(f'/proc/self/fd/{file}'), tmp_path)))
    sync_tree(tmp_path)
    assert sorted(synced) == ['.', 'labels.json', 'masks', 'masks/0.png', 'masks/1.png']
