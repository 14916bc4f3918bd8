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
"""Which classes labelled frames hold: a class without a pixel is neither learned nor scored."""
from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from featshare_core.data.source import Array
from featshare_core.labels import UNLABELLED
import numpy as np


def absent_classes(masks: Iterable[Array], classes: Collection[int]) -> tuple[list[int], set[int]]:
    """
    Return the classes without a pixel, and all ids that were seen.

    Masks are read only until every class was seen.
    """
    missing, seen = set(classes), set[int]()
    for mask in masks:
        found = set(np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist())
        missing -= found
        seen |= found
        if not missing:
            break
    return sorted(missing), seen


def require_classes(masks: Iterable[Array], classes: Collection[int], names: Sequence[str],
                    where: str, allow: str, allowed: bool) -> list[str]:
    """
    Return the names of the classes that no mask has a pixel of.

    :param masks: HxW class ids or ``UNLABELLED``.
    :param classes: the ids to look for; ``names`` has the name of each.
    :param where: the data set and its split, for the message.
    :param allow: what the user sets to allow such classes, for the message.
    :raises ValueError: where there is one and they are not ``allowed``, or no class has a pixel.
    """
    absent, seen = absent_classes(masks, classes)
    without = [names[index] for index in absent]
    if not without or (allowed and len(without) < len(classes)):
        return without
    reason = ''
    if seen == {0, UNLABELLED}:
        reason = (f'. Its masks hold only 0 and {UNLABELLED}, as drawing programs write black and '
                  f'white, but {UNLABELLED} means no class: write 1 for white, or name a mapping '
                  f'file with the lines "0: {names[0]}" and "{UNLABELLED}: {without[0]}"')
    elif seen <= {UNLABELLED}:
        reason = (f'. Its masks hold only {UNLABELLED}, which means no class, or ids that a '
                  'mapping file does not name')
    escape = f'. {allow} accepts it' if len(without) < len(classes) else ''
    raise ValueError(f'{where}: no pixel is labelled {" or ".join(without)}{reason}{escape}')
