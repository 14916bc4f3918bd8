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
"""Moved frames: masks that follow the picture without a run of the network."""
from __future__ import annotations

import cv2
from featshare_core.inference.engine import Prediction
from featshare_core.inference.moving import Mover
from featshare_core.inference.segmenter import VideoSegmenter
import numpy as np
import pytest

HEIGHT, WIDTH, STEP = 96, 160, 3


def video(count, step=STEP):
    """Return frames of a wide picture that moves to the left by ``step`` pixels a frame."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH + 20 * STEP, 3), np.uint8)
    wide = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    return [np.ascontiguousarray(wide[:, index * step:index * step + WIDTH])
            for index in range(count)]


@pytest.fixture
def make(random_checkpoint):
    def make(**options):
        return VideoSegmenter.from_checkpoint(
            random_checkpoint, **{'key_interval': 4, 'device': 'cpu', 'precision': 'fp32',
                                  'engine': 'torch', **options})
    return make


def prediction(mask, confidence=None):
    return Prediction(mask, confidence, 0, {'network': 1.0})


@pytest.mark.parametrize('size', ((HEIGHT, WIDTH), (48, 80), (240, 400)))
def test_the_mask_follows_the_picture(size):
    """Also a mask of the network's size, or of more pixels than the flow is computed on."""
    before, after = video(2)
    mover = Mover(1, HEIGHT * WIDTH)

    def bright(frame):
        return (cv2.resize(frame[..., 0], size[::-1]) > 127).astype(np.uint8)
    mover.keep('', before, prediction(bright(before)))
    moved = mover.moved('', after)
    assert moved.moved and moved.lag == 1
    assert list(moved.timings) == ['flow', 'move']
    inside = np.s_[size[0] // 8:-size[0] // 8, size[1] // 8:-size[1] // 8]
    wrong = (moved.mask != bright(after))[inside].mean()
    assert wrong < 0.4 * (bright(before) != bright(after))[inside].mean()
    assert mover.moved('', after) is None  # one frame in a row


def test_flow_on_a_part_of_the_pixels():
    before, after = (cv2.resize(frame, (6 * WIDTH, 6 * HEIGHT)) for frame in video(2))
    mover = Mover(1, HEIGHT * WIDTH)
    bright = [(frame[..., 0] > 127).astype(np.uint8) for frame in (before, after)]
    mover.keep('', before, prediction(bright[0]))
    moved = mover.moved('', after).mask
    inside = np.s_[60:-60, 60:-60]
    wrong, still = ((mask != bright[1])[inside].mean() for mask in (moved, bright[0]))
    assert moved.shape == before.shape[:2] and wrong < 0.25 * still


def test_confidence_moves_too_and_is_0_outside():
    before, after = video(2, step=6)
    mover = Mover(3, HEIGHT * WIDTH)
    sure = np.full((HEIGHT, WIDTH), 200, np.uint8)
    mover.keep('', before, prediction(np.zeros_like(sure), sure))
    found = mover.moved('', after, confidence=True).confidence
    assert (found[:, :WIDTH - 16] == 200).mean() > 0.98
    assert (found[16:-16, -4:] == 0).mean() > 0.4  # came into view
    assert mover.moved('', after).confidence is None
    mover.keep('', before, prediction(np.zeros_like(sure)))
    assert mover.moved('', after, confidence=True) is None  # there is none to move


@pytest.mark.parametrize('brightness', (1.0, 0.2))
def test_another_scene_is_not_moved(brightness):
    def seen(frame):
        return (brightness * frame).astype(np.uint8)
    before, after = map(seen, video(2))
    mover = Mover(1, HEIGHT * WIDTH)
    mover.keep('', before, prediction(np.zeros((HEIGHT, WIDTH), np.uint8)))
    other = np.random.default_rng(1).integers(0, 256, (12, 20, 3), np.uint8)
    for frame in (seen(cv2.resize(other, (WIDTH, HEIGHT))), seen(after[:, ::-1]),
                  np.full_like(after, 60)):
        assert mover.moved('', frame) is None
    assert mover.moved('other camera', after) is None
    assert mover.moved('', after) is not None


def test_a_mask_is_not_moved_over_a_gap_of_time():
    before, after = video(2)
    mover = Mover(1, HEIGHT * WIDTH)
    mover.keep('', before, prediction(np.zeros((HEIGHT, WIDTH), np.uint8)), 7.0)
    assert mover.moved('', after, stamp=7.6) is None
    assert mover.moved('', after, stamp=7.4) is not None


@pytest.mark.parametrize(('size', 'moves'), (
    ((1, 1), False), ((8, 200), False), ((1, 30_000), False), ((15, 15), False),
    ((16, 4000), None), ((40, 32_768), False), ((31, 33), True), ((300, 200), True)))
def test_frames_of_any_size(size, moves):
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    frame = cv2.GaussianBlur(frame, (0, 0), 4)
    mover = Mover(1, 64 * 64)
    mask = (frame[..., 0] > 127).astype(np.uint8)
    mover.keep('', frame, prediction(mask))
    moved = mover.moved('', frame)
    assert moves is None or moves == (moved is not None)
    assert moved is None or (moved.mask != mask).mean() < 0.02


def test_the_network_runs_between(make):
    plain, moving = make(), make(moved_frames=1)
    roles, lags = [], []
    frames = video(13)
    for frame in frames[:9]:
        expected, found = plain.segment(frame), moving.segment(frame)
        roles.append(found.kind)
        lags.append((found.frames_since_key, expected.frames_since_key))
        if not found.moved:
            # Current frames use the same features as without moved frames.
            np.testing.assert_array_equal(found.mask, expected.mask)
        if found.moved:
            assert list(found.timings) == ['flow', 'move'] and found.mask.max() < 255
        found.mask[:] = 255  # the caller may draw into it
    assert roles == ['key', 'moved', 'current', 'moved'] * 2 + ['key']
    assert all(ours == theirs for ours, theirs in lags)
    moving.moved_frames = 3
    assert [moving.segment(frame).moved for frame in frames[9:]] == [True, True, True, False]


def test_a_mask_from_before_it_was_switched_off_is_not_moved(make):
    segmenter = make(moved_frames=1, key_interval=100)
    frames = video(6)
    assert [segmenter.segment(frame).moved for frame in frames[:2]] == [False, True]
    segmenter.moved_frames = 0
    assert not segmenter.segment(frames[2]).moved
    segmenter.moved_frames = 2
    assert [segmenter.segment(frame).moved for frame in frames[3:]] == [False, True, True]
    segmenter.reset()
    assert segmenter.segment(frames[5]).is_key
    segmenter.forget('')
    assert not segmenter._mover._last
    assert segmenter.segment(frames[5]).is_key
    segmenter.close()
    assert not segmenter._mover._last


@pytest.mark.parametrize('engine', ('torch', 'openvino'))
def test_deferred_lags_count_moved_frames(make, engine):
    if engine == 'openvino':
        pytest.importorskip('openvino')
    segmenter = make(moved_frames=1, key_mode='deferred', engine=engine)
    found = [segmenter.segment(frame) for frame in video(4)]
    assert [result.moved for result in found] == [False, True, False, True]
    assert [result.frames_since_key for result in found] == [0, 1, 2, 3]
    # Due, the key frame waits for a frame that the network runs on; then moving goes on.
    segmenter.moved_frames = 3
    later = [segmenter.segment(frame) for frame in video(9)[4:]]
    assert [result.moved for result in later] == [True, True, False, True, True]
    assert [result.frames_since_key for result in later[:3]] == [4, 5, 6]


def test_streams_are_moved_apart(make):
    segmenter, alone = make(moved_frames=1), make(moved_frames=1)
    frames = video(3)
    for front, rear in zip(frames, (255 - frame for frame in frames)):
        expected = alone.segment(front).mask
        np.testing.assert_array_equal(segmenter.segment(front, 'front').mask, expected)
        segmenter.segment(rear, 'rear')


@pytest.mark.parametrize(('value', 'error'), (
    (-1, ValueError), (11, ValueError), (True, TypeError), (1.0, TypeError), ('1', TypeError)))
def test_moved_frames_out_of_range_are_refused(make, value, error):
    segmenter = make()
    with pytest.raises(error, match='moved_frames must be'):
        segmenter.moved_frames = value
    assert segmenter.moved_frames == 0
