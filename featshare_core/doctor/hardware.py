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
"""The report's lines on hardware: what this process may use of the machine."""
from __future__ import annotations

import math
import os
import platform
import shutil

from featshare_core import machine
from featshare_core.doctor.lines import BAD, gib, Lines, probed

CPU_FLAGS = {
    'x86_64': ('avx2', 'avx512f', 'avx512_vnni', 'avx512_bf16', 'amx_tile', 'amx_bf16',
               'amx_int8'),
    'aarch64': ('asimd', 'asimddp', 'bf16', 'i8mm')}
"""The flags of /proc/cpuinfo that decide how fast a network runs, by machine."""
SHARED_MEMORY = 2 * 32 * 2**20
"""Shared memory that a camera driver and the node need with the DDS profile, in bytes."""


def hardware() -> Lines:
    """Yield what the network's speed depends on."""
    yield 'processor', probed(machine.processor)
    yield 'flags', probed(_flags)
    yield 'cores', probed(_cores)
    yield 'threads', probed(_threads)
    yield 'precision', probed(_precision)
    yield 'load', probed(_load)
    yield 'memory', probed(_memory)
    yield '/dev/shm', probed(_shared_memory)
    yield 'CUDA', probed(_cuda)


def _flags() -> str:
    known = CPU_FLAGS.get(platform.machine())
    if known is None:
        return f'not known for {platform.machine()}'
    found = machine.cpu_flags()
    text = ', '.join(flag if flag in found else f'no {flag}' for flag in known)
    if 'avx2' in known and 'avx2' not in found:
        text += f'\n{BAD}without avx2, networks run several times slower'
    return text


def _cores() -> str:
    quota, usable = machine.cpu_quota(), machine.usable_cores()
    text = f'{usable} of {os.cpu_count()} usable by this process'
    if quota is not None:
        text += f', limited to the CPU time of {quota:g} cores by its control group'
    return text


def _threads() -> str:
    import torch
    threads, usable = torch.get_num_threads(), machine.usable_cores()
    cores = min(usable, math.ceil(machine.cpu_quota() or usable))
    text = f'{threads}, in PyTorch and in the engines'
    if threads > cores:
        text += (f'\n{BAD}more threads than cores slow each other down: '
                 f'export OMP_NUM_THREADS={cores}')
    return text


def _precision() -> str:
    from featshare_core.inference.device import choose_precision
    import torch
    return f'auto is {choose_precision("auto", torch.device("cpu"))} on this CPU'


def _load() -> str:
    load, cores = os.getloadavg()[0], machine.usable_cores()
    busy = f'\n{BAD}other programs use the cores: the times below are longer than without them'
    return f'{load:.1f} in the last minute{busy if load > cores else ""}'


def _memory() -> str:
    total, available = machine.memory()
    limit = machine.memory_limit()
    text = f'{gib(available)} of {gib(total)} available'
    return text if limit is None or limit >= total else \
        f'{text}, limited to {gib(limit)} by the control group'


def _shared_memory() -> str:
    usage = shutil.disk_usage('/dev/shm')
    text = f'{gib(usage.free)} of {gib(usage.total)} free'
    if usage.free < SHARED_MEMORY:
        text += (f'\n{BAD}less than the {SHARED_MEMORY // 2**20} MiB that a camera driver and the '
                 f'node need for large images; in a container: --ipc=host')
    return text


def _cuda() -> str:
    import torch
    driver = machine.nvidia_driver()
    if not torch.cuda.is_available():
        text = f'no device found by PyTorch; driver: {driver or "none"}'
        if driver:
            text += (f'\n{BAD}there is a driver: ' + (
                'does nvidia-smi list a device? Is the driver as new as the CUDA that PyTorch is '
                'built for?' if torch.version.cuda else
                'install a build of PyTorch for CUDA to use it'))
        return text
    lines = [f'driver {driver or "unknown"}']
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        lines.append(f'cuda:{index}: {device.name}, capability {device.major}.{device.minor}, '
                     f'{gib(device.total_memory)}')
    return '\n'.join(lines)
