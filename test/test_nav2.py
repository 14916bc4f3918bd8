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
"""Nav2: what its costmap layer and its lifecycle manager require of the node, over DDS."""
from collections import Counter, defaultdict, deque
import copy
import importlib.util
from pathlib import Path
import re
import time

from featshare_core.labels import CAMVID
from featshare_ros import outputs
from featshare_ros.outputs import LATCHED, Output
from harness import BEST_EFFORT, FAST, good_image, image_message, node_here, wait_until
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import String
import yaml

ROOT = Path(__file__).parents[1]
FILE = ROOT / 'config' / 'nav2_semantic_costmap.yaml'
CONFIGURATION = yaml.safe_load(FILE.read_text())
LAYER = CONFIGURATION['/**/costmap']['ros__parameters']['semantic_layer']
CAMERA = LAYER['camera']
HAS_VISION_MSGS = importlib.util.find_spec('vision_msgs') is not None
LONGEST_S = 0.1
"""Longest time between the stamps of a mask and its cloud, in seconds: the layer's constant."""


class Layer:
    """
    What semantic_segmentation_layer does with messages, written from its source.

    Subscriptions, matching by stamps (simplified: each mask takes the confidence and the cloud
    whose stamps are nearest), the checks of ``syncSegmConfPointcloudCb``, and the costs of tiles.
    A pixel's point is its own tile. ``refusals`` are the reasons why masks were dropped.
    """

    def __init__(self):
        self.waiting = {kind: deque(maxlen=LAYER['sensor_data_depth'])
                        for kind in ('mask', 'confidence', 'cloud')}
        self.ids, self.refusals, self.buffered = {}, [], []
        self.costs = {name: CAMERA[kind] for kind in CAMERA['class_types']
                      for name in CAMERA[kind]['classes']}
        self.tiles = defaultdict(dict)  # by pixel: class id: confidences
        self.dominant = {}

    def subscribe(self, peer):
        depth = LAYER['sensor_data_depth']
        sensor_data = QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)
        latched = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE,
                             durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for kind, message_type, topic in (('mask', Image, 'segmentation'),
                                          ('confidence', Image, 'confidence'),
                                          ('cloud', PointCloud2, 'pointcloud')):
            peer.node.create_subscription(
                message_type, CAMERA[f'{topic}_topic'],
                lambda message, kind=kind: self.received(kind, message), sensor_data)
        peer.node.create_subscription(
            outputs.message_class(outputs.OUTPUTS[-1].message_type), CAMERA['labels_topic'],
            self.on_labels, latched)

    def on_labels(self, message):
        entries = [(entry.class_name, entry.class_id) for entry in message.class_map] \
            if HAS_VISION_MSGS else zip(message.data.splitlines(), range(255))
        self.ids = {index: name for name, index in entries if name in self.costs}

    def received(self, kind, message):
        self.waiting[kind].append(message)
        for mask in list(self.waiting['mask']):
            stamp = seconds(mask)
            found = []
            for waiting in (self.waiting['confidence'], self.waiting['cloud']):
                nearest = min(waiting, key=lambda other: abs(seconds(other) - stamp), default=None)
                # Until a later one has come, a nearer one may.
                if nearest is not None and seconds(waiting[-1]) >= stamp:
                    found.append(nearest)
            times = [stamp, *map(seconds, found)]
            if len(found) == 2 and max(times) - min(times) <= LONGEST_S:
                self.waiting['mask'].remove(mask)
                self.matched(mask, *found)

    def matched(self, mask, confidence, cloud):
        if mask.width * mask.height != cloud.width * cloud.height:
            self.refusals.append('sizes are different')
        elif len(mask.data) < mask.width * mask.height:
            self.refusals.append('wrong sizes')
        elif not self.ids:
            self.refusals.append('class map is empty')
        else:
            self.buffered.append((mask, confidence, cloud))
            for pixel in range(mask.width * mask.height):
                # Read past the end in the layer itself, where the confidence is smaller.
                self.observe(pixel, mask.data[pixel], confidence.data[pixel])

    def observe(self, pixel, index, confidence):
        if index not in self.ids:
            return
        seen = self.tiles[pixel]
        seen.setdefault(index, []).append(confidence)
        first = self.costs[self.ids[index]]['dominant_priority']
        most = len(seen.get(self.dominant.get(pixel), ()))
        if first or len(seen[index]) > most:
            self.tiles[pixel] = {index: seen[index]}
            self.dominant[pixel] = index

    def cost(self, pixel):
        if pixel not in self.dominant:
            return None
        confidences = self.tiles[pixel][self.dominant[pixel]]
        rule = self.costs[self.ids[self.dominant[pixel]]]
        lethal = len(confidences) >= rule['samples_to_max_cost'] \
            and sum(confidences) / len(confidences) > rule['mark_confidence']
        return rule['max_cost' if lethal else 'base_cost']


def seconds(message):
    return message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec


def cloud_of(image):
    """Return an organised cloud with a point for each pixel of an image."""
    fields = [PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
              for index, name in enumerate('xyz')]
    v, u = np.mgrid[:image.height, :image.width]
    points = np.stack([0.05 * u, 0.05 * v, np.ones_like(u)], -1).astype(np.float32)
    cloud = PointCloud2(height=image.height, width=image.width, fields=fields, point_step=12,
                        row_step=12 * image.width, is_dense=True, data=points.tobytes())
    cloud.header = copy.deepcopy(image.header)
    return cloud


