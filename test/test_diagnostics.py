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
"""Each figure of /diagnostics, in the real node, under the fault that it should show."""
from pathlib import Path
import re
import time
from xml.etree import ElementTree

from harness import BEST_EFFORT, FAST, image_message, NodeProcess, RELIABLE, Stream, wait_until
import numpy as np
import pytest
from rclpy.node import NodeNameNonExistentError
from sensor_msgs.msg import CompressedImage, Image

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / 'docs' / 'robot' / 'ros-interface.md').read_text()
OK, WARN, ERROR = b'\x00', b'\x01', b'\x02'
CAMERAS = ('front', 'strict', 'absent', 'other')


@pytest.fixture(scope='module')
def node(random_checkpoint, faults):
    """One node with one camera per fault."""
    process = NodeProcess(
        '-p', 'qos_overrides./d/strict/image.subscription.reliability:=reliable', namespace='d',
        faults=faults, weights=random_checkpoint, cameras=f'[{", ".join(CAMERAS)}]',
        key_interval=3, max_key_age=0.0, **FAST)
    process.wait_for_log('segmenting')
    yield process
    faults.write_text('')
    code, _ = process.stop()
    assert code == 0, process.log


@pytest.fixture
def seen(node, peer):
    """Return a function that waits for a camera's level and message, and gives its values."""
    newest = peer.diagnostics()

    def wait_for(camera, level, message, accept=lambda match, values: True):
        name, found = f'd/segmentation: {camera}', []

        def seen():
            status = newest().get(name)
            match = status and status[0] == level and re.search(message, status[1])
            if match and accept(match, status[2]):
                found.append(status[2])
            return bool(found)
        wait_until(seen, 30, lambda: f'{message!r}; reported was {newest().get(name)}')
        return found[0]
    return wait_for


@pytest.fixture
def front(node, peer, seen):
    stream = Stream(peer, '/d/front/image', '/d/segmentation/front/mask')
    yield stream
    stream.stop()


def test_rates_counts_and_latencies_of_a_healthy_camera(front, seen):
    values = seen('front', OK, 'masks/s', lambda _, values: float(values['mask rate (Hz)']) > 5)
    for key in ('key latency', 'current latency'):
        p50, p95, largest = (float(values[f'{key} {which} (ms)'])
                             for which in ('p50', 'p95', 'max'))
        assert 0 < p50 <= p95 <= largest
    assert 0 < float(values['longest gap (s)']) < 1
    assert values['image'] == '64x64 rgb8'
    received, dropped = int(values['received']), int(values['dropped'])
    # The image in work, and the one that waits.
    assert 0 <= received - dropped - int(values['processed']) - int(values['failed']) <= 2


def test_the_documents_name_every_key_and_no_other(front, seen, peer):
    seen('front', OK, 'masks/s', lambda _, values: values['current latency p50 (ms)'] != 'unknown')
    newest = peer.diagnostics()
    wait_until(lambda: 'd/segmentation: front' in newest(), 10, 'diagnostics')
    # Of each three percentiles the documents name the first. The engine's: test_health.py.
    keys = {key for key in newest()['d/segmentation: front'][2]
            if not key.endswith(('p95 (ms)', 'max (ms)'))}
    assert documented(DOCUMENT, '| key of a camera |') == keys


def documented(text, table_head):
    """Return what stands in backquotes in the first column of a table."""
    rows = text[text.index(table_head):].split('\n\n')[0].splitlines()[2:]
    return {name for row in rows for name in re.findall('`(.*?)`', row.split('|')[1])} \
        - {'p95', 'max'}


def test_the_documents_and_the_security_policy_name_what_the_node_has(node, peer):
    def own(names_and_types):
        # The camera's name and the namespace are not in the documents; the client is not of us.
        names = {name.replace('/front/', '/') for name, _ in names_and_types
                 if not re.search('/(strict|absent|other)/', name)}
        return {re.sub('^/d/segmentation/', '~/', name) for name in names}

    def graph(kind):
        try:
            return own(getattr(peer.node, f'get_{kind}_names_and_types_by_node')(
                'segmentation', '/d'))
        except NodeNameNonExistentError:
            return set()

    # Those created first and last.
    for kind, names in (('service', {'~/enable', '~/change_state', '~/set_parameters'}),
                        ('publisher', {'/rosout', '~/transition_event', '~/camera_info'}),
                        ('subscriber', {'/d/camera_info'})):
        wait_until(lambda: names <= graph(kind), 20, f'every {kind}')  # noqa: B023
    published, subscribed = graph('publisher'), graph('subscriber')
    services = graph('service')
    assert subscribed == {'/d/image', '/d/camera_info'}
    rows = re.findall(r'^\| (in|out) \| `(.*?)`', DOCUMENT, re.MULTILINE)
    usual = {'/parameter_events', '/rosout'}
    optional = {'~/label_info'}  # where vision_msgs is installed
    assert {name for way, name in rows if way == 'out'} - optional == published - usual - optional
    assert {name for way, name in rows if way == 'in'} == {'image', 'image/compressed',
                                                          'camera_info'}
    own_services = {name for name in services if 'parameter' not in name} - {
        '~/get_type_description'}  # from Jazzy on
    assert documented(DOCUMENT, '| service |') == own_services

    policy = ElementTree.parse(ROOT / 'config' / 'sros2_policy.xml').getroot()
    allowed = {kind: {element.text for element in policy.iterfind(f'.//{kind}/*')}
               for kind in ("topics[@publish='ALLOW']", "topics[@subscribe='ALLOW']", 'services')}
    assert allowed["topics[@publish='ALLOW']"] - optional == published - optional
    assert allowed["topics[@subscribe='ALLOW']"] == {'image', 'image/compressed', 'camera_info',
                                                     '/clock'}
    assert allowed['services'] - {'~/get_type_description'} == services - {
        '~/get_type_description'}


