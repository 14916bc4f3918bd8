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
"""Nodes started with parameters, names or cameras of their own, driven over DDS."""
import signal
import time

import cv2
from harness import (
    answered,
    counts_of,
    FAST,
    good_image,
    linked,
    NodeProcess,
    picture,
    stable_counts,
    stamped,
    until,
    wait_until,
)
import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image


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
        masks = peer.collect(Image, '/busy/segmentation/mask')
        publisher = peer.publisher(Image, '/front', QoSProfile(
            depth=5000, reliability=ReliabilityPolicy.RELIABLE))
        linked(masks, publisher)
        name = 'busy/segmentation: camera'
        start, answers, sent = stable_counts(peer, name), len(masks), 0
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
        counts = {key: count - start[key] for key, count in stable_counts(peer, name).items()}
        assert counts['received'] == sent
        assert counts['processed'] == len(masks) - answers
        assert counts['failed'] == 0
        assert counts['dropped'] == sent - counts['processed'] > sent / 2
    finally:
        process.stop()


def test_compressed_images_and_masks_of_the_networks_size(random_checkpoint, peer):
    process = NodeProcess(namespace='robot', weights=random_checkpoint,
                          image_transport='compressed', mask_size='network',
                          **{**FAST, 'input_size': '[96, 64]'})
    try:
        process.wait_for_log('segmenting /robot/image/compressed')
        masks = peer.collect(Image, '/robot/segmentation/mask')
        infos = peer.collect(CameraInfo, '/robot/segmentation/camera_info')
        newest = peer.diagnostics()
        publisher = peer.publisher(CompressedImage, '/robot/image/compressed')
        info_publisher = peer.publisher(CameraInfo, '/robot/camera_info')
        info = CameraInfo(height=128, width=192)  # that of the images below
        info.k = [100.0, 0.0, 96.0, 0.0, 100.0, 64.0, 0.0, 0.0, 1.0]
        jpeg = cv2.imencode('.jpg', cv2.resize(picture(8, 12), (192, 128)))[1].tobytes()

        def compressed(data):
            return stamped(CompressedImage(format='rgb8; jpeg compressed bgr8', data=data))

        mask = linked(masks, publisher, lambda: compressed(jpeg))
        assert (mask.height, mask.width) == (64, 96)
        until(lambda: info_publisher.publish(info) or publisher.publish(compressed(jpeg)),
              lambda: infos, 'camera info')
        assert (infos[0].width, infos[0].height) == (96, 64)
        assert list(infos[0].k) == [50.0, 0.0, 48.0, 0.0, 50.0, 32.0, 0.0, 0.0, 1.0]
        answered(masks, publisher, compressed(jpeg))
        name = 'robot/segmentation: camera'
        for count, bad in enumerate((jpeg[:len(jpeg) // 2], b'', b'\xff\xd8 not a jpeg',
                                     bytes(1000)), start=1):
            publisher.publish(compressed(bad))
            wait_until(lambda: name in newest() and newest()[name][2]['failed'] == str(count),  # noqa: B023
                       10, f'{count} failures to be counted')
        answered(masks, publisher, compressed(jpeg))
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
            linked(*streams[name])
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


def test_diagnostics_report_what_runs_and_when_nothing_arrives(random_checkpoint, peer):
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
        assert values['licence'] == 'unknown'

        masks = peer.collect(Image, '/r2/segmentation/mask')
        publisher = peer.publisher(Image, '/r2/image')
        linked(masks, publisher)
        before = stable_counts(peer, 'r2/segmentation: camera')['processed']
        for _ in range(20):
            answered(masks, publisher, good_image())
        wait_until(lambda: counts_of(newest, 'r2/segmentation: camera')['processed']
                   == before + 20, 10, 'the counts')
        values = newest()['r2/segmentation: camera'][2]
        assert values['image'] == '64x48 rgb8'
        engine = newest()['r2/segmentation: engine'][2]
        for key in ('key high', 'current low', 'current decode', 'key preprocess',
                    'current postprocess', 'current engine'):
            assert float(engine[f'{key} p50 (ms)']) > 0
        assert float(engine['current engine p50 (ms)']) \
            <= float(values['current latency p50 (ms)'])
        wait_until(lambda: newest()['r2/segmentation: camera'][1].startswith('no image for'), 10,
                   'the silence to be reported')
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
            linked(*ends[-1])
        names = [f'{name}/segmentation: camera' for name in ('left', 'right')]
        before = [stable_counts(peer, name)['received'] for name in names]
        answers = [len(masks) for masks, _ in ends]
        for masks, publisher in ends:
            answered(masks, publisher, good_image())
        assert [len(masks) for masks, _ in ends] == [count + 1 for count in answers]
        assert peer.set_parameters('/left/segmentation', key_interval=9).successful
        assert peer.get_parameter('/right/segmentation', 'key_interval') == 5
        for name, count in zip(names, before):
            assert stable_counts(peer, name)['received'] == count + 1
        # The newest may be older than the new interval.
        wait_until(lambda: [newest()[f'{name}/segmentation: engine'][2]['key_interval']
                            for name in ('left', 'right')] == ['9', '5'], 10, 'the new interval')
    finally:
        codes = [process.stop()[0] for process in processes]
    assert codes == [0, 0]


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
