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
"""Others' networks in the cache folder: converted once, when they are first used."""
from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
import hashlib
import logging
import os
from pathlib import Path

from featshare_core.machine import cache_folder
from featshare_core.networks.checkpoint import save_checkpoint
from featshare_core.networks.convert import convert
from featshare_core.networks.weights import CheckpointError, FOREIGN_FILES
from safetensors import safe_open, SafetensorError
import torch

KEPT = 16
"""Number of converted networks that are kept, the most recently used."""

log = logging.getLogger(__name__)


def converted(folder: Path, origin: str) -> Path:
    """
    Return the checkpoint of a folder that ``save_pretrained`` wrote, converted if need be.

    It is reused as long as the folder's files and the conversion's code are unchanged.

    :param origin: where the folder comes from, for ``Config.training``.
    :raises CheckpointError: where it cannot be converted, or the cache folder cannot be written.
    """
    path = cache_folder() / 'weights' / f'{_digest(folder, origin)}.safetensors'
    if path.is_file():
        try:
            with safe_open(path, 'pt'):
                pass
        except (SafetensorError, OSError) as error:
            log.warning('%s is damaged (%s), and is converted again', path, error)
        else:
            with suppress(OSError):
                os.utime(path)
            return path
    try:
        network, config = convert(folder, assume=True)
    except (ValueError, OSError) as error:
        raise CheckpointError(f'{origin} cannot be converted: {error}') from error
    if assumed := config.training.get('assumed'):
        log.warning('%s does not give all settings, so this is assumed: %s. `featshare convert` '
                    'takes explicit settings', origin, '; '.join(assumed))
    config = replace(config, training={**config.training, 'converted_from': origin})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, network, config, torch.float32)
        with suppress(OSError):  # another process may remove the same files
            for old in sorted(path.parent.glob('*.safetensors'),
                              key=lambda file: file.stat().st_mtime)[:-KEPT]:
                old.unlink()
    except OSError as error:
        raise CheckpointError(f'{origin} cannot be converted into {path.parent} ({error}): set '
                              f'XDG_CACHE_HOME to a folder that can be written, or convert it '
                              f'with `featshare convert`') from error
    return path


def _digest(folder: Path, origin: str) -> str:
    """Return a digest of a folder's name and files, and of the code that converts them, in hex."""
    digest = hashlib.sha256(repr(origin).encode())
    for source in sorted(Path(__file__).parent.rglob('*.py')):
        digest.update(source.read_bytes())
    for name in FOREIGN_FILES:
        with suppress(FileNotFoundError), (folder / name).open('rb') as file:
            digest.update(name.encode())
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()[:32]
