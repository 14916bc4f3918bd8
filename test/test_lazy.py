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
"""With `lazy`, a camera is subscribed to only while somebody subscribes to its outputs."""
import sys
from unittest import mock

from featshare_ros.camera import Camera
from featshare_ros.node import SegmentationNode
from harness import (
    BEST_EFFORT,
    counts_of,
    FAST,
    good_image,
    node_here,
    RELIABLE,
    until,
    wait_until,
)
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import pytest
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool

NODE, FRONT = '/segmentation', 'segmentation: front'


@pytest.fixture(params=['reported', 'polled'])
def node(request, monkeypatch, random_checkpoint):
    """A lazy node of two cameras that notices subscribers in one of two ways only."""
    if request.param == 'polled':
        # As on Humble, whose rclpy has no such module and no event for matches.
        monkeypatch.setitem(sys.modules, 'rclpy.event_handler', None)
    else:
        diagnose = SegmentationNode._diagnose

        def without_looking(node):
            with mock.patch.object(node, '_subscribe'):
                diagnose(node)
        monkeypatch.setattr(SegmentationNode, '_diagnose', without_looking)
    with node_here(weights=random_checkpoint, lazy=True, cameras='[front, rear]',
                   key_interval=1000, max_key_age=0.0, **FAST) as node:
        yield node


def test_images_are_received_only_while_somebody_subscribes_to_an_output(node, peer):
    newest = peer.diagnostics()
    publisher = peer.node.create_publisher(Image, '/front/image', BEST_EFFORT)
    rear = peer.node.create_publisher(Image, '/rear/image', BEST_EFFORT)

    def waits():
        """Return whether the status says so, with the counts of a camera without an image."""
        if newest().get(FRONT, ())[:2] != (b'\x00', 'waiting for a subscriber'):
            return False
        counts = counts_of(newest, FRONT)
        return counts['received'] == counts['processed'] + counts['dropped'] + counts['failed']

    def publish():
        for camera in (publisher, rear):
            camera.publish(good_image())

    def counts_after(output):
        """Subscribe until three messages came, and unsubscribe; return the counts."""
        received, before = [], counts_of(newest, FRONT)['processed']
        subscription = peer.node.create_subscription(
            Image, f'{NODE}/front/{output}', received.append, RELIABLE)
        until(publish, lambda: len(received) >= 3, output)
        peer.node.destroy_subscription(subscription)
        wait_until(lambda: publisher.get_subscription_count() == 0, 20, 'unsubscribing')
        wait_until(lambda: waits() and counts_of(newest, FRONT)['processed'] >= before + 3, 20,
                   lambda: f'the status; it is {newest()}')
        return counts_of(newest, FRONT)

    def enable(on):
        assert peer.call(SetBool, f'{NODE}/enable', SetBool.Request(data=on)).success

    # /diagnostics has a subscriber, which needs no images.
    wait_until(waits, 20, lambda: f'the status; it is {newest()}')
    assert publisher.get_subscription_count() == 0
    assert newest()['segmentation: engine'][:2] == (b'\x00', 'active')
    first = counts_after('mask')
    assert first['key frames'] == 1
    # The counts go on, and the first frame after the pause is a key frame, the only one.
    second = counts_after('overlay')
    assert second['key frames'] == 2
    enable(False)
    enable(True)
    assert publisher.get_subscription_count() == 0
    assert rear.get_subscription_count() == 0
    assert counts_of(newest, 'segmentation: rear')['received'] == 0


@pytest.mark.parametrize('node', ['polled'], indirect=True)
def test_no_image_is_subscribed_to_while_the_node_is_activated(node, peer):
    # A driver that streams on demand would be started and stopped.
    matches = []
    publisher = peer.node.create_publisher(Image, '/front/image', BEST_EFFORT)
    subscribe = Camera.subscribe
    with mock.patch.object(Camera, 'subscribe',
                           lambda camera: matches.append(camera.name) or subscribe(camera)):
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
            assert peer.call(ChangeState, f'{NODE}/change_state', ChangeState.Request(
                transition=Transition(id=transition))).success
    assert matches == []
    assert publisher.get_subscription_count() == 0


@pytest.mark.parametrize('node', ['polled'], indirect=True)
def test_a_subscription_that_fails_is_reported_and_tried_again(node, peer):
    newest = peer.diagnostics()
    create = node.create_subscription
    fails = [True, True]

    def failing(kind, topic, *arguments, **options):
        if topic.endswith('camera_info') and fails:
            fails.pop()
            raise RuntimeError('no memory')
        return create(kind, topic, *arguments, **options)
    with mock.patch.object(node, 'create_subscription', failing):
        peer.node.create_subscription(Image, f'{NODE}/front/mask', lambda mask: None, RELIABLE)
        wait_until(lambda: newest().get('segmentation: engine', ())[:2]
                   == (b'\x02', 'cannot subscribe: no memory'), 20, newest)
        wait_until(lambda: newest().get('segmentation: engine', ())[:2] == (b'\x00', 'active'),
                   20, newest)
    topics = {subscription.topic_name for subscription in node.subscriptions}
    assert {'/front/image', '/front/camera_info'} <= topics
