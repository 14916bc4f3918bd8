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
"""What to install when a package is missing: one line, instead of a traceback."""
from __future__ import annotations

from importlib import import_module
from pathlib import Path
import sys

from featshare_core.inference.memory import keep_freed_blocks

INSTALL = {
    'cv2': 'apt install python3-opencv, or pip install opencv-python-headless',
    'torch': "pip install torch (on a Jetson, NVIDIA's wheel)",
    'yaml': 'pip install PyYAML',
    'PIL': 'pip install pillow',
    'lightning': "pip install 'lightning>=2.6'",
    'segmentation_models_pytorch': "pip install 'segmentation-models-pytorch>=0.6,<0.7'"}
"""
How to install modules whose package has another name, needs a version, or is installed with
others.
"""
ROS = ('it belongs to ROS 2: source the setup.bash of an installation, or, in the source tree, '
       'pip install -r requirements/ros-kilted.txt')
"""How to get the modules of ROS."""


def explain(error: BaseException) -> str:
    """Return an error's text; for a module that is not installed, how to install it."""
    module = (error.name or '').partition('.')[0] if isinstance(error, ModuleNotFoundError) else ''
    if not module or module.startswith('featshare'):
        return str(error)
    if module == 'rclpy' or module.endswith(('_msgs', '_srvs', '_interfaces')):
        return f'{module} is not installed; {ROS}'
    return f'{module} is not installed: {INSTALL.get(module, f"pip install {module}")}'


def run_command(module: str) -> int:
    """
    Import a module and run its ``main``, as this process's program; return the exit status.

    A package that the module cannot be imported without is reported in one line.
    """
    try:
        program = import_module(module)
    except ImportError as error:
        print(f'{Path(sys.argv[0]).name}: {explain(error)}', file=sys.stderr)
        return 1
    keep_freed_blocks()
    return program.main()
