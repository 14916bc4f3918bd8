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
"""An archive over Ray: every recording once, whatever happens to workers."""
import contextlib
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time

from bags import outputs, without_times, write_bag
from featshare_ros.recordings import fleet
from featshare_ros.recordings.bag import RecordingError
from featshare_ros.recordings.mcap_file import CHUNK_BYTES
from featshare_ros.recordings.mcap_records import PREFIX, STATE
from featshare_ros.recordings.segment_bag import _parse, main
import pytest

ray = pytest.importorskip('ray')

LOOPBACK = {'0100007F', '0000000000000000FFFF00000100007F'}
"""The loopback address as the kernel prints it, for IPv4 and for IPv6."""


@pytest.fixture(scope='module')
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp('archive')
    write_bag(folder / 'monday' / 'one', cameras=('front',), frames=40, size=(480, 640))
    write_bag(folder / 'monday' / 'two', cameras=('front',), frames=6, storage='sqlite3')
    (folder / 'broken.mcap').write_bytes(b'no recording at all')
    return folder


def test_recordings_are_found(archive, tmp_path):
    assert list(fleet.find_recordings(archive, tmp_path)) == ['broken', 'monday/one', 'monday/two']
    assert list(fleet.find_recordings(archive, archive / 'monday')) == ['broken']
    for path in ('a.mcap', 'a.db3', 'b.mcap', 'b/metadata.yaml'):
        (tmp_path / 'same' / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'same' / path).touch()
    assert sorted(fleet.find_recordings(tmp_path / 'same', tmp_path / 'out')) == [
        'a', 'a.mcap', 'b', 'b.mcap']
    (tmp_path / 'empty').mkdir()
    with pytest.raises(RecordingError, match='no recording in it'):
        fleet.find_recordings(tmp_path / 'empty', tmp_path / 'out')
    with pytest.raises(RecordingError, match='no such directory'):
        fleet.find_recordings(tmp_path / 'missing', tmp_path / 'out')


def test_the_address_may_be_left_out():
    parsed = [_parse(text.split()) for text in (
        '--ray in out', 'in out --ray', '--ray auto in out', 'in out --ray auto', 'in out')]
    assert [options.ray for options in parsed] == ['', '', 'auto', 'auto', None]
    assert {(str(options.input), str(options.output)) for options in parsed} == {('in', 'out')}


@pytest.mark.parametrize(('options', 'address'), [
    ('--ray', 'local'), ('--ray auto', 'auto'), ('--ray ray://head:10001', 'ray://head:10001')])
def test_no_cluster_is_joined_that_is_not_named(archive, tmp_path, monkeypatch, options, address):
    """Without an address, neither by the environment nor by a file that others may write."""
    started = []

    def init(address, **options):
        started.append((address, os.environ.get('RAY_AUTH_TOKEN')))
        raise RuntimeError('not started')
    monkeypatch.setenv('RAY_ADDRESS', '192.0.2.1:6379')
    monkeypatch.setenv('RAY_AUTH_TOKEN', '')  # so that it is restored
    monkeypatch.delenv('RAY_AUTH_TOKEN')
    monkeypatch.setattr(ray, 'init', init)
    assert main([*options.split(), str(archive), str(tmp_path / 'out')]) == 1
    (joined, token), = started
    assert joined == address
    assert (token is not None and len(token) == 64) == (address == 'local')


def test_lost_worker_and_second_run(archive, tmp_path, random_checkpoint, capsys):
    """A worker is killed in the middle of a recording: another continues, and nothing is lost."""
    options = ['--weights', str(random_checkpoint), '--device', 'cpu']
    plain = tmp_path / 'plain'
    assert main([str(archive / 'monday' / 'one'), str(plain), *options]) == 0

    output = tmp_path / 'out'
    file = output / 'monday' / 'one' / 'one_0.mcap'
    killed, addresses = [], []

    def kill() -> None:
        """Kill the process that writes the recording, in the middle of it."""
        end = time.monotonic() + 60
        while not killed and time.monotonic() < end:
            if has_finished_chunk(file):
                killed.extend(writers(file))
                for pid in killed:
                    os.kill(pid, signal.SIGSTOP)
                addresses.extend(listening(descendants(process.pid)))
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.001)

    # In a process of its own: what it accepts connections from is decided before Ray is imported.
    process = subprocess.Popen(
        [sys.executable, '-m', 'featshare_ros.recordings.segment_bag', '--ray', archive, output,
         *options], stdout=subprocess.PIPE, text=True)
    kill()
    said, _ = process.communicate(timeout=120)
    status = process.returncode
    assert len(killed) == 1
    assert len(addresses) >= 5
    assert set(addresses) <= LOOPBACK
    assert status == 1  # for the broken one
    assert re.search(r'broken +failed .*unreadable or truncated', said)
    assert re.search(r'monday/one +resumed +40 ', said)
    assert re.search(r'monday/two +done +6 ', said)
    assert without_times(output / 'monday' / 'one') == without_times(plain)
    assert len(outputs(output / 'monday' / 'two')['/segmentation/timing']) == 6

    (archive / 'broken.mcap').rename(tmp_path / 'broken')
    try:
        assert main(['--ray', str(archive), str(output), *options]) == 0
    finally:
        (tmp_path / 'broken').rename(archive / 'broken.mcap')
    said = capsys.readouterr().out
    assert '2 recordings: 2 skipped' in said


def has_finished_chunk(file):
    """Return whether a chunk and the state after it, from which a run continues, are written."""
    if not file.exists() or file.stat().st_size < CHUNK_BYTES:
        return False
    written = file.read_bytes()
    name = written.find(STATE.encode())
    record = name - 4 - PREFIX.size  # the name follows its length
    return name >= 0 and len(written) >= name - 4 + PREFIX.unpack_from(written, record)[1]


def writers(file):
    """Return the processes that have a file open, but this one."""
    found = []
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            links = [os.readlink(f'/proc/{pid}/fd/{fd}') for fd in os.listdir(f'/proc/{pid}/fd')]
        except OSError:
            continue
        if str(file) in links and int(pid) != os.getpid():
            found.append(int(pid))
    return found


def descendants(pid):
    """Return a process and its children, theirs, and so on."""
    children = {}
    for other in filter(str.isdigit, os.listdir('/proc')):
        with contextlib.suppress(OSError):
            parent = Path(f'/proc/{other}/stat').read_text().rpartition(')')[2].split()[1]
            children.setdefault(int(parent), []).append(int(other))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def listening(pids):
    """Return the addresses, in hexadecimal, at which processes accept TCP connections."""
    sockets = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            sockets |= {os.readlink(file) for file in Path(f'/proc/{pid}/fd').iterdir()}
    rows = [line.split() for name in ('tcp', 'tcp6')
            for line in Path(f'/proc/net/{name}').read_text().splitlines()[1:]]
    return [row[1].partition(':')[0] for row in rows
            if row[3] == '0A' and f'socket:[{row[9]}]' in sockets]


def test_without_ray(archive, tmp_path):
    code = ('import sys; sys.modules["ray"] = None\n'
            'from featshare_ros.recordings.segment_bag import main; sys.exit(main())')
    done = subprocess.run([sys.executable, '-c', code, '--ray', archive, tmp_path / 'out'],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "pip install 'ray>=2.59'" in done.stderr