def test_a_gap_is_reported_with_its_length(front, seen):
    seen('front', OK, 'masks/s')
    front.paused = True
    time.sleep(0.6)
    front.paused = False
    values = seen('front', WARN, r'a gap of (\d\.\d+) s between images; the usual interval is 0',
                  lambda match, _: 0.5 <= float(match[1]) < 2)
    assert float(values['longest gap (s)']) >= 0.5
    values = seen('front', OK, 'masks/s')
    assert float(values['longest gap (s)']) < 0.5


def test_an_engine_too_slow_for_the_camera_shows_in_drops_rate_and_latency(front, seen, faults):
    seen('front', OK, 'masks/s')
    faults.write_text('slow=0.2')
    values = seen('front', WARN, r'\d+ of \d+ images dropped: they arrive faster than the engine',
                  lambda _, values: float(values['mask rate (Hz)']) <= 5.5)
    assert float(values['drop rate (Hz)']) > float(values['mask rate (Hz)'])
    assert float(values['current latency max (ms)']) >= 200
    faults.write_text('')
    values = seen('front', OK, 'masks/s', lambda _, values: float(values['mask rate (Hz)']) > 5.5)


def test_corrupt_images_are_a_warning_with_their_share_and_reason(front, seen):
    failed = int(seen('front', OK, 'masks/s')['failed'])

    def corrupt(message):
        if front.sent % 10 < 3:
            message.encoding = 'infrared9'
    front.change = corrupt
    values = seen('front', WARN, r'(\d+) of (\d+) images failed \(bad images\): .*infrared9',
                  lambda match, _: 0.1 < int(match[1]) / int(match[2]) < 0.6)
    assert int(values['failed']) > failed
    front.change = lambda message: message.__setattr__('encoding', 'infrared9')
    seen('front', ERROR, r'images failed \(bad images\)')
    front.change = lambda message: None
    values = seen('front', OK, 'masks/s')
    assert 'infrared9' in values['last failure']


def test_ages_are_of_one_clock_or_unknown(front, seen):
    # Stamps of 1970, as of a recording or a camera that counts from when it was switched on.
    assert seen('front', OK, 'masks/s')['mask age p50 (ms)'] == 'unknown'

    def stamp(offset):
        def change(message):
            now = time.time() + offset
            message.header.stamp.sec, message.header.stamp.nanosec = int(now), int(now % 1 * 1e9)
        return change

    front.change = stamp(3600)
    front.wait_for_masks(10)
    assert seen('front', OK, 'masks/s')['mask age p50 (ms)'] == 'unknown'
    front.change = stamp(-5)
    values = seen('front', OK, 'masks/s',
                  lambda _, values: values['mask age p50 (ms)'] != 'unknown')
    assert 5000 <= float(values['mask age p50 (ms)']) < 10000


def test_a_camera_that_is_absent_silent_and_gone(peer, seen):
    assert seen('absent', WARN, 'nobody publishes /d/absent/image')['publishers'] == '0'
    publisher = peer.publisher(Image, '/d/absent/image')
    assert seen('absent', WARN, 'nothing has arrived on /d/absent/image, though')[
        'publishers'] == '1'
    peer.node.destroy_publisher(publisher)
    stream = Stream(peer, '/d/absent/image', '/d/segmentation/absent/mask')
    seen('absent', OK, 'masks/s')
    stream.stop()
    seen('absent', WARN, r'no image for (\d+\.\d) s$', lambda match, _: float(match[1]) > 2)
    peer.node.destroy_publisher(stream.publisher)
    seen('absent', WARN, 'no image for .* s: nobody publishes /d/absent/image any more')
    # A publisher that comes back with another type is reported with that type.
    peer.node.create_publisher(CompressedImage, '/d/absent/image', RELIABLE)
    seen('absent', ERROR, 'no image for .* s: /d/absent/image carries sensor_msgs/msg/Compressed')


def test_publishers_that_can_never_be_received_from_are_an_error(peer, seen):
    # The node asks this camera for reliability.
    unreliable = peer.node.create_publisher(Image, '/d/strict/image', BEST_EFFORT)
    seen('strict', ERROR, 'the QoS of /d/strict/image does not match, nothing can arrive: '
         '.*[Bb]est effort')
    peer.node.create_publisher(CompressedImage, '/d/other/image', RELIABLE)
    seen('other', ERROR, '/d/other/image carries sensor_msgs/msg/CompressedImage, not '
         'sensor_msgs/msg/Image')
    peer.node.destroy_publisher(unreliable)
    masks = peer.collect(Image, '/d/segmentation/strict/mask')
    reliable = peer.publisher(Image, '/d/strict/image', RELIABLE)
    wait_until(lambda: reliable.publish(image_message(np.zeros((64, 64, 3), np.uint8)))
               or time.sleep(0.1) or masks, 20, 'a mask')
    seen('strict', OK, 'masks/s')
