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
"""The real node as its own process, driven over DDS: images in, masks and figures out."""
import threading
import time

import cv2
from featshare_core.inference.segmenter import VideoSegmenter
from featshare_core.labels import CAMVID
from harness import (
    answered,
    BEST_EFFORT,
    counts_of,
    FAST,
    good_image,
    image_message,
    LATCHED,
    linked,
    NodeProcess,
    picture,
    RELIABLE,
    stable_counts,
    stamped,
    until,
    wait_until,
)
import numpy as np
import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import Trigger


@pytest.fixture(scope='module')
def node(random_checkpoint):
    """One node that most tests share; each uses stamps later than the one before."""
    process = NodeProcess(weights=random_checkpoint, key_interval=3,
                          **{**FAST, 'input_size': '[96, 64]'})
    process.wait_for_log('segmenting /image')
    yield process
    code, _ = process.stop()
    assert code == 0, process.log
    assert 'Traceback' not in process.log, process.log


@pytest.fixture
def camera(node, peer):
    """Return (masks received so far, publisher of images) of the shared node."""
    masks = peer.collect(Image, '/segmentation/mask')
    publisher = peer.publisher(Image, '/image')
    linked(masks, publisher)
    return masks, publisher


def test_a_mask_is_what_consumers_require(camera, random_checkpoint):
    masks, publisher = camera
    message = good_image(height=50, width=70)
    mask = answered(masks, publisher, message)
    # Found by its header: copied unchanged, frame_id and nanoseconds too.
    assert mask.encoding == 'mono8'
    assert (mask.height, mask.width, mask.step) == (50, 70, 70)
    assert len(mask.data) == 50 * 70
    segmenter = VideoSegmenter.from_checkpoint(random_checkpoint, device='cpu', precision='fp32',
                                               input_size=(96, 64), engine='torch')
    expected = segmenter.segment(picture(50, 70)).mask
    np.testing.assert_array_equal(np.frombuffer(mask.data, np.uint8).reshape(50, 70), expected)


@pytest.mark.parametrize('qos', [RELIABLE, BEST_EFFORT], ids=['reliable', 'best effort'])
def test_it_receives_from_publishers_of_either_reliability(node, peer, qos):
    masks = peer.collect(Image, '/segmentation/mask', qos)
    publisher = peer.publisher(Image, '/image', qos)
    linked(masks, publisher)
    for _ in range(3):
        answered(masks, publisher, good_image())


def test_encodings_come_through(node, peer, camera):
    masks, publisher = camera
    rgb = picture(48, 64, seed=5)
    peer.call(Trigger, f'{node.name}/force_key_frame', Trigger.Request())
    other = answered(masks, publisher, good_image(seed=6))
    peer.call(Trigger, f'{node.name}/force_key_frame', Trigger.Request())
    reference = answered(masks, publisher, stamped(image_message(rgb)))
    for encoding, code in (('bgr8', cv2.COLOR_RGB2BGR), ('rgba8', cv2.COLOR_RGB2RGBA)):
        peer.call(Trigger, f'{node.name}/force_key_frame', Trigger.Request())
        message = stamped(image_message(cv2.cvtColor(rgb, code), encoding))
        mask = answered(masks, publisher, message)
        assert mask.data == reference.data != other.data, encoding


BAD_IMAGES = {
    'empty': (lambda m: setattr(m, 'data', type(m.data)('B')), 'without data'),
    'zero size': (lambda m: setattr(m, 'width', 0), 'must be positive'),
    'step too small': (lambda m: setattr(m, 'step', 100), 'step 100 is too small'),
    'short data': (lambda m: setattr(m, 'data', m.data[:500]), 'got 500'),
    'unknown encoding': (lambda m: setattr(m, 'encoding', 'infrared9'), 'infrared9'),
    'no camera image': (lambda m: setattr(m, 'encoding', '32FC1'), '32FC1'),
    'huge header': (lambda m: (setattr(m, 'width', 20000), setattr(m, 'height', 20000),
                               setattr(m, 'step', 60000)), '20000x20000'),
}


