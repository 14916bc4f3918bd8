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
What the launch files share.

Importing this needs neither ROS nor PyTorch.
"""
from __future__ import annotations

import shutil
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from launch.launch_context import LaunchContext

NODE_NAME = 'segmentation'
"""Name of the node, and prefix of its topics."""

END_WITH_LAUNCH = 'setpriv --pdeathsig TERM' if shutil.which('setpriv') else None
"""Prefix without which a process outlives a launch that is killed, or that fails meanwhile."""

WANTED = {int: 'a whole number', float: 'a number', bool: 'true or false'}
"""Description of the texts that are read as a type."""


def argument(context: LaunchContext, name: str, value_type: type = str) -> Any:
    """
    Return the value of a launch argument, without spaces around it.

    :param value_type: str, or one of ``WANTED``.
    :raises ValueError: where it is not of that type.
    """
    # Here, since shards.py imports this module where launch is not installed.
    from launch.substitutions import LaunchConfiguration
    from launch.utilities.type_utils import get_typed_value

    text = LaunchConfiguration(name).perform(context).strip()
    if value_type is str:
        return text
    try:
        return get_typed_value(text, value_type)
    except ValueError as error:
        raise ValueError(f'{name}:={text} is not {WANTED[value_type]}') from error
