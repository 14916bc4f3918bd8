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
"""Which device, and which precision on it."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
import threading

import torch

PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
"""PyTorch's type of each precision."""


def choose_device(wanted: str) -> torch.device:
    """
    Return the device for ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    :raises ValueError: for another word.
    :raises RuntimeError: where a CUDA device is wanted and missing: never a silent CPU run.
    """
    device = named_device(wanted)
    if device is None:
        return torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')
    if device.type == 'cuda':
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            build = torch.version.cuda or 'without CUDA'
            raise RuntimeError(
                f'device {wanted!r} was asked for, but PyTorch {torch.__version__} (built for '
                f'CUDA: {build}) sees {count} CUDA devices; install a CUDA build of PyTorch and '
                f'a driver, or choose device "cpu" or "auto"')
        return torch.device('cuda', device.index or 0)
    return device


def choose_precision(wanted: str, device: torch.device) -> str:
    """
    Return the precision for ``auto``, ``fp32``, ``bf16`` or ``fp16`` on a device.

    ``auto`` is bf16 where the device multiplies it natively, else fp16 on CUDA devices with
    tensor cores, else fp32.

    :raises ValueError: for another word, and for fp16 on the CPU, which has no fast kernels.
    """
    if wanted not in ('auto', *PRECISIONS):
        raise ValueError(f'precision {wanted!r} is none of auto, {", ".join(PRECISIONS)}')
    if device.type == 'cuda':
        if wanted == 'auto':
            capability = torch.cuda.get_device_capability(device)
            return 'bf16' if capability >= (8, 0) else 'fp16' if capability >= (7, 0) else 'fp32'
        return wanted
    if wanted == 'fp16':
        raise ValueError('precision fp16 is for CUDA; on the CPU choose fp32, bf16 or auto')
    if wanted == 'auto':
        return 'bf16' if _cpu_multiplies_bf16() else 'fp32'
    return wanted


def _cpu_multiplies_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, 'get_capabilities') else {}
    return bool(capabilities.get('avx512_bf16') or capabilities.get('amx_bf16'))


def named_device(wanted: str) -> torch.device | None:
    """
    Return the device that a word names, without asking whether it exists; None for ``auto``.

    :raises ValueError: for anything but ``auto``, ``cpu``, ``cuda`` and ``cuda:N``.
    """
    if wanted == 'auto':
        return None
    with suppress(RuntimeError, TypeError):
        device = torch.device(wanted)
        if device.type in ('cpu', 'cuda'):
            return device
    raise ValueError(f'device {wanted!r} is none of auto, cpu, cuda, cuda:N')


class _OneThread:
    """Which threads are within ``one_thread``, and the number of CPU threads to restore."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depths: dict[int, int] = {}
        self._number = 0

    def enter(self) -> None:
        thread = threading.get_ident()
        with self._lock:
            # Within another thread's, what PyTorch reports here may be that one's 1: a thread that
            # computes for the first time begins with the number that was set last, anywhere.
            if not self._depths:
                self._number = torch.get_num_threads()
            if thread not in self._depths:
                torch.set_num_threads(1)
            self._depths[thread] = self._depths.get(thread, 0) + 1

    def leave(self) -> None:
        thread = threading.get_ident()
        with self._lock:
            self._depths[thread] -= 1
            if not self._depths[thread]:
                del self._depths[thread]
                # Of this thread; PyTorch keeps one number per thread.
                torch.set_num_threads(self._number)


_ONE_THREAD = _OneThread()


@contextmanager
def one_thread() -> Iterator[None]:
    """
    Let PyTorch compute on one CPU thread, for the thread that calls.

    Its others go on spinning for milliseconds after an operation, on cores that what comes next
    may need. May be nested, and used by several threads at a time: the number that the first of
    them found is restored.
    """
    _ONE_THREAD.enter()
    try:
        yield
    finally:
        _ONE_THREAD.leave()


_CUDNN_FLAGS = threading.RLock()


@contextmanager
def kernels_chosen() -> Iterator[None]:
    """Let cuDNN try its kernels for each new convolution, and keep the fastest."""
    # `enabled` is False by default here, and here only: cuDNN would be off. The flags are the
    # process's: two threads at once would each restore what the other had set.
    with _CUDNN_FLAGS, torch.backends.cudnn.flags(enabled=True, benchmark=True):
        yield
