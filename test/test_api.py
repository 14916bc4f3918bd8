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
"""The public names of featshare_core, and what `featshare --help` loads."""
from pathlib import Path
import subprocess
import sys
from xml.etree import ElementTree

import featshare_core
from featshare_core.packages import explain
import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ('torch', 'cv2', 'numpy', 'yaml', 'lightning')


def loaded_by(code):
    """Return which of the heavy packages a new Python process has loaded after some code."""
    done = subprocess.run(
        [sys.executable, '-c', f'import sys\n{code}\n'
         f'print(*(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)'],
        cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stderr.split()


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by('import featshare_core\n'
                     'featshare_core.__version__, dir(featshare_core)') == []


def test_help_loads_nothing_heavy():
    code = ('from featshare_core.cli import main\n'
            'try: main(["--help"])\nexcept SystemExit: pass')
    assert loaded_by(code) == []


def test_a_misspelt_key_of_a_training_is_refused_before_pytorch_is_loaded(tmp_path):
    (tmp_path / 'a.yaml').write_text('epochs: 1')
    code = ('from featshare_core.cli import main\n'
            f'main(["train", "--config", {str(tmp_path / "a.yaml")!r}, "--set", "lrr=1"])')
    said = loaded_by(code)
    assert 'lr?' in said
    assert not {'torch', 'cv2', 'lightning'} & set(said)


def test_public_names():
    from featshare_core.inference.segmenter import Result, VideoSegmenter
    from featshare_core.labels import LabelSet
    from featshare_core.networks.checkpoint import load_checkpoint
    for value in (Result, VideoSegmenter, LabelSet, load_checkpoint):
        assert getattr(featshare_core, value.__name__) is value
    assert set(featshare_core.__all__) <= set(dir(featshare_core))
    with pytest.raises(AttributeError, match="has no attribute 'Segmenter'"):
        _ = featshare_core.Segmenter
    with pytest.raises(ImportError):
        exec('from featshare_core import Segmenter')


def test_version_is_the_manifest_s():
    manifest = ElementTree.parse(ROOT / 'package.xml').getroot()
    assert featshare_core.__version__ == manifest.findtext('version')


def test_version_of_an_installed_package(monkeypatch, tmp_path):
    """There, no package.xml stands beside the package."""
    monkeypatch.setattr(featshare_core, '__file__',
                        str(tmp_path / 'featshare_core' / '__init__.py'))
    monkeypatch.setattr('importlib.metadata.version', lambda name: f'9.9 of {name}')
    assert featshare_core._version() == '9.9 of featshare_ros'


@pytest.mark.parametrize(('error', 'text'), [
    (ModuleNotFoundError('x', name='yaml'), 'yaml is not installed: pip install PyYAML'),
    (ModuleNotFoundError('x', name='rosbags.x'), 'rosbags is not installed: pip install rosbags'),
    (ModuleNotFoundError('x', name='sensor_msgs.msg'),
     'sensor_msgs is not installed; it belongs to ROS 2: source the setup.bash of an '
     'installation, or, in the source tree, pip install -r requirements/ros-kilted.txt'),
    # Ours, and what a module says itself.
    (ModuleNotFoundError("No module named 'featshare_core.x'", name='featshare_core.x'),
     "No module named 'featshare_core.x'"),
    (ImportError('plots need matplotlib: pip install matplotlib'),
     'plots need matplotlib: pip install matplotlib'),
    (ValueError('wrong'), 'wrong')])
def test_a_missing_package_is_explained(error, text):
    assert explain(error) == text


def test_arguments_of_a_wrong_type_are_named(random_checkpoint):
    from featshare_core import VideoSegmenter
    import numpy as np
    for wrong, name in (({'shared_levels': '2'}, 'shared_levels'), ({'shared_levels': True},
                        'shared_levels'), ({'path_or_name': None}, 'weights'),
                        ({'moved_frames': 1.0}, 'moved_frames'),
                        ({'key_interval': np.array([1, 2])}, 'key_interval')):
        with pytest.raises(TypeError, match=name):
            VideoSegmenter.from_checkpoint(**{'path_or_name': random_checkpoint, **wrong})
    with pytest.raises(ValueError, match='shared_levels is one of 0, 1, 2, 3 in this network'):
        VideoSegmenter.from_checkpoint(random_checkpoint, shared_levels=9, engine='torch')
    segmenter = VideoSegmenter.from_checkpoint(random_checkpoint, device='cpu', engine='torch')
    frame = np.zeros((64, 96, 3), np.uint8)
    with pytest.raises(TypeError, match='confidence must be True or False'):
        segmenter.segment(frame, confidence='no')
    with pytest.raises(TypeError, match='source must be text'):
        segmenter.segment(frame, source=None)
    assert segmenter.segment(frame, confidence=np.bool_(True)).confidence is not None
    assert VideoSegmenter.from_checkpoint(random_checkpoint, shared_levels=np.int64(1),
                                          device='cpu', engine='torch').engine.shared_levels == 1
    with pytest.raises(ValueError, match='opacity is a number from 0 to 1'):
        segmenter.segment(frame).overlay(frame, opacity='half')
