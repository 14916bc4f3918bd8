"""
ExportProcess: exports a checkpoint's models in a process of its own, into the cache.

PyTorch's export takes seconds, during which it holds Python's lock: on a thread it would delay
every frame that is run meanwhile.
"""
from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

from featshare_core.inference.pixels import Size

NICENESS = 19
"""Of the process: frames on the same cores go first."""


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
        command = [sys.executable, '-m', __name__, str(origin.weights),
                   *(str(value) for value in (*size, *origin[1:]))]
        # Modules are found where this process finds them.
        environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
        with self._lock:
            self._check_open()
            self._running = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True, errors='replace')
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
    os.nice(NICENESS)
    import torch

    from featshare_core.inference.export.models import NetworkModels
    from featshare_core.networks.checkpoint import load_checkpoint
    torch.set_num_threads(1)
    weights, height, width, shared_levels, aligned = sys.argv[1:]
    NetworkModels(*load_checkpoint(
        weights, None if shared_levels == 'None' else int(shared_levels),
        None if aligned == 'None' else aligned == 'True')).models((int(height), int(width)))


if __name__ == '__main__':
    _export()
