"""One camera's ROS side, in this process: what is drawn for nobody, and scaled calibrations."""
import threading
import time

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from harness import image_message, wait_until
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest
from std_msgs.msg import Header

from featshare_core.inference.segmenter import Result
from featshare_core.labels import CAMVID
from featshare_ros import camera as camera_module
from featshare_ros.camera import Camera, scaled_camera_info
from featshare_ros.diagnostics import CameraStatistics
from featshare_ros.worker import Worker


@pytest.fixture
def camera(peer):
    wake = threading.Condition()
    camera = Camera(peer.node, '', False, CAMVID, wake)
    yield camera
    camera.destroy()


def test_an_overlay_is_drawn_only_while_somebody_subscribes(peer, camera, monkeypatch):
    drawn = []
    paint = camera_module.paint
    monkeypatch.setattr(camera_module, 'paint',
                        lambda *arguments: drawn.append(1) or paint(*arguments))
    frame, mask = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    result = Result(mask, None, True, 'first', 0, {})
    camera.publish_overlay(frame, result, Header(), 0.5)
    assert not drawn
    overlays = []
    subscription = peer.node.create_subscription(Image, '/peer/overlay', overlays.append, 1)
    wait_until(lambda: camera.publish_overlay(frame, result, Header(), 0.5) or overlays, 10,
               'an overlay')
    assert drawn
    peer.node.destroy_subscription(subscription)
    wait_until(lambda: peer.node.count_subscribers('/peer/overlay') == 0, 10, 'nobody to listen')
    drawn.clear()
    camera.publish_overlay(frame, result, Header(), 0.5)
    assert not drawn


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


def test_calibrations_scale_with_the_mask():
    info = CameraInfo(width=640, height=480, distortion_model='plumb_bob', d=[0.5] * 5,
                      roi=RegionOfInterest(x_offset=64, y_offset=48, width=320, height=240))
    info.k = [500.0, 2.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0]
    info.p = [500.0, 0.0, 320.0, -50.0, 0.0, 510.0, 240.0, 7.0, 0.0, 0.0, 1.0, 0.0]
    info.r = [float(i) for i in range(9)]
    header = Header(frame_id='camera')
    scaled = scaled_camera_info(info, 0.5, 0.25, header)
    assert (scaled.width, scaled.height, scaled.header.frame_id) == (320, 120, 'camera')
    assert list(scaled.k) == [250.0, 1.0, 160.0, 0.0, 127.5, 60.0, 0.0, 0.0, 1.0]
    assert list(scaled.p) == [250.0, 0.0, 160.0, -25.0, 0.0, 127.5, 60.0, 1.75, 0.0, 0.0, 1.0, 0.0]
    assert (list(scaled.r), list(scaled.d)) == (list(info.r), list(info.d))
    roi = scaled.roi
    assert (roi.x_offset, roi.y_offset, roi.width, roi.height) == (32, 12, 160, 60)
    # The message that came is not touched, and an image that was not scaled keeps its own.
    assert (info.width, info.k[0], info.roi.width) == (640, 500.0, 320)
    same = scaled_camera_info(info, 1, 1, header)
    assert (same.width, list(same.k), same.roi) == (640, list(info.k), info.roi)


def test_calibrations_of_another_size_than_the_images(camera, monkeypatch):
    published = []
    monkeypatch.setattr(camera, '_camera_info',
                        type('Publisher', (), {'publish': published.append}))
    result = Result(np.zeros((120, 160), np.uint8), None, True, 'first', 0, {})

    def publish(**options):
        camera._info = CameraInfo(**options)
        camera._info.k[0] = 600.0
        camera.publish_mask(np.zeros((240, 320, 3), np.uint8), result, Header())
        return published.pop() if published else None

    # Images that were scaled to a fourth, whose masks have half their size.
    info = publish(width=1280, height=960)
    assert (info.width, info.height, info.k[0]) == (160, 120, 75.0)
    # What the driver has applied: every other row and column of a sensor, or a part of it.
    info = publish(width=640, height=480, binning_x=2, binning_y=2)
    assert (info.width, info.height, info.k[0], info.binning_x) == (320, 240, 300.0, 2)
    info = publish(width=1280, height=960, roi=RegionOfInterest(width=320, height=240))
    assert (info.width, info.roi.width, info.k[0]) == (640, 160, 300.0)
    # It tells no size: then it is the image's.
    assert publish().k[0] == 300.0
    assert publish(width=1920, height=1080) is None
    camera.statistics.arrived(time.monotonic())
    camera.statistics.waiting_since = None
    status = camera.statistics.status('camera', 'cpu', 1)
    assert (status.level, status.message) == (
        DiagnosticStatus.WARN, 'camera_info is of 1920x1080, of another shape than the images of '
        '320x240: it is not published with the masks')
    assert publish(width=640, height=480).k[0] == 150.0
    assert camera.statistics.status('camera', 'cpu', 1).level == DiagnosticStatus.OK


def test_an_override_of_one_topics_quality_of_service_is_that_topics_alone():
    context = rclpy.Context()
    rclpy.init(context=context, args=[
        '--ros-args',
        '-p', 'qos_overrides./eyes/left/overlay.publisher.reliability:=best_effort',
        '-p', 'qos_overrides./left/image.subscription.reliability:=reliable'])
    node = rclpy.create_node('eyes', context=context)
    wake = threading.Condition()
    cameras = [Camera(node, name, False, CAMVID, wake) for name in ('left', 'right')]
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
            Camera(node, '', False, CAMVID, threading.Condition())
        assert node.count_publishers('/half/mask') == 0
        camera = Camera(node, 'right', False, CAMVID, threading.Condition())
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
    assert status.message.startswith('images came and none was finished for 6 s')
    statistics.processed(Result(np.zeros((1, 1), np.uint8), None, True, 'first', 0, {}), 1.0, None)
    assert statistics.status('camera', 'cpu', 1).level == DiagnosticStatus.OK


def test_failures_of_one_camera_are_logged_once_in_a_while():
    cameras = [CameraStatistics(f'/{name}') for name in 'ab']
    assert [camera.failed('bad', engine=False) for camera in cameras for _ in range(3)] \
        == [True, False, False] * 2
    assert cameras[0].status('a', 'cpu', 1).level == DiagnosticStatus.ERROR
    # Told once: the next second without failures is told as it is.
    assert 'failed' not in cameras[0].status('a', 'cpu', 1).message
