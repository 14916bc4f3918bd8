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
"""The report's lines on software: what is installed, and how DDS is configured."""
from __future__ import annotations

from contextlib import suppress
from importlib import import_module, metadata
from importlib.util import find_spec
import json
import os
from pathlib import Path
import platform
import subprocess
import sys

from featshare_core.doctor.lines import BAD, failure, Lines, probed
from featshare_core.packages import INSTALL

LIBRARIES = {
    'torch': f'{BAD}not installed, and nothing runs without it: install PyTorch 2.1 or newer',
    'numpy': f'{BAD}not installed, and nothing runs without it: pip install numpy',
    'cv2': f'{BAD}not installed, and nothing runs without it: {INSTALL["cv2"]}',
    'simplejpeg': f'{BAD}not installed, and JPEG is refused: pip install simplejpeg',
    'openvino': 'not installed: on a CPU, PyTorch runs instead, at a lower rate',
    'onnxruntime': 'not installed: the engines onnx, onnx-cuda, onnx-tensorrt and onnx-openvino '
                   'are missing',
    'onnx': 'not installed: OpenVINO and ONNX Runtime run exported folders only, no checkpoints',
    'triton': 'not installed: on CUDA, operations are not fused'}
"""Modules that the library imports, and what to print where one is missing."""
ROS_PACKAGES = {
    'rclpy': 'not installed: no node; the library and the command featshare work without',
    'cv_bridge': 'not installed: images of other encodings than the common ones are refused',
    'vision_msgs': 'not installed: ~/label_info is not published'}
"""ROS packages, and what to print where one is missing. They are not imported here."""
CONVERSION = ('import numpy; from cv_bridge.boost.cv_bridge_boost import cvtColor2; '
              'cvtColor2(numpy.zeros((1, 1, 3), numpy.uint8), "bgr8", "rgb8")')
"""Program that converts a pixel with cv_bridge."""
LONGEST_CONVERSION_S = 60
"""Longest time for that program, in seconds."""

PROFILE_VARIABLES = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')
"""Environment variables that name Fast DDS's profile, as in launch/segmentation.launch.py."""
OLD_DISTROS = ('humble', 'iron', 'jazzy')
"""Distributions whose Fast DDS reads only the second of ``PROFILE_VARIABLES``."""
PROFILE = 'fastdds_large_images.xml'
"""Name of the profile in config/."""


def versions() -> Lines:
    """Yield the installed versions, and for what is missing, what does not work without it."""
    yield 'featshare', probed(_featshare)
    yield 'Python', f'{platform.python_version()}, {sys.executable}'
    yield 'system', probed(_system)
    for module, missing in LIBRARIES.items():
        yield module, probed(_library, module, missing)
    for module, missing in ROS_PACKAGES.items():
        yield module, probed(_ros_package, module, missing)
    yield 'ROS_DISTRO', os.environ.get('ROS_DISTRO') or 'not set'


def _featshare() -> str:
    """Return version, commit and folder of this package."""
    from featshare_core import __version__
    folder = Path(__file__).parents[2]
    if (folder / 'package.xml').is_file():
        from featshare_core.evaluation.provenance import commit
        version = commit() or 'unknown (no git, or no checkout)'
    else:
        version = 'not recorded'
        with suppress(metadata.PackageNotFoundError, ValueError, KeyError, TypeError):
            # Recorded where pip has installed it from a repository.
            recorded = metadata.distribution('featshare_ros').read_text('direct_url.json')
            version = json.loads(recorded or '')['vcs_info']['commit_id']
    return f'{__version__}, commit {version}, in {folder}'


def _system() -> str:
    name = platform.system()
    with suppress(OSError):
        name = platform.freedesktop_os_release()['PRETTY_NAME']
    return f'{name}, {platform.system()} {platform.release()}, {platform.machine()}'


def _library(module: str, missing: str) -> str:
    if not find_spec(module):
        return missing
    try:
        imported = import_module(module)
    except Exception as error:  # of any type: a damaged library may raise anything
        return f'{BAD}installed, but cannot be imported:\n{failure(error)}'
    text = str(getattr(imported, '__version__', 'version unknown'))
    if module == 'torch':
        text += f', built for CUDA: {imported.version.cuda or "no"}'
    if module == 'onnxruntime':
        text += f', with {", ".join(imported.get_available_providers())}'
    return text


def _ros_package(module: str, missing: str) -> str:
    if not find_spec(module):
        return missing
    version = 'installed, version unknown'
    with suppress(metadata.PackageNotFoundError):
        version = metadata.version(module)
    return _cv_bridge(version) if module == 'cv_bridge' else version


def _cv_bridge(version: str) -> str:
    """
    Return whether cv_bridge works with the NumPy at hand, and else what to install.

    Up to Kilted it is compiled for NumPy 1. With NumPy 2 it can be imported all the same, but its
    first conversion ends the process; so a process of its own tries one.
    """
    done = subprocess.run([sys.executable, '-c', CONVERSION], capture_output=True, text=True,
                          timeout=LONGEST_CONVERSION_S)
    numpy = metadata.version('numpy')
    if done.returncode == 0:
        return f'{version}, works with NumPy {numpy}'
    if int(numpy.partition('.')[0]) >= 2 and (
            done.returncode < 0 or 'NumPy 1' in done.stderr or '_ARRAY_API' in done.stderr):
        return (f'{BAD}{version}, but compiled for NumPy 1, while NumPy {numpy} is installed:\n'
                f'{BAD}pip install "numpy<2"')
    lines = done.stderr.strip().splitlines() or [f'exit status {done.returncode}']
    return f'{BAD}{version}, but it does not work:\n{BAD}{lines[-1]}'


def dds() -> Lines:
    """Yield whether Fast DDS is configured for images."""
    rmw = os.environ.get('RMW_IMPLEMENTATION')
    yield 'RMW', rmw or 'RMW_IMPLEMENTATION is not set: the default, rmw_fastrtps_cpp'
    yield 'profile', probed(_profile, rmw or 'rmw_fastrtps_cpp')


def _profile(rmw: str) -> str:
    """Return which profile this process uses, and whether that is right for large images."""
    if 'fastrtps' not in rmw:
        return f'not needed: it is for Fast DDS, not for {rmw}'
    is_old = os.environ.get('ROS_DISTRO') in OLD_DISTROS
    # Kilted and later read both, and prefer the first.
    read = PROFILE_VARIABLES[is_old:]
    for variable in read:
        if profile := os.environ.get(variable):
            return f'{variable}={profile}' if Path(profile).is_file() else \
                f'{BAD}{variable}={profile}, which is no file: it has no effect'
    if not find_spec('rclpy'):
        return 'not set, and not needed without ROS'
    roots = Path(__file__).resolve().parents
    folders = (roots[2] / 'config', *(root / 'share/featshare_ros/config' for root in roots))
    found = [folder for folder in folders if (folder / PROFILE).is_file()]
    file = found[0] / PROFILE if found else f'.../share/featshare_ros/config/{PROFILE}'
    return (f'{BAD}{read[0]} is not set in this shell: Fast DDS loses large\n{BAD}images between '
            f'processes. The launch files set it for the node; for a camera driver:\n'
            f'export {read[0]}={file}')
