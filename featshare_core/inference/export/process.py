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
ExportProcess: exports a checkpoint's models in a process of its own, into the cache.

PyTorch's export takes seconds, during which it holds Python's lock: on a thread it would delay
every frame that is run meanwhile.
"""
from __future__ import annotations

from contextlib import suppress
import os
from pathlib import Path
import subprocess
import sys
import threading
from typing import NamedTuple

from featshare_core.inference.pixels import Size

NICENESS = 19
"""Of the process: the lowest priority."""
PACKAGE = Path(__file__).parents[3]
"""Folder that holds the package."""
PROGRAM = (f'import sys; sys.path[:] = filter(None, sys.path); '
           f'from {__name__} import _export; _export()')
"""What the process runs; ``python -m`` would search the working directory first."""


class Origin(NamedTuple):
    """Where a network was loaded from: the arguments of ``load_checkpoint``."""

    weights: str | Path
    shared_levels: int | None = None
    aligned: bool | None = None


class ExportProcess:
    """Runs one export at a time; ``close`` ends it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: subprocess.Popen[str] | None = None
        self._closed = False

    def run(self, origin: Origin, size: Size) -> None:
        """
        Export the models for images of (height, width) pixels into the cache.

        :raises OSError: where that fails, with the last line of what the process reported.
        :raises RuntimeError: where this is or gets closed.
        """
        if not sys.executable:
            raise FileNotFoundError('the Python interpreter is not known')
        command = [sys.executable, '-c', PROGRAM, str(origin.weights),
                   *(str(value) for value in (*size, *origin[1:]))]
        # Modules are found where this process finds them, but not in the working directory, which
        # others may write to.
        folders = (str(PACKAGE), *(str(folder) for folder in sys.path if str(folder)))
        environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(folders)}
        with self._lock:
            self._check_open()
            self._running = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True, errors='replace')
            # Before it imports anything: frames on the same cores go first.
            with suppress(OSError):  # it has ended
                os.setpriority(os.PRIO_PROCESS, self._running.pid, NICENESS)
        _, report = self._running.communicate()
        self._check_open()
        if self._running.returncode:
            raise ChildProcessError((report.strip().splitlines() or ['no reason given'])[-1])

    def close(self) -> None:
        """End the process, and refuse to start another."""
        with self._lock:
            self._closed = True
            if self._running is not None:
                self._running.kill()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError('the engine is closed')


def _export() -> None:
    """Export what ``ExportProcess`` has asked for on the command line."""
    from featshare_core.inference.export.models import NetworkModels
    from featshare_core.networks.checkpoint import load_checkpoint
    import torch
    torch.set_num_threads(1)
    weights, height, width, shared_levels, aligned = sys.argv[1:]
    NetworkModels(*load_checkpoint(
        weights, None if shared_levels == 'None' else int(shared_levels),
        None if aligned == 'None' else aligned == 'True')).models((int(height), int(width)))
