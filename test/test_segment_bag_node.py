"""segment_bag writes the masks that the live node publishes for the same images."""
import time

import numpy as np
from bags import contents, outputs, write_bag
from diagnostic_msgs.msg import DiagnosticArray
from harness import NodeProcess, wait_until
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from featshare_ros.parameters import PARAMETERS
from featshare_ros.recordings.segment_bag import _parse, main
from featshare_ros.recordings.segment_recording import Job


def test_defaults_are_those_of_the_live_node():
    node = {spec.name: spec.default for spec in PARAMETERS}
    job, options = Job(), _parse(['in', 'out'])
    for name in ('weights', 'device', 'precision', 'key_interval', 'max_key_age'):
        assert getattr(job, name) == getattr(options, name) == node[name], name
    assert (job.shared_levels or 0) == node['shared_levels']


def test_masks_are_those_of_the_live_node(tmp_path, random_checkpoint, peer):
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
                 '--weights', str(random_checkpoint)]) == 0
    written = outputs(tmp_path / 'out')

    node = NodeProcess(weights=str(random_checkpoint), device='cpu', cameras='[front, rear]',
                       image_transport='compressed')
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
        pairs = list(zip(masks, written[f'/segmentation/{camera}/mask'], strict=True))
        assert len(pairs) == 12
        classes = set()
        for live, (_, ours) in pairs:
            assert live.header.stamp.sec == ours.header.stamp.sec
            assert live.header.stamp.nanosec == ours.header.stamp.nanosec
            assert live.header.frame_id == ours.header.frame_id == camera
            assert (live.height, live.width, live.step, live.encoding) == (
                ours.height, ours.width, ours.step, ours.encoding)
            np.testing.assert_array_equal(np.frombuffer(live.data, np.uint8), ours.data)
            classes.update(ours.data)
        assert len(classes) > 2  # or nothing would have been compared
