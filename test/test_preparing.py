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
"""Preparation for new image sizes in parallel with frames, which get stand-in masks meanwhile."""
from concurrent.futures import ThreadPoolExecutor
import threading
import time

from featshare_core.inference import preparing
from featshare_core.inference.cuda.cuda_engine import CudaEngine
from featshare_core.inference.device import one_thread
from featshare_core.inference.engines import make_engine
from featshare_core.inference.preparing import Preparer
from featshare_core.inference.segmenter import VideoSegmenter
from featshare_core.networks.checkpoint import load_checkpoint
import numpy as np
import pytest
import torch

pytestmark = pytest.mark.usefixtures('one_thread')
SIZES = ((96, 128), (96, 192))
"""(height, width) of the images: of the size prepared first, and of another aspect ratio."""


def load(engine: str, checkpoint: str):
    if engine == 'graphs':  # the engine for CUDA, except for the capture
        return CudaEngine(*load_checkpoint(checkpoint), torch.device('cpu'), 'fp32')
    return make_engine(checkpoint, engine, 'cpu', 'fp32')


def make(engine: str, checkpoint: str) -> VideoSegmenter:
    """Return a segmenter that is prepared for the first of ``SIZES``, with ``beside`` set."""
    segmenter = VideoSegmenter(load(engine, checkpoint), 10_000)
    segmenter.warm_up([SIZES[0]])
    segmenter.engine.beside = True
    return segmenter


def images(size, count=100):
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (*size, 3), np.uint8)
    return [np.roll(picture, number, 1) for number in range(count)]


@pytest.fixture(params=['openvino', 'onnx', 'graphs'])
def engine(request):
    return request.param


@pytest.fixture
def segmenter(engine, random_checkpoint):
    made = make(engine, random_checkpoint)
    yield made
    made.close()


def test_a_new_size_is_answered_at_once_and_prepared_beside(segmenter, monkeypatch):
    go_on = threading.Event()
    prepare = segmenter.engine._preparer._prepare
    monkeypatch.setattr(segmenter.engine._preparer, '_prepare',
                        lambda size: (go_on.wait(60), prepare(size))[1])
    frames = images(SIZES[1])
    # Nothing is prepared yet, and every frame has its mask.
    first = [segmenter.segment(frame) for frame in frames[:4]]
    assert [result.stand_in for result in first] == [True] * 4
    assert [result.key_reason for result in first] == ['first', '', '', '']
    assert all(result.mask.shape == SIZES[1] for result in first)
    assert segmenter.engine.preparing.endswith(' for 0 s')
    go_on.set()
    results = []
    for frame in frames[4:] * 100:
        results.append(segmenter.segment(frame))
        if not results[-1].stand_in:
            break
        time.sleep(0.02)
    # The first frame at its own size is a key frame, whose features the next one uses.
    assert not results[-1].stand_in
    assert (results[-1].is_key, results[-1].key_reason) == (True, 'size')
    assert not any(result.is_key for result in results[:-1])
    later = segmenter.segment(frames[0])
    assert (later.is_key, later.stand_in, later.frames_since_key) == (False, False, 1)
    assert segmenter.engine.preparing == ''


def test_masks_after_the_switch_are_those_of_an_engine_that_waits(segmenter, engine,
                                                                   random_checkpoint):
    frame = images(SIZES[1], 1)[0]
    for _ in range(1000):
        if not segmenter.segment(frame).stand_in:
            break
        time.sleep(0.02)
    waits = VideoSegmenter(load(engine, random_checkpoint), 100)
    for other in images(SIZES[1], 3):
        for each in (segmenter, waits):
            each.reset()
        assert (segmenter.segment(other).mask == waits.segment(other).mask).all()
        assert (segmenter.segment(frame).mask == waits.segment(frame).mask).all()
    waits.close()


def test_a_known_size_is_not_touched_by_a_new_one(segmenter):
    known, new = images(SIZES[0]), images(SIZES[1])
    for number in range(40):
        result = segmenter.segment(known[number], 'known')
        assert not result.stand_in
        assert result.is_key == (number == 0)
        segmenter.segment(new[number], 'new')
        time.sleep(0.01)


def test_every_frame_after_closing_is_refused_with_the_reason(segmenter):
    segmenter.close()
    for frame in images(SIZES[1], 3):
        with pytest.raises(RuntimeError, match='the engine is closed'):
            segmenter.segment(frame)


