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
"""The package's manifest, set-up, launch files and configuration are sound and agree."""
from __future__ import annotations

import ast
import importlib.util
import json
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LAUNCH_FILES = sorted((ROOT / 'launch').glob('*.launch.py'))


@pytest.fixture(scope='module')
def manifest() -> ElementTree.Element:
    return ElementTree.parse(ROOT / 'package.xml').getroot()


@pytest.fixture(scope='module')
def setup_arguments() -> dict[str, ast.expr]:
    """Return the keyword arguments of the call of setup()."""
    calls = [
        node
        for node in ast.walk(ast.parse((ROOT / 'setup.py').read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'setup'
    ]
    assert len(calls) == 1
    return {keyword.arg: keyword.value for keyword in calls[0].keywords if keyword.arg}


def test_manifest_is_of_a_ros_python_package(manifest: ElementTree.Element) -> None:
    assert manifest.tag == 'package'
    assert manifest.get('format') == '3'
    assert manifest.findtext('name') == 'featshare_ros'
    assert manifest.findtext('export/build_type') == 'ament_python'
    assert (manifest.findtext('description') or '').strip()
    assert {url.get('type') for url in manifest.iter('url')} >= {'repository', 'bugtracker'}
    assert (ROOT / 'resource' / 'featshare_ros').is_file()


def test_manifest_maintainer_is_valid(manifest: ElementTree.Element) -> None:
    # With an address that catkin_pkg refuses, colcon no longer sees a ROS package.
    for maintainer in manifest.findall('maintainer'):
        assert re.fullmatch(r'[\w%+-]+(\.[\w%+-]+)*@[\w%-]+(\.[\w%-]+)*\.[a-zA-Z]{2,}',
                            maintainer.get('email', ''), re.ASCII)
    assert manifest.findall('maintainer')


def test_manifest_names_the_licence_files(manifest: ElementTree.Element) -> None:
    licences = {element.text: ROOT / element.get('file', '')
                for element in manifest.findall('license')}
    assert list(licences) == ['Apache-2.0', 'LicenseRef-CamVid-research']
    assert 'Apache License' in licences['Apache-2.0'].read_text()
    weights = licences['LicenseRef-CamVid-research'].read_text()
    assert 'research use' in weights
    for checkpoint in (ROOT / 'weights').glob('*.safetensors'):
        assert checkpoint.name in weights


def test_manifest_names_what_is_imported(manifest: ElementTree.Element) -> None:
    named = {element.text for element in manifest.findall('exec_depend')}
    keys = {'numpy': 'python3-numpy', 'cv2': 'python3-opencv', 'yaml': 'python3-yaml'}
    # torch and safetensors: see the comment in package.xml. The rest belongs to training, the demo
    # and the recordings, whose packages come with pip.
    imported = {
        name.partition('.')[0]
        for folder in ('featshare_ros', 'launch')
        for path in (ROOT / folder).rglob('*.py')
        for name in imported_modules(path)
    }
    ours = {'featshare_ros', 'featshare_core'}
    from_pip = {'torch', 'safetensors', 'rosbags', 'ray'}
    needed = imported - set(sys.stdlib_module_names) - ours - from_pip
    assert {keys.get(name, name) for name in needed} <= named


def imported_modules(path: Path) -> list[str]:
    """Return the modules that a file imports, anywhere in it."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return names


def test_the_version_stands_in_the_manifest_alone(manifest: ElementTree.Element) -> None:
    done = subprocess.run([sys.executable, 'setup.py', '--version'], cwd=ROOT, check=True,
                          capture_output=True, text=True)
    version = manifest.findtext('version')
    assert done.stdout.splitlines()[-1] == version
    assert f"'{version}'" not in (ROOT / 'setup.py').read_text()


def test_the_release_tools_read_manifest_and_changelog() -> None:
    # What bloom reads both with.
    pytest.importorskip('catkin_pkg', reason='catkin_pkg is not installed; it comes with ROS')
    pytest.importorskip('docutils', reason='docutils is not installed; it comes with ROS')
    from catkin_pkg.changelog import get_changelog_from_path
    from catkin_pkg.package import parse_package

    warnings: list[str] = []
    package = parse_package(str(ROOT), warnings=warnings)
    assert not warnings
    assert package.get_build_type() == 'ament_python'
    changelog = get_changelog_from_path(str(ROOT / 'CHANGELOG.rst'), package.name)
    versions = [version for version, _, _ in changelog.foreach_version()]
    assert versions == ['0.1.0', package.version]
    assert all(changelog.get_content_of_version(version) for version in versions)


def test_executables_exist(setup_arguments: dict[str, ast.expr]) -> None:
    scripts = ast.literal_eval(setup_arguments['entry_points'])['console_scripts']
    assert {script.partition(' = ')[0] for script in scripts} == {
        'compare_bags', 'evaluate_bag', 'featshare', 'make_recording', 'segment_bag',
        'segmentation_node'}
    for script in scripts:
        module, _, function = script.partition(' = ')[2].partition(':')
        path = ROOT / (module.replace('.', '/') + '.py')
        assert path.is_file(), f'{script}: there is no {path.name}'
        functions = [n.name for n in ast.parse(path.read_text()).body
                     if isinstance(n, ast.FunctionDef)]
        assert function in functions, f'{script}: {path.name} has no {function}()'


def test_executables_go_where_ros_looks() -> None:
    setup_cfg = (ROOT / 'setup.cfg').read_text()
    assert 'script_dir=$base/lib/featshare_ros' in setup_cfg
    assert 'install_scripts=$base/lib/featshare_ros' in setup_cfg
    # Which pip, other than colcon, must not follow.
    assert "build-backend = 'setuptools.build_meta'" in (ROOT / 'pyproject.toml').read_text()
    for wrapper in (ROOT / 'scripts').iterdir():
        assert os.access(wrapper, os.X_OK), f'{wrapper.name} is not executable'


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda path: path.name)
def test_launch_file_compiles(path: Path) -> None:
    compile(path.read_text(), str(path), 'exec')


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda path: path.name)
def test_launch_arguments_are_described(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not `launch`: in a checkout, its own folder of that name can be imported.
    if importlib.util.find_spec('launch_ros') is None:
        pytest.skip('launch_ros is not installed; it comes with ROS 2, not from PyPI')
    monkeypatch.setattr(
        'ament_index_python.packages.get_package_share_directory', lambda name: str(ROOT)
    )
    spec = importlib.util.spec_from_file_location(path.stem.partition('.')[0], path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    arguments = module.generate_launch_description().get_launch_arguments()
    assert arguments
    for argument in arguments:
        assert argument.description not in ('', 'no description given'), argument.name


def yaml_parameters() -> dict[str, Any]:
    """Return the parameters of config/segmentation.yaml by name."""
    content = yaml.safe_load((ROOT / 'config' / 'segmentation.yaml').read_text())
    assert list(content) == ['/**']
    return content['/**']['ros__parameters']


def test_yaml_holds_every_parameter_with_its_default() -> None:
    pytest.importorskip('rclpy')
    from featshare_ros.parameters import PARAMETERS

    defaults = {spec.name: spec.default for spec in PARAMETERS}
    written = yaml_parameters()
    assert written == defaults
    # To ROS, 1 and 1.0 are different types.
    assert {n: type(v) for n, v in written.items()} == {n: type(v) for n, v in defaults.items()}


def test_yaml_says_which_parameters_are_live() -> None:
    pytest.importorskip('rclpy')
    from featshare_ros.parameters import PARAMETERS

    text = (ROOT / 'config' / 'segmentation.yaml').read_text()
    for spec in PARAMETERS:
        match = re.search(rf'((?:^    #.*\n)+)    {spec.name}:', text, re.MULTILINE)
        assert match, f'{spec.name} has no comment'
        assert match[1].rstrip().endswith('Live.') == spec.live, spec.name


def test_several_cameras_are_named_with_their_topics() -> None:
    if importlib.util.find_spec('launch_ros') is None:
        pytest.skip('launch_ros is not installed; it comes with ROS 2, not from PyPI')
    spec = importlib.util.spec_from_file_location(
        'multi_camera', ROOT / 'launch' / 'multi_camera.launch.py')
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    topics = module.camera_topics('front=/a/image_raw, rear=b')
    assert topics == {'front': '/a/image_raw', 'rear': 'b'}
    assert module.remappings(topics) == [
        ('front/image', '/a/image_raw'), ('front/image/compressed', '/a/image_raw/compressed'),
        ('front/camera_info', '/a/camera_info'), ('rear/image', 'b'),
        ('rear/image/compressed', 'b/compressed'), ('rear/camera_info', 'camera_info')]
    for wrong in ('', 'front', 'front=', '=topic', 'front=a front=b'):
        with pytest.raises(ValueError, match='images'):
            module.camera_topics(wrong)


def test_foxglove_layout_shows_what_the_node_has() -> None:
    layout = json.loads((ROOT / 'config' / 'foxglove.json').read_text())
    panels = layout['configById']

    def shown(part: Any) -> list[str]:
        return [part] if isinstance(part, str) else shown(part['first']) + shown(part['second'])
    assert sorted(shown(layout['layout'])) == sorted(panels)
    assert panels['Image!overlay']['imageMode']['imageTopic'] == '/segmentation/overlay'
    assert panels['DiagnosticSummary!all']['topicToRender'] == '/diagnostics'
    calls = {panel['serviceName']: json.loads(panel['requestPayload'])
             for panel in panels.values() if 'serviceName' in panel}
    assert set(calls) == {'/segmentation/force_key_frame', '/segmentation/enable'}
    # What a panel shows or sends is of the type that the node has on that name.
    pytest.importorskip('rclpy')
    from featshare_ros.outputs import IMAGE, OUTPUTS
    from std_srvs.srv import SetBool, Trigger

    types = {output.name: output.message_type for output in OUTPUTS if output.live}
    assert types['overlay'] == IMAGE
    for name, service in (('force_key_frame', Trigger), ('enable', SetBool)):
        service.Request(**calls[f'/segmentation/{name}'])


def test_aggregator_matches_every_status() -> None:
    content = yaml.safe_load((ROOT / 'config' / 'diagnostics.yaml').read_text())
    analyzer = content['analyzers']['ros__parameters']['segmentation']
    assert analyzer['type'] == 'diagnostic_aggregator/GenericAnalyzer'
    for name, ours in (('segmentation: engine', True), ('car/segmentation: front', True),
                       ('segmentation_2: engine', True), ('car/segmentation_12: front', True),
                       ('segmentation_layer: costmap', False), ('camera: image', False)):
        assert ours == (any(part in name for part in analyzer['contains']) or any(
            re.fullmatch(pattern, name) for pattern in analyzer['regex'])), name


def test_documents_name_every_parameter_with_its_default() -> None:
    pytest.importorskip('rclpy')
    from featshare_ros.parameters import PARAMETERS

    text = (ROOT / 'docs' / 'robot' / 'ros-interface.md').read_text()
    table = text[text.index('## Parameters'):text.index('## Key frames')]
    rows = re.findall(r'^\| `(\w+)` \| `(.*?)` \| (live)? *\|', table, re.MULTILINE)
    assert {name: (yaml.safe_load(default), live == 'live') for name, default, live in rows} == {
        spec.name: (spec.default, spec.live) for spec in PARAMETERS}


def test_fastdds_profile_replaces_the_transports() -> None:
    profiles = ElementTree.parse(ROOT / 'config' / 'fastdds_large_images.xml').getroot()
    space = {'': 'http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles'}
    participant = profiles.find('participant', space)
    assert participant is not None
    assert participant.get('is_default_profile') == 'true'
    assert participant.findtext('rtps/useBuiltinTransports', namespaces=space) == 'false'
    used = [e.text for e in participant.findall('rtps/userTransports/transport_id', space)]
    defined = [e.text for e in profiles.iterfind('.//transport_descriptor/transport_id', space)]
    assert used == defined
    # With the types' descriptions of Kilted, Cyclone DDS would exchange no images with us.
    properties = {e.findtext('name', namespaces=space): e.findtext('value', namespaces=space)
                  for e in participant.findall('rtps/propertiesPolicy/properties/property', space)}
    assert properties == {'fastdds.type_propagation': 'disabled'}


def test_rviz_shows_the_overlay() -> None:
    content = yaml.safe_load((ROOT / 'config' / 'segmentation.rviz').read_text())
    displays = content['Visualization Manager']['Displays']
    topics = {display['Name']: display['Topic']['Value'] for display in displays}
    # segmentation.launch.py remaps exactly these.
    assert topics == {
        'Overlay': '/segmentation/overlay',
        'Camera image': '/image',
        'Camera image (compressed)': '/image/compressed',
    }
    launch_file = (ROOT / 'launch' / 'segmentation.launch.py').read_text()
    for topic in ('/overlay', '/image', '/image/compressed'):
        assert f"{topic}'" in launch_file


PACKAGE = ('featshare_core', 'featshare_ros', 'launch')
LINTERS = {
    'ament_copyright': (*PACKAGE, 'test', 'benchmarks', 'requirements'),
    'ament_flake8': (*PACKAGE, 'benchmarks', 'requirements', 'setup.py'),
    'ament_pep257': PACKAGE}
"""The linters of ROS, and what each checks."""


@pytest.mark.parametrize('linter', LINTERS)
def test_the_linters_of_ros_find_nothing(linter: str) -> None:
    if importlib.util.find_spec(linter) is None:
        pytest.skip(f'{linter} is not installed; it comes with ROS 2, not from PyPI')
    result = subprocess.run([sys.executable, '-m', f'{linter}.main', *LINTERS[linter]],
                            cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_manifest_names_the_linters(manifest: ElementTree.Element) -> None:
    named = {element.text for element in manifest.findall('test_depend')}
    assert {*LINTERS, 'launch_testing'} <= named


def test_the_workflows_run_every_distribution_and_python() -> None:
    folder = ROOT / '.github' / 'workflows'
    ros, wheels = (yaml.safe_load((folder / name).read_text())['jobs']
                   for name in ('ros.yml', 'wheels.yml'))
    matrix = ros['colcon']['strategy']['matrix']
    assert matrix['distro'] == [each['distro'] for each in matrix['include']] == [
        'humble', 'jazzy', 'kilted', 'lyrical', 'rolling']
    assert matrix['machine'] == ['amd64', 'arm64']
    matrix = wheels['make']['strategy']['matrix']
    assert {f'ros-{distro}.txt' for distro in matrix['distro']} == {
        path.name for path in (ROOT / 'requirements').glob('ros-*.txt')}
    assert matrix['python'] == ['3.10', '3.11', '3.12', '3.13']
    for path in folder.iterdir():
        # A tag can be moved to other code.
        for action in re.findall(r'uses: (.*)', path.read_text()):
            assert re.fullmatch(r'[\w/-]+@[0-9a-f]{40}  # v?\d[\d.]*', action)


EAGER = """
import importlib.util, logging, sys

class Quiet(logging.Logger):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.propagate = False

logging.setLoggerClass(Quiet)
sys.modules['launch.logging'] = sys

def pytest_pycollect_makemodule(module_path):
    spec = importlib.util.spec_from_file_location('early', module_path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
"""
"""A plugin of pytest that does what launch_testing's does."""


def test_the_plugin_of_launch_testing_changes_no_test(tmp_path: Path) -> None:
    # It imports test files early, where a missing package made pytest skip all of them, and its
    # loggers keep their lines from caplog.
    shutil.copy(ROOT / 'test' / 'conftest.py', tmp_path)
    (tmp_path / 'eager.py').write_text(EAGER)
    (tmp_path / 'test_a.py').write_text('import pytest\npytest.importorskip("nosuch")')
    (tmp_path / 'test_b.py').write_text('import logging\ndef test_b(caplog):\n'
                                        '    logging.getLogger("new").warning("line")\n'
                                        '    assert "line" in caplog.text\n')
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'eager', '-p', 'no:cacheprovider'],
        cwd=tmp_path, capture_output=True, text=True,
        # Without colcon's options, and without the real plugin.
        env={**os.environ, 'PYTHONPATH': str(tmp_path), 'PYTEST_ADDOPTS': '',
             'PYTEST_DISABLE_PLUGIN_AUTOLOAD': '1'})
    assert '1 passed, 1 skipped' in done.stdout, done.stdout + done.stderr
