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
"""The lags of kept features, threads beside each other, and what closing an engine frees."""
from concurrent.futures import Future
import gc
import threading
import weakref

from featshare_core.inference import engine as engine_module
from featshare_core.inference.cpu.compiled_engine import CompiledEngine
from featshare_core.inference.cpu.host_engine import HostEngine
from featshare_core.inference.cuda.cuda_engine import CudaEngine
from featshare_core.inference.device import one_thread
from featshare_core.inference.engines import installed_engines, make_engine
from featshare_core.inference.segmenter import VideoSegmenter
from featshare_core.inference.streams import cache_of, StreamCache
from featshare_core.labels import CAMVID
from featshare_core.networks.checkpoint import Config, load_checkpoint
import numpy as np
import pytest
import torch

SIZE = 32, 64


class Later:
    """Features that are done when the test says so."""

    def __init__(self, value):
        self.value, self.is_done = value, False

    def done(self):
        return self.is_done

    def result(self):
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


def test_the_rule_of_lags():
    cache = StreamCache('size', 'old')
    assert cache.lag == 0
    cache.advance()
    assert (cache.shared, cache.lag) == ('old', 1)
    newer = Later('new')
    cache.defer(newer)  # on the frame of lag 1
    cache.advance()
    cache.take()
    assert (cache.shared, cache.lag, cache.newer) == ('old', 2, newer)
    newer.is_done = True
    cache.advance()  # two frames after the one that was deferred
    assert (cache.shared, cache.lag, cache.newer) == ('new', 2, None)
    cache.advance()
    assert (cache.shared, cache.lag) == ('new', 3)
    # Taken without another frame: the count stays.
    newer = Later('newest')
    newer.is_done = True
    cache.defer(newer)
    cache.take()
    assert (cache.shared, cache.lag) == ('newest', 0)


def test_a_key_frame_is_newer_than_what_is_being_computed():
    cache = StreamCache('size', 'old', lag=4)
    newer = Later('late')
    cache.defer(newer)
    cache.restart()
    newer.is_done = True
    cache.advance()
    assert (cache.shared, cache.lag) == ('old', 1)


def test_features_that_fail_are_dropped_and_the_older_ones_stay():
    cache = StreamCache('size', 'old')
    newer = Later(RuntimeError('no memory'))
    newer.is_done = True
    cache.defer(newer)
    with pytest.raises(RuntimeError, match='no memory'):
        cache.advance()
    cache.advance()
    assert (cache.shared, cache.lag, cache.newer) == ('old', 2, None)


def test_a_cache_of_another_size_is_none():
    caches = {'left': StreamCache((32, 64), 'features')}
    assert cache_of(caches, 'left', (32, 64)) is caches['left']
    for stream, size in (('left', (64, 64)), ('right', (32, 64))):
        with pytest.raises(LookupError, match=f"'{stream}' has had no key frame of this size"):
            cache_of(caches, stream, size)


class Noting(HostEngine):
    """Its features are a copy of the image; a deep half waits until ``release`` is set."""

    name, precision = 'noting', 'fp32'

    def __init__(self):
        super().__init__(Config('none', CAMVID, SIZE[::-1]), 32, 2)
        self.entered, self.release = threading.Event(), threading.Event()
        self.overlaps = []

    def _run_key(self, image, mark):
        self.overlaps.append(self.entered.is_set() and not self.release.is_set())
        return np.zeros((2, 4, 4), np.float32), image.copy()

    def _deep_half(self, image):
        return self.deep

    def deep(self, image):
        self.entered.set()
        assert self.release.wait(60)
        return image.copy()

    def _run_current(self, image, shared, mark):
        return np.zeros((2, 4, 4), np.float32)

    def _free(self):
        pass


def image(value):
    return np.full((*SIZE, 3), value, np.uint8)


def test_the_caller_may_write_into_a_deferred_image():
    engine, frame = Noting(), image(7)
    engine.key(image(1))
    assert engine.defer(frame).deferred
    frame[:] = 9  # the camera's next image, in the same memory
    engine.release.set()
    engine._caches[''].newer.result(60)
    engine.current(frame)
    assert (engine._caches[''].shared == 7).all()
    engine.close()


def test_a_key_frame_waits_for_the_deep_half_that_runs_beside():
    engine = Noting()
    engine.key(image(1), 'left')
    engine.defer(image(2), 'left')
    assert engine.entered.wait(60)
    key = threading.Thread(target=engine.key, args=(image(3), 'right'))
    key.start()
    key.join(0.3)  # as long as it could go ahead
    engine.release.set()
    key.join(60)
    assert engine.overlaps == [False, False]
    engine.close()


class Runner:
    """A runner of one size, whose deep half waits for nothing."""

    def __init__(self, size, threads):
        self.size, self.threads = size, threads

    def key(self, image):
        return np.zeros((2, 4, 4), np.float32), self.size

    def deep(self, image):
        self.threads.append(threading.current_thread().name)
        return self.size

    def current(self, image, shared):
        return np.zeros((2, 4, 4), np.float32)


class Compiled(CompiledEngine):
    name = 'compiled'

    def __init__(self):
        class Source:
            config = Config('none', CAMVID, SIZE[::-1])
            multiple, shared_levels, precision = 32, 2, ''

            def models(self, size):
                return size

            def close(self):
                pass
        super().__init__(Source(), 'fp32')
        self.loaded, self.deep_threads = [], []

    def _load(self, models):
        self.loaded.append((models, threading.current_thread()))
        return Runner(models, self.deep_threads)


