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
Start the segmentation node and a Nav2 costmap that uses its masks, managed by Nav2.

The costmap has the layer of the package semantic_segmentation_layer; see docs/robot/nav2.md.
"""
import os
from pathlib import Path

from ament_index_python.packages import (
    get_package_prefix,
    get_package_share_directory,
    PackageNotFoundError,
)
from featshare_ros.launching import argument, END_WITH_LAUNCH, NODE_NAME
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node

COSTMAP_NAME = 'costmap'

# The layer refuses every mask until it has the class names, whose message is of vision_msgs.
NEEDED = ('vision_msgs', 'nav2_lifecycle_manager')
NEEDED_BY_COSTMAP = ('nav2_costmap_2d', 'semantic_segmentation_layer')


def check(context: LaunchContext) -> None:
    """
    Check what Nav2 needs, before anything is started.

    :raises ValueError: where an argument is wrong, or a package is not installed.
    """
    argument(context, 'use_sim_time', bool)
    for name, only in (('node_name', NODE_NAME), ('cameras', '')):
        if context.launch_configurations.get(name, '') not in ('', only):
            raise ValueError(f'{name} cannot be set here: the costmap has the topics of the only '
                             f'camera of the node {NODE_NAME}')
    if argument(context, 'costmap', bool) and os.environ.get('ROS_DISTRO') == 'humble':
        # Its nav2_costmap_2d puts the node into the namespace /costmap, whatever it is given.
        raise ValueError('the costmap needs Jazzy or later: with Humble, give costmap:=false and '
                         "add the layer to your Nav2's costmap")
    for package in NEEDED + NEEDED_BY_COSTMAP * argument(context, 'costmap', bool):
        try:
            get_package_prefix(package)
        except PackageNotFoundError as error:
            raise ValueError(f'the package {package} is not installed') from error


def start(context: LaunchContext) -> list[Node]:
    """Return the costmap, if it is wanted, and the lifecycle manager."""
    namespace = argument(context, 'namespace').strip('/')
    clock = {'use_sim_time': argument(context, 'use_sim_time', bool)}
    nodes, managed = [], [NODE_NAME]
    if argument(context, 'costmap', bool):
        managed.append(COSTMAP_NAME)
        topics = {'pointcloud': argument(context, 'points')}
        if namespace:
            outputs = f'/{namespace}/{NODE_NAME}'
            topics.update(segmentation=f'{outputs}/mask', confidence=f'{outputs}/confidence',
                          labels=f'{outputs}/label_info')
        nodes.append(Node(
            package='nav2_costmap_2d',
            executable='nav2_costmap_2d',
            name=COSTMAP_NAME,
            namespace=namespace,
            parameters=[
                argument(context, 'params_file'),
                {**clock, **{f'semantic_layer.camera.{name}_topic': topic
                             for name, topic in topics.items() if topic}},
            ],
            prefix=END_WITH_LAUNCH,
            exec_name=COSTMAP_NAME,
            output='screen',
        ))
    nodes.append(Node(
        package='nav2_lifecycle_manager',
        executable='lifecycle_manager',
        name='lifecycle_manager_semantic',
        namespace=namespace,
        # The segmentation node has no bond: with a timeout, the manager's startup would fail.
        parameters=[{'autostart': True, 'node_names': managed, 'bond_timeout': 0.0, **clock}],
        prefix=END_WITH_LAUNCH,
        exec_name='lifecycle_manager',
        output='screen',
    ))
    return nodes


def generate_launch_description() -> LaunchDescription:
    """Return the description that ``ros2 launch`` runs."""
    share = Path(get_package_share_directory('featshare_ros'))
    own_arguments = [
        DeclareLaunchArgument(
            'points',
            default_value='',
            description="Topic of the camera's organised point cloud, one point per pixel. Empty: "
            'as in params_file.',
        ),
        DeclareLaunchArgument(
            'costmap',
            default_value='true',
            description='Start a costmap: true, or false if your own Nav2 has the layer.',
        ),
    ]
    # Arguments of segmentation.launch.py whose default differs here. The others can be given too,
    # except those that `check` refuses.
    changed_arguments = [
        DeclareLaunchArgument(
            'params_file',
            default_value=str(share / 'config' / 'nav2_semantic_costmap.yaml'),
            description='YAML file with the parameters of the node and of the costmap.',
        ),
        DeclareLaunchArgument(
            'autostart',
            default_value='false',
            description="Must stay false: Nav2's lifecycle manager configures and activates the "
            'node.',
        ),
        DeclareLaunchArgument(
            'use_sim_time',
            default_value='false',
            description='Take the time from /clock: true or false.',
        ),
    ]
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(share / 'launch' / 'segmentation.launch.py')),
    )
    return LaunchDescription(
        [*own_arguments, *changed_arguments, OpaqueFunction(function=check), node,
         OpaqueFunction(function=start)]
    )
