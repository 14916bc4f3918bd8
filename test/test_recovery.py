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
"""Who owns an engine: one that arrives late, one that hangs, and none at all."""
import threading
import time
import types

from featshare_core.inference.segmenter import Result, VideoSegmenter
from featshare_core.labels import CAMVID
from featshare_ros import node as node_module
from featshare_ros import recovery
from featshare_ros.camera import Camera
from featshare_ros.node import SegmentationNode
from featshare_ros.recovery import (
    EngineError,
    EngineLoader,
    GIVEN_UP,
    LoadingCancelledError,
    SupervisedSegmenter,
)
from featshare_ros.worker import Worker
from harness import counts_of, good_image, Logger, Peer, wait_until
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool

FRAME = np.zeros((8, 8, 3), np.uint8)


class Engines:
    """Makes segmenters, each as its `plan` says at that moment, and keeps all of them."""

    def __init__(self):
        self.made, self.closed = [], []
        self.loading, self.built = threading.Event(), threading.Event()
        self.go, self.entered = threading.Event(), threading.Event()
        self.plan = ''
        self.built.set()

    def build(self, *arguments, **options):
        if self.plan == 'slow':
            self.loading.set()
            assert self.built.wait(20)
        segmenter = Fake(self)
        self.made.append(segmenter)
        return segmenter


class Fake:
    """As much of a VideoSegmenter as the node sees."""

    labels = CAMVID

    def __init__(self, engines):
        self._engines = engines
        self.key_mode, self.schedule = '', types.SimpleNamespace()
        self.engine = types.SimpleNamespace(network_name='n', licence='l', name='e', device='d',
                                            precision='p', fallback='', preparing='')

    def segment(self, frame, stream, stamp, confidence, source):
        plan = self._engines.plan
        if plan in ('fail', 'slow'):
            raise MemoryError('full')
        if plan == 'hang':
            self._engines.entered.set()
            assert self._engines.go.wait(20)
        return Result(np.zeros(frame.shape[:2], np.uint8), None, True, 'first', 0, {'low': 1.0})

    def warm_up(self, sizes=()):
        if self._engines.plan == 'cold':
            raise RuntimeError('no finite numbers')

    def reset(self, stream=None):
        pass

    def close(self):
        assert self not in self._engines.closed
        self._engines.closed.append(self)


@pytest.fixture
def engines(monkeypatch):
    engines = Engines()
    monkeypatch.setattr(VideoSegmenter, 'from_checkpoint', engines.build)
    monkeypatch.setattr(recovery, 'FIRST_WAIT_S', 0.05)
    monkeypatch.setattr(node_module, 'PATIENCE_S', 0.05)
    yield engines
    engines.built.set()
    engines.go.set()


