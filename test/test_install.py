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
"""A plain pip install: what `ros2 run`, launch files, users' Python and type checkers look for."""
from importlib import metadata
import os
from pathlib import Path
import re
import runpy
import shutil
import subprocess
import sys

import cv2
from featshare_core.networks import weights
from featshare_core.networks.weights import CheckpointError, find_weights
import numpy as np
from packaging.requirements import Requirement
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def prefix(tmp_path_factory):
    """A virtual environment with the package, but nothing that it needs."""
    source, prefix = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('prefix')
    # A copy, because a build writes beside the sources.
    for name in ('featshare_core', 'featshare_ros', 'launch', 'config', 'weights', 'scripts',
                 'resource', 'setup.py', 'setup.cfg', 'pyproject.toml', 'package.xml', 'README.md',
                 'LICENSE'):
        path = REPOSITORY / name
        (shutil.copytree if path.is_dir() else shutil.copy)(path, source / name)
    pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
    subprocess.run([*pip, 'wheel', '--no-deps', '--no-build-isolation', '--wheel-dir',
                    source / 'dist', source], check=True)
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', prefix], check=True)
    wheel, = (source / 'dist').glob('*.whl')
    subprocess.run([*pip, '--python', prefix / 'bin/python', 'install', '--no-deps', wheel],
                   check=True, env=outside())
    return prefix


@pytest.fixture(scope='module')
def complete(prefix):
    """The same with torch and what setup.py declares, and with nothing else."""
    packages = site(prefix)
    ours = metadata.PathDistribution(next(packages.glob('featshare_ros-*.dist-info')))
    waiting, linked = [Requirement('torch'), *required(ours)], set()
    while waiting:
        name = waiting.pop().name
        if name in linked:
            continue
        linked.add(name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            pytest.skip(f'{name} was not installed by pip here, and cannot be linked')
        waiting += required(distribution)
        for part in {file.parts[0] for file in distribution.files or ()} - {'..', '__pycache__'}:
            link = packages / part
            if not link.exists():
                link.symlink_to(distribution.locate_file(part))
    return prefix


def required(distribution):
    """Return what a package needs here, without its extras."""
    found = map(Requirement, distribution.requires or ())
    return [each for each in found if not each.marker or each.marker.evaluate({'extra': ''})]


def site(prefix):
    return next(prefix.glob('lib/python3*/site-packages'))


def outside():
    """Return an environment in which nothing of this one is found."""
    hidden = ('PYTHONPATH', 'LD_LIBRARY_PATH', '_ROS_WHEELS_BOOTSTRAP_COMPLETE')
    return {name: value for name, value in os.environ.items() if name not in hidden}


def test_the_files_are_where_ros_looks(prefix):
    share = prefix / 'share' / 'featshare_ros'
    for name in ('package.xml', 'launch/segmentation.launch.py', 'launch/replay.launch.py',
                 'config/segmentation.yaml', 'config/fastdds_large_images.xml',
                 'weights/default.safetensors', 'weights/LICENSE', 'LICENSE'):
        assert (share / name).is_file(), name
    assert not (share / 'config/train').exists()  # a robot does not train
    assert (prefix / 'share/ament_index/resource_index/packages/featshare_ros').is_file()
    assert os.access(prefix / 'lib/featshare_ros/segmentation_node', os.X_OK)
    assert any((prefix / folder / 'featshare').is_file()
               for folder in ('bin', 'lib/featshare_ros'))


def test_the_shipped_checkpoint_is_found_from_there(prefix, tmp_path):
    code = ('import featshare_core.networks.checkpoint as c, featshare_ros;'
            'print(c.__file__, c.find_checkpoint("default"), sep="\\n")')
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, check=True, text=True, capture_output=True,
        env={**os.environ, 'PYTHONPATH': str(site(prefix))})
    module, checkpoint = map(Path, result.stdout.split())
    assert module.is_relative_to(prefix)
    assert checkpoint == prefix / 'share/featshare_ros/weights/default.safetensors'


@pytest.mark.parametrize(('value', 'shipped'), [('', True), ('0', True), ('1', False)])
def test_a_build_may_leave_the_weights_out(monkeypatch, value, shipped):
    """A distribution may not ship what is licensed for research only."""
    given = {}
    monkeypatch.setattr('setuptools.setup', lambda **arguments: given.update(arguments))
    monkeypatch.setenv('FEATSHARE_NO_WEIGHTS', value)
    monkeypatch.chdir(REPOSITORY)
    runpy.run_path('setup.py')
    files = {folder: names for folder, names in given['data_files'] if names}
    assert ('weights/LICENSE' in files.get('share/featshare_ros/weights', [])) == shipped
    assert any('default.safetensors' in str(names) for names in files.values()) == shipped
    assert ('share/featshare_ros/results' in files) == shipped
    assert 'share/featshare_ros/config' in files


