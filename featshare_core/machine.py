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
"""The machine as this process may use it: processor, cores, memory, NVIDIA driver, cache."""
from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import platform
import re

PROC = Path('/proc')
"""Folder in which Linux describes processes and hardware."""
CPUS = Path('/sys/devices/system/cpu')
"""Folder in which Linux describes the cores."""
CONTROL_GROUPS = Path('/sys/fs/cgroup')
"""Folder in which Linux mounts the control groups, which limit containers."""


def processor() -> str:
    """Return the processor's model."""
    cpuinfo = PROC / 'cpuinfo'
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith(('model name', 'Model')):
                return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """
    Return the instruction sets that the processor has, by Linux's names.

    :raises OSError: where /proc/cpuinfo cannot be read.
    """
    for line in (PROC / 'cpuinfo').read_text().splitlines():
        name, _, value = line.partition(':')
        if name.strip() in ('flags', 'Features'):
            return frozenset(value.split())
    return frozenset()


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_physical_cores() -> int:
    """Return the number of these cores, where those that share one (SMT) count as one."""
    if not hasattr(os, 'sched_getaffinity'):
        return usable_cores()
    return len({_read(CPUS / f'cpu{index}' / 'topology' / 'thread_siblings_list') or index
                for index in os.sched_getaffinity(0)})


def cpu_quota() -> float | None:
    """
    Return the limit of CPU time that control groups set for this process.

    :returns: in seconds of CPU time per second, which is a number of cores; None for no limit.
    """
    quotas = []
    for folder in _control_groups('cpu'):
        with_period = _read(folder / 'cpu.max') or ' '.join(
            _read(folder / f'cpu.cfs_{name}_us') for name in ('quota', 'period'))
        if numbers := re.fullmatch(r'(\d+) (\d+)', with_period):  # not max, nor -1: no limit
            quotas.append(int(numbers[1]) / int(numbers[2]))
    return min(quotas, default=None)


def memory_limit() -> int | None:
    """Return the limit of memory that control groups set for this process, in bytes, or None."""
    limits = []
    for folder in _control_groups('memory'):
        limit = _read(folder / 'memory.max') or _read(folder / 'memory.limit_in_bytes')
        if limit.isdigit():  # not max
            limits.append(int(limit))
    return min(limits, default=None)


def memory() -> tuple[int, int]:
    """
    Return the machine's memory, and how much of it is available, in bytes.

    :raises OSError: where /proc/meminfo cannot be read.
    """
    found = dict(re.findall(r'^(\w+): +(\d+) kB$', (PROC / 'meminfo').read_text(), re.MULTILINE))
    return 1024 * int(found['MemTotal']), 1024 * int(found['MemAvailable'])


def nvidia_driver() -> str:
    """Return the version of NVIDIA's driver; empty where none is loaded."""
    version = re.search(r'Kernel Module.*? (\d+\.[\d.]+)', _read(PROC / 'driver/nvidia/version'))
    return version[1] if version else ''


def cache_folder() -> Path:
    """Return the package's cache folder; it may not exist."""
    base = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    # Where there is no home, ~ is not expanded: then a folder that cannot be created.
    return Path(base if base[0] != '~' else os.devnull, 'featshare')


def _control_groups(controller: str) -> Iterator[Path]:
    """Yield the folder of this process's control group, and those of the groups around it."""
    for line in _read(PROC / 'self/cgroup').splitlines():
        _, controllers, path = line.split(':', 2)
        if not controllers:  # version 2: all controllers in one tree
            mount = CONTROL_GROUPS
        elif controller in controllers.split(','):
            mount = CONTROL_GROUPS / controller
        else:
            continue
        group = mount / path.lstrip('/')
        # In a container, the path may be the host's; the group is then the mount itself.
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(mount))


def _read(path: Path) -> str:
    """Return a file's text without the newline at its end; empty where it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ''
