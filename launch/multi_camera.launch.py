"""
Start one segmentation node for several cameras: one process, one network, staggered key frames.

The arguments of segmentation.launch.py can be given too, except image, camera_info and cameras.
"""
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import SetRemap


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
    """Return the node with its topics, for the arguments that this launch was given."""
    topics = camera_topics(LaunchConfiguration('images').perform(context))
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(share / 'launch' / 'segmentation.launch.py')),
        launch_arguments={'cameras': ','.join(topics)}.items(),
    )
    return [GroupAction([*(SetRemap(*pair) for pair in remappings(topics)), node])]


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
        *(argument for argument in included.get_launch_arguments()
          if argument.name not in ('image', 'camera_info', 'cameras')),
        OpaqueFunction(function=start, args=[share]),
    ])
