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
"""Transitions of the real node, and what makes them fail."""
import signal
import time

from harness import FAST, image_message, NodeProcess, wait_until
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
import numpy as np
import pytest
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger


def change(peer, node, transition):
    request = ChangeState.Request(transition=Transition(id=transition))
    return peer.call(ChangeState, f'{node.name}/change_state', request, timeout=60).success


def state(peer, node):
    return peer.call(GetState, f'{node.name}/get_state', GetState.Request()).current_state.id


def test_every_transition_and_back_with_images_flowing(random_checkpoint, peer):
    node = NodeProcess(weights=random_checkpoint, autostart=False, **FAST)
    try:
        masks = peer.collect(Image, '/segmentation/mask')
        assert state(peer, node) == State.PRIMARY_STATE_UNCONFIGURED
        answer = peer.call(Trigger, f'{node.name}/force_key_frame', Trigger.Request())
        assert not answer.success
        assert 'unconfigured' in answer.message
        publisher = peer.node.create_publisher(Image, '/image', 10)
        stamp = 10.0

        def publish(seconds):
            nonlocal stamp
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                stamp += 0.02
                publisher.publish(image_message(np.zeros((64, 64, 3), np.uint8), stamp=stamp))
                time.sleep(0.02)

        for _ in range(2):
            assert change(peer, node, Transition.TRANSITION_CONFIGURE)
            assert state(peer, node) == State.PRIMARY_STATE_INACTIVE
            # Inactive: nothing is even subscribed to.
            publish(0.3)
            assert publisher.get_subscription_count() == 0
            assert change(peer, node, Transition.TRANSITION_ACTIVATE)
            assert state(peer, node) == State.PRIMARY_STATE_ACTIVE
            count = len(masks)
            wait_until(lambda: publish(0.1) or len(masks) > count + 3, 20, 'masks')  # noqa: B023
            assert change(peer, node, Transition.TRANSITION_DEACTIVATE)
            wait_until(lambda: publisher.get_subscription_count() == 0, 5, 'unsubscribing')
            time.sleep(0.2)
            count = len(masks)
            publish(0.3)
            assert len(masks) == count
            assert change(peer, node, Transition.TRANSITION_CLEANUP)
            wait_until(lambda: peer.node.count_publishers('/segmentation/mask') == 0, 5,
                       'the topics to go')
        assert not change(peer, node, Transition.TRANSITION_ACTIVATE)
        assert state(peer, node) == State.PRIMARY_STATE_UNCONFIGURED
        assert change(peer, node, Transition.TRANSITION_CONFIGURE)
        assert change(peer, node, Transition.TRANSITION_ACTIVATE)
        assert change(peer, node, Transition.TRANSITION_ACTIVE_SHUTDOWN)
        assert state(peer, node) == State.PRIMARY_STATE_FINALIZED
    finally:
        code, _ = node.stop()
    assert code == 0, node.log
    assert 'Traceback' not in node.log, node.log


@pytest.mark.parametrize(('values', 'reason'), [
    ({'weights': '/nowhere/x.safetensors'}, '/nowhere/x.safetensors does not exist'),
    ({'weights': 'nosuch'}, "no checkpoint is called 'nosuch'"),
    ({'device': 'cuda:77'}, "device 'cuda:77' was asked for"),
    ({'device': 'abacus'}, "device 'abacus' is none of auto, cpu, cuda, cuda:N"),
    ({'image_transport': 'theora', 'key_interval': 0}, 'key_interval'),
    ({'image_transport': 'theora'}, 'must be one of raw, compressed'),
    ({'key_interval': 'often'}, 'key_interval'),
    ({'cameras': '[a, a]'}, 'names a camera twice'),
    ({'cameras': '["a/b c"]'}, 'cannot be part of a topic name'),
    ({'input_size': '[100, 64]'}, 'multiples of 32'),
    ({'input_size': '[64]'}, 'must be [width, height]'),
])
def test_what_is_wrong_fails_configuring_with_its_reason(random_checkpoint, peer, values, reason):
    parameters = {'weights': random_checkpoint, **FAST, **values}
    node = NodeProcess(**parameters)
    try:
        node.wait_for_log('cannot be configured')
        line = next(line for line in node.log.splitlines() if 'cannot be configured' in line)
        assert reason in line
        assert state(peer, node) == State.PRIMARY_STATE_UNCONFIGURED
        newest = peer.diagnostics()
        wait_until(lambda: 'segmentation: engine' in newest(), 10, 'diagnostics')
        level, message, _ = newest()['segmentation: engine']
        assert level == b'\x02'
        assert reason in message
        assert node.alive
    finally:
        code, _ = node.stop(signal.SIGTERM)
    assert code == 0, node.log
    assert 'Traceback' not in node.log, node.log


def test_damaged_checkpoints_fail_configuring(random_checkpoint, peer, tmp_path):
    damaged = tmp_path / 'damaged.safetensors'
    damaged.write_bytes(random_checkpoint.read_bytes()[:5000])
    node = NodeProcess(weights=damaged, autostart=False, **FAST)
    try:
        assert not change(peer, node, Transition.TRANSITION_CONFIGURE)
        assert 'damaged.safetensors is not a readable safetensors file' in node.log
        # The file is put right: the same node can be configured.
        damaged.write_bytes(random_checkpoint.read_bytes())
        assert change(peer, node, Transition.TRANSITION_CONFIGURE)
        newest = peer.diagnostics()
        wait_until(lambda: 'segmentation: engine' in newest(), 10, 'diagnostics')
        assert newest()['segmentation: engine'][:2] == (b'\x00', 'inactive')
        # As nav2_lifecycle_manager, which wants no bond with bond_timeout 0, ends what it manages.
        assert change(peer, node, Transition.TRANSITION_CLEANUP)
        assert change(peer, node, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
        assert state(peer, node) == State.PRIMARY_STATE_FINALIZED
    finally:
        node.stop()


def test_a_quality_of_service_that_does_not_exist_fails_with_its_reason(random_checkpoint, peer):
    node = NodeProcess('-p', 'qos_overrides./image.subscription.reliability:=sometimes',
                       weights=random_checkpoint, **FAST)
    try:
        node.wait_for_log('cannot be activated')
        assert 'sometimes' in node.log
        assert state(peer, node) == State.PRIMARY_STATE_INACTIVE
    finally:
        code, _ = node.stop()
    assert code == 0, node.log


@pytest.mark.parametrize('seconds', [0.3, 0.6, 1.2])
def test_a_signal_while_it_configures_ends_it(random_checkpoint, seconds):
    node = NodeProcess(weights=random_checkpoint, **FAST)
    # The first line of the log comes with the first DDS entity, before the weights are read.
    wait_until(lambda: node.log or not node.alive, 60, 'the node to start')
    time.sleep(seconds)
    code, _ = node.stop(signal.SIGTERM)
    assert code == 0, node.log
    assert 'Traceback' not in node.log, node.log
