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
"""Video segmentation that shares deep features between frames: the library, free of ROS."""
from __future__ import annotations

from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from featshare_core.inference.segmenter import Result, VideoSegmenter
    from featshare_core.labels import LabelSet
    from featshare_core.networks.checkpoint import load_checkpoint
    from featshare_core.networks.weights import CheckpointError
    __version__: str

__all__ = ['CheckpointError', 'LabelSet', 'Result', 'VideoSegmenter', '__version__',
           'load_checkpoint']

_MODULES = {'VideoSegmenter': 'inference.segmenter', 'Result': 'inference.segmenter',
            'LabelSet': 'labels', 'CheckpointError': 'networks.weights',
            'load_checkpoint': 'networks.checkpoint'}


def _version() -> str:
    """Return the version in the source tree's package.xml, else the installed package's."""
    from importlib.metadata import version
    from pathlib import Path
    from xml.etree import ElementTree
    # An installed package of the same name may be older than the source tree that is imported.
    manifest = Path(__file__).resolve().parents[1] / 'package.xml'
    if manifest.is_file():
        return ElementTree.parse(manifest).getroot().findtext('version', '')
    return version('featshare_ros')


if not TYPE_CHECKING:  # or type checkers would take every name for one of this module
    def __getattr__(name: str) -> Any:
        """Import a public name on first use: PyTorch takes seconds to load."""
        from importlib import import_module
        if name == '__version__':
            value = _version()
        elif name in _MODULES:
            value = getattr(import_module(f'{__name__}.{_MODULES[name]}'), name)
        else:
            raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """Return the names, those not imported yet too."""
    return sorted({*globals(), *__all__})
