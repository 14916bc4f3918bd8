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
"""Fast DDS with our profile, and Cyclone DDS, exchange images in both directions."""
from dataclasses import dataclass
import os
import time

import pytest

pytest.importorskip('cyclonedds', reason='cyclonedds, from PyPI, is not installed')
from cyclonedds.core import Policy, Qos
from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.annotations import final
from cyclonedds.idl.types import int32, sequence, uint8, uint32
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration

# Discovery on the loopback interface, as in rclpy.
CONFIGURATION = (
    '<CycloneDDS><Domain><General><Interfaces><NetworkInterface name="lo" multicast="true"/>'
    '</Interfaces></General><Discovery><Peers><Peer address="127.0.0.1"/></Peers></Discovery>'
    '</Domain></CycloneDDS>')
PATIENCE_S = 20.0
"""Longest wait for an image, in seconds."""


@dataclass
@final
class Time(IdlStruct, typename='builtin_interfaces::msg::dds_::Time_'):
    sec: int32
    nanosec: uint32


@dataclass
@final
class Header(IdlStruct, typename='std_msgs::msg::dds_::Header_'):
    stamp: Time
    frame_id: str


@dataclass
@final
class Picture(IdlStruct, typename='sensor_msgs::msg::dds_::Image_'):
    header: Header
    height: uint32
    width: uint32
    encoding: str
    is_bigendian: uint8
    step: uint32
    data: sequence[uint8]


def test_cyclone_dds_sends_and_receives_images(monkeypatch):
    import rclpy
    from sensor_msgs.msg import Image

    monkeypatch.setenv('CYCLONEDDS_URI', CONFIGURATION)
    participant = DomainParticipant(int(os.environ['ROS_DOMAIN_ID']))
    qos = Qos(Policy.Reliability.Reliable(duration(seconds=1)), Policy.History.KeepLast(5))

    def topic(name):
        return Topic(participant, f'rt/{name}', Picture, qos=qos)

    reader = DataReader(participant, topic('to_cyclone'), qos=qos)
    writer = DataWriter(participant, topic('from_cyclone'), qos=qos)
    rclpy.init()
    node = rclpy.create_node('beside_cyclone')
    publisher = node.create_publisher(Image, 'to_cyclone', 5)
    received, taken = [], []
    node.create_subscription(Image, 'from_cyclone', received.append, 5)
    end = time.monotonic() + PATIENCE_S
    while not (taken and received) and time.monotonic() < end:
        publisher.publish(Image(height=1, width=3, encoding='mono8', step=3, data=[1, 2, 3]))
        writer.write(Picture(Header(Time(0, 0), 'front'), 1, 3, 'mono8', 0, 3, [1, 2, 3]))
        rclpy.spin_once(node, timeout_sec=0.1)
        taken += reader.take(5)
    node.destroy_node()
    rclpy.try_shutdown()
    assert [(bytes(image.data), image.width) for image in taken[:1]] == [(b'\1\2\3', 3)]
    assert [(bytes(image.data), image.header.frame_id) for image in received[:1]] == [
        (b'\1\2\3', 'front')]
