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
"""Weights: what the node, the commands and the library take as a network, found in one place."""
from __future__ import annotations

import json
import os
from pathlib import Path
import re
from typing import Any, NamedTuple

from featshare_core.text import printable

CONFIG_FILE = 'config.json'
"""Name of the file that describes the network in an exported folder or in others' folders."""
LARGEST_CONFIG = 16 * 2**20
"""Largest size of such a file, in bytes."""
WEIGHTS_FILE = 'model.safetensors'
"""Name of the file with the tensors in a folder of ``save_pretrained``."""
TRANSFORM_FILE = 'albumentations_config_eval.json'
"""Name of the file that ``transform.save_pretrained`` of albumentations writes by default."""
PREPROCESSOR = 'preprocessor_config.json'
"""Name of the file that ``save_pretrained`` of transformers' image processors writes."""
MODEL_CARD = 'README.md'
"""Name of the file whose front matter names the licence of the weights."""
FOREIGN_FILES = (CONFIG_FILE, WEIGHTS_FILE, PREPROCESSOR, TRANSFORM_FILE, MODEL_CARD)
"""Names of the files that are read in others' folders; the first two must be there."""
CONVERSION = ('`featshare convert` makes a checkpoint from weights of '
              'segmentation_models_pytorch, transformers or torchvision')
"""What to do with other weights."""
_FOLDER = (f'{{}} is a folder, but neither featshare export nor save_pretrained wrote it: it has '
           f'no {CONFIG_FILE}; {CONVERSION}')
_HUB_NAME = re.compile(r'(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?',
                       re.ASCII)


FILES = ('.safetensors', '.pt', '.pth', '.ckpt', '.bin', '.onnx')
"""Endings of the names of files, which are no names of a model hub."""


class CheckpointError(ValueError):
    """Weights that cannot be used; the message names them and says what to do."""


class HubName(NamedTuple):
    """A repository of a model hub, ``org/name``, and a branch, tag or commit; None for main."""

    repository: str
    revision: str | None

    def __str__(self) -> str:
        """Return ``org/name`` or ``org/name@revision``."""
        return self.repository + (f'@{self.revision}' if self.revision else '')


def hub_name(weights: str | Path) -> HubName | None:
    """Return what ``org/name[@revision]`` names; None where it has another form, or is a path."""
    match = _HUB_NAME.fullmatch(str(weights))
    if match is None or str(weights).endswith(FILES) or Path(weights).exists():
        return None
    return HubName(match['repository'], match['revision'])


def find_weights(weights: str | Path) -> Path:
    """
    Return the .safetensors file or the exported folder that ``weights`` names.

    ``weights`` is one of the following:

    - the name of a shipped checkpoint, such as ``default``; these stand in ``weights/`` of the
      source tree or in ``share/featshare_ros/weights`` of the prefix of the installation
    - a .safetensors file that this package wrote
    - a folder that ``featshare export`` wrote
    - a folder that ``save_pretrained`` of segmentation_models_pytorch or of transformers wrote
    - ``org/name[@revision]`` of a model hub, after ``featshare pull``

    The last two are converted into the cache folder when they are first used. Nothing is
    downloaded, and nothing is unpickled.

    :raises CheckpointError: where there is nothing of that name, or it cannot be converted.
    """
    path = Path(weights).expanduser()
    is_name = not path.suffix and len(path.parts) == 1
    if is_exported(path):
        return path
    if foreign_kind(path):
        return _converted(path)
    if is_name:
        return _shipped(str(weights))
    if path.is_dir():
        raise CheckpointError(_FOLDER.format(path))
    if path.is_file():
        return path
    name = hub_name(weights)
    if name is None:
        raise CheckpointError(f'checkpoint {path} does not exist')
    folder = pulled(name)
    return _converted(folder, f'{name.repository}@{folder.name}')


def _converted(folder: Path, origin: str = '') -> Path:
    from featshare_core.networks.conversions import converted  # it imports this module
    return converted(folder, origin or folder.name)


