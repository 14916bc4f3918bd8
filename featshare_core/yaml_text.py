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
"""YAML from users and third parties, parsed within limits of time and memory."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MOST_VALUES = 1_000_000
"""Largest number of values that a YAML text may stand for."""
MOST_MERGED = 10_000
"""Largest number of entries in a mapping, including those from merge keys."""


class _Loader(yaml.SafeLoader):
    """
    Refuses mappings that grow by merge keys.

    Before PyYAML 6.0.2, a key that is merged twice stands twice; then a few nested merges are
    millions of entries.
    """

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MOST_MERGED:
            raise yaml.YAMLError(f'a mapping has more than {MOST_MERGED} entries')


def parse_yaml(text: str, origin: str | Path) -> Any:
    """
    Return what a YAML text holds.

    :param origin: where the text comes from, for messages.
    :raises ValueError: where it is not valid YAML, or stands for more than ``MOST_VALUES`` values;
        the message begins with ``origin``.
    """
    try:
        content = yaml.load(text, _Loader)
        if _count_values(content, {}) <= MOST_VALUES:
            return content
    except Exception as error:  # PyYAML lets pass whatever its constructors raise
        reason = error if isinstance(error, yaml.YAMLError) else repr(error)
        raise ValueError(f'{origin} is not valid YAML: {reason}') from error
    raise ValueError(f'{origin} stands for more than {MOST_VALUES} values by its aliases')


def _count_values(content: Any, known: dict[int, int]) -> int:
    """Return the number of values; an alias counts as all that it stands for."""
    if not isinstance(content, (dict, list, tuple)):
        return 1
    if id(content) not in known:
        known[id(content)] = MOST_VALUES  # a value that holds itself has no end
        parts = content.values() if isinstance(content, dict) else content
        known[id(content)] = 1 + sum(_count_values(part, known) for part in parts)
    return known[id(content)]
