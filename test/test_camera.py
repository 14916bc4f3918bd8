"""One camera's ROS side, in this process: what is drawn for nobody, and scaled calibrations."""
import threading

import numpy as np
import pytest
from harness import image_message, wait_until
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest
from std_msgs.msg import Header

from featshare_core.inference.segmenter import Result
from featshare_core.labels import CAMVID
from featshare_ros import camera as camera_module
from featshare_ros.camera import Camera, scaled_camera_info
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
    worker.stop()
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
    scaled = scaled_camera_info(info, 320, 120, header)
    assert (scaled.width, scaled.height, scaled.header.frame_id) == (320, 120, 'camera')
    assert list(scaled.k) == [250.0, 1.0, 160.0, 0.0, 127.5, 60.0, 0.0, 0.0, 1.0]
    assert list(scaled.p) == [250.0, 0.0, 160.0, -25.0, 0.0, 127.5, 60.0, 1.75, 0.0, 0.0, 1.0, 0.0]
    assert (list(scaled.r), list(scaled.d)) == (list(info.r), list(info.d))
    roi = scaled.roi
    assert (roi.x_offset, roi.y_offset, roi.width, roi.height) == (32, 12, 160, 60)
    # The message that came is not touched, and one of the right size, or of none, is not scaled.
    assert (info.width, info.k[0], info.roi.width) == (640, 500.0, 320)
    assert list(scaled_camera_info(info, 640, 480, header).k) == list(info.k)
    assert scaled_camera_info(CameraInfo(), 640, 480, header).width == 640
    assert scaled_camera_info(CameraInfo(height=9), 640, 480, header).height == 480
