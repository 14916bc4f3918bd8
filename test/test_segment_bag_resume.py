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
"""However segment_bag is interrupted, --resume completes the output of an unbroken run."""
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

from bags import outputs, without_times, write_bag
from featshare_core.inference.options import from_arguments
from featshare_core.inference.segmenter import VideoSegmenter
from featshare_ros.recordings import mcap_file
from featshare_ros.recordings.mcap_file import McapFile
from featshare_ros.recordings.segment_bag import _parse, main
from featshare_ros.recordings.segment_recording import Job, segment_recording
import pytest
from rosbags.rosbag2 import Reader

TOPICS = ('--topic', '/front/image_raw', '--topic', '/rear/image_raw')
FRAMES = 60

# A child with small chunks, as a long recording has many of; and as slow as a large network.
CHILD = """
import sys, time
from featshare_ros.recordings import mcap_file
from featshare_ros.recordings.segment_bag import _parse, main
from featshare_ros.recordings.segment_recording import Job, segment_recording
from featshare_core.inference.options import from_arguments
from featshare_core.inference.segmenter import VideoSegmenter
mcap_file.CHUNK_BYTES = int(sys.argv.pop(1))
segment = VideoSegmenter.segment
VideoSegmenter.segment = lambda *a: (time.sleep(0.02), segment(*a))[1]
sys.exit(main())
"""


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory, random_checkpoint):
    """A recording, and what an unbroken run makes of it."""
    folder = tmp_path_factory.mktemp('unbroken')
    write_bag(folder / 'in', frames=FRAMES // 2)
    assert main(arguments(folder / 'in', folder / 'out', random_checkpoint)) == 0
    return folder / 'in', without_times(folder / 'out')


def arguments(source, output, checkpoint):
    return [str(source), str(output), *TOPICS, '--weights', str(checkpoint), '--device', 'cpu']


def start(*arguments, chunk=20_000, **options):
    return subprocess.Popen([sys.executable, '-c', CHILD, str(chunk), *arguments],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def wait_for_size(process, file, size):
    end = time.monotonic() + 60
    while not (file.exists() and file.stat().st_size > size):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.005)


def test_killed_in_the_middle(tmp_path, unbroken, random_checkpoint, capsys):
    source, expected = unbroken
    options = arguments(source, tmp_path / 'out', random_checkpoint)
    kills = 0
    for size in (150_000, 400_000):
        with start(*options, *['--resume'] * bool(kills)) as process:
            wait_for_size(process, tmp_path / 'out' / 'out_0.mcap', size)
            process.kill()
            kills += 1
        assert not (tmp_path / 'out' / 'metadata.yaml').exists()
    assert main([*options, '--resume']) == 0
    assert without_times(tmp_path / 'out') == expected
    new = int(re.search(r'60 images, (\d+) of them in this run', capsys.readouterr().out)[1])
    assert new < 40  # the rest was there


def test_cut_anywhere(tmp_path, unbroken, random_checkpoint, monkeypatch):
    """As after a crash of the machine: the file ends at any byte, or in zeros."""
    source, expected = unbroken
    monkeypatch.setattr(mcap_file, 'CHUNK_BYTES', 20_000)
    options = arguments(source, tmp_path / 'out', random_checkpoint)
    assert main(options) == 0
    file = tmp_path / 'out' / 'out_0.mcap'
    whole = file.read_bytes()
    random.seed(3)
    for at in (0, 3000, len(whole) - 1, *(random.randrange(len(whole)) for _ in range(3))):
        for zeros in (0, 50_000) if at in (0, 3000) else (50_000,):
            file.write_bytes(whole[:at] + bytes(zeros))
            (tmp_path / 'out' / 'metadata.yaml').unlink()
            assert main([*options, '--resume']) == 0, at
            assert without_times(tmp_path / 'out') == expected, at


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_interrupted(tmp_path, unbroken, random_checkpoint, number):
    source, expected = unbroken
    options = arguments(source, tmp_path / 'out', random_checkpoint)
    with start(*options) as process:
        wait_for_size(process, tmp_path / 'out' / 'out_0.mcap', 150_000)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert 'closed and readable; --resume' in said
    part = without_times(tmp_path / 'out')
    assert 0 < len(part) < len(expected)
    assert part == expected[:len(part)]
    with Reader(tmp_path / 'out') as reader:
        assert reader.message_count == len(part)
    assert main([*options, '--resume']) == 0
    assert without_times(tmp_path / 'out') == expected


@contextlib.contextmanager
def small_disk(folder, size):
    folder.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', folder],
                      capture_output=True).returncode:
        pytest.skip('only root can make a small disk')
    try:
        yield
    finally:
        subprocess.run(['umount', folder], check=True)


