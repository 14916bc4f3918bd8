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
"""
Messages and parameters that nobody would send: no exception leaves a callback, all are counted.

FUZZ_EXAMPLES (500) says how many of each; `make nightly` tries 10,000, other ones every time.
"""
from array import array
import os
import threading
import time

import cv2
from featshare_core.inference.segmenter import Result
from featshare_core.labels import CAMVID
from featshare_ros.camera import Camera
from featshare_ros.diagnostics import ENGINE, EngineStatistics
from featshare_ros.images import SUPPORTED_ENCODINGS
from featshare_ros.node import SegmentationNode
from featshare_ros.outputs import Publishers
from featshare_ros.parameters import PARAMETERS
from featshare_ros.processing import Processor
from harness import FAST, image_message, NodeProcess, wait_until
from hypothesis import given, HealthCheck, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import rclpy
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

EXAMPLES = int(os.environ.get('FUZZ_EXAMPLES', '500'))
COMMON = {'deadline': None, 'database': None, 'derandomize': EXAMPLES <= 500,
          'suppress_health_check': list(HealthCheck)}

sides = st.one_of(st.integers(0, 40), st.sampled_from([1 << 14, 1 << 20, 2**31 - 1, 2**32 - 1]))
text = st.text(st.characters(codec='utf-8', exclude_characters='\0'), max_size=12)


@st.composite
def headers(draw):
    header = Header(frame_id=draw(text))
    header.stamp.sec = draw(st.integers(-2**31, 2**31 - 1))
    header.stamp.nanosec = draw(st.integers(0, 2**32 - 1))
    return header


