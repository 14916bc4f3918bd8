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
"""Images that are lost before they arrive are reported, and nothing else is reported as loss."""
from array import array
import os
from pathlib import Path
import random
import re
import subprocess
import sys
import threading
import time

from featshare_ros.loss import LossWatch, thinned
from harness import BEST_EFFORT, FAST, image_message, NodeProcess, wait_until
import numpy as np
import pytest
import rclpy
from sensor_msgs.msg import CameraInfo, Image

LOST = 'most images are lost before they arrive'
CAMERAS = ('paired', 'thinned', 'throttled', 'timed', 'replayed')
RATE_HZ = 20


def random_loss(share, count=2000, interval=1 / 30, jitter=0.001):
    """Return the remaining stamps of a camera of which this share was lost at random."""
    draw = random.Random(7)
    return [index * interval + draw.uniform(-jitter, jitter) for index in range(count)
            if draw.random() >= share][-256:]


@pytest.mark.parametrize('share', [0.6, 0.7, 0.8, 0.9])
def test_random_losses_show_in_the_spacing_of_stamps(share):
    came, sent = thinned(random_loss(share))
    assert 1 - came / sent == pytest.approx(share, abs=0.15)


def throttled(rate, count=600):
    """Return the stamps of a 30 Hz camera that topic_tools' throttle passes on."""
    draw, passed = random.Random(3), []
    for index in range(count):
        stamp = index / 30 + draw.uniform(-0.001, 0.001)
        if not passed or stamp - passed[-1] >= 1 / rate:
            passed.append(stamp)
    return passed


