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
"""The featshare command, without ROS."""
import itertools
import json
import os
import sys

import cv2
from featshare_core import cli, progress, segment_command
from featshare_core.cli import main
from featshare_core.data.masks import read_indices
from featshare_core.inference.segmenter import VideoSegmenter
from featshare_core.labels import CAMVID
import numpy as np
import pytest


def write_video(path, frames=4, codec='mp4v', size=(64, 48)):
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, size)
    rng = np.random.default_rng(0)
    for level in range(frames):
        picture = np.full((size[1], size[0], 3), 255 * level // frames, np.uint8)
        picture[:16, :16] = rng.integers(0, 256, 3)
        video.write(picture)
    video.release()
    return path


@pytest.fixture
def segment(random_checkpoint):
    def run(*arguments):
        return main(['segment', *map(str, arguments), '--weights', str(random_checkpoint),
                     '--device', 'cpu', '--engine', 'torch', '--input-size', '64x64'])
    return run


def test_segment_writes_a_mask_for_each_image(tmp_path, random_checkpoint, capsys):
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), np.uint8)
    (tmp_path / 'in').mkdir()
    for index, image in enumerate(images):
        cv2.imwrite(str(tmp_path / 'in' / f'{index}.png'), image[..., ::-1])
    assert main(['segment', str(tmp_path / 'in'), str(tmp_path / 'out'), '--overlay',
                 '--weights', str(random_checkpoint), '--key-interval', '2',
                 '--device', 'cpu']) == 0
    segmenter = VideoSegmenter.from_checkpoint(random_checkpoint, 2, 'cpu')
    for index, image in enumerate(images):
        np.testing.assert_array_equal(read_indices(tmp_path / 'out' / f'{index}.png'),
                                      segmenter.segment(image).mask)
        assert (tmp_path / 'out' / f'{index}_overlay.jpg').is_file()
    said = capsys.readouterr()
    assert '2 key frames' in said.out
    assert said.err.startswith(f'preparing {random_checkpoint}; the first run on a machine also '
                               'exports the network\n')


def test_segment_writes_everything_that_is_wanted_of_a_video(tmp_path, segment):
    write_video(tmp_path / 'v.mp4')
    out = tmp_path / 'out'
    assert segment(tmp_path / 'v.mp4', out, '--confidence', '--video', tmp_path / 'masks.mp4',
                   '--json', tmp_path / 'timings.json', '--precision', 'fp32') == 0
    names = [f'{index:06d}.png' for index in range(4)]
    assert sorted(file.name for file in out.glob('*.png')) == names
    for name in names:
        # As a viewer shows it: in the classes' colours.
        shown = cv2.imread(str(out / name), cv2.IMREAD_UNCHANGED)[..., ::-1]
        np.testing.assert_array_equal(shown, CAMVID.palette()[read_indices(out / name)])
        assert cv2.imread(str(out / 'confidence' / name), cv2.IMREAD_UNCHANGED).shape == (48, 64)
    labels = json.loads((out / 'labels.json').read_text())
    assert labels['classes'][3] == {'id': 3, 'name': 'road', 'color': [128, 64, 128]}
    video = cv2.VideoCapture(str(tmp_path / 'masks.mp4'))
    assert (video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)) == (4, 10)
    timings = json.loads((tmp_path / 'timings.json').read_text())
    assert (timings['frames'], timings['engine']) == (4, 'torch')
    assert timings['ms']['key']['frames'] == 1
    assert timings['ms']['current']['worst'] >= timings['ms']['current']['p50'] > 0


def test_a_video_that_is_cut_off_is_reported(tmp_path, segment, capsys):
    path = write_video(tmp_path / 'v.mkv', 10, 'MJPG')
    content = path.read_bytes()
    path.write_bytes(content[:int(.6 * len(content))])
    assert segment(path, tmp_path / 'out') == 1
    said = capsys.readouterr()
    written = len(list((tmp_path / 'out').glob('*.png')))
    assert 3 < written < 8
    assert f'{written} of 10 frames could be read: the video is damaged or cut off' in said.err
    assert f'masks of these are in {tmp_path / "out"}' in said.err