@st.composite
def images(draw):
    """An image whose fields fit together, or not; every other one could be a camera's."""
    if draw(st.booleans()):
        height, width = (2 * draw(st.integers(1, 12)) for _ in range(2))
        # Enough for every encoding.
        step = 8 * width + draw(st.integers(0, 9))
        return Image(header=draw(headers()), height=height, width=width, step=step,
                     encoding=draw(st.sampled_from(SUPPORTED_ENCODINGS)),
                     is_bigendian=draw(st.integers(0, 1)), data=array('B', bytes(
                         [draw(st.integers(0, 255))]) * (step * height * 3 // 2)))
    encoding = draw(st.one_of(st.sampled_from(SUPPORTED_ENCODINGS), text,
                              st.sampled_from(['32FC1', '8UC2', 'yuv422_uyvy', 'RGB8'])))
    height, width = draw(sides), draw(sides)
    step = draw(st.one_of(
        st.sampled_from([width * channels + pad for channels in (1, 2, 3, 4, 6, 8)
                         for pad in (0, 5)]), st.integers(0, 2**32 - 1)))
    size = draw(st.one_of(st.just(step * height), st.just(step * height * 3 // 2),
                          st.integers(0, 4000)))
    return Image(header=draw(headers()), height=height, width=width, encoding=encoding,
                 step=min(step, 2**32 - 1), is_bigendian=draw(st.integers(0, 255)),
                 data=array('B', draw(st.binary(max_size=8)) * (min(size, 100_000) // 8 + 1)))


PICTURE = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
CODED = [cv2.imencode(kind, picture)[1].tobytes() for kind in ('.jpg', '.png', '.bmp')
         for picture in (PICTURE, PICTURE[..., 0])]


@st.composite
def compressed_images(draw):
    """A picture file of which some bytes are others, or missing, or all."""
    data = bytearray(draw(st.one_of(st.sampled_from(CODED), st.binary(max_size=64))))
    for _ in range(draw(st.integers(0, 4)) if data else 0):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    data = data[:draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))]
    return CompressedImage(
        header=draw(headers()), data=array('B', bytes(data)),
        format=draw(st.one_of(text, st.sampled_from(
            ['rgb8; jpeg compressed bgr8', 'bayer_rggb8; png compressed', '16UC1; compressedDepth',
             'bayer_rggb16; jpeg compressed bayer_rggb8', 'jpeg']))))


scalars = st.one_of(st.booleans(), st.integers(-2**63, 2**63 - 1), st.floats(), text)
lists = st.one_of(*(st.lists(kind, max_size=4) for kind in (
    st.booleans(), st.integers(-2**63, 2**63 - 1), st.floats(), text)))
updates = st.lists(st.tuples(st.sampled_from([spec.name for spec in PARAMETERS] + ['nosuch']),
                             st.one_of(scalars, lists, st.none())), min_size=1, max_size=4)


class AnyMask:
    """A segmenter that answers every frame at once."""

    failing = False
    labels = CAMVID

    def segment(self, frame, stream, stamp, confidence, source):
        mask = np.zeros(frame.shape[:2], np.uint8)
        return Result(mask, mask, True, 'first', 0, {'low': 1.0})

    def set_live(self, key_mode, moved_frames, schedule):
        assert 1 <= schedule['key_interval'] <= 1000
        assert schedule['max_key_age'] is None or 0 < schedule['max_key_age'] <= 3600
        assert schedule['change_threshold'] is None or 0 <= schedule['change_threshold'] <= 1
        assert key_mode in ('blocking', 'deferred')

    def close(self):
        pass


@pytest.fixture(scope='module')
def node():
    """The node in this process, with everything of it but the network and the executor."""
    context = rclpy.Context()
    rclpy.init(context=context, args=['--ros-args', '-r', '__ns:=/fuzz', '-p',
                                      'publish_diagnostics:=false'])
    node = SegmentationNode(context=context)
    node._segmenter = AnyMask()
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


def try_all(node, compressed, messages):
    camera = Camera(node, 'packed' if compressed else '', compressed, threading.Condition())
    publishers = Publishers(node, camera.name)
    processor = Processor(node, node._segmenter, {camera.name: publishers}, EngineStatistics(),
                          node._values, node._apply, node._sizes)

    @settings(max_examples=EXAMPLES, **COMMON)
    @given(messages)
    def receive(message):
        counts = camera.statistics.counts
        before = counts.processed + counts.failed
        camera._on_image(message)
        processor.process(camera, camera.take())
        assert counts.processed + counts.failed == before + 1
        assert camera.statistics.cause != ENGINE, camera.statistics.failure
        assert not camera.statistics.output_problem

    try:
        receive()
        counts = camera.statistics.counts
        # Neither all good nor all bad, or the strategy tests little.
        assert min(counts.processed, counts.failed) > counts.received / 50
        camera.statistics.status('camera', 'cpu', 1)
    finally:
        publishers.destroy()


def test_images(node):
    try_all(node, False, images())


def test_compressed_images(node):
    try_all(node, True, compressed_images())


def test_parameters(node):
    accepted = []

    @settings(max_examples=EXAMPLES, **COMMON)
    @given(updates)
    def update(values):
        parameters = []
        for name, value in values:
            kind = Parameter.Type.from_parameter_value(value) if value != [] \
                else Parameter.Type.INTEGER_ARRAY
            parameters.append(Parameter(name, kind, value))
        before = dict(node._values.current)
        try:
            result = node.set_parameters_atomically(parameters)
        except rclpy.exceptions.ParameterNotDeclaredException:
            # To callers in this process; the service answers with a refusal.
            assert 'nosuch' in dict(values)
            return
        accepted.append(result.successful)
        if result.successful:
            assert {name: node._values.current[name] for name in dict(values)} == dict(values)
        else:
            assert result.reason
            assert node._values.current == before

    update()
    assert any(accepted)
    assert not all(accepted)


def test_the_real_node_survives_them_and_goes_on(random_checkpoint, peer):
    process = NodeProcess(
        namespace='fuzzed', cameras='[raw]', weights=random_checkpoint, **FAST)
    try:
        process.wait_for_log('segmenting')
        masks = peer.collect(Image, '/fuzzed/segmentation/raw/mask')
        publisher = peer.publisher(Image, '/fuzzed/raw/image')
        peer.wait_matched('/fuzzed/segmentation/raw/mask')

        @settings(max_examples=100, **COMMON)
        @given(images())
        def send(message):
            publisher.publish(message)
            time.sleep(0.02)

        send()
        good = image_message(PICTURE)
        good.header.frame_id = 'after all that'
        wait_until(lambda: publisher.publish(good) or time.sleep(0.05) or any(
            mask.header.frame_id == 'after all that' for mask in masks), 20, 'a mask')
    finally:
        code, _ = process.stop()
    assert code == 0, process.log
    assert 'Traceback' not in process.log, process.log
