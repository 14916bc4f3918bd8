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
"""Play a recording into the segmentation node, on the recording's clock, and show it in RViz."""
from pathlib import Path

from ament_index_python.packages import (
    get_package_prefix,
    get_package_share_directory,
    PackageNotFoundError,
)
from featshare_ros.launching import argument, END_WITH_LAUNCH, NODE_NAME
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    TimerAction,
)
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.ros_adapters import get_ros_node
from rclpy.node import NodeNameNonExistentError

IMAGES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
LOOK_S = 0.2
"""Interval at which the launch checks whether the node is ready, in seconds."""


def check(context: LaunchContext) -> None:
    """
    Check what the player needs, before the node is started.

    :raises ValueError: where an argument is wrong, or the player is not installed.
    """
    bag = argument(context, 'bag')
    if not Path(bag).exists():
        raise ValueError(f'bag:={bag} does not exist')
    argument(context, 'rate', float)
    argument(context, 'loop', bool)
    argument(context, 'use_sim_time', bool)
    try:
        get_package_prefix('ros2bag')
    except PackageNotFoundError as error:
        raise ValueError('the package ros2bag, which plays recordings, is not installed') \
            from error


def is_listening(context: LaunchContext) -> bool:
    """Return whether the node has subscribed to images, which it does when it is activated."""
    namespace = argument(context, 'namespace').strip('/')
    node_name = argument(context, 'node_name') or NODE_NAME
    try:
        subscriptions = get_ros_node(context).get_subscriber_names_and_types_by_node(
            node_name, f'/{namespace}')
    except NodeNameNonExistentError:
        return False
    return any(kind in IMAGES for _, kinds in subscriptions for kind in kinds)


def play(context: LaunchContext) -> list[ExecuteProcess | TimerAction]:
    """Return the player if the node is ready, else a timer that checks again."""
    if not is_listening(context):
        return [TimerAction(period=LOOK_S, actions=[OpaqueFunction(function=play)])]
    # The delay lets the node discover the player's publishers before the first image.
    command = ['ros2', 'bag', 'play', argument(context, 'bag'), '--delay', '2']
    command += ['--rate', str(argument(context, 'rate', float))]
    if argument(context, 'use_sim_time', bool):
        command.append('--clock')
    if argument(context, 'loop', bool):
        command.append('--loop')
    return [ExecuteProcess(cmd=command, name='player', prefix=END_WITH_LAUNCH, output='screen',
                           on_exit=check_player)]


def check_player(event: ProcessExited, context: LaunchContext) -> None:
    """
    End the launch, and with it the node, if the player has failed.

    :raises RuntimeError: which ends the launch with exit code 1.
    """
    if event.returncode != 0 and not context.is_shutdown:
        raise RuntimeError(f'the player failed with exit code {event.returncode}')


def generate_launch_description() -> LaunchDescription:
    """Return the description that ``ros2 launch`` runs."""
    share = Path(get_package_share_directory('featshare_ros'))
    own_arguments = [
        DeclareLaunchArgument('bag', description='Recording to play: a rosbag2 folder or file.'),
        DeclareLaunchArgument(
            'rate', default_value='1.0', description='Playback rate; 1.0 is real time.'
        ),
        DeclareLaunchArgument(
            'loop',
            default_value='false',
            description='Restart at the end of the recording: true or false.',
        ),
    ]
    # Arguments of segmentation.launch.py whose default differs here. The others can be given too;
    # `--show-args` lists them.
    changed_arguments = [
        DeclareLaunchArgument(
            'image',
            default_value='/camera/image_raw',
            description='Topic of the images in the recording, without a trailing /compressed.',
        ),
        DeclareLaunchArgument(
            'rviz',
            default_value='true',
            description='Start RViz with the overlay and the camera image: true or false.',
        ),
        DeclareLaunchArgument(
            'use_sim_time',
            default_value='true',
            description="Publish the recording's time on /clock, and run the node by it: true or "
            'false.',
        ),
    ]
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(share / 'launch' / 'segmentation.launch.py')),
    )
    # The node comes first, since it also sets the DDS profile that the player needs.
    return LaunchDescription(
        [*own_arguments, *changed_arguments, OpaqueFunction(function=check), node,
         LogInfo(msg='the recording will be played when the node has subscribed to the images'),
         OpaqueFunction(function=play)]
    )
