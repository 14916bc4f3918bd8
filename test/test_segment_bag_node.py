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
"""segment_bag writes the masks that the live node publishes for the same images."""
from dataclasses import fields
import re
import time

from bags import contents, outputs, write_bag
from diagnostic_msgs.msg import DiagnosticArray
from featshare_core.inference.options import SegmenterOptions
from featshare_ros.parameters import PARAMETERS
from featshare_ros.recordings.segment_bag import _parse, main
from featshare_ros.recordings.segment_recording import Job
from harness import NodeProcess, wait_until
import numpy as np
import pytest
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

NOT_OF_MASKS = {'cameras', 'image_transport', 'publish_confidence', 'overlay_opacity',
                'overlay_legend', 'label_colors_file', 'lazy', 'publish_diagnostics', 'autostart',
                'max_compressed_pixels'}
"""Parameters of the live node that no mask depends on, or whose place a topic takes."""

CHANGE = {'key_policy': 'change', 'change_threshold': 0.02, 'key_interval': 7, 'max_key_age': 1.5}
SIZES = {'input_size': (160, 96), 'mask_size': 'network', 'engine': 'torch', 'precision': 'fp32',
         'shared_levels': 1}


def test_parameters_and_defaults_are_those_of_the_live_node(capsys, monkeypatch):
    node = {spec.name: spec for spec in PARAMETERS if spec.name not in NOT_OF_MASKS}
    without = {'shared_levels': 0, 'input_size': [0, 0]}  # the node's words for None
    # The sensor's bits are a matter of messages, of which the library knows nothing.
    assert {field.name for field in fields(SegmenterOptions)} == set(node) - {'sensor_bits'}
    assert node.pop('moved_frames').default == Job().moved_frames == 0  # recordings have none
    monkeypatch.setenv('COLUMNS', '500')  # or argparse would break names at their hyphens
    with pytest.raises(SystemExit):
        _parse(['--help'])
    described = capsys.readouterr().out
    for chosen in (Job(), _parse(['in', 'out'])):
        for name, spec in node.items():
            value = getattr(chosen, name)
            assert (without[name] if value is None else value) == spec.default, name
    for name, spec in node.items():
        option = f'--{name.replace("_", "-")}'
        text = ' '.join(described.split(f'\n  {option} ')[1].split('\n  --')[0].split())
        for choice in spec.choices:
            assert re.search(rf'(?<![\w-]){choice}(?![\w-])', text), (option, choice)
            assert getattr(_parse(['in', 'out', option, choice]), name) == choice


@pytest.mark.parametrize('settings', [{}, {**CHANGE, **SIZES}], ids=['defaults', 'others'])
def test_masks_are_those_of_the_live_node(tmp_path, random_checkpoint, peer, settings):
    """Two cameras, one after the other so that none is dropped; time stands, leaps, jumps back."""
    stamps = [10**9 + index * 40_000_000 for index in range(24)]
    stamps[12:] = [stamp + 2 * 10**9 for stamp in stamps[12:]]
    stamps[18:] = [stamp - 10**9 for stamp in stamps[18:]]
    stamps[5] = 0
    messages = write_bag(tmp_path / 'in', compressed=True, frames=12, stamps=stamps,
                         chatter=False, size=(96, 128))
    topics = {camera: f'/{camera}/image_raw/compressed' for camera in ('front', 'rear')}
    assert main([str(tmp_path / 'in'), str(tmp_path / 'out'), '--raw', '--device', 'cpu',
                 '--topic', topics['front'], '--topic', topics['rear'],
                 '--weights', str(random_checkpoint), *as_options(settings)]) == 0
    written = outputs(tmp_path / 'out')

    node = NodeProcess(weights=str(random_checkpoint), device='cpu', cameras='[front, rear]',
                       image_transport='compressed', **as_parameters(settings))
    try:
        node.wait_for_log('segmenting')
        received = {camera: peer.collect(Image, f'/segmentation/{camera}/mask')
                    for camera in topics}
        for camera in topics:
            peer.wait_matched(f'/segmentation/{camera}/mask')
        publishers = {f'/{camera}/image_raw/compressed': peer.publisher(
            CompressedImage, f'/{camera}/image/compressed') for camera in topics}
        time.sleep(1)  # the graph knows a subscriber a little before data flow to it
        for count, (topic, _, content) in enumerate(messages, start=1):
            publishers[topic].publish(deserialize_message(content, CompressedImage))
            wait_until(lambda count=count: sum(map(len, received.values())) == count, 20,
                       lambda count=count: f'mask {count}:\n{node.log}')
    finally:
        node.stop()
    for camera, masks in received.items():
        timing = [deserialize_message(content, DiagnosticArray) for topic, _, content
                  in contents(tmp_path / 'out') if topic == f'/segmentation/{camera}/timing']
        assert [t.status[0].values[0].value for t in timing].count('True') > 2
        if settings:
            assert 'change' in [t.status[0].values[1].value for t in timing]
        pairs = list(zip(masks, written[f'/segmentation/{camera}/mask'], strict=True))
        assert len(pairs) == 12
        classes = set()
        for live, (_, ours) in pairs:
            assert live.header.stamp.sec == ours.header.stamp.sec
            assert live.header.stamp.nanosec == ours.header.stamp.nanosec
            assert live.header.frame_id == ours.header.frame_id == camera
            assert (live.width, live.height) == settings.get('input_size', (128, 96))
            assert (live.height, live.width, live.step, live.encoding) == (
                ours.height, ours.width, ours.step, ours.encoding)
            np.testing.assert_array_equal(np.frombuffer(live.data, np.uint8), ours.data)
            classes.update(ours.data)
        assert len(classes) > 2  # or nothing would have been compared


def as_options(settings):
    """Return settings as options of segment_bag."""
    return [text for name, value in settings.items() for text in (
        f'--{name.replace("_", "-")}',
        'x'.join(map(str, value)) if isinstance(value, tuple) else str(value))]


def as_parameters(settings):
    """Return settings as parameters of the node."""
    return {name: list(value) if isinstance(value, tuple) else value
            for name, value in settings.items()}
