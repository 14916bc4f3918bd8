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
"""Videos that are damaged or cut off, and whole ones that only look so."""
from itertools import islice
import struct

import cv2
from featshare_core.data import matroska
from featshare_core.data.frames import frame_rate, frames_of, IncompleteVideoError
from featshare_core.data.matroska import BLOCK, elements, INFO, is_intact
from featshare_ros.recordings.bag import open_recording
from featshare_ros.recordings.make_recording import main as make_recording
import numpy as np
import pytest

COUNT = 47


def write_video(path, codec):
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (64, 48))
    rng = np.random.default_rng(0)
    for _ in range(COUNT):
        video.write(rng.integers(0, 256, (48, 64, 3), np.uint8))
    video.release()
    return path.read_bytes()


def read(path):
    """Return how many frames a video has, and the error after them."""
    frames = 0
    try:
        for _ in frames_of(path):
            frames += 1
    except IncompleteVideoError as error:
        return frames, str(error)
    return frames, ''


@pytest.mark.parametrize(('codec', 'suffix'), [
    ('MJPG', 'avi'), ('MJPG', 'mkv'), ('mp4v', 'mkv'), ('mp4v', 'mp4'), ('VP80', 'webm')])
def test_what_is_missing_in_a_video_is_reported(codec, suffix, tmp_path):
    path = tmp_path / f'v.{suffix}'
    content = write_video(path, codec)
    assert read(path) == (COUNT, '')
    assert frame_rate(path) == 10
    assert [name for name, _ in islice(frames_of(path, 45), 5)] == ['000045', '000046']
    half, tenth = len(content) // 2, len(content) // 10
    for damaged in (content[:half], content[:half] + bytes(tenth) + content[half + tenth:]):
        path.write_bytes(damaged)
        if suffix == 'mp4' and damaged == content[:half]:
            with pytest.raises(ValueError, match=r'v\.mp4 cannot be read as a video'):
                read(path)
        else:
            frames, error = read(path)
            assert 5 < frames < COUNT - 1
            assert f'v.{suffix}: {frames} of ' in error
            assert ' frames could be read: the video is damaged or cut off' in error


@pytest.mark.parametrize(('codec', 'suffix'), [('MJPG', 'mkv'), ('VP80', 'webm')])
def test_a_video_that_is_cut_off_between_two_frames_is_not_whole(codec, suffix, tmp_path):
    path = tmp_path / f'v.{suffix}'
    content = write_video(path, codec)
    ends = [at + size for kind, at, size in elements(content) if kind == BLOCK]
    for end in (ends[29], ends[39]):
        path.write_bytes(content[:end])
        assert not is_intact(path)
        assert f'{ends.index(end) + 1} of {COUNT} frames could be read' in read(path)[1]


def test_what_a_matroska_file_declares_is_all_there_and_not_too_much(tmp_path, monkeypatch):
    path = tmp_path / 'v.mkv'
    header, segment, void = bytes.fromhex('1a45dfa380'), bytes.fromhex('18538067'), b'\xec\x80'
    for size, intact in (('01ffffffffffffff', True), ('84', True), ('85', False),
                         ('0100010000000000', False)):
        path.write_bytes(header + segment + bytes.fromhex(size) + 2 * void)
        assert is_intact(path) == intact, size
    path.write_bytes(header + 4 * void)
    monkeypatch.setattr(matroska, 'MOST_ELEMENTS', 5)
    assert is_intact(path)
    path.write_bytes(header + 5 * void)
    assert not is_intact(path)


def with_pause(content):
    """Return a Matroska file whose frames from the third second on come a second later."""
    data = bytearray(content)
    for kind, at, size in elements(content):
        time = int.from_bytes(content[at:at + size], 'big')
        if kind == b'\xe7' and time >= 2000:  # a cluster's, in milliseconds
            data[at:at + size] = (time + 1000).to_bytes(size, 'big')
        elif kind == INFO:
            at = content.index(b'\x44\x89\x88', at) + 3
            struct.pack_into('>d', data, at, struct.unpack_from('>d', data, at)[0] + 1000)
    return bytes(data)


@pytest.mark.parametrize('codec', ['MJPG', 'mp4v'])
def test_a_pause_in_the_stamps_is_no_damage(codec, tmp_path):
    path = tmp_path / 'v.mkv'
    content = with_pause(write_video(path, codec))
    path.write_bytes(content)
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) == COUNT + 10
    assert read(path) == (COUNT, '')
    half = len(content) // 2
    for damaged in (content[:half], content[:half] + bytes(9000) + content[half + 9000:]):
        path.write_bytes(damaged)
        frames, error = read(path)
        assert 5 < frames < COUNT
        assert 'the video is damaged or cut off' in error


def test_frames_that_an_edit_list_hides_are_not_missing(real_data):
    path = real_data / 'recordings' / 'highway_1280x720_25fps.mp4'
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) == 116
    assert read(path) == (100, '')


def test_a_recording_is_made_of_the_frames_that_there_are(tmp_path, capsys):
    pytest.importorskip('rosbags')
    content = write_video(tmp_path / 'v.avi', 'MJPG')
    (tmp_path / 'v.avi').write_bytes(content[:len(content) // 2])
    assert make_recording([str(tmp_path / 'v.avi'), str(tmp_path / 'bag')]) == 1
    frames, error = read(tmp_path / 'v.avi')
    assert f'make_recording: {error}; the recording ends there' in capsys.readouterr().err
    with open_recording(tmp_path / 'bag') as recording:
        assert recording.frame_count == frames