def is_exported(weights: str | Path) -> bool:
    """
    Return whether ``weights`` names a folder that ``featshare export`` has written.

    :raises TypeError: where it is neither text nor a path.
    """
    if not isinstance(weights, (str, os.PathLike)):
        raise TypeError(f'weights must be text or a path, not {weights!r}')
    folder = Path(weights).expanduser()
    return (folder / CONFIG_FILE).is_file() and not foreign_kind(folder)


def foreign_kind(folder: Path) -> str:
    """Return ``smp`` or ``transformers``, whose ``save_pretrained`` wrote a folder; else ''."""
    try:
        config = read_json(folder / CONFIG_FILE)
    except CheckpointError:
        return ''  # reported when the folder is loaded
    return 'smp' if '_model_class' in config else 'transformers' if 'model_type' in config else ''


def absolute_weights(weights: str) -> str:
    """Return weights that name the same in every working directory; names as they are."""
    path = Path(weights).expanduser()
    is_name = not path.suffix and len(path.parts) == 1 and not (path / CONFIG_FILE).is_file()
    return weights if is_name or hub_name(weights) else str(path.resolve())


def read_json(path: Path) -> dict[str, Any]:
    """
    Return the object in a JSON file, which somebody else may have written.

    :raises CheckpointError: where there is no such file, or it holds no object.
    """
    try:
        with path.open('rb') as file:
            text = file.read(LARGEST_CONFIG + 1)
        if len(text) > LARGEST_CONFIG:
            raise ValueError(f'it has more than {LARGEST_CONFIG} bytes')
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError('it holds no JSON object')
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f'{path} cannot be read ({error!r})') from error
    return content


def pulled(name: HubName) -> Path:
    """
    Return the folder of a repository that ``pull`` has fetched; nothing is downloaded.

    :raises CheckpointError: where it was not fetched; the message gives the command.
    """
    return _snapshot(name, local=True, reason=(
        f'there is no file or folder {name}, and no network of that name was pulled: '
        f'featshare pull {name}'))


def pull(name: HubName) -> Path:
    """
    Fetch the files of a repository's network into huggingface_hub's cache; return their folder.

    ``HF_HOME``, ``HF_HUB_CACHE``, ``HF_HUB_OFFLINE``, ``HF_ENDPOINT`` and ``HF_TOKEN`` have
    their usual meanings.

    :raises CheckpointError: where the repository or its network cannot be fetched.
    """
    return _snapshot(name, local=False, reason=f'{name} cannot be pulled')


def _snapshot(name: HubName, local: bool, reason: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(f'{name} is a name of a model hub, which needs huggingface_hub: '
                              f'pip install huggingface_hub') from error
    try:
        folder = Path(snapshot_download(name.repository, revision=name.revision,
                                        allow_patterns=list(FOREIGN_FILES),
                                        local_files_only=local))
    except Exception as error:  # of any type: each client of HTTP has its own
        cause = '' if local else f': {printable(" ".join(str(error).split()), 500)}'
        raise CheckpointError(reason + cause) from error
    for needed in FOREIGN_FILES[:2]:
        if not (folder / needed).is_file():
            raise CheckpointError(f'{name} has no {needed}, or was pulled in part only: '
                                  f'featshare pull {name}; weights of other formats, such as '
                                  f'pytorch_model.bin, are not read')
    return folder


def _shipped(name: str) -> Path:
    parents = Path(__file__).resolve().parents
    folders = [parents[2] / 'weights',
               *(parent / 'share' / 'featshare_ros' / 'weights' for parent in parents)]
    for folder in folders:
        shipped = folder / f'{name}.safetensors'
        if shipped.is_file():
            return shipped
    if Path(name).is_dir():
        raise CheckpointError(_FOLDER.format(name))
    known = sorted({file.stem for folder in folders for file in folder.glob('*.safetensors')})
    there_are = f'shipped: {", ".join(known)}; or' if known else \
        'none is shipped: the package was built with FEATSHARE_NO_WEIGHTS;'
    raise CheckpointError(f'no checkpoint is called {name!r}; {there_are} give the path of a '
                          f'.safetensors file or of a folder, or a name that `featshare pull` '
                          f'fetched')
