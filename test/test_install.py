"""A plain pip install: what `ros2 run`, launch files and the name `default` look for is there."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def prefix(tmp_path_factory):
    source, prefix = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('prefix')
    # A copy, because a build writes beside the sources.
    for name in ('featshare_core', 'featshare_ros', 'launch', 'config', 'weights', 'scripts',
                 'resource', 'setup.py', 'setup.cfg', 'package.xml', 'README.md', 'LICENSE'):
        path = REPOSITORY / name
        (shutil.copytree if path.is_dir() else shutil.copy)(path, source / name)
    # --ignore-installed, or pip would uninstall the package from the tests' own environment.
    subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps',
                    '--ignore-installed', '--no-build-isolation', '--disable-pip-version-check',
                    '--prefix', prefix, source], check=True)
    return prefix


def test_the_files_are_where_ros_looks(prefix):
    share = prefix / 'share' / 'featshare_ros'
    for name in ('package.xml', 'launch/segmentation.launch.py', 'launch/replay.launch.py',
                 'config/segmentation.yaml', 'config/fastdds_large_images.xml',
                 'weights/default.safetensors'):
        assert (share / name).is_file(), name
    assert not (share / 'config/train').exists()  # a robot does not train
    assert (prefix / 'share/ament_index/resource_index/packages/featshare_ros').is_file()
    assert os.access(prefix / 'lib/featshare_ros/segmentation_node', os.X_OK)
    assert any((prefix / folder / 'featshare').is_file()
               for folder in ('bin', 'lib/featshare_ros'))


def test_the_shipped_checkpoint_is_found_from_there(prefix, tmp_path):
    packages = next(prefix.glob('lib/python3*/*-packages'))
    code = ('import featshare_core.networks.checkpoint as c, featshare_ros;'
            'print(c.__file__, c.find_checkpoint("default"), sep="\\n")')
    result = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, check=True, text=True,
                            capture_output=True, env={**os.environ, 'PYTHONPATH': str(packages)})
    module, checkpoint = map(Path, result.stdout.split())
    assert module.is_relative_to(prefix)
    assert checkpoint == prefix / 'share/featshare_ros/weights/default.safetensors'
