"""The public names of featshare_core, and what `featshare --help` loads."""
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import featshare_core

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


def test_type_checkers_see_the_names(tmp_path, monkeypatch):
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
        '[mypy-torch.*,numpy.*,cv2.*,safetensors.*]\nfollow_imports = skip\n')
    monkeypatch.setenv('MYPYPATH', str(ROOT))
    said, _, _ = api.run(['--config-file', str(tmp_path / 'mypy.ini'), '--cache-dir',
                          str(tmp_path / 'cache'), str(file)])
    errors = [line for line in said.splitlines() if 'user.py' in line]
    assert [line.split(':')[1] for line in errors] == ['4', '5', '9', '10'], said
    assert (Path(featshare_core.__file__).parent / 'py.typed').is_file()
