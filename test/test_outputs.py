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
"""What is published of an answer, and to whom; one description for the node and for recordings."""
from pathlib import Path
import subprocess
import sys
import time
import types
from types import SimpleNamespace

from diagnostic_msgs.msg import DiagnosticStatus
from featshare_core.inference.segmenter import Result
from featshare_core.labels import CAMVID
from featshare_ros import outputs
from featshare_ros.camera import Arrival
from featshare_ros.diagnostics import CameraStatistics, EngineStatistics, PUBLISHING
from featshare_ros.outputs import (
    Answer,
    camera_info,
    LATCHED,
    Output,
    OutputError,
    OUTPUTS,
    Publishers,
    scaled_camera_info,
)
from featshare_ros.parameters import PARAMETERS
from featshare_ros.processing import Processor
from harness import image_message, Logger, wait_until
import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest
from std_msgs.msg import Header


@pytest.fixture
def publishers(peer):
    publishers = Publishers(peer.node, '')
    yield publishers
    publishers.destroy()


def answer(**options):
    frame, mask = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    return Answer(Header(frame_id='camera'), CAMVID, '', frame,
                  Result(mask, None, True, 'first', 0, {}), **options)


def test_importing_the_description_needs_no_ros():
    code = ('import sys; sys.modules.update(dict.fromkeys(("rclpy", "sensor_msgs", "std_msgs")));'
            'import featshare_ros.outputs, featshare_ros.recordings.bag_output')
    subprocess.run([sys.executable, '-c', code], check=True, timeout=100,
                   cwd=Path(__file__).parents[1])


def test_outputs_are_as_the_documents_say():
    names = [output.name for output in OUTPUTS]
    assert names[0] == 'mask'
    assert [output.name for output in OUTPUTS if output.qos == LATCHED] == ['label_info']
    assert {output.name for output in OUTPUTS if output.live} == {
        'mask', 'confidence', 'camera_info', 'overlay', 'label_info'}
    assert {output.name for output in OUTPUTS if output.recorded} == {
        'mask', 'confidence', 'overlay', 'timing', 'label_info'}


def test_an_output_on_demand_is_recorded_only_where_it_is_asked_for(monkeypatch):
    bag_output = pytest.importorskip('featshare_ros.recordings.bag_output')
    further = Output('further', outputs.IMAGE, outputs.mask, on_demand=True)
    monkeypatch.setattr(bag_output, 'OUTPUTS', (*OUTPUTS, further))
    recorded = bag_output.Outputs([SimpleNamespace(name='')], bag_output.Wanted(overlay=True), 1)
    assert {channel.topic.removeprefix('/segmentation/').removesuffix('/compressed')
            for channel in recorded.channels} == {'mask', 'overlay', 'timing', 'label_info'}


def test_an_overlay_is_drawn_only_while_somebody_subscribes(peer, publishers, monkeypatch):
    drawn = []
    paint = outputs.paint
    monkeypatch.setattr(outputs, 'paint',
                        lambda *arguments: drawn.append(1) or paint(*arguments))
    publishers.publish(answer())
    assert not drawn
    overlays = []
    subscription = peer.node.create_subscription(Image, '/peer/overlay', overlays.append, 1)
    wait_until(lambda: publishers.publish(answer()) and overlays, 10, 'an overlay')
    assert drawn
    peer.node.destroy_subscription(subscription)
    wait_until(lambda: peer.node.count_subscribers('/peer/overlay') == 0, 10, 'nobody to listen')
    drawn.clear()
    publishers.publish(answer())
    assert not drawn


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


def test_calibrations_of_another_size_than_the_images():
    def published(**options):
        info = CameraInfo(**options)
        info.k[0] = 600.0
        return camera_info(Answer(
            Header(), CAMVID, frame=np.zeros((240, 320, 3), np.uint8), info=info,
            result=Result(np.zeros((120, 160), np.uint8), None, True, 'first', 0, {})), None)

    # Images that were scaled to a fourth, whose masks have half their size.
    info = published(width=1280, height=960)
    assert (info.width, info.height, info.k[0]) == (160, 120, 75.0)
    # What the driver has applied: every other row and column of a sensor, or a part of it.
    info = published(width=640, height=480, binning_x=2, binning_y=2)
    assert (info.width, info.height, info.k[0], info.binning_x) == (320, 240, 300.0, 2)
    info = published(width=1280, height=960, roi=RegionOfInterest(width=320, height=240))
    assert (info.width, info.roi.width, info.k[0]) == (640, 160, 300.0)
    # It has no size: then it is the image's.
    assert published().k[0] == 300.0
    with pytest.raises(OutputError, match='camera_info is for 1920x1080 images, but the images '
                       'are 320x240, another aspect ratio: it is not published; remap'):
        published(width=1920, height=1080)
    assert published(width=640, height=480).k[0] == 150.0
    # Numbers of which no image can be described.
    for region, size in (((4000000000, 0, 4000000000, 480), (640, 480)),
                         ((0, 400, 640, 100), (640, 480)), ((1, 0, 640, 480), (640, 480))):
        roi = RegionOfInterest(**dict(zip(('x_offset', 'y_offset', 'width', 'height'), region)))
        with pytest.raises(OutputError, match=r'camera_info has a region of interest of .* '
                           r'outside its image of 640x480: it is not published; remap'):
            published(width=size[0], height=size[1], roi=roi)
    with pytest.raises(OutputError, match=r'has a side of \d+ pixels: it is not published'):
        published(width=4294967295, height=4294967295, roi=RegionOfInterest(width=4, height=3))


