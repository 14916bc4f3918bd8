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
"""The state of a training run on disk, from which an interrupted run resumes."""
from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any
import zipfile

from featshare_core.durable import write_durably
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
import torch

LAST = 'last.ckpt'
PREVIOUS = 'previous.ckpt'
"""Names of the newest state and of the one before it."""


class DurableCheckpoints(TorchCheckpointIO):
    """Writes a run's states: an interrupted or failed write leaves the newest whole one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike[str],
                        storage_options: Any = None) -> None:
        """
        Keep the state so far as ``PREVIOUS``, and write the new one.

        :raises OSError: where it cannot be written, for example because the disk is full.
        """
        content = io.BytesIO()
        torch.save(checkpoint, content)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            path.replace(path.with_name(PREVIOUS))
        write_durably(path, content.getbuffer())


def find_state(output: Path) -> Path | None:
    """
    Return the newest state of a run, or None where there is none yet.

    :param output: the run's folder.
    :raises ValueError: naming the file, where it is damaged.
    """
    # A write that was interrupted leaves only the one before.
    state = next((path for path in (output / LAST, output / PREVIOUS) if path.is_file()), None)
    if state is None:
        return None
    with state.open('rb') as file:
        try:
            with zipfile.ZipFile(file) as archive:  # PyTorch does not check the checksums in it
                damaged = archive.testzip()
            if not damaged and 'featshare' not in torch.load(
                    state, map_location='cpu', mmap=True, weights_only=True):
                damaged = 'it is of another program'
        except Exception as error:  # of any type: zipfile's, pickle's, PyTorch's, ...
            damaged = str(error) or type(error).__name__
    if damaged:
        way_out = f'remove it, and the run resumes from {PREVIOUS}' \
            if state.name == LAST and (output / PREVIOUS).is_file() \
            else 'remove it, and the run starts from the beginning'
        raise ValueError(f'{state} is damaged ({damaged}): {way_out}')
    return state
