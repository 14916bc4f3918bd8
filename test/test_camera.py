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
"""One camera's ROS side, in this process: the slot, the statistics, the worker."""
import threading
import time

from diagnostic_msgs.msg import DiagnosticStatus
from featshare_core.inference.segmenter import Result
from featshare_ros.camera import Camera, UnsupportedEventTypeError
from featshare_ros.diagnostics import BAD_IMAGES, CameraStatistics
from featshare_ros.outputs import Publishers
from featshare_ros.worker import Worker
from harness import image_message, wait_until
import numpy as np
import pytest
import rclpy
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import Image


@pytest.fixture
def camera(peer):
    wake = threading.Condition()
    camera = Camera(peer.node, '', False, wake)
    yield camera
    camera.unsubscribe()


def test_only_the_newest_image_waits_and_the_overtaken_are_counted(peer, camera):
    camera.subscribe()
    publisher = peer.publisher(Image, '/image')
    for stamp in (1.0, 2.0, 3.0):
        publisher.publish(image_message(np.zeros((4, 4, 3), np.uint8), stamp=stamp))
        wait_until(lambda: camera.statistics.counts.received >= stamp, 10,  # noqa: B023
                   'the image')
    assert camera.statistics.counts.dropped == 2
    assert camera.take().message.header.stamp.sec == 3
    assert not camera.waiting
    camera.unsubscribe()
    assert camera.statistics.counts.dropped == 2


def test_a_middleware_that_reports_no_losses_is_subscribed_to_all_the_same(peer, monkeypatch):
    create = peer.node.create_subscription

    def refuse_events(*arguments, event_callbacks=None, **options):
        if event_callbacks is not None:
            raise UnsupportedEventTypeError('no such event')
        return create(*arguments, **options)
    monkeypatch.setattr(peer.node, 'create_subscription', refuse_events)
    camera = Camera(peer.node, '', False, threading.Condition())
    camera.subscribe()
    publisher = peer.publisher(Image, '/image')
    publisher.publish(image_message(np.zeros((4, 4, 3), np.uint8)))
    wait_until(lambda: camera.statistics.counts.received == 1, 10, 'the image')
    camera.unsubscribe()


class Slot:
    """As much of a camera as the worker sees."""

    def __init__(self, images):
        self.images = images

    @property
    def waiting(self):
        return bool(self.images)

    def take(self):
        return self.images.pop(0)


