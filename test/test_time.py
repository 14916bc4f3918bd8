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
"""Clocks that begin at zero, stop, jump or disagree, and stamps that say nothing."""
from contextlib import contextmanager
import itertools
import time

from diagnostic_msgs.msg import DiagnosticArray
from harness import image_message, linked, NodeProcess, Peer, wait_until
import numpy as np
import pytest
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

CAMERAS = ('front', 'rear', 'unstamped')


class World:
    """The node on simulated time, its clock and cameras, and what it makes of them."""

    def __init__(self, peer, node):
        self.peer = peer
        self.node = node
        self._diagnostics = peer.collect(DiagnosticArray, '/diagnostics')
        self._clock = peer.publisher(Clock, '/clock')
        self._pixels = np.zeros((48, 64, 3), np.uint8)
        self._masks, self._images, self._missed = {}, {}, {}
        for name in CAMERAS:
            self._masks[name] = peer.collect(Image, f'{self.node}/{name}/mask')
            topic = f'{self.node.rpartition("/")[0]}/{name}/image'
            self._images[name] = peer.publisher(Image, topic)
            linked(self._masks[name], self._images[name], self._new_image(name))
        count = len(self._diagnostics)
        # Those that come before the second may not count all masks.
        wait_until(lambda: len(self._diagnostics) > count + 1, 20, 'diagnostics')
        for name in CAMERAS:
            processed = int(self._newest(name)['processed'])
            self._missed[name] = processed - len(self._masks[name])

    def _new_image(self, camera):
        """Return a function that makes images: unstamped ones, or later than those of tests."""
        number = itertools.count()

        def make():
            index = next(number)
            return image_message(self._pixels, stamp=0.0 if camera == 'unstamped' else 1e6 + index,
                                 frame_id=str(index))
        return make

    def _newest(self, camera):
        """Return the camera's newest values in /diagnostics, or None."""
        for array in reversed(list(self._diagnostics)):
            for status in array.status:
                if status.name == f'{self.node[1:]}: {camera}':
                    return {item.key: item.value for item in status.values}
        return None

    def show(self, camera, *stamps):
        """Send images one by one, each when the last is answered; return how many were keys."""
        before = self.reported(camera)
        for stamp in stamps:
            count = len(self._masks[camera])
            self._images[camera].publish(image_message(self._pixels, stamp=stamp))
            wait_until(lambda: len(self._masks[camera]) > count, 20,  # noqa: B023
                       f'a mask of {camera} at {stamp}')
        return int(self.reported(camera)['key frames']) - int(before['key frames'])

    def reported(self, camera):
        """Return the camera's values in /diagnostics, as soon as they count every mask."""
        def known():
            values = self._newest(camera)
            return values is not None and int(values['processed']) == (
                len(self._masks[camera]) + self._missed[camera])
        wait_until(known, 20, f'the masks of {camera} to be counted')
        return self._newest(camera)

    def set_clock(self, seconds):
        """Publish the time until the node, whose diagnostics are stamped with it, has it."""
        clock = Clock()
        clock.clock.sec, clock.clock.nanosec = int(seconds), round(seconds % 1 * 1e9)
        count = len(self._diagnostics)
        wait_until(lambda: self._clock.publish(clock) or time.sleep(0.05) or any(
            array.header.stamp == clock.clock for array in self._diagnostics[count:]), 20,
            'the node to know the time')

    def set_max_key_age(self, seconds):
        assert self.peer.set_parameters(self.node, max_key_age=seconds).successful


@contextmanager
def new_world(random_checkpoint, namespace):
    """Run a node and its cameras, in which the interval makes no key frames."""
    process = NodeProcess(
        namespace=namespace, use_sim_time=True, weights=random_checkpoint, engine='torch',
        cameras=f'[{", ".join(CAMERAS)}]', device='cpu', precision='fp32',
        input_size='[64, 64]', key_interval=1000, max_key_age=0.3)
    peer = Peer()
    try:
        process.wait_for_log('segmenting')
        yield World(peer, process.name)
    finally:
        peer.close()
        code, _ = process.stop()
    assert code == 0, process.log
    assert 'Traceback' not in process.log, process.log


@pytest.fixture(scope='module')
def shared_world(random_checkpoint):
    with new_world(random_checkpoint, 'sim') as world:
        yield world


@pytest.fixture
def world(shared_world):
    """The node that most tests share; each shows its cameras a first image before it counts."""
    shared_world.set_max_key_age(0.3)
    return shared_world


def test_until_the_clock_begins_at_zero_images_are_answered_and_their_age_is_unknown(
        random_checkpoint):
    with new_world(random_checkpoint, 'zero') as world:
        assert world.show('front', 5.0, 5.05, 5.1) == 1
        assert world.reported('front')['mask age p50 (ms)'] == 'unknown'
        world.set_clock(0.0)
        world.show('front', 0.0, 0.05, 0.1)
        assert world.reported('front')['mask age p50 (ms)'] == 'unknown'
        world.set_clock(0.2)
        world.show('front', 0.15)
        assert float(world.reported('front')['mask age p50 (ms)']) == pytest.approx(50, abs=1)


def test_a_paused_clock_stalls_nothing(world):
    world.set_clock(0.2)
    world.show('front', 0.15)
    assert world.show('front', 0.15, 0.15, 0.15) == 0


def test_a_gap_makes_a_key_frame(world):
    world.show('front', 0.15)
    assert world.show('front', 0.2, 0.25) == 0
    assert world.show('front', 3.0) == 1


def test_stamps_that_jump_back_without_the_clock_make_one_key_frame(world):
    world.show('front', 3.0)
    assert world.show('front', 1.0, 1.05, 1.1) == 1


def test_a_clock_that_jumps_back_restarts_every_camera(world):
    world.set_max_key_age(0.0)
    world.set_clock(9.0)
    world.show('front', 8.8, 8.85)
    world.show('unstamped', 0.0)
    assert world.show('front', 8.9) == world.show('unstamped', 0.0, 0.0) == 0
    world.set_clock(1.0)
    # Not even later stamps, or none, hide it.
    assert world.show('front', 8.95, 9.0) == 1
    assert world.show('unstamped', 0.0, 0.0) == 1


def test_without_stamps_gaps_are_found_by_the_time_of_arrival(world):
    world.set_max_key_age(0.2)
    world.show('unstamped', 0.0)
    time.sleep(0.3)
    assert world.show('unstamped', 0.0) == 1
    world.set_max_key_age(0.0)
    time.sleep(0.3)
    assert world.show('unstamped', 0.0) == 0
    assert world.reported('unstamped')['mask age p50 (ms)'] == 'unknown'


def test_cameras_with_clocks_of_their_own_leave_each_other_alone(world):
    world.show('front', 0.5)
    world.show('rear', 1.7e9)
    for step in (0.05, 0.1, 0.15):
        assert world.show('front', 0.5 + step) == world.show('rear', 1.7e9 + step) == 0
    assert world.reported('rear')['mask age p50 (ms)'] == 'unknown'