def test_an_interrupted_run_is_continued_with_the_same_masks(tmp_path, segment, capsys,
                                                             monkeypatch):
    path, write = write_video(tmp_path / 'v.mp4', 10), segment_command._write
    options = ('--key-interval', '3', '--confidence')
    assert segment(path, tmp_path / 'whole', *options) == 0

    def interrupted(arguments, name, *others):
        if name == '000008':
            raise KeyboardInterrupt
        return write(arguments, name, *others)

    monkeypatch.setattr(segment_command, 'SAVED_EVERY', 0)
    monkeypatch.setattr(segment_command, '_write', interrupted)
    assert segment(path, tmp_path / 'out', *options) == 130
    assert '--resume continues' in capsys.readouterr().err
    state = json.loads((tmp_path / 'out' / 'segment.json').read_text())
    assert state['frame'] == 6  # the last key frame
    assert not {'max_key_age', 'change_threshold'} & state['settings'].keys()  # without effect
    assert segment(path, tmp_path / 'out', *options) == 1
    assert '--overwrite replaces its masks, --resume continues' in capsys.readouterr().err
    assert segment(path, tmp_path / 'out', '--resume', '--key-interval', '4') == 1
    assert 'other settings, so that --resume cannot' in capsys.readouterr().err
    kept = (tmp_path / 'out' / 'segment.json').read_text()
    for damage in ('[' * 5000, '{}', '[]', json.dumps({**state, 'frame': 'x'})):
        (tmp_path / 'out' / 'segment.json').write_text(damage)
        assert segment(path, tmp_path / 'out', '--resume', *options) == 1
        assert 'segment.json is damaged' in capsys.readouterr().err
    (tmp_path / 'out' / 'segment.json').write_text(kept)
    monkeypatch.setattr(segment_command, '_write', write)
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, 'fsync', lambda file: (
        synced.append(os.readlink(f'/proc/self/fd/{file}')), fsync(file)))
    assert segment(path, tmp_path / 'out', '--resume', *options) == 0
    # All masks are on the disk before the output counts as complete.
    at = max(at for at, name in enumerate(synced) if name.endswith('segment.json.unfinished'))
    masks = {str(file) for file in (tmp_path / 'out').rglob('*.png')}
    assert len(masks) == 20
    assert masks <= set(synced[:at])
    for file in (tmp_path / 'whole').rglob('*.png'):
        other = tmp_path / 'out' / file.relative_to(tmp_path / 'whole')
        assert other.read_bytes() == file.read_bytes(), file.name
    assert segment(path, tmp_path / 'out', '--resume', *options) == 0
    assert 'is complete already: 10 masks' in capsys.readouterr().out
    # Of the run before, nothing is left.
    write_video(path, 2)
    assert segment(path, tmp_path / 'out', '--overwrite') == 0
    assert len(list((tmp_path / 'out').rglob('*.png'))) == 2


