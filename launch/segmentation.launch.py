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
Start the segmentation node, and RViz beside it if wanted.

An argument left empty leaves its parameter to the params file; a given one overrides the file.
"""
import os
from pathlib import Path
from typing import Any

from ament_index_python.packages import (
    get_package_prefix,
    get_package_share_directory,
    PackageNotFoundError,
)
from featshare_ros.launching import argument, END_WITH_LAUNCH, NODE_NAME
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

# Arguments that set the parameter of the same name, and the parameter's type.
PARAMETER_TYPES: dict[str, type] = {
    'weights': str,
    'device': str,
    'image_transport': str,
    'key_interval': int,
    'autostart': bool,
    'use_sim_time': bool,
}

# Up to Jazzy only the second name is read; Kilted and later warn that it is deprecated.
OLD_DISTROS = ('humble', 'iron', 'jazzy')
PROFILE_VARIABLES = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')


def start(context: LaunchContext, share: Path) -> list[Node | LogInfo]:
    """
    Return the node, and RViz, for the arguments that this launch was given.

    :raises ValueError: where an argument is wrong; then nothing is started.
    """
    # Without those that were left empty.
    given = {name: argument(context, name, value_type)
             for name, value_type in {**PARAMETER_TYPES, 'respawn': bool, 'rviz': bool}.items()
             if argument(context, name)}
    overrides: dict[str, Any] = {name: ParameterValue(given[name], value_type=value_type)
                                 for name, value_type in PARAMETER_TYPES.items() if name in given}
    parameters = argument(context, 'params_file')
    if not Path(parameters).is_file():
        raise ValueError(f'params_file:={parameters} is not a file')
    cameras = [name for name in argument(context, 'cameras').replace(',', ' ').split() if name]
    if cameras:
        overrides['cameras'] = cameras
    # By the convention of image_transport, camera_info is beside the image.
    image = argument(context, 'image') or 'image'
    folder, slash, _ = image.rpartition('/')
    camera_info = argument(context, 'camera_info') or f'{folder}{slash}camera_info'
    namespace = argument(context, 'namespace').strip('/')
    node_name = argument(context, 'node_name') or NODE_NAME
    log_level = ['--log-level', argument(context, 'log_level') or 'info']
    enclave = argument(context, 'enclave')

    node = Node(
        package='featshare_ros',
        executable='segmentation_node',
        name=node_name,
        namespace=namespace,
        parameters=[parameters, *([overrides] if overrides else [])],
        remappings=[
            ('image', image),
            ('image/compressed', f'{image}/compressed'),
            ('camera_info', camera_info),
        ],
        ros_arguments=[*log_level, *(['--enclave', enclave] if enclave else [])],
        respawn=given.get('respawn', False),
        respawn_delay=2.0,
        prefix=END_WITH_LAUNCH,
        exec_name='segmentation_node',
        output='screen',
    )
    if not given.get('rviz'):
        return [node]
    try:
        get_package_prefix('rviz2')
    except PackageNotFoundError:
        return [LogInfo(msg='RViz is not started: the package rviz2 is not installed'), node]

    # The RViz configuration names the topics of a node without a namespace.
    prefix = f'/{namespace}' if namespace else ''
    overlay = f'{node_name}/overlay'
    if cameras:
        # RViz shows the first camera; multi_camera.launch.py has remapped its topics.
        remaps = dict(context.launch_configurations.get('ros_remaps', []))
        image = remaps.get(f'{cameras[0]}/image', f'{cameras[0]}/image')
        overlay = remaps.get(f'~/{cameras[0]}/overlay', f'{node_name}/{cameras[0]}/overlay')
    shown, overlay = (topic if topic.startswith('/') else f'{prefix}/{topic}'
                      for topic in (image, overlay))
    rviz = Node(
        package='rviz2',
        executable='rviz2',
        namespace=namespace,
        arguments=['-d', str(share / 'config' / 'segmentation.rviz')],
        parameters=[{'use_sim_time': given.get('use_sim_time', False)}],
        remappings=[
            (f'/{NODE_NAME}/overlay', overlay),
            ('/image', shown),
            ('/image/compressed', f'{shown}/compressed'),
        ],
        ros_arguments=log_level,
        output='screen',
    )
    return [node, rviz]


def generate_launch_description() -> LaunchDescription:
    """Return the description that ``ros2 launch`` runs."""
    share = Path(get_package_share_directory('featshare_ros'))
    arguments = [
        DeclareLaunchArgument(
            'params_file',
            default_value=str(share / 'config' / 'segmentation.yaml'),
            description='YAML file with the parameters of the node.',
        ),
        DeclareLaunchArgument(
            'namespace',
            default_value='',
            description='Namespace of the node and of its topics.',
        ),
        DeclareLaunchArgument(
            'node_name',
            default_value=NODE_NAME,
            description='Name of the node, and prefix of its topics.',
        ),
        DeclareLaunchArgument(
            'image',
            default_value='image',
            description='Topic of the camera images, without a trailing /compressed. Not used '
            'with several cameras: see "cameras".',
        ),
        DeclareLaunchArgument(
            'cameras',
            default_value='',
            description='Names of several cameras, "front,rear": each prefixes its topics. Easier '
            'with multi_camera.launch.py. Empty: as in params_file.',
        ),
        DeclareLaunchArgument(
            'camera_info',
            default_value='',
            description='Topic of the camera calibration; empty: camera_info beside the image.',
        ),
        DeclareLaunchArgument(
            'image_transport',
            default_value='',
            description='What to subscribe to: raw or compressed. Empty: as in params_file.',
        ),
        DeclareLaunchArgument(
            'weights',
            default_value='',
            description='The network: "default" or another checkpoint of this package, '
            'the path of a .safetensors file, a folder that `featshare export` or '
            'save_pretrained wrote, or org/name of a model hub, after `featshare pull`. Empty: '
            'as in params_file.',
        ),
        DeclareLaunchArgument(
            'device',
            default_value='',
            description='Where the network runs: auto, cpu, cuda or cuda:N. Empty: as in '
            'params_file.',
        ),
        DeclareLaunchArgument(
            'key_interval',
            default_value='',
            description='The whole network runs on every key_interval-th frame; 1: on every '
            'frame. Empty: as in params_file.',
        ),
        DeclareLaunchArgument(
            'use_sim_time',
            default_value='',
            description='Take the time from /clock: true or false. Empty: as in params_file, else '
            'false.',
        ),
        DeclareLaunchArgument(
            'autostart',
            default_value='',
            description='Configure and activate the node at start: true or false. '
            'Empty: as in params_file.',
        ),
        DeclareLaunchArgument(
            'log_level',
            default_value='info',
            description='Least severe messages to log: debug, info, warn, error or fatal.',
        ),
        DeclareLaunchArgument(
            'enclave',
            default_value='',
            description='SROS 2 enclave of the node, as in "ros2 security create_enclave": '
            '"/segmentation". Empty: none.',
        ),
        DeclareLaunchArgument(
            'rviz',
            default_value='false',
            description='Start RViz with the overlay and the camera image (of the first camera, '
            'where there are several): true or false.',
        ),
        DeclareLaunchArgument(
            'use_respawn',
            default_value='false',
            description='Restart the node 2 s after its process has ended: true or false.',
        ),
        DeclareLaunchArgument(
            'respawn',
            default_value=LaunchConfiguration('use_respawn'),
            description='Another name of use_respawn.',
        ),
    ]
    # With its default settings Fast DDS loses nearly every large best-effort image between two
    # processes; the profile prevents that. A profile that is set already is kept.
    environment: list[SetEnvironmentVariable] = []
    if not any(os.environ.get(variable) for variable in PROFILE_VARIABLES):
        variable = PROFILE_VARIABLES[os.environ.get('ROS_DISTRO') in OLD_DISTROS]
        profile = str(share / 'config' / 'fastdds_large_images.xml')
        environment = [SetEnvironmentVariable(variable, profile)]
    return LaunchDescription(
        [*arguments, *environment, OpaqueFunction(function=start, args=[share])]
    )