def test_the_worker_takes_cameras_in_turn_and_stops():
    wake = threading.Condition()
    slots = [Slot([1, 2, 3]), Slot([1, 2, 3]), Slot([1])]
    done = []
    with wake:
        worker = Worker(slots, wake, lambda slot, image: done.append((slots.index(slot), image)))
    wait_until(lambda: len(done) == 7, 10, 'all images')
    assert done == [(0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (0, 3), (1, 3)]
    assert worker.stop(10)
    with wake:
        slots[0].images.append(4)
        wake.notify()
    assert len(done) == 7


def test_an_override_of_one_topics_quality_of_service_is_that_topics_alone():
    context = rclpy.Context()
    rclpy.init(context=context, args=[
        '--ros-args',
        '-p', 'qos_overrides./eyes/left/overlay.publisher.reliability:=best_effort',
        '-p', 'qos_overrides./left/image.subscription.reliability:=reliable'])
    node = rclpy.create_node('eyes', context=context)
    wake = threading.Condition()
    cameras = [Camera(node, name, False, wake) for name in ('left', 'right')]
    publishers = [Publishers(node, name) for name in ('left', 'right')]
    try:
        for camera in cameras:
            camera.subscribe()
        reliabilities = {
            info.topic_name if hasattr(info, 'topic_name') else topic: info.qos_profile.reliability
            for topic, infos in (
                *((f'/eyes/{name}/{output}',
                   node.get_publishers_info_by_topic(f'/eyes/{name}/{output}'))
                  for name in ('left', 'right') for output in ('mask', 'overlay', 'camera_info')),
                *((f'/{name}/{source}', node.get_subscriptions_info_by_topic(f'/{name}/{source}'))
                  for name in ('left', 'right') for source in ('image', 'camera_info')))
            for info in infos}
        overridden = {'/eyes/left/overlay': ReliabilityPolicy.BEST_EFFORT,
                      '/left/image': ReliabilityPolicy.RELIABLE}
        assert len(reliabilities) == 10
        assert len(publishers) == 2
        for topic, reliability in reliabilities.items():
            usual = ReliabilityPolicy.RELIABLE if topic.startswith('/eyes') \
                else ReliabilityPolicy.BEST_EFFORT
            assert reliability == overridden.get(topic, usual), topic
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_what_fails_half_way_leaves_nothing_behind():
    context = rclpy.Context()
    rclpy.init(context=context, args=[
        '--ros-args', '-p', 'qos_overrides./half/overlay.publisher.reliability:=sometimes',
        '-p', 'qos_overrides./half/right/camera_info.publisher.reliability:=reliable',
        '-p', 'qos_overrides./right/camera_info.subscription.reliability:=sometimes'])
    node = rclpy.create_node('half', context=context)
    try:
        with pytest.raises(RuntimeError, match='sometimes'):
            Publishers(node, '')
        assert node.count_publishers('/half/mask') == 0
        camera = Camera(node, 'right', False, threading.Condition())
        with pytest.raises(RuntimeError, match='sometimes'):
            camera.subscribe()
        camera.unsubscribe()
        assert node.count_subscribers('/right/image') == 0
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_an_engine_that_finishes_nothing_is_an_error():
    statistics = CameraStatistics('/image')
    statistics.arrived(time.monotonic() - 6)
    for _ in range(3):
        statistics.arrived(time.monotonic())
    status = statistics.status('camera', 'cpu', 1)
    assert status.level == DiagnosticStatus.ERROR
    assert status.message.startswith('images arrive, but none was finished for 6 s')
    statistics.processed(Result(np.zeros((1, 1), np.uint8), None, True, 'first', 0, {}), 1.0, None,
                         statistics.last_arrival)
    assert statistics.status('camera', 'cpu', 1).level == DiagnosticStatus.OK


def test_failures_of_one_camera_are_logged_once_in_a_while():
    cameras = [CameraStatistics(f'/{name}') for name in 'ab']
    assert [camera.failed('bad', BAD_IMAGES, 0.0) or camera.log_due
            for camera in cameras for _ in range(3)] == [True, False, False] * 2
    assert cameras[0].status('a', 'cpu', 1).level == DiagnosticStatus.ERROR
    # Reported once: the next second without failures is OK.
    assert 'failed' not in cameras[0].status('a', 'cpu', 1).message


def test_several_publishers_of_one_topic_are_a_warning_that_names_them(peer, camera, monkeypatch):
    camera.subscribe()
    publisher = peer.publisher(Image, '/image')
    driver = rclpy.create_node('driver', namespace='/rear', context=peer.context)

    def status():
        received = camera.statistics.counts.received
        publisher.publish(image_message(np.zeros((4, 4, 3), np.uint8)))
        wait_until(lambda: camera.statistics.counts.received > received, 10, 'the image')
        camera.take()
        return camera.status('camera', 'cpu', None, None)

    try:
        assert status().level == DiagnosticStatus.OK
        second = driver.create_publisher(Image, '/image', 1)
        wait_until(lambda: peer.node.count_publishers('/image') == 2, 10, 'the publisher')
        warning = status()
        mixed = ('2 publishers on /image (/peer, /rear/driver): images of different cameras '
                 'may be mixed; stop all but one, or remap their topics')
        assert (warning.level, warning.message) == (DiagnosticStatus.WARN, mixed)
        # One finding hides no other.
        monkeypatch.setattr(camera._losses, 'evaluate', lambda same_source: 'most are lost')
        assert status().message == f'{mixed}; most are lost'
        camera.statistics.failed('damaged ' + 'x' * 2000, BAD_IMAGES, time.monotonic())
        failing = status()
        assert failing.level == DiagnosticStatus.ERROR
        assert failing.message.startswith('1 of 1 images failed (bad images): damaged x')
        assert failing.message.endswith(f'; {mixed}; most are lost')
        monkeypatch.undo()
        driver.destroy_publisher(second)
        wait_until(lambda: peer.node.count_publishers('/image') == 1, 10, 'its end')
        assert status().level == DiagnosticStatus.OK
    finally:
        driver.destroy_node()