def test_a_calibration_scaled_by_image_procs_resize_node_is_scaled_on_to_the_mask():
    full = CameraInfo(width=1280, height=720, k=[900., 0., 640., 0., 880., 360., 0., 0., 1.],
                      p=[800., 0., 630., -80., 0., 790., 350., 0., 0., 0., 1., 0.],
                      roi=RegionOfInterest(x_offset=0, y_offset=0, width=1280, height=720))
    # As its source does with scale_width and scale_height of 0.5.
    resized = CameraInfo(width=640, height=360, k=[450., 0., 320., 0., 440., 180., 0., 0., 1.],
                         p=[400., 0., 315., -40., 0., 395., 175., 0., 0., 0., 1., 0.],
                         roi=RegionOfInterest(x_offset=0, y_offset=0, width=640, height=360))
    header = Header(frame_id='camera')
    for mask_width, mask_height in ((640, 360), (160, 90)):
        small = camera_info(Answer(
            header, CAMVID, '', np.zeros((360, 640, 3), np.uint8),
            Result(np.zeros((mask_height, mask_width), np.uint8), None, True, 'first', 0, {}),
            info=resized), None)
        assert small == scaled_camera_info(full, mask_width / 1280, mask_height / 720, header)


class Segmenter:
    """A segmenter that answers every frame at once."""

    labels, failing = CAMVID, False

    def segment(self, frame, stream, stamp, confidence, source):
        return Result(np.zeros(frame.shape[:2], np.uint8), None, True, 'first', 0, {'low': 1.0})


class OneCamera:
    """As much of a camera as the processor sees."""

    name, compressed, info = '', False, None

    def __init__(self):
        self.statistics = CameraStatistics('/image')


@pytest.fixture
def process(peer, publishers):
    """Return a function that lets one image through, and the camera."""
    camera = OneCamera()
    logger = Logger()
    node = types.SimpleNamespace(get_logger=lambda: logger, context=peer.context)
    values = types.SimpleNamespace(current={spec.name: spec.default for spec in PARAMETERS})
    processor = Processor(node, Segmenter(), {'': publishers}, EngineStatistics(), values,
                          lambda: None, types.SimpleNamespace(met=lambda size: None))

    def process(info=None):
        camera.info = info
        now = time.monotonic()
        camera.statistics.arrived(now)
        image = image_message(np.zeros((24, 32, 3), np.uint8))
        process.sent += 1
        image.header.stamp.sec = process.sent
        processor.process(camera, Arrival(image, now, 1.0))
        return camera.statistics.status('camera', 'cpu', 1)
    process.camera, process.logger, process.processor = camera, logger, processor
    process.sent = 0
    return process


def test_a_calibration_that_does_not_fit_is_a_warning_and_costs_no_mask(peer, process):
    masks, infos = (peer.collect(kind, f'/peer/{name}') for kind, name in (
        (Image, 'mask'), (CameraInfo, 'camera_info')))
    wait_until(lambda: process(CameraInfo(width=640, height=480)) and masks and infos, 10, 'both')
    status = process(CameraInfo(width=1920, height=1080))
    assert (status.level, status.message) == (
        DiagnosticStatus.WARN, 'camera_info is for 1920x1080 images, but the images are 32x24, '
        'another aspect ratio: it is not published; remap camera_info')
    assert process(CameraInfo(width=640, height=480)).level == DiagnosticStatus.OK
    assert process.camera.statistics.counts.failed == 0
    assert not process.logger.lines


def test_an_output_that_fails_is_no_failure_of_the_engine_and_costs_no_mask(
        peer, process, monkeypatch):
    masks = peer.collect(Image, '/peer/mask')
    overlays = peer.collect(Image, '/peer/overlay')
    wait_until(lambda: process() and masks and overlays, 10, 'mask and overlay')

    def broken(*arguments):
        raise MemoryError('no room for colours')
    monkeypatch.setattr(outputs, 'paint', broken)
    processed = process.camera.statistics.counts.processed
    status = process()
    assert (status.level, status.message) == (
        DiagnosticStatus.WARN, 'overlay is not published: MemoryError: no room for colours')
    # By its stamp: masks of the images before may still be on their way.
    wait_until(lambda: masks[-1].header.stamp.sec == process.sent, 10, 'the mask')
    counts = process.camera.statistics.counts
    assert (counts.processed, counts.failed) == (processed + 1, 0)
    assert 'overlay is not published' in process.logger.lines[0]
    assert 'no room for colours' in process.logger.lines[0]
    process()
    assert len(process.logger.lines) == 1
    monkeypatch.undo()
    assert process().level == DiagnosticStatus.OK


def test_a_mask_that_cannot_be_published_is_a_failure_of_publishing(process, monkeypatch):
    def broken(*arguments):
        raise RuntimeError('the middleware refuses')
    monkeypatch.setattr(outputs, 'encode_image', broken)
    status = process()
    assert (status.level, status.message) == (
        DiagnosticStatus.ERROR, '1 of 1 images failed (publishing failed): mask is not published: '
        'RuntimeError: the middleware refuses')
    assert process.camera.statistics.cause == PUBLISHING
    assert process.camera.statistics.counts.processed == 0


def test_an_image_that_waits_is_dated_from_its_own_arrival():
    statistics = CameraStatistics('/image')
    result = Result(np.zeros((1, 1), np.uint8), None, True, 'first', 0, {})
    statistics.arrived(1.0)
    statistics.arrived(2.0)
    assert statistics.waiting_since == 1.0
    statistics.processed(result, 1.0, None, 1.0)
    assert statistics.waiting_since == 2.0
    statistics.arrived(9.0)
    assert statistics.waiting_since == 2.0
    statistics.failed('bad', PUBLISHING, 9.0)
    assert statistics.waiting_since is None