def test_what_cannot_be_done_is_reported(tmp_path, random_checkpoint, capsys):
    def failure(*arguments):
        assert main(['segment', *map(str, arguments), '--weights', str(random_checkpoint)]) == 1
        return capsys.readouterr().err
    (tmp_path / 'empty').mkdir()
    assert 'holds no image' in failure(tmp_path / 'empty', tmp_path / 'out')
    assert 'nothing.mp4 does not exist' in failure(tmp_path / 'nothing.mp4', tmp_path / 'out')
    (tmp_path / 'bad.mp4').write_bytes(bytes(1000))
    assert 'cannot be read as a video' in failure(tmp_path / 'bad.mp4', tmp_path / 'out')
    (tmp_path / 'drive.mcap').write_bytes(bytes(1000))
    assert 'is a recording, not a video: segment_bag' in failure(tmp_path / 'drive.mcap',
                                                                 tmp_path / 'out')
    (tmp_path / 'empty' / 'bad.png').write_bytes(b'x')
    assert 'bad.png cannot be decoded' in failure(tmp_path / 'empty', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
    (tmp_path / 'file').write_text('')
    assert 'is a file, not a folder' in failure(tmp_path / 'empty', tmp_path / 'file')
    assert 'is the input too' in failure(tmp_path / 'empty', tmp_path / 'empty')
    (tmp_path / 'masks').mkdir()
    (tmp_path / 'masks' / 'segment.json').write_text('{}')
    (tmp_path / 'masks' / '1.png').write_bytes(b'x')
    assert 'masks is an output of featshare segment' in failure(tmp_path / 'masks',
                                                                tmp_path / 'out')
    (tmp_path / 'empty' / 'bad.jpg').write_bytes(b'x')
    assert 'would have the same mask' in failure(tmp_path / 'empty', tmp_path / 'out')
    video = write_video(tmp_path / 'v.mp4', 1)
    assert 'did not write: name another folder' in failure(video, tmp_path / 'empty')
    assert 'v.mp4 exists already; --over' in failure(video, tmp_path / 'out', '--video', video)
    error = failure(video, tmp_path / 'out', '--key-mode', 'deferred')
    assert 'key_mode deferred is for live images alone' in error
    assert 'preparing' not in error
    assert 'a video cannot be continued' in failure(video, tmp_path / 'out', '--video',
                                                    tmp_path / 'o.mp4', '--resume')


def test_every_command_has_a_version(capsys):
    from featshare_core import __version__
    from featshare_ros.recordings import compare, evaluate_bag, make_recording, segment_bag
    for command in (cli, compare, evaluate_bag, make_recording, segment_bag):
        for option, expected in (('--version', f'featshare_ros {__version__}, commit '),
                                 ('--help', 'exit status: 0 done; 1 failed')):
            with pytest.raises(SystemExit) as ended:
                command.main([option])
            assert ended.value.code == 0
            assert expected in ' '.join(capsys.readouterr().out.split())


@pytest.mark.parametrize('option', ['--help', '-h'])
def test_the_node_has_a_usage(capsys, monkeypatch, option):
    from featshare_ros.main import main as node
    monkeypatch.setattr(sys, 'argv', ['segmentation_node', option])
    with pytest.raises(SystemExit) as ended:
        node()
    assert ended.value.code == 0
    said, complaints = capsys.readouterr()
    assert not complaints
    assert said.startswith('usage: segmentation_node [--help] [--version] [--ros-args ')
    for word in ('image:=/camera/image_raw', '~/mask', 'ros2 param describe', 'exit status'):
        assert word in said
    assert max(map(len, said.splitlines())) < 100


@pytest.mark.parametrize('words', [
    ['--weights', 'light'], ['weights:=light', '--ros-args', '-r', '__node:=c'],
    ['--ros-args', '-p', 'lazy:=true', '--', '-p', 'lazy:=false']])
def test_the_node_refuses_what_is_not_for_ros(capsys, monkeypatch, words):
    from featshare_ros.main import main as node
    monkeypatch.setattr(sys, 'argv', ['segmentation_node', *words])
    with pytest.raises(SystemExit) as ended:
        node()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert 'unknown arguments: ' in said
    assert '--ros-args -p weights:=light' in said


def test_progress_is_told_without_a_terminal_too(capsys, monkeypatch):
    clock = iter((0, 10, 31, 50, 61))
    monkeypatch.setattr(progress.time, 'monotonic', lambda: next(clock))
    show = progress.reporter('training', 'steps', 8_000, 100)
    for done in (102, 162, 163, 222, None):
        show(done)
    assert capsys.readouterr().err.splitlines() == [
        # The first steps are slower: a remaining time would be far off.
        'training: 162 of 8000 steps, 2.00 a second',
        'training: 222 of 8000 steps, 2.00 a second, 1:04:49 left']


def test_the_line_of_a_terminal_ends_with_the_work(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    monkeypatch.setattr(progress, 'REDRAWN', 0)
    for count, taken in ((2, 9), (3, 2)):  # all items, and a run that is interrupted
        list(itertools.islice(progress.track(range(count), 'reading', 'files'), taken))
        said = capsys.readouterr().err
        assert said.startswith(f'\rreading: 1 of {count} files, ')
        assert (said.count('\n'), said[-1]) == (1, '\n')


def test_the_line_fits_a_terminal_and_covers_a_longer_one(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    monkeypatch.setattr(progress, 'REDRAWN', 0)
    monkeypatch.setattr(sys.stderr, 'fileno', lambda: 2)
    monkeypatch.setattr(os, 'get_terminal_size', lambda file: os.terminal_size((30, 24)))
    list(progress.track(range(2), 'reading a long name', 'files'))
    assert capsys.readouterr().err == (
        '\rreading a long name: 1 of 2 f\x1b[K\rreading a long name: 2 of 2 f\x1b[K\n')


def test_a_threshold_that_has_no_effect_is_refused(tmp_path, capsys):
    (tmp_path / 'in').mkdir()
    cv2.imwrite(str(tmp_path / 'in' / '0.png'), np.zeros((64, 64, 3), np.uint8))
    assert main(['segment', str(tmp_path / 'in'), str(tmp_path / 'out'), '--change-threshold',
                 '0.1']) == 1
    assert 'no effect without key_policy change' in capsys.readouterr().err
    assert main(['segment', 'rtsp://127.0.0.1/x', str(tmp_path / 'out')]) == 1
    assert 'does not exist: streams are not read' in capsys.readouterr().err