def test_without_weights_a_name_is_refused_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setattr(weights, '__file__', str(tmp_path / 'featshare_core/networks/weights.py'))
    reason = (r"no checkpoint is called 'default'; none is shipped: the package was built with "
              r'FEATSHARE_NO_WEIGHTS; give the path of a \.safetensors file')
    with pytest.raises(CheckpointError, match=reason):
        find_weights('default')


@pytest.mark.parametrize(('command', 'said'), [
    ('bin/segment_bag --help', 'segment_bag: cv2 is not installed: apt install python3-opencv, '
                               'or pip install opencv-python-headless'),
    ('bin/evaluate_bag --help', 'evaluate_bag: cv2 is not installed: apt install python3-opencv, '
                               'or pip install opencv-python-headless'),
    ('bin/compare_bags --help', 'compare_bags: cv2 is not installed: apt install python3-opencv, '
                                'or pip install opencv-python-headless'),
    ('lib/featshare_ros/make_recording x y', 'make_recording: cv2 is not installed: apt install '
                                             'python3-opencv, or pip install opencv-python'),
    ('bin/featshare segment x y', 'featshare: cv2 is not installed: apt install python3-opencv'),
    ('bin/segmentation_node', 'segmentation_node: diagnostic_msgs is not installed; it '
                              'belongs to ROS 2: '
                              'source the setup.bash')])
def test_a_command_without_its_packages_says_what_to_install(prefix, command, said):
    """It ended in a traceback, for --help too."""
    program, *arguments = command.split()
    if (site(prefix) / 'torch').exists():
        pytest.skip('the packages were linked already')
    done = subprocess.run([prefix / program, *arguments], env=outside(), text=True,
                          capture_output=True)
    assert done.returncode == 1
    assert done.stderr.count('\n') == 1, done.stderr
    assert done.stderr.startswith(said)


def test_the_quick_start_runs(complete, tmp_path):
    """The README's, then the library's, with torch and the declared packages alone."""
    video = cv2.VideoWriter(str(tmp_path / 'drive.mp4'), cv2.VideoWriter.fourcc(*'mp4v'), 10,
                            (96, 64))
    for level in range(3):
        video.write(np.full((64, 96, 3), 80 * level, np.uint8))
    video.release()
    install, *commands = quick_start('README.md', 'bash', 'featshare segment').splitlines()
    assert install.startswith('pip install torch .')
    example = quick_start('docs/models/python.md', 'python', "VideoCapture('drive.mp4')")
    commands.append("python - <<'END'\n" + example + 'END')
    done = subprocess.run(
        ['bash', '-ec', '\n'.join(commands)], cwd=tmp_path, text=True, capture_output=True,
        env={**outside(), 'PATH': f'{complete / "bin"}:{os.environ["PATH"]}'})
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / 'masks').glob('*.png'))) == 3
    assert len(list(tmp_path.glob('overlay-*.jpg'))) == 3


def quick_start(page, language, contained):
    """Return the one block of code of a page that contains a text."""
    blocks = re.findall(rf'^```{language}\n(.*?)^```', (REPOSITORY / page).read_text(),
                        re.DOTALL | re.MULTILINE)
    block, = (block for block in blocks if contained in block)
    return block


def test_type_checkers_see_the_types_of_the_installed_package(complete, tmp_path):
    api = pytest.importorskip('mypy.api')
    file = tmp_path / 'user.py'
    file.write_text('from featshare_core import VideoSegmenter, Result, LabelSet, '
                    'load_checkpoint, __version__\n'
                    'def last(segmenter: VideoSegmenter) -> LabelSet:\n'
                    '    return segmenter.labels\n'
                    'version: int = __version__\n'
                    'from featshare_core import Segmenter\n'
                    'with VideoSegmenter.from_checkpoint(key_interval=2) as segmenter:\n'
                    '    result = segmenter.segment([], color="bgr")  # type: ignore[arg-type]\n'
                    '    key: bool = result.is_key\n'
                    'VideoSegmenter.from_checkpoint(key_interval="five")\n'
                    'result.overlay(result.mask, opacity="half")\n')
    # Without the packages below ours, whose types take a minute to read.
    (tmp_path / 'mypy.ini').write_text(
        '[mypy]\nignore_missing_imports = True\n'
        '[mypy-torch.*,numpy.*,cv2.*,safetensors.*,PIL.*]\nfollow_imports = skip\n')
    said, _, _ = api.run(['--config-file', str(tmp_path / 'mypy.ini'), '--cache-dir',
                          str(tmp_path / 'cache'), '--python-executable',
                          str(complete / 'bin/python'), str(file)])
    errors = [line for line in said.splitlines() if 'user.py' in line]
    assert [line.split(':')[1] for line in errors] == ['4', '5', '9', '10'], said
