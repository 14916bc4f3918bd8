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
"""The image sizes of a node, kept on disk, so that its next start prepares for them."""
from __future__ import annotations

import json
from typing import Any

from featshare_core.durable import write_atomically
from featshare_core.inference.pixels import Size
from featshare_core.machine import cache_folder

KEPT = 2
"""Number of newest sizes that are kept per node; each makes its start longer."""
LARGEST = 16384, 1 << 26
"""Limits of a size that is read from disk: its larger side and its area, in pixels."""


class ImageSizes:
    """
    The newest image sizes of which a node of this name has published masks, except stand-ins.

    :param node: the node's fully qualified name.
    :param logger: the node's.
    """

    def __init__(self, node: str, logger: Any) -> None:
        name = node.strip('/').replace('/', '.')
        self._path = cache_folder() / 'image_sizes' / f'{name}.json'
        self._logger = logger
        self._added = 0
        self.known = self._read()

    def met(self, size: Size) -> None:
        """Keep a (height, width), unless it is known or this run has added ``KEPT`` already."""
        if size in self.known or self._added == KEPT:
            return
        self._added += 1
        self.known = [size, *self.known][:KEPT]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Without waiting: a hint is not worth a pause between two frames.
            write_atomically(self._path, json.dumps(self.known))
        except OSError as error:
            self._logger.warning(f'the image size cannot be kept, so the next start does not '
                                 f'prepare for it: {error}')

    def _read(self) -> list[Size]:
        try:
            content = json.loads(self._path.read_text())
            sizes = [(height, width) for height, width in content]
            if not all(type(side) is int and 0 < side <= LARGEST[0]
                       for size in sizes for side in size) \
                    or any(height * width > LARGEST[1] for height, width in sizes):
                raise ValueError('it does not hold image sizes')
        except OSError:
            return []  # none yet; where the folder cannot be used, writing to it reports that
        except (ValueError, TypeError, RecursionError) as error:
            self._logger.warning(f'{self._path} is ignored: {error}')
            return []
        return sizes[:KEPT]
