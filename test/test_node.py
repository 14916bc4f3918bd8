"""The real node as its own process, driven over DDS: images in, masks and figures out."""
import signal
import threading
import time

import cv2
import numpy as np
import pytest
from harness import (
    BEST_EFFORT,
    LATCHED,
    RELIABLE,
    NodeProcess,
    image_message,
    wait_until,
)
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import Trigger

from featshare_core.inference.segmenter import VideoSegmenter

FAST = {'engine': 'torch', 'device': 'cpu', 'precision': 'fp32', 'input_size': '[96, 64]'}


@pytest.fixture(scope='module')
def node(random_checkpoint):
    """One node that most tests share; each uses stamps later than the one before."""
    process = NodeProcess(weights=random_checkpoint, key_interval=3, **FAST)
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
    peer.wait_matched('/segmentation/mask')
    time.sleep(0.3)
    return masks, publisher


_stamp = [100.0]


def picture(height=48, width=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def stamped(message):
    """Give a message a stamp later than all before."""
    _stamp[0] += 0.05
    message.header.stamp.sec = int(_stamp[0])
    message.header.stamp.nanosec = int(_stamp[0] % 1 * 1e9)
    message.header.frame_id = f'camera_{_stamp[0]:.2f}'
    return message


def good_image(**options):
    return stamped(image_message(picture(**options)))


def answered(masks, publisher, message, timeout=20):
    """Publish until the message with that header is answered; return its mask."""
    end = time.monotonic() + timeout
    publisher.publish(message)
    while True:
        for mask in masks:
            if mask.header == message.header:
                return mask
        assert time.monotonic() < end, f'no mask for {message.header}'
        time.sleep(0.01)


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
    peer.wait_matched('/segmentation/mask')
    time.sleep(0.3)
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
    for _ in range(5):
        publisher.publish(bad)
        time.sleep(0.05)
    wait_until(lambda: int(newest()['segmentation: camera'][2]['failed']) > failed, 10,
               'the failures to be counted')
    level, message, values = newest()['segmentation: camera']
    assert level in (b'\x01', b'\x02')
    assert reason in message
    assert reason in values['last failure']
    answered(masks, publisher, good_image())
    assert all(mask.header != bad.header for mask in masks)
    wait_until(lambda: newest()['segmentation: camera'][0] == b'\x00', 10, 'recovery')
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


def test_parameters_describe_themselves(node, peer):
    interval = peer.describe_parameter(node.name, 'key_interval')
    assert 'key frame' in interval.description
    assert not interval.read_only
    assert (interval.integer_range[0].from_value, interval.integer_range[0].to_value) == (1, 1000)
    assert peer.describe_parameter(node.name, 'weights').read_only
    assert 'compressed' in peer.describe_parameter(
        node.name, 'image_transport').additional_constraints


def test_a_key_frame_every_third_and_when_forced(node, peer, camera):
    masks, publisher = camera
    newest = peer.diagnostics()

    def keys_among(count, force_at=None):
        """Return which of the frames were key frames: told by the stage times held."""
        before = _counts(newest)
        for index in range(count):
            if index == force_at:
                assert peer.call(Trigger, f'{node.name}/force_key_frame',
                                 Trigger.Request()).success
            answered(masks, publisher, good_image())
        processed = before['processed'] + count
        wait_until(lambda: _counts(newest)['processed'] == processed, 10, 'the counts')
        return _counts(newest)['key frames'] - before['key frames']

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
        before = _counts(newest)
        for grey in greys:
            pixels = np.full((48, 64, 3), grey, np.uint8)
            answered(masks, publisher, stamped(image_message(pixels)))
        wait_until(lambda: _counts(newest)['processed'] == before['processed'] + len(greys), 10,
                   'the counts')
        return _counts(newest)['key frames'] - before['key frames']

    assert peer.set_parameters(node.name, key_interval=1000, max_key_age=0.0).successful
    peer.call(Trigger, f'{node.name}/force_key_frame', Trigger.Request())
    assert keys_among(50, 200, 50) == 1
    assert peer.set_parameters(node.name, key_policy='change', change_threshold=0.1).successful
    peer.call(Trigger, f'{node.name}/force_key_frame', Trigger.Request())
    assert keys_among(50, 60, 200, 200, 50) == 3
    assert not peer.set_parameters(node.name, key_policy='sometimes').successful
    assert peer.set_parameters(node.name, key_policy='fixed', key_interval=3,
                               max_key_age=0.3).successful


def _counts(newest, name='segmentation: camera'):
    values = newest()[name][2]
    return {key: int(values[key])
            for key in ('received', 'processed', 'dropped', 'failed', 'key frames')}


def test_the_overlay_is_the_picture_with_its_mask(node, peer, camera):
    masks, publisher = camera
    overlays = peer.collect(Image, '/segmentation/overlay')
    peer.wait_matched('/segmentation/overlay')
    time.sleep(0.5)
    message = good_image()
    answered(masks, publisher, message)
    wait_until(lambda: overlays, 10, 'an overlay')
    assert overlays[0].header == message.header
    assert (overlays[0].encoding, overlays[0].height, overlays[0].width) == ('rgb8', 48, 64)


def test_confidence_is_published_when_asked_for(node, peer, camera):
    masks, publisher = camera
    confidences = peer.collect(Image, '/segmentation/confidence')
    peer.wait_matched('/segmentation/confidence')
    time.sleep(0.3)
    answered(masks, publisher, good_image())
    assert not confidences
    assert peer.set_parameters(node.name, publish_confidence=True).successful
    message = good_image()
    mask = answered(masks, publisher, message)
    wait_until(lambda: confidences, 10, 'a confidence image')
    assert peer.set_parameters(node.name, publish_confidence=False).successful
    assert confidences[0].header == message.header
    assert (confidences[0].height, confidences[0].width) == (mask.height, mask.width)
    assert min(confidences[0].data) > 0.9 * 255 / 11


def test_camera_info_is_forwarded_with_the_masks_header(node, peer, camera):
    masks, publisher = camera
    infos = peer.collect(CameraInfo, '/segmentation/camera_info')
    info_publisher = peer.publisher(CameraInfo, '/camera_info')
    peer.wait_matched('/segmentation/camera_info')
    info = CameraInfo(height=48, width=64, distortion_model='plumb_bob', d=[0.1] * 5)
    info.k = [50.0, 0.0, 32.0, 0.0, 50.0, 24.0, 0.0, 0.0, 1.0]
    time.sleep(0.3)
    info_publisher.publish(info)
    time.sleep(0.3)
    message = good_image()
    answered(masks, publisher, message)
    wait_until(lambda: infos, 10, 'camera info')
    assert infos[-1].header == message.header
    assert list(infos[-1].k) == list(info.k)
    assert infos[-1].distortion_model == 'plumb_bob'


def test_label_info_reaches_late_joiners(node, peer):
    vision_msgs = pytest.importorskip('vision_msgs.msg', reason='vision_msgs is not installed')
    infos = peer.collect(vision_msgs.LabelInfo, '/segmentation/label_info', LATCHED)
    wait_until(lambda: infos, 10, 'label info')
    assert [c.class_name for c in infos[0].class_map][3] == 'road'


def test_overload_drops_are_counted_exactly_and_no_queue_builds_up(random_checkpoint, peer):
    # Reliable and deep, so that the middleware loses nothing and all that is lost is dropped by
    # the node; remapped, as a launch file would.
    process = NodeProcess(
        '-p', 'qos_overrides./front.subscription.reliability:=reliable',
        '-p', 'qos_overrides./front.subscription.depth:=1000',
        '-r', 'image:=/front', namespace='busy', weights=random_checkpoint, device='cpu',
        engine='torch')
    try:
        process.wait_for_log('segmenting /front')
        newest = peer.diagnostics()
        masks = peer.collect(Image, '/busy/segmentation/mask')
        publisher = peer.publisher(Image, '/front', QoSProfile(
            depth=5000, reliability=ReliabilityPolicy.RELIABLE))
        peer.wait_matched('/busy/segmentation/mask')
        time.sleep(0.3)
        answered(masks, publisher, good_image())
        sent = 1
        end = time.monotonic() + 4
        while time.monotonic() < end:
            last = good_image(height=240, width=320)
            publisher.publish(last)
            sent += 1
            time.sleep(0.004)
        before = len(masks)
        wait_until(lambda: masks[-1].header == last.header, 20, 'the mask of the newest image')
        # What was in work and what waited in the slot, with slack for what was on its way; a
        # queue of what was sent would be hundreds.
        assert len(masks) - before <= 20
        stamps = [mask.header.stamp.sec + 1e-9 * mask.header.stamp.nanosec for mask in masks]
        assert stamps == sorted(stamps)
        name = 'busy/segmentation: camera'
        # All that arrived, with what became of it: diagnostics may come in between.
        wait_until(lambda: newest().get(name) and sent == _counts(newest, name)['received'] == sum(
            _counts(newest, name)[key] for key in ('processed', 'dropped', 'failed')), 10,
            'all to be counted')
        counts = _counts(newest, name)
        assert counts['processed'] == len(masks)
        assert counts['failed'] == 0
        assert counts['dropped'] == sent - len(masks) > sent / 2
    finally:
        process.stop()


def test_compressed_images_and_masks_of_the_networks_size(random_checkpoint, peer):
    process = NodeProcess(namespace='robot', weights=random_checkpoint,
                          image_transport='compressed', mask_size='network', **FAST)
    try:
        process.wait_for_log('segmenting /robot/image/compressed')
        masks = peer.collect(Image, '/robot/segmentation/mask')
        infos = peer.collect(CameraInfo, '/robot/segmentation/camera_info')
        newest = peer.diagnostics()
        publisher = peer.publisher(CompressedImage, '/robot/image/compressed')
        info_publisher = peer.publisher(CameraInfo, '/robot/camera_info')
        peer.wait_matched('/robot/segmentation/mask')
        time.sleep(0.3)
        info = CameraInfo(height=128, width=192)  # that of the images below
        info.k = [100.0, 0.0, 96.0, 0.0, 100.0, 64.0, 0.0, 0.0, 1.0]
        info_publisher.publish(info)
        time.sleep(0.3)
        jpeg = cv2.imencode('.jpg', cv2.resize(picture(8, 12), (192, 128)))[1].tobytes()

        def compressed(data):
            return stamped(CompressedImage(format='rgb8; jpeg compressed bgr8', data=data))

        mask = answered(masks, publisher, compressed(jpeg))
        assert (mask.height, mask.width) == (64, 96)
        wait_until(lambda: infos, 10, 'camera info')
        assert (infos[0].width, infos[0].height) == (96, 64)
        assert list(infos[0].k) == [50.0, 0.0, 48.0, 0.0, 50.0, 32.0, 0.0, 0.0, 1.0]
        for bad in (jpeg[:len(jpeg) // 2], b'', b'\xff\xd8 not a jpeg', bytes(1000)):
            publisher.publish(compressed(bad))
            time.sleep(0.2)
        answered(masks, publisher, compressed(jpeg))
        name = 'robot/segmentation: camera'
        wait_until(lambda: name in newest() and newest()[name][2]['failed'] == '4', 10,
                   'four failures to be counted')
    finally:
        code, _ = process.stop()
    assert code == 0


def test_several_cameras_share_one_network(random_checkpoint, peer):
    process = NodeProcess(namespace='car', weights=random_checkpoint, cameras='[front, rear]',
                          **FAST)
    try:
        process.wait_for_log('segmenting /car/front/image, /car/rear/image')
        streams = {}
        for name in ('front', 'rear'):
            masks = peer.collect(Image, f'/car/segmentation/{name}/mask')
            streams[name] = masks, peer.publisher(Image, f'/car/{name}/image')
            peer.wait_matched(f'/car/segmentation/{name}/mask')
        time.sleep(0.3)
        for size in (40, 48):
            for masks, publisher in streams.values():
                answered(masks, publisher, good_image(height=size))
        # One camera's bad images are no matter of the other's.
        newest = peer.diagnostics()
        bad = good_image()
        bad.encoding = 'nonsense'
        streams['front'][1].publish(bad)
        answered(*streams['rear'], good_image())
        front, rear = 'car/segmentation: front', 'car/segmentation: rear'
        wait_until(lambda: newest().get(front) and newest()[front][2]['failed'] == '1', 10,
                   'the failure to be counted')
        assert newest()[rear][2]['failed'] == '0'
    finally:
        process.stop()


def test_diagnostics_tell_what_runs_and_when_nothing_comes(random_checkpoint, peer):
    process = NodeProcess(namespace='r2', weights=random_checkpoint, **FAST)
    try:
        process.wait_for_log('segmenting')
        newest = peer.diagnostics()
        wait_until(lambda: 'r2/segmentation: camera' in newest(), 10, 'diagnostics')
        level, message, values = newest()['r2/segmentation: camera']
        assert level == b'\x01'
        assert message.startswith('nobody publishes /r2/image')
        level, message, values = newest()['r2/segmentation: engine']
        assert (level, message) == (b'\x00', 'active')
        assert values['device'] == 'cpu'
        assert values['precision'] == 'fp32'
        assert '2 shared levels' in values['network']

        masks = peer.collect(Image, '/r2/segmentation/mask')
        publisher = peer.publisher(Image, '/r2/image')
        peer.wait_matched('/r2/segmentation/mask')
        time.sleep(0.3)
        for _ in range(20):
            answered(masks, publisher, good_image())
        wait_until(lambda: newest()['r2/segmentation: camera'][2]['processed'] == '20', 10,
                   'the counts')
        values = newest()['r2/segmentation: camera'][2]
        assert values['image'] == '64x48 rgb8'
        engine = newest()['r2/segmentation: engine'][2]
        for key in ('key high', 'current low', 'current decode', 'key preprocess',
                    'current postprocess', 'current engine'):
            assert float(engine[f'{key} p50 (ms)']) > 0
        assert float(engine['current engine p50 (ms)']) \
            <= float(values['current latency p50 (ms)'])
        wait_until(lambda: newest()['r2/segmentation: camera'][1].startswith('no image for'), 10,
                   'the silence to be told')
        assert newest()['r2/segmentation: camera'][0] == b'\x01'
    finally:
        process.stop()


def test_nodes_in_namespaces_of_their_own_do_not_collide(random_checkpoint, peer):
    processes = [NodeProcess(namespace=name, weights=random_checkpoint, **FAST)
                 for name in ('left', 'right')]
    try:
        newest = peer.diagnostics()
        ends = []
        for process, name in zip(processes, ('left', 'right')):
            process.wait_for_log(f'segmenting /{name}/image')
            masks = peer.collect(Image, f'/{name}/segmentation/mask')
            ends.append((masks, peer.publisher(Image, f'/{name}/image')))
            peer.wait_matched(f'/{name}/segmentation/mask')
        time.sleep(0.3)
        for masks, publisher in ends:
            answered(masks, publisher, good_image())
        assert [len(masks) for masks, _ in ends] == [1, 1]
        assert peer.set_parameters('/left/segmentation', key_interval=9).successful
        assert peer.get_parameter('/right/segmentation', 'key_interval') == 5
        for name in ('left', 'right'):
            wait_until(lambda: newest().get(f'{name}/segmentation: camera')  # noqa: B023
                       and _counts(newest, f'{name}/segmentation: camera')['received'] == 1,  # noqa: B023
                       10, 'the counts')
        # The newest may be older than the new interval.
        wait_until(lambda: [newest()[f'{name}/segmentation: engine'][2]['key_interval']
                            for name in ('left', 'right')] == ['9', '5'], 10, 'the new interval')
    finally:
        codes = [process.stop()[0] for process in processes]
    assert codes == [0, 0]


def test_a_recording_that_begins_again_is_a_new_scene(node, peer, camera):
    masks, publisher = camera
    newest = peer.diagnostics()
    answered(masks, publisher, good_image())
    wait_until(lambda: 'segmentation: camera' in newest(), 10, 'diagnostics')
    peer.call(Trigger, f'{node.name}/force_key_frame', Trigger.Request())
    answered(masks, publisher, good_image())
    wait_until(lambda: newest()['segmentation: camera'][2]['processed'] != '0', 10, 'the counts')
    time.sleep(1.2)
    before = _counts(newest)['key frames']
    message = good_image()
    message.header.stamp.sec = 3
    answered(masks, publisher, message)
    wait_until(lambda: _counts(newest)['key frames'] == before + 1, 10, 'a key frame')


def test_a_burst_while_a_service_is_called_loses_nothing(node, peer, camera):
    """Callbacks only store; so services answer while images pour in."""
    masks, publisher = camera
    stop = threading.Event()

    def pour():
        while not stop.is_set():
            publisher.publish(good_image())
            time.sleep(0.002)

    thread = threading.Thread(target=pour)
    thread.start()
    try:
        for _ in range(5):
            assert peer.call(Trigger, f'{node.name}/force_key_frame', Trigger.Request()).success
    finally:
        stop.set()
        thread.join()
    answered(masks, publisher, good_image())


@pytest.mark.parametrize('sign', [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_cleanly_while_images_flow(random_checkpoint, peer, sign):
    process = NodeProcess(namespace='ending', weights=random_checkpoint, **FAST)
    process.wait_for_log('segmenting')
    publisher = peer.publisher(Image, '/ending/image')
    for _ in range(50):
        publisher.publish(good_image(height=240, width=320))
        time.sleep(0.005)
    code, _ = process.stop(sign)
    assert code == 0, process.log
    assert 'Traceback' not in process.log, process.log