@pytest.mark.parametrize('kind', BAD_IMAGES)
def test_a_bad_image_is_counted_and_the_next_good_one_segmented(node, peer, camera, kind):
    masks, publisher = camera
    newest = peer.diagnostics()
    damage, reason = BAD_IMAGES[kind]
    answered(masks, publisher, good_image())
    wait_until(lambda: 'segmentation: camera' in newest(), 10, 'diagnostics')
    failed = int(newest()['segmentation: camera'][2]['failed'])
    bad = good_image()
    damage(bad)
    lines = node.log.count('image left out')
    until(lambda: publisher.publish(bad),
          lambda: int(newest()['segmentation: camera'][2]['failed']) > failed,
          'the failures to be counted')
    level, message, values = newest()['segmentation: camera']
    assert level in (b'\x01', b'\x02')
    assert reason in message
    assert reason in values['last failure']
    answered(masks, publisher, good_image())
    assert all(mask.header != bad.header for mask in masks)

    def recovered():
        # The camera continues: two seconds of silence, as a stalled machine makes, are a warning.
        answered(masks, publisher, good_image())
        return newest()['segmentation: camera'][0] == b'\x00'

    wait_until(recovered, 10, 'recovery')
    # In the log once, however many follow.
    assert node.log.count('image left out') - lines <= 1
    assert 'image left out' in node.log


def test_live_parameters_are_set_validated_and_refused_with_a_reason(node, peer):
    assert peer.set_parameters(node.name, key_interval=7, max_key_age=0.0,
                               overlay_opacity=0.25).successful
    assert peer.get_parameter(node.name, 'key_interval') == 7
    for values, reason in (
            ({'key_interval': 0}, 'key_interval'), ({'key_interval': 1001}, 'key_interval'),
            ({'key_interval': 'often'}, 'type'), ({'max_key_age': -1.0}, 'max_key_age'),
            ({'overlay_opacity': 1.5}, 'overlay_opacity'), ({'weights': 'other'}, 'weights'),
            ({'device': 'cuda'}, 'device'), ({'nosuch': 1}, 'undeclared')):
        result = peer.set_parameters(node.name, key_interval=9, **values) \
            if 'key_interval' not in values else peer.set_parameters(node.name, **values)
        assert not result.successful, values
        assert reason in result.reason, (values, result.reason)
    # Refused as a whole: what came along with a bad value is not applied either.
    assert peer.get_parameter(node.name, 'key_interval') == 7
    assert peer.set_parameters(node.name, key_interval=3, max_key_age=0.3).successful


def test_moved_frames_are_switched_on_and_counted(node, peer, camera):
    masks, publisher = camera
    newest = peer.diagnostics()

    def moved():
        # The same picture each time: a mask of the network, then two moved frames.
        message = good_image(seed=6)
        answered(masks, publisher, message)
        values = newest().get('segmentation: camera', (0, '', {}))[2]
        return int(values.get('moved frames', 0))
    assert peer.set_parameters(node.name, moved_frames=2, max_key_age=0.0).successful
    wait_until(lambda: moved() >= 2, 30, 'moved frames')
    assert float(newest()['segmentation: camera'][2]['moved latency p50 (ms)']) > 0
    engine = newest()['segmentation: engine'][2]
    assert engine['moved_frames'] == '2' and float(engine['moved flow p50 (ms)']) > 0
    for wrong in (-1, 11):
        assert not peer.set_parameters(node.name, moved_frames=wrong).successful
    assert peer.set_parameters(node.name, moved_frames=0, max_key_age=0.3).successful


def test_parameters_describe_themselves(node, peer):
    interval = peer.describe_parameter(node.name, 'key_interval')
    assert 'key frame' in interval.description
    assert not interval.read_only
    assert (interval.integer_range[0].from_value, interval.integer_range[0].to_value) == (1, 1000)
    weights = peer.describe_parameter(node.name, 'weights')
    assert weights.description.endswith(
        'Takes effect when the node is configured: clean the node up to change it.')
    assert interval.description.endswith('Live: takes effect with the next frame.')
    assert peer.describe_parameter(node.name, 'autostart').read_only
    assert 'compressed' in peer.describe_parameter(
        node.name, 'image_transport').additional_constraints


