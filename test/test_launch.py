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
The launch files: what they start, and which errors end them before anything starts.

Where the real `launch` is not installed (it comes with ROS 2, not from PyPI), fakes replace it,
which keep their arguments.
"""
import importlib.util
import os
from pathlib import Path
import signal
import subprocess
import sys
from types import ModuleType, SimpleNamespace

from ament_index_python import packages
from featshare_ros.outputs import OUTPUTS
from featshare_ros.shards import deal
from harness import wait_until
import pytest

ROOT = Path(__file__).parents[1]


class Action:
    """An action of `launch`, with its arguments as attributes."""

    def __init__(self, *positional, **arguments):
        self.positional = positional
        vars(self).update(arguments)


class DeclareLaunchArgument(Action):
    @property
    def name(self):
        return self.positional[0]

    def execute(self, context):
        name, default = self.positional[0], getattr(self, 'default_value', '')
        text = default if isinstance(default, str) else default.perform(context)
        context.launch_configurations.setdefault(name, text)


class LaunchConfiguration(Action):
    def perform(self, context):
        return context.launch_configurations[self.positional[0]]


class LaunchDescription:
    def __init__(self, entities):
        self.entities = entities

    def get_launch_arguments(self):
        found = {}
        for entity in self.entities:
            arguments = [entity] if isinstance(entity, DeclareLaunchArgument) else \
                entity.positional[0].try_get_launch_description_without_context(
                    ).get_launch_arguments() if type(entity).__name__.startswith('Include') else []
            for argument in arguments:
                found.setdefault(argument.name, argument)
        return list(found.values())


class PythonLaunchDescriptionSource(Action):
    def try_get_launch_description_without_context(self):
        return module_of(Path(self.positional[0])).generate_launch_description()


class LaunchContext:
    is_shutdown = False

    def __init__(self):
        self.launch_configurations = {}


def typed(text, kind):
    if kind is bool:
        if text.lower() not in ('true', 'false'):
            raise ValueError
        return text.lower() == 'true'
    return kind(text)


def actions(*names):
    return {name: type(name, (Action,), {'launch_arguments': ()}) for name in names}


STAND_INS = {
    'launch': {'LaunchContext': LaunchContext, 'LaunchDescription': LaunchDescription},
    'launch.actions': {
        'DeclareLaunchArgument': DeclareLaunchArgument,
        **actions('ExecuteProcess', 'GroupAction', 'IncludeLaunchDescription', 'LogInfo',
                  'OpaqueFunction', 'SetEnvironmentVariable', 'TimerAction', 'Shutdown')},
    'launch.events': {},
    'launch.events.process': actions('ProcessExited'),
    'launch.launch_description_sources': {
        'PythonLaunchDescriptionSource': PythonLaunchDescriptionSource},
    'launch.substitutions': {'LaunchConfiguration': LaunchConfiguration},
    'launch.utilities': {},
    'launch.utilities.type_utils': {'get_typed_value': typed},
    'launch_ros': {},
    'launch_ros.actions': actions('Node', 'SetRemap'),
    'launch_ros.parameter_descriptions': actions('ParameterValue'),
    'launch_ros.ros_adapters': {'get_ros_node': None},
}


@pytest.fixture
def stand_ins(monkeypatch):
    """Replace `launch`, so that a test can read the arguments of actions."""
    for name, content in STAND_INS.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def load(monkeypatch, request):
    """A function that returns a launch file as a module, and its arguments (some are given)."""
    if 'launch_ros' not in sys.modules and importlib.util.find_spec('launch_ros') is None:
        request.getfixturevalue('stand_ins')
    monkeypatch.setattr(packages, 'get_package_share_directory', lambda name: str(ROOT))

    def load(name, **given):
        from launch import LaunchContext
        module = module_of(ROOT / 'launch' / f'{name}.launch.py')
        context = LaunchContext()
        context.launch_configurations.update(given)
        for entity in module.generate_launch_description().entities:
            if type(entity).__name__ == 'DeclareLaunchArgument':
                entity.execute(context)
        return module, context
    return load


def module_of(path):
    spec = importlib.util.spec_from_file_location(path.name.partition('.')[0], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kinds(entities):
    return [type(entity).__name__ for entity in entities]


def installed(monkeypatch, module, *names):
    """Have a launch file find these packages and no others."""
    def prefix(name):
        if name not in names:
            raise packages.PackageNotFoundError(name)
        return '/opt/ros'
    monkeypatch.setattr(module, 'get_package_prefix', prefix, raising=False)


@pytest.mark.parametrize('given', ['/nowhere/my.yaml', ''])
def test_a_params_file_that_does_not_exist_is_an_error_before_anything_starts(load, given):
    module, context = load('segmentation', params_file=given)
    with pytest.raises(ValueError, match=f'params_file:={given} is not a file'):
        module.start(context, ROOT)


def test_without_rviz2_the_node_is_started_and_the_log_says_so(load, monkeypatch):
    module, context = load('segmentation', rviz='true')
    installed(monkeypatch, module)
    assert kinds(module.start(context, ROOT)) == ['LogInfo', 'Node']
    installed(monkeypatch, module, 'rviz2')
    assert kinds(module.start(context, ROOT)) == ['Node', 'Node']
    module, context = load('segmentation')
    assert kinds(module.start(context, ROOT)) == ['Node']


@pytest.mark.parametrize(('given', 'respawns'), [
    ({}, 'false'), ({'use_respawn': 'true'}, 'true'), ({'respawn': 'true'}, 'true')])
def test_use_respawn_and_its_other_name_are_accepted(load, given, respawns):
    _, context = load('segmentation', **given)
    assert context.launch_configurations['respawn'] == respawns


@pytest.mark.parametrize(('given', 'reason'), [
    ({'bag': '/nowhere/bag'}, 'bag:=/nowhere/bag does not exist'),
    ({'rate': 'fast'}, 'rate:=fast is not a number'),
    ({'loop': 'often'}, 'loop:=often is not true or false'),
    ({'use_sim_time': 'perhaps'}, 'use_sim_time:=perhaps is not true or false'),
    ({}, 'the package ros2bag, which plays recordings, is not installed')])
def test_what_a_replay_lacks_is_an_error_before_anything_starts(load, monkeypatch, tmp_path,
                                                                given, reason):
    module, context = load('replay', **{'bag': str(tmp_path), **given})
    installed(monkeypatch, module)
    with pytest.raises(ValueError, match=reason):
        module.check(context)
    names = kinds(module.generate_launch_description().entities)
    assert names.index('OpaqueFunction') < names.index('IncludeLaunchDescription')
    installed(monkeypatch, module, 'ros2bag')
    if not given:
        module.check(context)


@pytest.mark.parametrize(('given', 'clock'), [
    ({}, True), ({'use_sim_time': 'true'}, True), ({'use_sim_time': 'false'}, False)])
def test_a_replay_obeys_use_sim_time(load, monkeypatch, tmp_path, given, clock):
    module, context = load('replay', bag=str(tmp_path), **given)
    monkeypatch.setattr(module, 'is_listening', lambda context: True)
    player, = module.play(context)
    words = [word if isinstance(word, str) else word[0].text for word in player.cmd]
    assert words[:4] == ['ros2', 'bag', 'play', str(tmp_path)]
    assert ('--clock' in words) == clock
    # The node gets the same value.
    assert context.launch_configurations['use_sim_time'] == str(clock).lower()
    node, = (entity for entity in module.generate_launch_description().entities
             if type(entity).__name__ == 'IncludeLaunchDescription')
    assert not list(node.launch_arguments)


def test_a_player_that_fails_ends_the_launch(load, tmp_path):
    module, context = load('replay', bag=str(tmp_path))
    module.check_player(SimpleNamespace(returncode=0), context)
    with pytest.raises(RuntimeError, match='exit code 3'):
        module.check_player(SimpleNamespace(returncode=3), context)


@pytest.mark.parametrize('name', ['segmentation', 'replay', 'nav2_semantic'])
def test_what_a_launch_started_ends_when_the_launch_is_killed(load, name):
    module, _ = load(name, bag='')
    if module.END_WITH_LAUNCH is None:
        pytest.skip('setpriv is not installed')
    launch = subprocess.Popen(['sh', '-c', f'{module.END_WITH_LAUNCH} sleep 60 & echo $!; wait'],
                              stdout=subprocess.PIPE, text=True)
    process = Path('/proc', launch.stdout.readline().strip())
    wait_until(lambda: 'sleep' in (process / 'comm').read_text(), 20, 'the process to start')
    os.kill(launch.pid, signal.SIGKILL)
    launch.wait()
    wait_until(lambda: not process.exists() or ') Z ' in (process / 'stat').read_text(), 20,
               'the process to end')
    launch.stdout.close()


FILES = sorted(path.name.partition('.')[0] for path in (ROOT / 'launch').glob('*.launch.py'))
OF_ONE_CAMERA = {'image', 'camera_info', 'cameras', 'node_name'}
"""Arguments of segmentation.launch.py that multi_camera.launch.py sets itself."""


@pytest.mark.parametrize('name', FILES)
def test_show_args_lists_every_argument_with_its_description(load, name):
    def arguments(name):
        description = load(name, bag='', images='')[0].generate_launch_description()
        return {argument.name: argument for argument in description.get_launch_arguments()}
    found = arguments(name)
    assert set(arguments('segmentation')) - set(found) == (
        OF_ONE_CAMERA if name == 'multi_camera' else set())
    for argument in found.values():
        assert len(argument.description) > 15, argument.name
        assert argument.description.endswith('.'), argument.name


def test_nav2_is_checked_before_anything_starts(load, monkeypatch):
    packages = ['vision_msgs', 'nav2_lifecycle_manager', 'nav2_costmap_2d',
                'semantic_segmentation_layer']
    module, context = load('nav2_semantic')
    installed(monkeypatch, module, *packages)
    module.check(context)
    names = kinds(module.generate_launch_description().entities)
    assert names.index('OpaqueFunction') < names.index('IncludeLaunchDescription')
    for missing in packages:
        installed(monkeypatch, module, *(name for name in packages if name != missing))
        with pytest.raises(ValueError, match=f'the package {missing} is not installed'):
            module.check(context)
    module, context = load('nav2_semantic', costmap='false')
    installed(monkeypatch, module, *packages[:2])
    module.check(context)
    module, context = load('nav2_semantic', costmap='perhaps')
    with pytest.raises(ValueError, match='costmap:=perhaps is not true or false'):
        module.check(context)
    for name, value in (('node_name', 'eyes'), ('cameras', 'a,b')):
        module, context = load('nav2_semantic', **{name: value})
        with pytest.raises(ValueError, match=f'{name} cannot be set here'):
            module.check(context)
    monkeypatch.setenv('ROS_DISTRO', 'humble')
    module, context = load('nav2_semantic')
    with pytest.raises(ValueError, match='with Humble, give costmap:=false'):
        module.check(context)


@pytest.mark.parametrize(('given', 'managed', 'topics'), [
    ({}, ['segmentation', 'costmap'], {}),
    ({'costmap': 'false'}, ['segmentation'], None),
    ({'points': '/points', 'use_sim_time': 'true'}, ['segmentation', 'costmap'],
     {'pointcloud': '/points'}),
    ({'namespace': '/car/'}, ['segmentation', 'costmap'],
     {'segmentation': '/car/segmentation/mask', 'confidence': '/car/segmentation/confidence',
      'labels': '/car/segmentation/label_info'})])
def test_nav2_manages_the_node_without_a_bond_and_the_costmap_with_its_topics(
        load, monkeypatch, given, managed, topics):
    module, context = load('nav2_semantic', **{'namespace': '', **given})
    # The node waits for its manager.
    assert context.launch_configurations['autostart'] == 'false'
    monkeypatch.setattr(module, 'Node', Action)
    *costmaps, manager = module.start(context)
    clock = {'use_sim_time': given.get('use_sim_time') == 'true'}
    assert manager.parameters == [
        {'autostart': True, 'node_names': managed, 'bond_timeout': 0.0, **clock}]
    assert {node.namespace for node in (*costmaps, manager)} == {
        given.get('namespace', '').strip('/')}
    assert len(costmaps) == len(managed) - 1
    if costmaps:
        assert (costmaps[0].package, costmaps[0].executable) == ('nav2_costmap_2d',) * 2
        assert costmaps[0].name == 'costmap'
        assert costmaps[0].parameters == [
            str(ROOT / 'config' / 'nav2_semantic_costmap.yaml'),
            {**clock, **{f'semantic_layer.camera.{name}_topic': topic
                         for name, topic in topics.items()}}]


IMAGES = 'a=/a/image_raw b=/b/image_raw c=/c/image_raw'


def started(group):
    """Return (variables, arguments, topic by name in the node) of a node that a group starts."""
    *settings, node = group.positional[0]
    pairs = {kind: dict(action.positional for action in settings if type(action).__name__ == kind)
             for kind in ('SetEnvironmentVariable', 'SetRemap')}
    return pairs['SetEnvironmentVariable'], dict(node.launch_arguments), pairs['SetRemap']


def test_one_node_serves_all_cameras_on_all_cores(stand_ins, load):
    module, context = load('multi_camera', images=IMAGES)
    (variables, arguments, topics), = map(started, module.start(context, ROOT))
    assert variables == {}
    assert arguments == {'node_name': 'segmentation', 'cameras': 'a,b,c'}
    assert topics['b/image'] == '/b/image_raw'
    assert not any(name.startswith('~') for name in topics)


def test_cameras_and_cores_are_dealt_out_among_shards(stand_ins, load, monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    module, context = load('multi_camera', images=IMAGES, shards='2')
    monkeypatch.setattr(module, 'usable_cores', lambda: 3)
    first, second = map(started, module.start(context, ROOT))
    assert first[:2] == ({'OMP_NUM_THREADS': '2'},
                         {'node_name': 'segmentation_1', 'cameras': 'a,c'})
    # RViz is started once.
    assert second[:2] == ({'OMP_NUM_THREADS': '1'},
                          {'node_name': 'segmentation_2', 'cameras': 'b', 'rviz': 'false'})
    # Each camera's topics are those of a single node.
    outputs = {output.name for output in OUTPUTS if output.live}
    for (_, _, topics), cameras in ((first, 'ac'), (second, 'b')):
        assert topics == {
            **{f'{name}/image{end}': f'/{name}/image_raw{end}'
               for name in cameras for end in ('', '/compressed')},
            **{f'{name}/camera_info': f'/{name}/camera_info' for name in cameras},
            **{f'~/{name}/{output}': f'segmentation/{name}/{output}'
               for name in cameras for output in outputs}}


def test_a_number_of_threads_that_is_set_holds_for_each_shard(stand_ins, load, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '5')
    module, context = load('multi_camera', images=IMAGES, shards='3')
    assert [started(group)[0] for group in module.start(context, ROOT)] == [{}, {}, {}]


@pytest.mark.parametrize('shards', ['0', '4', '-1', 'two', '1.5', ''])
def test_shards_are_between_one_and_the_number_of_cameras(load, shards):
    module, context = load('multi_camera', images=IMAGES, shards=shards)
    with pytest.raises(ValueError, match=f'shards:={shards} is not '):
        module.start(context, ROOT)


@pytest.mark.parametrize(('cameras', 'shards', 'cores', 'dealt'), [
    ('ab', 1, 8, [('segmentation', 'ab', 8)]),
    ('abcde', 2, 5, [('segmentation_1', 'ace', 3), ('segmentation_2', 'bd', 2)]),
    ('abc', 3, 2, [('segmentation_1', 'a', 1), ('segmentation_2', 'b', 1),
                   ('segmentation_3', 'c', 1)])])
def test_every_shard_gets_a_camera_and_a_thread(cameras, shards, cores, dealt):
    assert deal(cameras, shards, cores) == dealt


@pytest.mark.parametrize(('given', 'words'), [
    ({}, ['--log-level', 'info']),
    ({'enclave': '/robot/eyes'}, ['--log-level', 'info', '--enclave', '/robot/eyes'])])
def test_the_node_gets_its_enclave(stand_ins, load, given, words):
    module, context = load('segmentation', **given)
    node, = module.start(context, ROOT)
    assert node.ros_arguments == words


@pytest.mark.parametrize(('remaps', 'overlay', 'image'), [
    ([], '/robot/eyes/a/overlay', '/robot/a/image'),
    ([('a/image', '/a/raw'), ('~/a/overlay', 'segmentation/a/overlay')],
     '/robot/segmentation/a/overlay', '/a/raw')])
def test_rviz_shows_the_topics_of_a_renamed_node(stand_ins, load, monkeypatch, remaps, overlay,
                                                 image):
    module, context = load('segmentation', rviz='true', cameras='a,b', node_name='eyes',
                           namespace='/robot', ros_remaps=remaps)
    installed(monkeypatch, module, 'rviz2')
    node, rviz = module.start(context, ROOT)
    assert node.name == 'eyes'
    assert dict(rviz.remappings) == {'/segmentation/overlay': overlay, '/image': image,
                                     '/image/compressed': f'{image}/compressed'}