def test_disk_full(tmp_path, unbroken, random_checkpoint, capsys, monkeypatch):
    source, expected = unbroken
    monkeypatch.setattr(mcap_file, 'CHUNK_BYTES', 20_000)
    with small_disk(tmp_path / 'disk', 400_000):
        options = arguments(source, tmp_path / 'disk' / 'out', random_checkpoint)
        assert main(options) == 1
        said = capsys.readouterr().err
        assert 'cannot be written: No space left on device' in said
        assert 'closed and readable; --resume' in said
        part = without_times(tmp_path / 'disk' / 'out')
        assert part == expected[:len(part)]
        assert f'The {sum("/mask" in entry[0] for entry in part)} images until then' in said
        # All but the chunks that had to make room for the index, the metadata and a page or two.
        assert (tmp_path / 'disk' / 'out' / 'out_0.mcap').stat().st_size > 250_000
        assert main([*options, '--resume']) == 1  # still full
        # Latencies in the messages are others, so a few more may fit.
        again = without_times(tmp_path / 'disk' / 'out')
        assert again == expected[:len(again)]
        assert len(part) <= len(again) < len(expected)
        shutil.copytree(tmp_path / 'disk' / 'out', tmp_path / 'out')
    assert main([*arguments(source, tmp_path / 'out', random_checkpoint), '--resume']) == 0
    assert without_times(tmp_path / 'out') == expected


def test_file_may_not_grow(tmp_path, unbroken, random_checkpoint):
    """A quota, as far as anybody can set one."""
    import resource

    source, expected = unbroken
    options = arguments(source, tmp_path / 'out', random_checkpoint)
    with start(*options, preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (300_000, 300_000))) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert 'cannot be written: File too large' in said
    part = without_times(tmp_path / 'out')
    assert part and part == expected[:len(part)]
    assert main([*options, '--resume']) == 0
    assert without_times(tmp_path / 'out') == expected


def test_failing_device(tmp_path, unbroken, random_checkpoint, capsys, monkeypatch):
    """What was done is kept; the next try begins with the image that failed."""
    source, expected = unbroken
    segment, count = VideoSegmenter.segment, 0

    def fail_once(*arguments):
        nonlocal count
        count += 1
        if count == 18:
            raise RuntimeError('out of memory')
        return segment(*arguments)

    monkeypatch.setattr(VideoSegmenter, 'segment', fail_once)
    options = arguments(source, tmp_path / 'out', random_checkpoint)
    assert main(options) == 1
    assert 'out of memory. The 17 images until then are in' in capsys.readouterr().err
    part = without_times(tmp_path / 'out')
    assert part == expected[:len(part)]
    assert main([*options, '--resume']) == 0
    assert without_times(tmp_path / 'out') == expected


def test_only_one_process_writes(tmp_path, unbroken, random_checkpoint, capsys):
    source, _ = unbroken
    options = arguments(source, tmp_path / 'out', random_checkpoint)
    with start(*options) as process:
        wait_for_size(process, tmp_path / 'out' / 'out_0.mcap', 50_000)
        assert main([*options, '--resume']) == 1
        assert 'another process is writing it' in capsys.readouterr().err
        process.kill()


def test_complete_is_left_alone(tmp_path, unbroken, random_checkpoint, capsys):
    source, _ = unbroken
    options = arguments(source, tmp_path / 'out', random_checkpoint)
    assert main(options) == 0
    before = {file: os.stat(file).st_mtime_ns for file in (tmp_path / 'out').iterdir()}
    assert main([*options, '--resume']) == 0
    assert 'complete already: 60 images' in capsys.readouterr().out
    assert {file: os.stat(file).st_mtime_ns for file in (tmp_path / 'out').iterdir()} == before
    assert len(outputs(tmp_path / 'out')['/segmentation/front/timing']) == FRAMES // 2