def test_a_key_frame_every_third_and_when_forced(node, peer, camera):
    masks, publisher = camera
    newest = peer.diagnostics()

    def keys_among(count, force_at=None):
        """Return which of the frames were key frames, by their stage times."""
        before = counts_of(newest)
        for index in range(count):
            if index == force_at:
                assert peer.call(Trigger, f'{node.name}/force_key_frame',
                                 Trigger.Request()).success
            answered(masks, publisher, good_image())
        processed = before['processed'] + count
        wait_until(lambda: counts_of(newest)['processed'] == processed, 10, 'the counts')
        return counts_of(newest)['key frames'] - before['key frames']

    wait_until(lambda: 'segmentation: camera' in newest(), 10, 'diagnostics')
    peer.call(Trigger, f'{node.name}/force_key_frame', Trigger.Request())
    assert keys_among(7) == 3
    assert keys_among(2) == 0
    peer.call(Trigger, f'{node.name}/force_key_frame', Trigger.Request())
    assert keys_among(6, force_at=1) == 3


def test_a_changed_picture_makes_a_key_frame_where_the_policy_says_so(node, peer, camera):
    masks, publisher = camera
    newest = peer.diagnostics()
    wait_until(lambda: 'segmentation: camera' in newest(), 10, 'diagnostics')

    def keys_among(*greys):
        before = counts_of(newest)
        for grey in greys:
            pixels = np.full((48, 64, 3), grey, np.uint8)
            answered(masks, publisher, stamped(image_message(pixels)))
        wait_until(lambda: counts_of(newest)['processed'] == before['processed'] + len(greys), 10,
                   'the counts')
        return counts_of(newest)['key frames'] - before['key frames']

    assert peer.set_parameters(node.name, key_interval=1000, max_key_age=0.0).successful
    peer.call(Trigger, f'{node.name}/force_key_frame', Trigger.Request())
    assert keys_among(50, 200, 50) == 1
    assert peer.set_parameters(node.name, key_policy='change', change_threshold=0.1).successful
    peer.call(Trigger, f'{node.name}/force_key_frame', Trigger.Request())
    assert keys_among(50, 60, 200, 200, 50) == 3
    assert not peer.set_parameters(node.name, key_policy='sometimes').successful
    assert peer.set_parameters(node.name, key_policy='fixed', key_interval=3,
                               max_key_age=0.3).successful


def test_the_overlay_is_the_picture_with_its_mask(node, peer, camera):
    _, publisher = camera
    overlays = peer.collect(Image, '/segmentation/overlay')
    message = good_image()
    until(lambda: publisher.publish(message), lambda: overlays, 'an overlay')
    assert overlays[0].header == message.header
    assert (overlays[0].encoding, overlays[0].height, overlays[0].width) == ('rgb8', 48, 64)


def test_the_overlay_shows_the_colours_alone_and_a_legend_when_asked_for(node, peer, camera):
    masks, publisher = camera
    overlays = peer.collect(Image, '/segmentation/overlay')

    def shown(**values):
        """Return the overlay of an image that is published after the parameters were set."""
        assert peer.set_parameters(node.name, **values).successful
        message = good_image(height=300, width=400)
        until(lambda: publisher.publish(message),
              lambda: any(overlay.header == message.header for overlay in list(overlays)), 'it')
        overlay = next(found for found in overlays if found.header == message.header)
        mask = answered(masks, publisher, message)
        return (np.frombuffer(overlay.data, np.uint8).reshape(300, 400, 3),
                CAMVID.palette()[np.frombuffer(mask.data, np.uint8).reshape(300, 400)])

    # Every frame a key frame: an image that is published again has the same mask.
    picture, colors = shown(overlay_opacity=1.0, key_interval=1)
    np.testing.assert_array_equal(picture, colors)
    picture, colors = shown(overlay_legend=True)
    assert (picture[:150, :50] != colors[:150, :50]).any()
    np.testing.assert_array_equal(picture[150:], colors[150:])
    picture, colors = shown(overlay_legend=False, overlay_opacity=0.5)
    assert (picture[150:] != colors[150:]).any()
    assert peer.set_parameters(node.name, key_interval=3).successful


