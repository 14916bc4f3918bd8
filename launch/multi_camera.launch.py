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
Start one segmentation node for several cameras: one process, one network, staggered key frames.

With shards:=N the cameras are distributed round-robin among N such nodes; their topics stay
the same.

The arguments of segmentation.launch.py can be given too, except image, camera_info, cameras and
node_name.
"""
import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from featshare_core.machine import usable_cores
from featshare_ros.launching import argument
from featshare_ros.shards import deal, Shard
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import SetRemap

THREADS_VARIABLE = 'OMP_NUM_THREADS'
"""Environment variable that limits the threads of PyTorch and of the engines on a CPU."""


def camera_topics(text: str) -> dict[str, str]:
    """
    Return the image topics by camera name, from 'NAME=TOPIC NAME=TOPIC ...'.

    :raises ValueError: where the text is not of that form, or names a camera twice.
    """
    topics: dict[str, str] = {}
    for pair in text.replace(',', ' ').split():
        name, equals, topic = pair.partition('=')
        if not (name and equals and topic):
            raise ValueError(f'images:={text}: {pair!r} is not of the form NAME=TOPIC')
        if name in topics:
            raise ValueError(f'images:={text} names the camera {name!r} twice')
        topics[name] = topic
    if not topics:
        raise ValueError("images names no camera; give 'NAME=TOPIC NAME=TOPIC ...'")
    return topics


def remappings(topics: dict[str, str]) -> list[tuple[str, str]]:
    """Return (name in the node, topic) of each camera's topics; camera_info beside the image."""
    pairs = []
    for name, topic in topics.items():
        folder, slash, _ = topic.rpartition('/')
        pairs += [(f'{name}/image', topic), (f'{name}/image/compressed', f'{topic}/compressed'),
                  (f'{name}/camera_info', f'{folder}{slash}camera_info')]
    return pairs


def start(context: LaunchContext, share: Path) -> list[GroupAction]:
    """
    Return the nodes with their topics, for the arguments that this launch was given.

    :raises ValueError: where an argument is wrong; then nothing is started.
    """
    topics = camera_topics(argument(context, 'images'))
    shards = deal(list(topics), argument(context, 'shards', int), usable_cores())
    return [group(shard, topics, share, is_first=shard is shards[0]) for shard in shards]


def group(shard: Shard, topics: dict[str, str], share: Path, is_first: bool) -> GroupAction:
    """Return the actions that start one node; only the first may have RViz beside it."""
    remaps = remappings({camera: topics[camera] for camera in shard.cameras}) + shard.remappings
    arguments = {'node_name': shard.name, 'cameras': ','.join(shard.cameras)}
    if not is_first:
        arguments['rviz'] = 'false'
    environment = []
    # A single node uses every core. A variable that is set already holds for each node.
    if len(shard.cameras) < len(topics) and THREADS_VARIABLE not in os.environ:
        environment = [SetEnvironmentVariable(THREADS_VARIABLE, str(shard.threads))]
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(share / 'launch' / 'segmentation.launch.py')),
        launch_arguments=arguments.items(),
    )
    return GroupAction([*environment, *(SetRemap(*pair) for pair in remaps), node])


def generate_launch_description() -> LaunchDescription:
    """Return the description that ``ros2 launch`` runs."""
    share = Path(get_package_share_directory('featshare_ros'))
    node = PythonLaunchDescriptionSource(str(share / 'launch' / 'segmentation.launch.py'))
    # `--show-args` does not look into an OpaqueFunction.
    included = node.try_get_launch_description_without_context()
    assert included is not None
    return LaunchDescription([
        DeclareLaunchArgument(
            'images',
            description='A name of your choice per camera, and its image topic without a '
            'trailing /compressed: "front=/front/image_raw rear=/rear/image_raw".',
        ),
        DeclareLaunchArgument(
            'shards',
            default_value='1',
            description='Number of nodes (segmentation_1 and so on) that share the cameras and '
            'the CPU cores. 1: one node, segmentation, for all cameras.',
        ),
        *(declared for declared in included.get_launch_arguments()
          if declared.name not in ('image', 'camera_info', 'cameras', 'node_name')),
        OpaqueFunction(function=start, args=[share]),
    ])
