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
The launch files under launch_testing: what they start segments images, and ends with the launch.

Where launch_testing is installed, its plugin for pytest collects this file: it comes with ROS 2,
not from PyPI.
"""
import os
from pathlib import Path
import sys
import tempfile
import unittest

import pytest

pytest.importorskip('launch_testing', reason='launch_testing is not installed; it comes with '
                    'ROS 2, not from PyPI')
pytest.importorskip('launch_ros', reason='launch_ros is not installed; it comes with ROS 2')
from ament_index_python.packages import get_package_prefix, PackageNotFoundError
from featshare_core.labels import CAMVID
from featshare_core.networks.checkpoint import Config, NETWORKS, save_checkpoint
from harness import linked, Peer
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
import launch_testing.actions
import launch_testing.asserts
from sensor_msgs.msg import Image
import torch

ROOT = Path(__file__).parents[1]
ARGUMENTS = {
    'segmentation': {'image': '/camera/image_raw', 'key_interval': '3'},
    'multi_camera': {'images': 'front=/front/image_raw rear=/rear/image_raw'}}
"""Arguments of each launch file."""
TOPICS = {
    'segmentation': {'/camera/image_raw': '/segmentation/mask'},
    'multi_camera': {'/front/image_raw': '/segmentation/front/mask',
                     '/rear/image_raw': '/segmentation/rear/mask'}}
"""Topic of the masks by topic of the images, for each launch file."""
NETWORK = 'light-efficientnet-lite0'
PARAMETERS = """/**:
  ros__parameters: {engine: torch, precision: fp32, input_size: [64, 64]}
"""

# Until the process ends.
folder = tempfile.TemporaryDirectory(prefix='featshare-launch-')


def make_prefix() -> None:
    """Where ROS does not find the package, let it find the source tree."""
    try:
        get_package_prefix('featshare_ros')
    except (PackageNotFoundError, OSError):  # the latter without AMENT_PREFIX_PATH
        prefix = Path(folder.name, 'prefix')
        index = prefix / 'share/ament_index/resource_index/packages'
        for path in (index, prefix / 'lib/featshare_ros', prefix / 'share/featshare_ros'):
            path.mkdir(parents=True)
        (index / 'featshare_ros').touch()
        for name in ('launch', 'config', 'package.xml'):
            (prefix / 'share/featshare_ros' / name).symlink_to(ROOT / name)
        node = prefix / 'lib/featshare_ros/segmentation_node'
        node.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m featshare_ros.main "$@"\n')
        node.chmod(0o755)
        os.environ['AMENT_PREFIX_PATH'] = os.pathsep.join(
            filter(None, (str(prefix), os.environ.get('AMENT_PREFIX_PATH'))))
        os.environ['PYTHONPATH'] = os.pathsep.join(
            filter(None, (str(ROOT), os.environ.get('PYTHONPATH'))))


@pytest.mark.launch_test
@launch_testing.parametrize('name', ARGUMENTS)
def generate_test_description(name: str) -> LaunchDescription:
    """Return the launch file, with a small network of random weights."""
    make_prefix()
    weights, parameters = Path(folder.name, 'random.safetensors'), Path(folder.name, 'my.yaml')
    torch.manual_seed(0)
    save_checkpoint(weights, NETWORKS[NETWORK](len(CAMVID)),
                    Config(NETWORK, CAMVID, (64, 64), {'shared_levels': 2}))
    parameters.write_text(PARAMETERS)
    arguments = {**ARGUMENTS[name], 'weights': str(weights), 'device': 'cpu',
                 'params_file': str(parameters)}
    return LaunchDescription([
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(ROOT / 'launch' / f'{name}.launch.py')),
            launch_arguments=arguments.items()),
        launch_testing.actions.ReadyToTest()])


class TestWhileItRuns(unittest.TestCase):
    """Tests while the node runs."""

    def test_images_of_every_camera_are_segmented(self, name: str) -> None:
        peer = Peer()
        try:
            for image, mask in TOPICS[name].items():
                masks = peer.collect(Image, mask)
                found = linked(masks, peer.publisher(Image, image))
                self.assertEqual((found.encoding, found.header.frame_id), ('mono8', 'camera'))
            # What the launch was given reaches the node.
            wanted = int(ARGUMENTS[name].get('key_interval', 5))
            self.assertEqual(peer.get_parameter('/segmentation', 'key_interval'), wanted)
        finally:
            peer.close()


@launch_testing.post_shutdown_test()
class TestAfterTheEnd(unittest.TestCase):
    """Tests after the launch was shut down."""

    def test_the_node_ended_without_an_error(self, proc_info: object) -> None:
        launch_testing.asserts.assertExitCodes(proc_info)
