"""The package's manifest, set-up, launch files and configuration are sound and agree."""
from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
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


def test_manifest_names_the_licence_file(manifest: ElementTree.Element) -> None:
    licence = manifest.find('license')
    assert licence is not None
    assert licence.text == 'Apache-2.0'
    assert 'Apache License' in (ROOT / licence.get('file', '')).read_text()


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


def test_versions_agree(
    manifest: ElementTree.Element, setup_arguments: dict[str, ast.expr]
) -> None:
    assert ast.literal_eval(setup_arguments['version']) == manifest.findtext('version')


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
    # The fields and panels that Foxglove knows.
    assert set(layout) == {
        'configById', 'layout', 'globalVariables', 'userNodes', 'playbackConfig'}
    assert {name.partition('!')[0] for name in panels} == {
        'Image', 'DiagnosticSummary', 'CallService', 'Parameters'}
    assert panels['Image!overlay']['imageMode']['imageTopic'] == '/segmentation/overlay'
    assert panels['DiagnosticSummary!all']['topicToRender'] == '/diagnostics'
    calls = {panel['serviceName']: json.loads(panel['requestPayload'])
             for panel in panels.values() if 'serviceName' in panel}
    assert set(calls) == {'/segmentation/force_key_frame', '/segmentation/enable'}
    # What a panel shows or sends is of the type that the node has on that name.
    pytest.importorskip('rclpy')
    from std_srvs.srv import SetBool, Trigger

    from featshare_ros.outputs import IMAGE, OUTPUTS

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


def test_docstrings_are_in_the_style_of_ros() -> None:
    if importlib.util.find_spec('ament_pep257') is None:
        pytest.skip('ament_pep257 is not installed; it comes with ROS 2, not from PyPI')
    result = subprocess.run(
        [sys.executable, '-m', 'ament_pep257.main', 'featshare_core', 'featshare_ros', 'launch'],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )
    assert result.returncode == 0, result.stdout + result.stderr