def test_sizes_that_change_with_every_frame_are_not_prepared(random_checkpoint):
    segmenter = make('openvino', random_checkpoint)
    asked = []
    segmenter.engine._preparer._prepare = asked.append
    sizes = ((96, 96), (96, 192), (96, 300), (192, 96), (64, 400), (300, 96))
    for size in sizes * 5:
        frame = np.zeros((*size, 3), np.uint8)
        assert segmenter.segment(frame).mask.shape == frame.shape[:2]
    assert asked == []
    assert len(segmenter.engine._runners) == 1
    segmenter.close()


def test_a_video_waits_for_its_size(random_checkpoint):
    # Without ``beside`` masks do not depend on timing.
    with_waiting = VideoSegmenter(make_engine(random_checkpoint, 'openvino', 'cpu', 'fp32'))
    with_waiting.warm_up()
    result = with_waiting.segment(images(SIZES[1], 1)[0])
    assert (result.stand_in, result.key_reason) == (False, 'first')


def test_the_preparer_rests_as_long_as_it_works():
    preparer = Preparer(lambda size: time.sleep(0.3) or size)
    taken = []

    def ask(size):
        preparer.want('', size)
        preparer.want('', size)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            done = preparer.take()
            if done is not None:
                taken.append((done, time.monotonic()))
                return
            preparer.want('', size)
            time.sleep(0.005)
    ask((1, 2))
    ask((3, 4))
    assert [size for (size, _), _ in taken] == [(1, 2), (3, 4)]
    assert taken[1][1] - taken[0][1] >= 0.55
    preparer.close()


def test_a_failed_preparation_is_reported_and_tried_again(monkeypatch):
    monkeypatch.setattr(preparing, 'RETRY_S', 0.2)
    failures = [RuntimeError('no memory')]

    def prepare(size):
        if failures:
            raise failures.pop()
        return 'ready'
    preparer = Preparer(prepare)
    problems, done = set(), None
    deadline = time.monotonic() + 30
    while done is None and time.monotonic() < deadline:
        preparer.want('', (96, 192))
        done = preparer.take()
        problems.add(preparer.state)
        time.sleep(0.01)
    assert done == ((96, 192), 'ready')
    assert '192x96 cannot be prepared: no memory' in problems
    assert preparer.state == ''
    preparer.close()


def test_what_is_ready_after_closing_is_freed():
    go_on, freed = threading.Event(), threading.Event()
    preparer = Preparer(lambda size: go_on.wait(60), lambda prepared: freed.set())
    preparer.want('', (1, 1))
    preparer.want('', (1, 1))
    start = time.monotonic()
    preparer.close()
    assert time.monotonic() - start < 30
    go_on.set()
    assert freed.wait(60)


@pytest.mark.parametrize('name', ['openvino', 'onnx'])
def test_a_size_prepared_beside_runs_on_all_threads(random_checkpoint, name):
    # PyTorch reports 1 to a thread that computes for the first time while another thread is
    # within ``one_thread``, and goes on reporting it to that thread.
    torch.set_num_threads(3)
    segmenter = make(name, random_checkpoint)
    with one_thread(), ThreadPoolExecutor(1) as other:
        runner = other.submit(segmenter.engine._prepared, SIZES[1]).result()
    assert (runner._threads if name == 'openvino' else
                 runner._key.get_session_options().intra_op_num_threads) == 3
    segmenter.close()


def test_of_two_equally_similar_sizes_always_the_same_stands_in(random_checkpoint):
    segmenter = make('openvino', random_checkpoint)
    engine = segmenter.engine
    first = engine._runners.popitem()[1]
    engine._runners.update({(64, 128): first, (128, 64): first})
    square = np.zeros((96, 96, 3), np.uint8)
    stands_in = engine._size_for(square)
    engine._runners.move_to_end(stands_in)  # as running it does
    assert engine._size_for(square) == stands_in
    segmenter.close()


def test_a_size_that_fails_delays_no_other_one():
    failing, good = (1, 2), (3, 4)

    def prepare(size):
        if size == failing:
            raise RuntimeError('no memory')
        return size
    preparer = Preparer(prepare)
    done, deadline = None, time.monotonic() + preparing.RETRY_S / 2
    while done is None and time.monotonic() < deadline:
        for stream, size in (('first', failing), ('second', good)):
            done = done or preparer.take()
            preparer.want(stream, size)
        time.sleep(0.005)
    assert done == (good, good)
    preparer.close()
