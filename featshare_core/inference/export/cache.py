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
"""Cache of exported models on disk, so that a robot exports them once, not at every start."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
import hashlib
from importlib.metadata import PackageNotFoundError, version
import io
import logging
import os
from pathlib import Path
import zipfile

from featshare_core.durable import write_durably
from featshare_core.machine import cache_folder
import torch
from torch import nn

KEPT = 16
"""Number of entries kept, the most recently used; one per network, cut and image size."""
DIGEST = hashlib.sha256().digest_size
"""Size of the checksum before the content, in bytes."""
PACKAGE = Path(__file__).parents[2]
LIBRARIES = ('torch', 'onnx', 'segmentation-models-pytorch', 'timm', 'torchvision')
"""Libraries whose code decides what a model contains, beside the package's own."""

log = logging.getLogger(__name__)


def cached(identity: str, make: Callable[[], Mapping[str, bytes]]) -> Mapping[str, bytes]:
    """
    Return the files that were kept for ``identity``, or make and keep them.

    They are in ``featshare/models`` of ``$XDG_CACHE_HOME`` or ``~/.cache``, which may be read-only
    once it holds them. Where files cannot be kept, or are damaged, a warning is logged.
    """
    path = folder() / identity
    files = _read(path)
    if files is None:
        files = make()
        try:
            _write(path, files)
        except OSError as error:
            log.warning('exported models cannot be kept, so every start exports them: %s', error)
    return files


def is_cached(identity: str) -> bool:
    """Return whether there are files for ``identity``; they may be damaged."""
    return (folder() / identity).is_file()


def identity(network: nn.Module, *more: object) -> str:
    """Return the name of the models that a network, its weights and ``more`` are exported to."""
    digest = hashlib.sha256(repr((_code(), network, more)).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


@cache
def _code() -> tuple[str, ...]:
    """Return the version of the code; models that other code has exported must not be found."""
    sources = hashlib.sha256()
    for room in ('networks', 'inference'):
        for file in sorted((PACKAGE / room).rglob('*.py')):
            sources.update(file.read_bytes())
    return sources.hexdigest(), *map(_version, LIBRARIES)


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ''


def folder() -> Path:
    """Return the folder of exported models; it may not exist."""
    return cache_folder() / 'models'


def kept() -> list[Path]:
    """
    Return the files with the kept models, the most recently used first.

    :raises OSError: where the folder exists and cannot be read.
    """
    try:
        # Unfinished files have a suffix.
        files = [file for file in folder().iterdir() if not file.suffix]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)


def _read(path: Path) -> Mapping[str, bytes] | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None  # where the folder cannot be used, writing to it reports that
    with suppress(OSError):
        os.utime(path)
    if hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
        log.warning('%s is damaged and is exported again', path)
        return None
    with zipfile.ZipFile(io.BytesIO(content[DIGEST:])) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _write(path: Path, files: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, 'w') as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    write_durably(path, hashlib.sha256(packed.getvalue()).digest() + packed.getvalue())
    # Unfinished files of killed processes age too; another process may remove the same files.
    with suppress(FileNotFoundError):
        for file in sorted(path.parent.iterdir(), key=lambda file: file.stat().st_mtime)[:-KEPT]:
            file.unlink()