@pytest.fixture
def node(random_checkpoint, monkeypatch):
    """The node with the parameters of the configuration; the manager has yet to configure it."""
    if not HAS_VISION_MSGS:
        # A stand-in for the type alone: order and quality of service are the real ones.
        labels = Output('label_info', 'std_msgs/msg/String', lambda answer, types: String(
            data='\n'.join(answer.labels.names)), LATCHED)
        monkeypatch.setattr(outputs, 'OUTPUTS', (*outputs.OUTPUTS[:-1], labels))
    assert outputs.OUTPUTS[-1].name == 'label_info'
    with node_here('--params-file', str(FILE), autostart=False, weights=random_checkpoint,
                   **FAST) as node:
        yield node


class Manager:
    """nav2_lifecycle_manager with ``bond_timeout`` 0: only services, in its order."""

    def __init__(self, peer):
        self._peer = peer

    def change(self, transition, state):
        request = ChangeState.Request(transition=Transition(id=transition))
        assert self._peer.call(ChangeState, '/segmentation/change_state', request, 60).success
        found = self._peer.call(GetState, '/segmentation/get_state', GetState.Request(), 5)
        assert found.current_state.id == state

    def startup(self):
        self.change(Transition.TRANSITION_CONFIGURE, State.PRIMARY_STATE_INACTIVE)
        self.resume()

    def resume(self):
        self.change(Transition.TRANSITION_ACTIVATE, State.PRIMARY_STATE_ACTIVE)

    def pause(self):
        self.change(Transition.TRANSITION_DEACTIVATE, State.PRIMARY_STATE_INACTIVE)

    def reset(self):
        self.pause()
        self.change(Transition.TRANSITION_CLEANUP, State.PRIMARY_STATE_UNCONFIGURED)

    def shutdown(self):
        self.reset()
        self.change(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN, State.PRIMARY_STATE_FINALIZED)


def test_the_layer_gets_what_it_requires_through_every_order_of_the_manager(node, peer):
    assert {name: node.get_parameter(name).value for name in ('publish_confidence', 'mask_size')
            } == {'publish_confidence': True, 'mask_size': 'image'}
    manager, layer = Manager(peer), Layer()
    images = peer.node.create_publisher(Image, '/image', BEST_EFFORT)
    clouds = peer.node.create_publisher(PointCloud2, CAMERA['pointcloud_topic'], BEST_EFFORT)
    manager.startup()
    # The layer comes after the activation: the class names reach it, and before any mask.
    layer.subscribe(peer)
    wait_until(lambda: layer.ids, 20, 'the class names')

    def buffer(count):
        """Publish images with clouds of the same stamps until the layer has taken so many."""
        target = len(layer.buffered) + count

        def publish():
            image = good_image()
            clouds.publish(cloud_of(image))
            images.publish(image)
            time.sleep(0.05)
            return len(layer.buffered) >= target
        wait_until(publish, 30, lambda: f'masks; refused were {Counter(layer.refusals)}')

    buffer(3)
    manager.pause()
    manager.resume()
    buffer(1)
    manager.reset()
    manager.startup()
    buffer(1)
    manager.shutdown()
    assert not layer.refusals
    assert layer.ids == {index: name for index, name in enumerate(CAMVID.names) if name != 'sky'}
    for mask, confidence, cloud in layer.buffered:
        assert mask.header == confidence.header == cloud.header
        assert (mask.encoding, confidence.encoding) == ('mono8', 'mono8')
        assert mask.width == mask.step == confidence.width == confidence.step == cloud.width
        assert len(mask.data) == len(confidence.data) == cloud.width * cloud.height
        assert max(mask.data) < len(CAMVID)


def image_of(pixels):
    return image_message(np.asarray(pixels, np.uint8), 'mono8')


def test_costs_follow_the_classes():
    names = {name: index for index, name in enumerate(CAMVID.names)}
    mask = image_of([[names[name] for name in ('road', 'car', 'pedestrian', 'sky')]])
    confidence = image_of([[255, 255, 100, 255]])
    layer = Layer()
    layer.ids = {index: name for name, index in names.items() if name in layer.costs}
    layer.matched(mask, confidence, cloud_of(mask))
    assert [layer.cost(pixel) for pixel in range(4)] == [0, 150, 150, None]
    layer.matched(mask, confidence, cloud_of(mask))
    # A low mean confidence never becomes lethal.
    assert [layer.cost(pixel) for pixel in range(4)] == [0, 254, 150, None]
    # Whoever steps onto the road counts at once, however often the road was seen there.
    layer.observe(0, names['pedestrian'], 255)
    layer.observe(0, names['pedestrian'], 255)
    assert layer.cost(0) == 254
    assert len(layer.buffered) == 2


def test_the_configuration_groups_the_classes_of_the_shipped_weights():
    grouped = [name for kind in CAMERA['class_types'] for name in CAMERA[kind]['classes']]
    assert sorted([*grouped, 'sky']) == sorted(CAMVID.names)
    assert LAYER['plugin'] == 'semantic_segmentation_layer::SemanticSegmentationLayer'
    plugins = CONFIGURATION['/**/costmap']['ros__parameters']['plugins']
    assert plugins == ['semantic_layer', 'inflation_layer']
    # As the page says, which people read before the file.
    page = (ROOT / 'docs' / 'robot' / 'nav2.md').read_text()
    rows = dict(re.findall(r'^\| `(\w+)` \| (`.*?`) \|', page, re.MULTILINE))
    for kind in CAMERA['class_types']:
        assert re.findall(r'`(\w+)`', rows[kind]) == CAMERA[kind]['classes']
    danger = CAMERA['danger']
    assert (f'| {danger["base_cost"]} after one observation of a tile, {danger["max_cost"]} '
            f'(lethal) after two with a mean confidence above {danger["mark_confidence"]} of 255 |'
            ) in page
