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
"""featshare doctor: its report is complete wherever it runs, and has nothing private."""
from __future__ import annotations

import ast
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

from featshare_core import machine
from featshare_core.cli import main
from featshare_core.doctor import hardware, software
from featshare_core.doctor.command import LABEL_WIDTH, shareable
from featshare_core.labels import CAMVID
from featshare_core.networks.checkpoint import Config, NETWORKS, save_checkpoint
import pytest
import torch

ROOT = Path(__file__).parents[1]
SECTIONS = ['Versions', 'Machine', 'Engines', 'One frame', 'Exported models', 'DDS']
BAD = '! ' + ' ' * LABEL_WIDTH
"""Beginning of a marked line without a label."""
LAST_LINE = re.compile(r'To report a bug, paste all of this output; the home folder is written '
                       r'as ~\.\n$')


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A checkpoint of the lightest network, with random weights."""
    torch.manual_seed(0)
    name = 'light-efficientnet-lite0'
    path = tmp_path_factory.mktemp('weights') / 'weights.safetensors'
    save_checkpoint(path, NETWORKS[name](len(CAMVID)),
                    Config(name, CAMVID, (128, 96), {'shared_levels': 2}))
    return path


@pytest.fixture
def home(tmp_path, checkpoint):
    """A home folder with a checkpoint."""
    folder = tmp_path / 'somebody'
    folder.mkdir()
    shutil.copy(checkpoint, folder)
    return folder


def hide(folder: Path, *packages: str) -> None:
    """Hide packages from processes with ``folder`` in their PYTHONPATH."""
    (folder / 'sitecustomize.py').write_text(
        'from importlib.machinery import PathFinder\n'
        'find = PathFinder.find_spec\n'
        'PathFinder.find_spec = classmethod(lambda cls, name, *arguments: None\n'
        f'    if name.partition(".")[0] in {packages} else find(name, *arguments))\n')


def doctor(home: Path, *arguments: str, path: str | None = None,
           **variables: str) -> tuple[str, str, int]:
    """Return the output, the errors and the exit status of the command in a process of its own."""
    environment = {name: value for name, value in os.environ.items()
                   if name not in ('XDG_CACHE_HOME', 'RMW_IMPLEMENTATION', 'ROS_DISTRO',
                                   *software.PROFILE_VARIABLES)}
    environment.update(HOME=str(home), PYTHONPATH=os.pathsep.join(filter(None, (path, str(ROOT)))),
                       **variables)
    done = subprocess.run([sys.executable, '-m', 'featshare_core.cli', 'doctor', *arguments],
                          env=environment, cwd=home.parent, capture_output=True, text=True,
                          timeout=300)
    output = done.stdout
    # Whatever is found, the report is complete, and plain text in columns.
    titles = [line for line in output.splitlines()[1:-1] if line and line[0] not in ' !']
    assert titles == SECTIONS, output + done.stderr
    assert LAST_LINE.search(output)
    assert str(home) not in output
    assert '\x1b' not in output
    assert 'Traceback' not in output + done.stderr
    for line in output.splitlines()[1:-1]:
        assert not line or line in SECTIONS or re.match(r'[! ] (\S.{14}| {15}) \S', line), line
    return output, done.stderr, done.returncode


def text(output: str, label: str) -> str:
    """Return the text of a label, all of its lines, each with its mark."""
    padded = re.escape(f'{label:<15}')
    found = re.search(rf'^(.) {padded} (.*\n(?:[! ] {{17}}.*\n)*)', output, re.MULTILINE)
    assert found is not None, f'no {label} in {output}'
    return found[1].strip() + found[2].replace(' ' * 17, ' ')


def test_the_report_names_the_engine_that_runs_and_times_it(home):
    pytest.importorskip('openvino')
    pytest.importorskip('onnx')
    output, errors, status = doctor(home, '--weights', str(home / 'weights.safetensors'),
                                    '--device', 'cpu', '--precision', 'fp32')
    assert status == 0, output + errors
    assert text(output, 'torch').startswith(torch.__version__)
    assert text(output, 'engine') == 'openvino on cpu in fp32\n'
    assert 'with --weights ~/weights.safetensors --device cpu --precision fp32' in output
    engines = output[output.index('\nEngines'):]
    assert text(engines, 'openvino') == 'tried first\n'
    assert text(engines, 'torch') == 'tried if those above do not start\n'
    assert text(engines, 'graphs').startswith('engine graphs runs on cuda, not on cpu')
    assert text(output, 'image').startswith('128x96')
    for label in ('key frame', 'current frame'):
        assert re.match(r'\d+\.\d ms, median of 7', text(output, label))
    assert text(output, 'folder').startswith('~/.cache/featshare/models\n  writable, ')
    assert text(output, 'kept').startswith('1 of at most 16')


def test_the_report_says_what_is_missing_and_what_is_lost(home, tmp_path):
    hide(tmp_path, 'openvino', 'onnx', 'rclpy', 'cv_bridge', 'vision_msgs', 'triton')
    (tmp_path / 'onnxruntime.py').write_text('raise RuntimeError("built for another processor")')
    output, errors, status = doctor(home, '--weights', str(home / 'weights.safetensors'),
                                    '--device', 'cpu', path=str(tmp_path), PATH=str(tmp_path))
    assert status == 0, output + errors
    assert 'commit unknown (no git' in text(output, 'featshare')
    assert 'PyTorch runs instead' in text(output, 'openvino')
    assert text(output, 'onnxruntime') == ('!installed, but cannot be imported:\n'
                                           '! RuntimeError: built for another processor\n')
    for package in ('onnx', 'triton', 'rclpy', 'cv_bridge', 'vision_msgs'):
        assert text(output, package).startswith('not installed: ')
    engines = output[output.index('\nEngines'):]
    assert text(engines, 'openvino') == (
        '!engine openvino needs openvino and onnx: pip install openvino onnx\n')
    assert text(engines, 'torch') == 'tried first\n'
    assert text(output, 'engine').startswith('torch on cpu in ')
    assert text(output, 'profile') == 'not set, and not needed without ROS\n'


def test_without_pytorch_the_report_is_printed_all_the_same(home, tmp_path):
    hide(tmp_path, 'torch', 'cv2')
    output, errors, status = doctor(home, path=str(tmp_path))
    assert status == 1
    assert 'no engine runs here' in errors
    assert text(output, 'torch').startswith('!not installed, and nothing runs without it')
    assert text(output, 'cv2').startswith('!not installed, and nothing runs without it')
    assert "ModuleNotFoundError: No module named 'torch'" in output
    assert 'usable by this process' in text(output, 'cores')


def test_weights_that_cannot_be_used_are_a_reason_and_ros_is_not_imported(home, tmp_path):
    for package in software.ROS_PACKAGES:
        (tmp_path / f'{package}.py').write_text('raise AssertionError("imported")')
    output, errors, status = doctor(home, '--weights', str(home / 'none.safetensors'),
                                    path=str(tmp_path))
    assert status == 1
    assert errors == 'featshare: no engine runs here: the section "One frame" says why\n'
    assert f'{BAD}CheckpointError: checkpoint ~/none.safetensors does not exist\n' in output
    # cv_bridge is imported by another process, which shows whether its NumPy is there.
    assert 'AssertionError: imported' in text(output, 'cv_bridge')
    for package in software.ROS_PACKAGES.keys() - {'cv_bridge'}:
        assert 'not installed' not in text(output, package)
        assert 'imported' not in text(output, package)
    assert f'{BAD}images between processes' in output


@pytest.mark.parametrize(('code', 'said'), [
    ('cvtColor2 = lambda *arguments: None', 'works with NumPy {numpy}'),
    ('import os\ncvtColor2 = lambda *arguments: os.kill(os.getpid(), 11)', '{advice}'),
    ('raise ImportError("compiled using NumPy 1.x cannot be run in NumPy 2.3.1")', '{advice}'),
    ('raise AttributeError("_ARRAY_API not found")', '{advice}'),
    ('raise ImportError("libboost.so: cannot open")', 'not work:\n! ImportError: libboost.so: ')])
def test_a_cv_bridge_for_another_numpy_is_named(tmp_path, monkeypatch, code, said):
    """One that is compiled for NumPy 1 is imported with NumPy 2, and ends the process later."""
    boost = tmp_path / 'cv_bridge' / 'boost'
    boost.mkdir(parents=True)
    for folder in (boost, boost.parent):
        (folder / '__init__.py').touch()
    (boost / 'cv_bridge_boost.py').write_text(code)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    for numpy in ('1.26.4', '2.3.5'):
        monkeypatch.setattr(software.metadata, 'version', lambda name, numpy=numpy: {
            'numpy': numpy, 'cv_bridge': '4.1.0'}[name])
        found = software._ros_package('cv_bridge', 'missing')
        assert found.removeprefix(software.BAD).startswith('4.1.0, ')
        advised = said == '{advice}' and numpy[0] == '2'
        assert ('compiled for NumPy 1, while NumPy 2.3.5 is installed:\n! pip install "numpy<2"'
                in found) == advised
        if said != '{advice}':
            assert said.format(numpy=numpy) in found
        assert all(line.startswith(software.BAD) == ('works' not in said)
                   for line in found.splitlines())


@pytest.mark.parametrize('place', ['file', 'folder'])
def test_a_cache_that_cannot_be_written_is_reported(home, place):
    pytest.importorskip('openvino')
    pytest.importorskip('onnx')
    if place == 'folder':
        if os.geteuid() == 0:
            pytest.skip('root writes into read-only folders')
        (home / place).mkdir(0o555)
    else:
        (home / place).touch()
    output, errors, status = doctor(home, '--weights', str(home / 'weights.safetensors'),
                                    '--device', 'cpu', XDG_CACHE_HOME=str(home / place))
    assert status == 0, output + errors
    assert '\n! cannot be written (' in text(output, 'folder')
    assert 'set XDG_CACHE_HOME' in text(output, 'folder')
    assert f'{BAD}exported models cannot be kept, so every start exports' in output
    assert text(output, 'kept').startswith('0 of ')


def test_an_exported_folder_runs_at_its_size_only(capsys, checkpoint, tmp_path, monkeypatch):
    pytest.importorskip('openvino')
    pytest.importorskip('onnx')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert main(['export', str(tmp_path / 'exported'), '--weights', str(checkpoint)]) == 0
    assert main(['doctor', '--weights', '~/exported', '--device', 'cpu']) == 0
    output = capsys.readouterr().out
    assert text(output, 'sizes') == '128x96 only, for which ~/exported was exported\n'
    assert text(output, 'engine').startswith('openvino on cpu')
    assert 'engine torch runs checkpoints only' in output
    assert text(output[output.index('\nEngines'):], 'onnx').startswith('tried if those above')


def test_a_device_that_is_missing_is_the_status(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert main(['doctor', '--device', 'cuda', '--engine', 'graphs']) == 1
    captured = capsys.readouterr()
    assert "device 'cuda' was asked for, but PyTorch" in captured.out
    assert 'no engine runs here' in captured.err


def test_what_is_logged_while_the_engine_is_built_is_in_the_report(capsys, monkeypatch, home):
    openvino = pytest.importorskip('openvino')
    pytest.importorskip('onnx')

    def fails(*_):
        raise RuntimeError('\x1b[31millegal instruction')
    monkeypatch.setattr(openvino.Core, 'compile_model', fails)
    assert main(['doctor', '--weights', str(home / 'weights.safetensors'), '--device', 'cpu']) == 0
    captured = capsys.readouterr()
    assert captured.out.count('illegal instruction') == 1
    assert f'{BAD}engine openvino does not start: RuntimeError: illegal instruction\n' \
        in captured.out
    assert 'illegal' not in captured.err
    assert text(captured.out, 'engine').startswith('torch on cpu')


def test_devices_and_drivers_are_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, 'PROC', tmp_path)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert hardware._cuda() == 'no device found by PyTorch; driver: none'
    (tmp_path / 'driver' / 'nvidia').mkdir(parents=True)
    (tmp_path / 'driver' / 'nvidia' / 'version').write_text(
        'NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n'
        'GCC version:  gcc version 12.2.0\n')
    monkeypatch.setattr(torch.version, 'cuda', None)
    assert hardware._cuda() == ('no device found by PyTorch; driver: 550.54.15\n! there is a '
                                'driver: install a build of PyTorch for CUDA to use it')
    monkeypatch.setattr(torch.version, 'cuda', '12.4')
    assert 'nvidia-smi' in hardware._cuda()
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda index: SimpleNamespace(
        name='Orin', major=8, minor=7, total_memory=8 * 2**30))
    assert hardware._cuda() == 'driver 550.54.15\ncuda:0: Orin, capability 8.7, 8.0 GiB'


@pytest.mark.parametrize(('groups', 'files', 'cores', 'memory'), [
    ('0::/a/b', {'cpu.max': 'max 100000', 'a/cpu.max': '150000 100000',
                 'a/b/cpu.max': 'max 100000', 'a/memory.max': 'max',
                 'a/b/memory.max': '1024'}, 1.5, 1024),
    ('0::/a', {'a/cpu.max': 'max 100000'}, None, None),
    # In a container, the paths may be those of the host.
    ('4:memory:/docker/x\n2:cpu,cpuacct:/docker/x\n0::/',
     {'cpu/cpu.cfs_quota_us': '50000', 'cpu/cpu.cfs_period_us': '100000',
      'memory/memory.limit_in_bytes': '2048'}, 0.5, 2048),
    ('1:cpu:/', {'cpu/cpu.cfs_quota_us': '-1', 'cpu/cpu.cfs_period_us': '100000'}, None, None),
    ('', {}, None, None)])
def test_limits_of_control_groups_are_found(monkeypatch, tmp_path, groups, files, cores, memory):
    (tmp_path / 'groups').mkdir()
    monkeypatch.setattr(machine, 'PROC', tmp_path / 'proc')
    monkeypatch.setattr(machine, 'CONTROL_GROUPS', tmp_path / 'groups')
    for name, content in (('../proc/self/cgroup', groups), *files.items()):
        file = tmp_path / 'groups' / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content + '\n')
    assert machine.cpu_quota() == cores
    assert machine.memory_limit() == memory


def test_cores_that_share_one_count_once(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.os, 'sched_getaffinity', lambda pid: {0, 1, 2, 5}, raising=False)
    monkeypatch.setattr(machine, 'CPUS', tmp_path)
    assert machine.usable_physical_cores() == machine.usable_cores() == 4  # not known
    for index, siblings in ((0, '0,4'), (1, '1,5'), (2, '2,6'), (5, '1,5')):
        (tmp_path / f'cpu{index}' / 'topology').mkdir(parents=True)
        (tmp_path / f'cpu{index}' / 'topology' / 'thread_siblings_list').write_text(siblings)
    assert machine.usable_physical_cores() == 3


def test_more_threads_than_cores_are_reported(monkeypatch):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 8)
    monkeypatch.setattr(machine, 'usable_cores', lambda: 8)
    monkeypatch.setattr(machine, 'cpu_quota', lambda: None)
    assert '! ' not in hardware._threads()
    monkeypatch.setattr(machine, 'cpu_quota', lambda: 1.5)
    assert '\n! ' in hardware._threads()
    assert hardware._threads().endswith('export OMP_NUM_THREADS=2')


def test_shared_memory_that_is_too_small_is_reported(monkeypatch):
    profile = (ROOT / 'config' / software.PROFILE).read_text()
    segment = re.search('<segment_size>(.*)</segment_size>', profile)
    assert 2 * int(segment[1]) == hardware.SHARED_MEMORY
    for free, is_bad in ((hardware.SHARED_MEMORY, False), (2**20, True)):
        monkeypatch.setattr(hardware.shutil, 'disk_usage', lambda path, free=free:
                            SimpleNamespace(total=2 * free, free=free))
        assert ('\n! less than the 64 MiB' in hardware._shared_memory()) == is_bad


def test_the_variables_are_those_of_the_launch_file():
    tree = ast.parse((ROOT / 'launch' / 'segmentation.launch.py').read_text())
    constants = {node.targets[0].id: ast.literal_eval(node.value) for node in tree.body
                 if isinstance(node, ast.Assign)
                 and node.targets[0].id in ('PROFILE_VARIABLES', 'OLD_DISTROS')}
    assert constants['PROFILE_VARIABLES'] == software.PROFILE_VARIABLES
    assert constants['OLD_DISTROS'] == software.OLD_DISTROS


@pytest.mark.parametrize(('distro', 'rmw', 'values', 'expected'), [
    ('kilted', 'rmw_fastrtps_cpp', {0: 'there'}, r'FASTDDS_DEFAULT_PROFILES_FILE=.*there'),
    ('kilted', 'rmw_fastrtps_cpp', {1: 'there'}, r'FASTRTPS_DEFAULT_PROFILES_FILE=.*there'),
    ('jazzy', 'rmw_fastrtps_cpp', {1: 'there'}, r'FASTRTPS_DEFAULT_PROFILES_FILE=.*there'),
    ('jazzy', 'rmw_fastrtps_cpp', {0: 'there'}, r'! FASTRTPS_DEFAULT_PROFILES_FILE is not set'),
    ('kilted', 'rmw_fastrtps_cpp', {0: 'gone'}, r'! FASTDDS_.*gone, which is no file'),
    ('', 'rmw_fastrtps_cpp', {}, r'! FASTDDS_DEFAULT_PROFILES_FILE is not set'),
    ('humble', 'rmw_cyclonedds_cpp', {}, 'not needed: it is for Fast DDS')])
def test_the_profile_is_looked_for_where_the_distribution_looks(monkeypatch, tmp_path, distro, rmw,
                                                                values, expected):
    (tmp_path / 'there').touch()
    monkeypatch.setenv('ROS_DISTRO', distro)
    monkeypatch.setattr(software, 'find_spec', lambda name: name == 'rclpy')
    for index, variable in enumerate(software.PROFILE_VARIABLES):
        monkeypatch.setenv(variable, str(tmp_path / values[index]) if index in values else '')
    found = software._profile(rmw)
    assert re.match(expected, found)
    if 'is not set' in expected:
        file = re.search(r'\nexport \w+=(.*)$', found)
        assert Path(file[1]).samefile(ROOT / 'config' / software.PROFILE)


def test_what_is_private_is_left_out(monkeypatch):
    monkeypatch.setenv('HOME', '/home/ann')
    assert shareable('/home/ann, /home/ann/x, "/home/ann" and /home/anna/x') == (
        '~, ~/x, "~" and /home/anna/x')
    assert shareable('\x1b[1;31mred\x1b[0m') == 'red'
    monkeypatch.setenv('HOME', '/')
    assert shareable('/usr/bin') == '/usr/bin'


def test_the_documents_ask_for_the_report():
    for page in ('CONTRIBUTING.md', 'README.md', 'docs/robot/operations.md'):
        assert '`featshare doctor`' in (ROOT / page).read_text()
