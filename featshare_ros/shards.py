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
Distribute cameras round-robin among several nodes (shards), for multi_camera.launch.py.

Importing this needs neither ROS nor PyTorch: a launch file is loaded before anything is started.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from featshare_ros.launching import NODE_NAME

OUTPUTS = ('mask', 'confidence', 'camera_info', 'overlay', 'label_info')
"""Topics of each camera below the node's name: the live ones of ``outputs.OUTPUTS``."""


class Shard(NamedTuple):
    """One of the nodes, each in a process of its own."""

    name: str
    """Name of the node."""
    cameras: Sequence[str]
    threads: int
    """Number of threads that it computes with."""

    @property
    def remappings(self) -> list[tuple[str, str]]:
        """
        Return (name in the node, topic) of its outputs.

        A camera's topics are the same for any number of shards: consumers need not know which
        node serves which camera.
        """
        if self.name == NODE_NAME:
            return []
        return [(f'~/{camera}/{output}', f'{NODE_NAME}/{camera}/{output}')
                for camera in self.cameras for output in OUTPUTS]


def deal(cameras: Sequence[str], shards: int, cores: int) -> list[Shard]:
    """
    Distribute cameras and cores among nodes, round-robin.

    :param cameras: names; those at the beginning go to different shards.
    :param cores: number of cores that all of them share.
    :returns: the shards, called ``segmentation_1`` and so on; a single one is ``segmentation``.
    :raises ValueError: unless every shard gets a camera.
    """
    if not 1 <= shards <= len(cameras):
        raise ValueError(f'shards:={shards} is not between 1 and {len(cameras)}, the number of '
                         'cameras')
    if shards == 1:
        return [Shard(NODE_NAME, cameras, cores)]
    return [Shard(f'{NODE_NAME}_{index + 1}', cameras[index::shards],
                  max(1, len(range(index, cores, shards)))) for index in range(shards)]