def test_confidence_is_published_when_asked_for(node, peer, camera):
    masks, publisher = camera
    confidences = peer.collect(Image, '/segmentation/confidence')
    peer.wait_matched('/segmentation/confidence')
    answered(masks, publisher, good_image())
    assert not confidences
    assert peer.set_parameters(node.name, publish_confidence=True).successful
    message = good_image()
    until(lambda: publisher.publish(message), lambda: confidences, 'a confidence image')
    mask = answered(masks, publisher, message)
    assert peer.set_parameters(node.name, publish_confidence=False).successful
    assert confidences[0].header == message.header
    assert (confidences[0].height, confidences[0].width) == (mask.height, mask.width)
    assert min(confidences[0].data) > 0.9 * 255 / 11


def test_camera_info_is_forwarded_with_the_masks_header(node, peer, camera):
    _, publisher = camera
    infos = peer.collect(CameraInfo, '/segmentation/camera_info')
    info_publisher = peer.publisher(CameraInfo, '/camera_info')
    peer.wait_matched('/segmentation/camera_info')
    info = CameraInfo(height=48, width=64, distortion_model='plumb_bob', d=[0.1] * 5)
    info.k = [50.0, 0.0, 32.0, 0.0, 50.0, 24.0, 0.0, 0.0, 1.0]
    message = good_image()
    until(lambda: info_publisher.publish(info) or publisher.publish(message), lambda: infos,
          'camera info')
    assert infos[-1].header == message.header
    assert list(infos[-1].k) == list(info.k)
    assert infos[-1].distortion_model == 'plumb_bob'


def test_label_info_reaches_late_joiners(node, peer):
    vision_msgs = pytest.importorskip('vision_msgs.msg', reason='vision_msgs is not installed')
    infos = peer.collect(vision_msgs.LabelInfo, '/segmentation/label_info', LATCHED)
    wait_until(lambda: infos, 10, 'label info')
    assert [c.class_name for c in infos[0].class_map][3] == 'road'


def test_a_recording_that_begins_again_is_a_new_scene(node, peer, camera):
    masks, publisher = camera
    newest = peer.diagnostics()
    answered(masks, publisher, good_image())
    wait_until(lambda: 'segmentation: camera' in newest(), 10, 'diagnostics')
    peer.call(Trigger, f'{node.name}/force_key_frame', Trigger.Request())
    answered(masks, publisher, good_image())
    before = stable_counts(peer)['key frames']
    message = good_image()
    message.header.stamp.sec = 3
    answered(masks, publisher, message)
    wait_until(lambda: counts_of(newest)['key frames'] == before + 1, 10, 'a key frame')


def test_a_burst_while_a_service_is_called_loses_nothing(random_checkpoint, peer):
    """Callbacks only store; so services answer while images pour in, and each image counts."""
    # Reliable and deep: what is lost is lost by the node, not by the middleware.
    node = NodeProcess(
        '-p', 'qos_overrides./burst/image.subscription.reliability:=reliable',
        '-p', 'qos_overrides./burst/image.subscription.depth:=2000',
        namespace='burst', weights=random_checkpoint, **FAST)
    try:
        node.wait_for_log('segmenting')
        pour_while_services_are_called(node, peer)
    finally:
        node.stop()


def pour_while_services_are_called(node, peer):
    masks = peer.collect(Image, '/burst/segmentation/mask')
    publisher = peer.publisher(Image, '/burst/image', QoSProfile(
        depth=5000, reliability=ReliabilityPolicy.RELIABLE))
    linked(masks, publisher)
    before = stable_counts(peer, 'burst/segmentation: camera')
    stop, sent = threading.Event(), []

    def pour():
        while not stop.is_set():
            sent.append(good_image())
            publisher.publish(sent[-1])
            time.sleep(0.002)

    thread = threading.Thread(target=pour)
    thread.start()
    try:
        for _ in range(5):
            assert peer.call(Trigger, f'{node.name}/force_key_frame', Trigger.Request()).success
    finally:
        stop.set()
        thread.join()
    wait_until(lambda: masks[-1].header == sent[-1].header, 20, 'the mask of the newest image')
    after = stable_counts(peer, 'burst/segmentation: camera')
    became = {key: after[key] - before[key] for key in after}
    assert became['received'] == len(sent)
    assert became['failed'] == 0
    # Each has become a mask or was overtaken in the slot, and every mask that counts has come.
    assert became['processed'] + became['dropped'] == len(sent)
    headers = [str(message.header) for message in sent]
    assert sum(str(mask.header) in headers for mask in masks) == became['processed']
