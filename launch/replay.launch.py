"""Play a recording into the segmentation node, on the recording's clock, and show it in RViz."""
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    TimerAction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch.utilities.type_utils import get_typed_value
from launch_ros.ros_adapters import get_ros_node
from rclpy.node import NodeNameNonExistentError

NODE_NAME = 'segmentation'
IMAGES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
LOOK_S = 0.2
"""Interval at which the launch checks whether the node is ready, in seconds."""


def is_listening(context: LaunchContext) -> bool:
    """Return whether the node has subscribed to images, which it does when it is activated."""
    namespace = LaunchConfiguration('namespace').perform(context).strip().strip('/')
    try:
        subscriptions = get_ros_node(context).get_subscriber_names_and_types_by_node(
            NODE_NAME, f'/{namespace}')
    except NodeNameNonExistentError:
        return False
    return any(kind in IMAGES for _, kinds in subscriptions for kind in kinds)


def play(context: LaunchContext) -> list[ExecuteProcess | TimerAction]:
    """Return the player if the node is ready, else a timer that checks again."""
    if not is_listening(context):
        return [TimerAction(period=LOOK_S, actions=[OpaqueFunction(function=play)])]

    def argument(name: str) -> str:
        return LaunchConfiguration(name).perform(context).strip()

    # The delay lets the node discover the player's publishers before the first image.
    command = ['ros2', 'bag', 'play', argument('bag'), '--clock', '--delay', '2']
    command += ['--rate', argument('rate')]
    if get_typed_value(argument('loop'), bool):
        command.append('--loop')
    return [ExecuteProcess(cmd=command, output='screen')]


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
    ]
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(share / 'launch' / 'segmentation.launch.py')),
        launch_arguments={'use_sim_time': 'true'}.items(),
    )
    # The node comes first, since it also sets the DDS profile that the player needs.
    return LaunchDescription(
        [*own_arguments, *changed_arguments, node,
         LogInfo(msg='the recording is played once the node is active'),
         OpaqueFunction(function=play)]
    )