@pytest.fixture
def node(engines):
    """The node in this process with such an engine, spun by a thread, and a peer over DDS."""
    context = rclpy.Context()
    rclpy.init(context=context, args=['--ros-args', '-r', '__ns:=/owner'])
    node = SegmentationNode(context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    peer = Peer()
    node.peer = peer
    yield node
    peer.close()
    executor.shutdown(timeout_sec=5)
    thread.join(5)
    node.destroy_node()
    rclpy.try_shutdown(context=context)


def change(node, transition):
    """Call the lifecycle service, so that the transition runs on the executor's thread."""
    request = ChangeState.Request(transition=Transition(
        id=getattr(Transition, f'TRANSITION_{transition}')))
    assert node.peer.call(ChangeState, '/owner/segmentation/change_state', request).success


def begin(node):
    """Configure and activate; return the masks and a function that publishes until `done`."""
    change(node, 'CONFIGURE')
    change(node, 'ACTIVATE')
    masks = node.peer.collect(Image, '/owner/segmentation/mask')
    publisher = node.peer.publisher(Image, '/owner/image')

    def publish_until(done, what):
        wait_until(lambda: publisher.publish(good_image()) or time.sleep(0.02) or done(), 20, what)

    def more_masks():
        count = len(masks)
        publish_until(lambda: len(masks) > count + 2, 'masks')
    more_masks()
    publish_until.more_masks = more_masks
    return masks, publish_until


def test_an_engine_that_arrives_after_the_node_was_deactivated_is_closed(node, engines):
    _, publish_until = begin(node)
    engines.built.clear()
    engines.plan = 'slow'
    publish_until(engines.loading.is_set, 'the engine to be rebuilt')
    change(node, 'DEACTIVATE')
    assert engines.closed == engines.made[:1]
    engines.built.set()
    wait_until(lambda: len(engines.closed) == 2, 10, 'the late engine to be closed')
    assert engines.closed == engines.made
    engines.plan = ''
    change(node, 'ACTIVATE')
    publish_until.more_masks()
    assert (len(engines.made), len(engines.closed)) == (3, 2)
    change(node, 'DEACTIVATE')
    change(node, 'CLEANUP')
    assert engines.closed == engines.made
    assert not node.working


def test_an_engine_that_hangs_is_closed_when_it_is_back_and_publishes_nothing(node, engines):
    masks, publish_until = begin(node)
    engines.plan = 'hang'
    publish_until(engines.entered.is_set, 'an image to hang')
    change(node, 'DEACTIVATE')
    assert node.working
    assert engines.closed == []
    engines.plan = ''
    change(node, 'ACTIVATE')
    publish_until.more_masks()
    engines.go.set()
    wait_until(lambda: engines.closed, 10, 'the engine that hung to be closed')
    assert engines.closed == engines.made[:1]
    publish_until.more_masks()
    stamps = [(mask.header.stamp.sec, mask.header.stamp.nanosec) for mask in masks]
    assert stamps == sorted(stamps)
    assert not node._given_up[0]._thread.is_alive()


def test_a_mask_that_is_ready_when_the_node_gives_up_is_not_published(node, engines, monkeypatch):
    masks, publish_until = begin(node)
    ready, go = threading.Event(), threading.Event()
    segment = SupervisedSegmenter.segment

    def late(self, *arguments):
        result = segment(self, *arguments)
        # Between the engine's answer, which counts, and its publishing.
        ready.set()
        assert go.wait(20)
        return result
    monkeypatch.setattr(SupervisedSegmenter, 'segment', late)
    publish_until(ready.is_set, 'a mask to be ready')
    change(node, 'DEACTIVATE')
    count = len(masks)
    failed = node._cameras[0].statistics.counts.failed
    go.set()
    wait_until(lambda: node._cameras[0].statistics.counts.failed == failed + 1, 10, 'the count')
    time.sleep(0.5)
    assert len(masks) == count
    assert node._cameras[0].statistics.failure == GIVEN_UP
    wait_until(lambda: engines.closed == engines.made, 10, 'the engine to be closed')


def test_an_image_without_an_engine_keeps_the_reason_why_there_is_none(engines):
    supervised = SupervisedSegmenter(engines.build, Logger(), lambda: True, EngineLoader())
    release = supervised.give_up()
    with pytest.raises(EngineError, match=GIVEN_UP):
        supervised.segment(FRAME, '', None, False)
    assert supervised.problem == GIVEN_UP
    assert not supervised.failing
    release()
    assert engines.closed == engines.made
    supervised.load()
    assert supervised.problem == ''
    supervised.close()
    with pytest.raises(EngineError, match='no engine is loaded'):
        supervised.segment(FRAME, '', None, False)


def test_what_nobody_waits_for_any_more_is_cancelled_or_closed(engines):
    loader = EngineLoader()
    engines.built.clear()
    engines.plan = 'slow'
    waits = []

    def load(wanted):
        try:
            waits.append(loader.load(engines.build, wanted))
        except LoadingCancelledError as error:
            waits.append(error)
    wanted = [True, True]
    threads = [threading.Thread(target=load, args=(lambda index=index: wanted[index],))
               for index in range(2)]
    threads[0].start()
    assert engines.loading.wait(10)
    assert loader.busy
    threads[1].start()
    wanted[:] = False, False
    for thread in threads:
        thread.join(10)
    assert [type(wait) for wait in waits] == [LoadingCancelledError] * 2
    engines.built.set()
    wait_until(lambda: engines.closed, 10, 'the late engine to be closed')
    # The one that had not been begun is never made.
    assert loader.load(lambda: 'next', lambda: True) == 'next'
    assert len(engines.made) == len(engines.closed) == 1
    assert not loader.busy


def test_a_late_failure_to_build_an_engine_is_ignored(engines):
    loader, go = EngineLoader(), threading.Event()

    def fails():
        assert go.wait(10)
        raise ValueError('no such file')
    with pytest.raises(LoadingCancelledError):
        loader.load(fails, lambda: False)
    go.set()
    assert loader.load(lambda: 'next', lambda: True) == 'next'


def test_an_abandoned_worker_releases_once_whenever_it_ends():
    for ends_first in (True, False):
        go, released = threading.Event(), []
        slot = types.SimpleNamespace(waiting=True, take=lambda: None)

        def process(camera, arrival, go=go):
            camera.waiting = False
            assert go.wait(10)
        worker = Worker([slot], threading.Condition(), process)
        wait_until(lambda: not slot.waiting, 10, 'the image')  # noqa: B023
        assert not worker.stop(0.0)
        if ends_first:
            go.set()
            assert worker.stop(10)
        worker.abandon(lambda: released.append(1))  # noqa: B023
        assert released == [1] * ends_first
        go.set()
        assert worker.stop(10)
        assert released == [1]


def test_an_engine_that_fails_to_warm_up_is_closed(node, engines):
    engines.plan = 'cold'
    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
    assert not node.peer.call(ChangeState, '/owner/segmentation/change_state', request).success
    assert len(engines.made) == 1 and engines.closed == engines.made
    engines.plan = ''
    change(node, 'CONFIGURE')
    assert len(engines.made) == 2 and engines.closed == engines.made[:1]


def test_an_image_that_waits_when_the_node_is_disabled_is_counted(node, engines):
    _, publish_until = begin(node)
    newest = node.peer.diagnostics()
    engines.plan = 'hang'
    camera = node._cameras[0]
    publish_until(lambda: engines.entered.is_set() and camera.waiting, 'an image to wait')
    answer = node.peer.call(SetBool, '/owner/segmentation/enable', SetBool.Request(data=False))
    assert answer.success
    engines.go.set()
    name = 'owner/segmentation: camera'

    def adds_up():
        counts = counts_of(newest, name)
        return counts['received'] == camera.statistics.counts.received == sum(
            counts[key] for key in ('processed', 'dropped', 'failed'))
    wait_until(lambda: name in newest() and adds_up(), 10,
               lambda: f'the counts to add up: {counts_of(newest, name)}')


def test_a_driver_that_sets_no_stamps_after_one_that_did_is_scheduled_by_arrival(peer):
    camera = Camera(peer.node, '', False, threading.Condition())

    def stamp_of(seconds):
        message = good_image()
        message.header.stamp.sec, message.header.stamp.nanosec = seconds, 0
        camera._on_image(message)
        arrival = camera.take()
        return arrival.stamp, arrival.time
    camera.subscribe()
    try:
        stamp, arrival = stamp_of(0)
        assert stamp == arrival
        assert stamp_of(7)[0] == 7.0
        assert stamp_of(0)[0] is None
        camera.unsubscribe()
        camera.subscribe()
        stamp, arrival = stamp_of(0)
        assert stamp == arrival
        assert stamp_of(7)[0] == 7.0
    finally:
        camera.unsubscribe()
