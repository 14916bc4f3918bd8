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
"""Where a figure comes from (machine, versions, commit, checkpoint), and the files of results."""
from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
import json
import os
from pathlib import Path
import platform
import subprocess
from typing import Any

from featshare_core.durable import write_durably
from featshare_core.machine import processor

PACKAGES = ('torch', 'numpy', 'opencv-python-headless', 'onnxruntime', 'openvino')


def provenance(command: str, device: str) -> dict[str, Any]:
    """Return the command, the machine, the versions and the commit that a result is made with."""
    return {'command': command, 'machine': machine(device), 'versions': versions(),
            'commit': commit()}


def machine(device: str) -> str:
    """Return the processor's model and its cores, and the GPU where ``device`` is one."""
    described = f'{processor()}, {os.cpu_count()} cores'
    if device.startswith('cuda'):
        import torch  # here, and below: `featshare doctor` runs without it
        described += f', {torch.cuda.get_device_name(torch.device(device.split()[0]))}'
    return described


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that speed depends on."""
    found = {'python': platform.python_version()}
    with suppress(PackageNotFoundError):  # neither a source tree nor installed
        # An installed featshare_ros may be older than the source tree that runs.
        from featshare_core import __version__
        found['featshare_ros'] = __version__
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Return the source tree's commit, with a + where files differ; None outside of one."""
    tree = Path(__file__).parents[2]
    if not (tree / 'package.xml').is_file():
        return None  # installed: a repository around it would be another project's

    def git(*arguments: str) -> str:
        return subprocess.run(['git', '-C', str(tree), *arguments], check=True,
                              capture_output=True, text=True, timeout=10).stdout.strip()
    try:
        return git('rev-parse', '--short', 'HEAD') + '+' * bool(
            git('status', '--porcelain', '--untracked-files=no', '--', ':/*.py'))
    except (OSError, subprocess.SubprocessError):
        return None


def short_fingerprint(weights: str | Path) -> str:
    """Return the first 16 digits of a checkpoint's SHA-256, by which its results are known."""
    from featshare_core.inference.export import models
    return models.fingerprint(weights)[:16]


def shown(weights: str | Path) -> str:
    """Return a checkpoint's name for display: without the folders of this machine."""
    path = Path(weights)
    return str(path) if not path.is_absolute() else path.name


def stem(weights: str) -> str:
    """Return a checkpoint's name for files: ``runs/fast/final.safetensors`` is runs-fast-final."""
    return '-'.join(Path(shown(weights)).with_suffix('').parts)


def write_json(path: str | Path, result: Any) -> None:
    """Write a result; an interrupted write leaves the old file, if there was one."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, json.dumps(result, indent=1) + '\n')


def read_result(path: str | Path) -> dict[str, Any]:
    """
    Return a result.

    :returns: what its command measured, with ``command`` and, but for ``report.json``, the rest of
        ``provenance``.
    :raises ValueError: naming the file, where it is no such result.
    """
    try:
        result = json.loads(Path(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f'{path} is no JSON file: {error}') from error
    if not isinstance(result, dict) or 'command' not in result:
        raise ValueError(f'{path} is no result of featshare evaluate, rivals or benchmark')
    return result


def figure(results: Path, file: str, keys: str) -> float:
    """
    Return one number of a result.

    :param results: the folder docs/results; ``file`` is relative to it.
    :param keys: keys of objects and indices of lists, joined by dots: ``miou.per_lag.4``.
    :raises ValueError: naming file and keys, where there is no such number.
    """
    value: Any = read_result(results / file)
    try:
        for key in keys.split('.'):
            value = value[int(key)] if isinstance(value, list) else value[key]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f'{file} has no {keys}') from error
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f'{file}: {keys} is no number')
    return value
