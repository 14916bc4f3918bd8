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
"""The container files agree with the package; no container engine is needed."""
from __future__ import annotations

import json
import os
from pathlib import Path
import re
import shlex
import signal
import subprocess

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCKERFILES = sorted((ROOT / 'docker').glob('Dockerfile.*'))
WORKSPACE = '/ws/src/featshare_ros/'
"""Folder of the checkout in the image."""


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return (instruction, arguments) of a Dockerfile, without comments and line breaks."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith('#')]
    joined = re.sub(r'\\\n\s*', '', '\n'.join(lines))
    return [(word, rest) for word, _, rest in (
        line.partition(' ') for line in joined.splitlines() if line.strip())]


def test_there_is_one_for_a_cpu_and_one_for_cuda() -> None:
    assert [path.name for path in DOCKERFILES] == ['Dockerfile.cpu', 'Dockerfile.cuda']


@pytest.mark.parametrize('path', DOCKERFILES, ids=lambda path: path.name)
def test_what_a_dockerfile_names_exists(path: Path) -> None:
    found = instructions(path)
    assert found[0] == ('FROM', 'ros:jazzy-ros-base')
    for word, rest in found:
        if word == 'COPY':
            assert (ROOT / shlex.split(rest)[0]).exists(), rest
    inside = [name for _, rest in found for name in re.findall(f'{WORKSPACE}([^" ]+)', rest)]
    assert {name.rpartition('/')[2] for name in inside} == {
        'fastdds_large_images.xml', 'entrypoint.sh'}
    for name in inside:
        assert (ROOT / name).is_file(), name
    assert os.access(ROOT / 'docker' / 'entrypoint.sh', os.X_OK)


@pytest.mark.parametrize('path', DOCKERFILES, ids=lambda path: path.name)
def test_an_image_has_what_rosdep_does_not_install_at_the_tested_versions(path: Path) -> None:
    text = path.read_text()
    pattern = re.search(r"grep -hE '(.*?)' src/featshare_ros/(requirements/\*\.txt)", text)
    assert pattern is not None
    lines = [line for file in sorted(ROOT.glob(pattern[2]))
             for line in file.read_text().splitlines() if re.match(pattern[1], line)]
    chosen = {line.partition('==')[0] for line in lines
              if "python_version < '3.11'" not in line}
    assert len(lines) == len(chosen), lines
    assert chosen == set(re.findall(r'[a-z]+', pattern[1])), 'a name without a version'

    from_pip = set(re.findall(r"'([^']+)'", re.search(
        r'install_requires=\[(.*?)\]', (ROOT / 'setup.py').read_text(), re.DOTALL)[1]))
    from_rosdep = {'numpy', 'opencv-python-headless', 'PyYAML'}
    assert chosen >= from_pip - from_rosdep | {'torch'}
    manifest = (ROOT / 'package.xml').read_text()
    for key in ('python3-numpy', 'python3-opencv', 'python3-yaml'):
        assert f'<exec_depend>{key}</exec_depend>' in manifest


def test_both_images_differ_only_in_their_engines() -> None:
    def common(path: Path) -> list[tuple[str, str]]:
        return [(word, re.sub(r' python3-dev|\|onnx\|openvino', '', rest))
                for word, rest in instructions(path) if word not in ('ARG', 'ENV')]

    cpu, cuda = DOCKERFILES
    assert common(cpu) == common(cuda)


def test_the_services_share_memory_with_the_camera() -> None:
    services = yaml.safe_load((ROOT / 'docker' / 'compose.yaml').read_text())['services']
    assert set(services) == {'segmentation', 'segmentation-cuda'}
    for service in services.values():
        assert service['ipc'] == service['network_mode'] == 'host'
        assert (ROOT / service['build']['dockerfile']).is_file()
    device, = services['segmentation-cuda']['deploy']['resources']['reservations']['devices']
    assert device['capabilities'] == ['gpu']


def test_the_development_container_is_the_image_for_cpus() -> None:
    container = json.loads((ROOT / '.devcontainer' / 'devcontainer.json').read_text())
    assert (ROOT / '.devcontainer' / container['build']['dockerfile']).resolve() == DOCKERFILES[0]
    assert container['workspaceFolder'] + '/' == WORKSPACE
    assert '--ipc=host' in container['runArgs']
    # The environment of the host, in .venv, stays.
    made = subprocess.run(['make', '-n', 'env'], cwd=ROOT, check=True, capture_output=True,
                          text=True, env={**os.environ, **container['containerEnv']}).stdout
    assert 'make_env.sh .venv-devcontainer ' in made


def test_the_entry_point_becomes_the_command_in_the_workspace(tmp_path: Path) -> None:
    (tmp_path / 'install').mkdir()
    # As colcon writes it, this reads variables that may not be set.
    (tmp_path / 'install' / 'setup.sh').write_text(
        'export SOURCED="$NOT_SET$WORKSPACE"\n')
    process = subprocess.Popen(
        ['sh', str(ROOT / 'docker' / 'entrypoint.sh'), 'sh', '-c',
         'trap "exit 7" TERM; echo $$ "$SOURCED" "$1"; while :; do sleep 0.01; done', '-', 'a b'],
        env={'PATH': os.environ['PATH'], 'WORKSPACE': str(tmp_path)}, stdout=subprocess.PIPE,
        text=True)
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline() == f'{process.pid} {tmp_path} a b\n'
        # Not SIGINT, which the shell ignores where the tests run in the background.
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(20) == 7
        finally:
            process.kill()


def test_the_entry_point_fails_without_a_workspace(tmp_path: Path) -> None:
    result = subprocess.run(
        ['sh', str(ROOT / 'docker' / 'entrypoint.sh'), 'true'], capture_output=True, text=True,
        env={'PATH': os.environ['PATH'], 'WORKSPACE': str(tmp_path)})
    assert result.returncode != 0
    assert 'setup.sh' in result.stderr


def test_the_build_context_leaves_out_what_git_ignores() -> None:
    ignored = (ROOT / '.dockerignore').read_text().split()
    for line in (ROOT / '.gitignore').read_text().split():
        name = line.strip('/')
        assert any(Path(name).match(pattern.removeprefix('**/')) for pattern in ignored), line
    assert not {'docker', 'weights', 'requirements', 'package.xml'} & set(ignored)