def test_a_deep_half_keeps_the_runner_that_was_there_when_it_was_deferred(monkeypatch):
    """The table of runners is the calling thread's: two threads loaded the same size at once."""
    monkeypatch.setattr(engine_module, 'KEPT_SIZES', 1)
    engine = Compiled()
    engine.key(image(1))
    with engine._key_lock:  # the deep half begins only after its size has been dropped
        engine.defer(image(1))
        newer = engine._caches[''].newer
        engine.forget('')
        for width in (96, 128):
            monkeypatch.setattr(engine, '_input_size', (SIZE[0], width))
            engine._runner(np.zeros((SIZE[0], width, 3), np.uint8))
        assert SIZE not in engine._runners
    assert newer.result(60) == SIZE
    assert [size for size, _ in engine.loaded] == [SIZE, (32, 96), (32, 128)]
    assert {thread for _, thread in engine.loaded} == {threading.current_thread()}
    assert engine.deep_threads and 'deep half' in engine.deep_threads[0]
    engine.close()


def test_openvino_says_each_time_why_the_deep_half_cannot_be_compiled(monkeypatch):
    segmenter = VideoSegmenter(make('openvino'), 2, key_mode='deferred')
    from featshare_core.inference.cpu import openvino_engine
    frame = np.zeros((64, 96, 3), np.uint8)
    segmenter.segment(frame)
    for _ in range(2):
        with monkeypatch.context() as patch:
            def fails(*_):
                raise RuntimeError('out of memory while compiling')
            patch.setattr(openvino_engine._Runner, '_compiled', fails)
            segmenter.segment(frame)
            assert segmenter.segment(frame).key_reason == 'interval'
            segmenter.engine._caches[''].newer.exception(60)
            with pytest.raises(RuntimeError, match='out of memory while compiling'):
                segmenter.segment(frame)
        assert segmenter.segment(frame).is_key
    segmenter.segment(frame)
    segmenter.segment(frame)
    segmenter.engine._caches[''].newer.result(60)
    assert segmenter.segment(frame).frames_since_key == 1
    segmenter.close()


def threads_of(number):
    """Return what PyTorch computes on in a thread that begins now."""
    found = Future()
    thread = threading.Thread(target=lambda: found.set_result(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found.result()


def test_one_thread_by_two_threads_at_once_restores_the_number():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    inside, leave, seen = threading.Event(), threading.Event(), []

    def other():
        with one_thread():
            seen.append(torch.get_num_threads())
            inside.set()
            leave.wait(60)
        seen.append(torch.get_num_threads())
    try:
        thread = threading.Thread(target=other)
        with one_thread():
            with one_thread():
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == 1
            thread.start()
            assert inside.wait(60)
        assert torch.get_num_threads() == 3
        leave.set()
        thread.join(60)
        assert seen == [1, 3]
        assert torch.get_num_threads() == 3
        assert threads_of('a new thread') == 3
    finally:
        torch.set_num_threads(before)


def make(name):
    if name == 'cuda':  # all but the capturing
        return CudaEngine(*load_checkpoint('default'), torch.device('cpu'), 'fp32', (96, 64))
    if name not in installed_engines('cpu'):
        pytest.skip(f'the packages of engine {name} are not installed')
    return make_engine(device='cpu', engine=name, precision='fp32', input_size=(96, 64))


def memory_of(engine):
    """Return weak references to what holds an engine's memory."""
    held = [*engine._caches.values()]
    for name in ('_plans', '_runners'):
        held += getattr(engine, name, {}).values()
    if hasattr(engine, '_masks'):
        held += engine._masks._heats
    if hasattr(engine, '_network'):
        held += [engine._network, *engine._network.parameters()]
    for plan in getattr(engine, '_plans', {}).values():
        held += [*plan.shared, plan._host_planes]
        held += [tensor for run in plan._runs.values() for part in run.args
                 for tensor in part.buffers()]
    return [weakref.ref(one) for one in held]


@pytest.mark.parametrize('name', ['torch', 'cuda', 'openvino', 'onnx'])
def test_closing_ends_the_threads_and_frees_the_memory(name):
    before = set(threading.enumerate())
    segmenter = VideoSegmenter(make(name), 2, key_mode='deferred')
    frame = np.zeros((360, 640, 3), np.uint8)  # large enough for a thread to share the mask
    for _ in range(4):
        segmenter.segment(frame)
    engine = segmenter.engine
    if name != 'cuda':
        assert set(threading.enumerate()) - before
    held = memory_of(engine)
    gc.collect()
    gc.disable()  # nothing may be left to the garbage collector
    try:
        segmenter.close()
        left = [one() for one in held if one() is not None]
    finally:
        gc.enable()
    assert not left
    assert set(threading.enumerate()) <= before
    segmenter.close()
    for run in (engine.key, engine.current, engine.defer, segmenter.segment):
        with pytest.raises(RuntimeError, match='the engine is closed'):
            run(frame)


def test_what_could_not_be_prepared_is_freed(monkeypatch):
    prepared = []

    def fails(engine, plan):
        prepared.append(weakref.ref(plan))
        raise torch.cuda.OutOfMemoryError('out of memory')
    monkeypatch.setattr(CudaEngine, '_prepare', fails)
    engine = make('cuda')
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(torch.cuda.OutOfMemoryError):
            engine.key(image(0))
        assert prepared[0]() is None or not vars(prepared[0]())
    finally:
        gc.enable()