def test_key_frames_by_change(tmp_path, random_checkpoint):
    """The pictures that changes are measured from outlive an interruption too."""
    write_bag(tmp_path / 'in', frames=20)
    options = ['--key-policy', 'change', '--change-threshold', '0.06', '--key-interval', '50',
               '--max-key-age', '0']
    assert main([*arguments(tmp_path / 'in', tmp_path / 'whole', random_checkpoint),
                 *options]) == 0
    expected = without_times(tmp_path / 'whole')
    cut = [*arguments(tmp_path / 'in', tmp_path / 'out', random_checkpoint), *options]
    for image in (9, 12):
        stop = threading.Event()

        def progress(done, total, image=image, stop=stop):
            if done >= image:
                stop.set()

        job = from_arguments(Job, _parse(cut), topics=TOPICS[1::2])
        segment_recording(tmp_path / 'in', tmp_path / 'out', job, True, stop, progress)
        part = without_times(tmp_path / 'out')
        assert part == expected[:len(part)] and len(part) < len(expected)
    assert main([*cut, '--resume']) == 0
    assert without_times(tmp_path / 'out') == expected
    reasons = [deserialized.status[0].values[1].value for camera in ('front', 'rear')
               for _, deserialized in outputs(tmp_path / 'out')[f'/segmentation/{camera}/timing']]
    assert reasons.count('change') > 4


def test_damage_of_a_complete_output_is_found(tmp_path, unbroken, random_checkpoint, capsys,
                                              monkeypatch):
    """In a chunk, in the index at the end, or in metadata.yaml."""
    source, expected = unbroken
    monkeypatch.setattr(mcap_file, 'CHUNK_BYTES', 20_000)
    options = arguments(source, tmp_path / 'out', random_checkpoint)
    assert main(options) == 0
    capsys.readouterr()
    for name, at, most in (('out_0.mcap', 0.6, 40), ('out_0.mcap', 0.999, 0),
                           ('metadata.yaml', 0.5, 0)):
        file = tmp_path / 'out' / name
        content = bytearray(file.read_bytes())
        begin = int(at * len(content))
        content[begin:begin + 4096] = bytes(len(content[begin:begin + 4096]))
        file.write_bytes(content)
        assert main([*options, '--resume']) == 0
        printed, complaints = capsys.readouterr()
        new = int(re.search(r'60 images, (\d+) of them in this run', printed)[1])
        lost = re.search(r'out_0.mcap is damaged: [1-9]\d* finished chunks', complaints)
        assert bool(lost) == (at == 0.6)
        assert new <= most
        assert without_times(tmp_path / 'out') == expected
    assert main([*options, '--resume']) == 0
    assert 'complete already' in capsys.readouterr().out
    # At the start, before all finished chunks: nothing is truncated.
    file = tmp_path / 'out' / 'out_0.mcap'
    content = bytearray(file.read_bytes())
    content[3000:3100] = bytes(100)
    file.write_bytes(content)
    assert main([*options, '--resume']) == 1
    said = capsys.readouterr().err
    assert 'out_0.mcap is damaged at its start' in said
    assert 'remove the output and start again' in said
    assert file.read_bytes() == content
    assert (tmp_path / 'out' / 'metadata.yaml').exists()


@pytest.mark.parametrize('state', [
    {'complete': True}, {'schedule': {'phases': {}, 'streams': {'front': {}}}}], ids=list)
def test_a_state_of_another_form_is_reported(tmp_path, unbroken, random_checkpoint, capsys, state):
    source, _ = unbroken
    stop = threading.Event()
    stop.set()
    options = arguments(source, tmp_path / 'out', random_checkpoint)
    segment_recording(source, tmp_path / 'out', from_arguments(
        Job, _parse(options), topics=TOPICS[1::2]), False, stop)
    (tmp_path / 'out' / 'metadata.yaml').unlink()
    file = McapFile(tmp_path / 'out' / 'out_0.mcap', [])
    file.checkpoint(state)
    file.flush()
    file.abandon()
    capsys.readouterr()
    assert main([*options, '--resume']) == 1
    assert 'the state in the output cannot be read' in capsys.readouterr().err