@pytest.mark.parametrize('stamps', [
    *([index / rate for index in range(200)] for rate in (1, 10, 30)),
    random_loss(0.0), random_loss(0.3),
    *(throttled(rate) for rate in (2, 5, 7, 10, 12, 20)),
    # A camera that lowers its rate in the dark, bursts of two images, and pauses.
    list(np.cumsum([step / 30 for step in (1, 2, 3, 4, 6) for _ in range(30 // step)])),
    list(np.cumsum([1 / 30, 1] * 20)),
    list(np.cumsum(([1 / 30] * 20 + [3.0]) * 5)),
    # An irregular camera.
    list(np.cumsum(np.random.default_rng(0).uniform(0.03, 0.6, 100))),
    # Stamps that stand still, jump back, or are few.
    [1.0] * 50, [1.0, 0.5] * 50, [1.0], random_loss(0.8)[:8]])
def test_other_spacings_are_no_loss(stamps):
    # At any time, with the stamps up to then.
    assert all(thinned(stamps[:end][-256:]) is None for end in range(1, len(stamps) + 1, 3))


def evaluations(events, same_source=True):
    """Return the messages of a watch after each second; an event is (images, infos, lost)."""
    watch, stamp, messages = LossWatch(), 0.0, []
    for images, infos, lost in events:
        for index in range(max(images, infos)):
            stamp += 0.05
            if index < images:
                watch.image(stamp)
            if index < infos:
                watch.info(stamp)
        watch.lost(lost)
        messages.append(watch.evaluate(lambda: same_source))
    return messages


def test_a_short_loss_or_one_of_less_than_half_is_not_reported():
    assert not any(evaluations([(20, 20, 0)] * 5 + [(2, 20, 18)] * 2 + [(20, 20, 0)] * 5))
    assert not any(evaluations([(12, 20, 8)] * 10))
    # The publisher of camera_info is discovered before that of the images.
    assert not any(evaluations([(0, 20, 0)] + [(20, 20, 0)] * 5))


def test_a_loss_is_reported_while_it_lasts():
    for second in ((2, 20, 0), (2, 0, 18), (0, 0, 20)):
        messages = evaluations([(20, 20, 0)] * 5 + [second] * 5 + [(20, 20, 0)] * 5)
        assert not any(messages[:5])
        assert messages[9].startswith(LOST), second
        assert messages[-1] == ''
    assert '10 of 100 came, by the number of camera_info messages' in evaluations(
        [(2, 20, 0)] * 5)[-1]


def test_camera_info_of_another_node_or_with_stamps_of_its_own_shows_nothing():
    assert not any(evaluations([(2, 20, 0)] * 10, same_source=False))
    watch = LossWatch()
    for second in range(10):
        watch.image(float(second))
        for index in range(20):
            watch.info(second + index / 20 + 0.01)
        assert watch.evaluate(lambda: True) == ''


@pytest.fixture(scope='module')
def node(random_checkpoint):
    process = NodeProcess(
        namespace='loss', weights=random_checkpoint, cameras=f'[{", ".join(CAMERAS)}, large]',
        **FAST)
    process.wait_for_log('segmenting')
    yield process
    code, _ = process.stop()
    assert code == 0, process.log


def status_of(newest, camera):
    return newest().get(f'loss/segmentation: {camera}', (None, '', {}))


def test_the_node_reports_lost_images_and_no_false_alarm(node, peer):
    throttle = rclpy.create_node('throttle', context=peer.context)
    images = {name: (throttle if name == 'throttled' else peer.node).create_publisher(
        Image, f'/loss/{name}/image', BEST_EFFORT) for name in CAMERAS}
    infos = {name: peer.node.create_publisher(CameraInfo, f'/loss/{name}/camera_info', BEST_EFFORT)
             for name in CAMERAS if name != 'thinned'}
    draw, ending = random.Random(1), threading.Event()

    def run():
        number = 0
        pixels = np.zeros((64, 64, 3), np.uint8)
        while not ending.wait(1 / RATE_HZ):
            number += 1
            for name in CAMERAS:
                # The recording is replayed three times as fast as it was made.
                stamp = 10 + number * (3 if name == 'replayed' else 1) / RATE_HZ
                message = image_message(pixels, stamp=stamp)
                info = CameraInfo(header=message.header)
                if name == 'timed':
                    info.header = image_message(pixels, stamp=stamp + 0.01).header
                if name in infos:
                    infos[name].publish(info)
                passes = {'thinned': draw.random() < 0.3, 'replayed': True}.get(
                    name, number % 10 == 0)
                if passes:
                    images[name].publish(message)

    statuses = []
    newest = peer.diagnostics()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: all(LOST in status_of(newest, name)[1]
                               for name in ('paired', 'thinned')), 60,
                   lambda: f'the losses; reported was {newest()}')
        for name in ('paired', 'thinned'):
            level, message, _ = status_of(newest, name)
            assert level == b'\x01'
            assert 'config/fastdds_large_images.xml' in message
            node.wait_for_log(f'{name}: {LOST}', 30)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            statuses += [status_of(newest, name)[1] for name in CAMERAS[2:]]
            time.sleep(0.2)
    finally:
        ending.set()
        thread.join()
        throttle.destroy_node()
    assert len(statuses) > 10
    assert not [message for message in statuses if LOST in message]
    for name in CAMERAS[2:]:
        assert f'{name}: {LOST}' not in node.log
    # The cameras have stopped, which is another finding.
    wait_until(lambda: all(status_of(newest, name)[1].startswith('no image for')
                           for name in CAMERAS), 30, lambda: f'silence; reported was {newest()}')


def talk():
    """Publish large images as a driver without the profile does."""
    rclpy.init()
    publisher = rclpy.create_node('driver').create_publisher(Image, '/loss/large/image',
                                                             BEST_EFFORT)
    message = image_message(np.zeros((720, 1280, 3), np.uint8))
    message.header.stamp.sec = 0
    message.data = array('B', bytes(720 * 1280 * 3))
    while True:
        publisher.publish(message)
        time.sleep(1 / RATE_HZ)


def test_images_that_the_middleware_loses_are_reported_without_stamps_and_camera_info(node, peer):
    if os.environ.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp') != 'rmw_fastrtps_cpp':
        pytest.skip('the losses are those of Fast DDS')
    without = {name: value for name, value in os.environ.items() if 'PROFILES_FILE' not in name}
    newest = peer.diagnostics()
    driver = subprocess.Popen([sys.executable, str(Path(__file__))], env=without)
    try:
        wait_until(lambda: re.search(rf'{LOST}: \d+ of \d+ came, by the report of the middle',
                                     status_of(newest, 'large')[1]), 60,
                   lambda: f'the loss; reported was {status_of(newest, "large")}')
        node.wait_for_log(f'large: {LOST}', 30)
    finally:
        driver.kill()
        driver.wait()


if __name__ == '__main__':
    talk()
