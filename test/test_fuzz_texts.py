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
Headers of checkpoints and files of labels with damaged or absurd content: a reason, and quickly.

FUZZ_EXAMPLES (100) is their number; the number of a text is the seed that makes it.
"""
from __future__ import annotations

from dataclasses import asdict
import json
import os
from pathlib import Path
import random
from typing import Any

from budget import mutated
from featshare_core.labels import CAMVID, LabelSet, load_label_set
from featshare_core.networks.checkpoint import Config, parse_config
from featshare_core.networks.weights import CheckpointError
import yaml

EXAMPLES = int(os.environ.get('FUZZ_EXAMPLES', '100'))
BUDGET_S, BUDGET_MIB = 2.0, 64
"""Limits of the CPU time and of the memory for one text, in seconds and MiB."""
ODD = (None, True, -1, 0, 3, 1e999, 10**30, 10**4000, '', 'a' * 10_000, '\n\x1b[31m', [], {},
       [[]], {'a': 1}, ['a'] * 300, 'fpn-densenet121')
"""Values that take the place of others."""
NESTED = '[' * 100_000
ALIASES = 'a0: &a0 [x, x]\n' + ''.join(
    f'a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n' for i in range(1, 40))
"""A text of 1 kB that stands for 2**40 values."""


def with_odd_values(content: Any, rng: random.Random) -> Any:
    """Return JSON-like content of which some values are others, or missing."""
    if rng.random() < 0.008:
        return rng.choice(ODD)
    if isinstance(content, dict):
        return {key: with_odd_values(value, rng) for key, value in content.items()
                if rng.random() > 0.003}
    if isinstance(content, list):
        return [with_odd_values(value, rng) for value in content if rng.random() > 0.002]
    return content


def damaged(content: Any, write: Any, rng: random.Random) -> str:
    """Return a text of content with odd values, or with damaged bytes, or of another kind."""
    if rng.random() < 0.02:
        return rng.choice([NESTED, '{"a": ' * 50_000, '- ' * 5000, '!!timestamp x', '', '\0'])
    if rng.random() < 0.5:
        return str(write(with_odd_values(content, rng)))
    return mutated(str(write(content)).encode(), rng).decode(errors='replace')


def test_headers_of_checkpoints(budget):
    limits, found = budget(BUDGET_S, BUDGET_MIB), {'read': 0, 'refused': 0}
    content = json.loads(json.dumps(asdict(Config(
        'fpn-densenet121', CAMVID, (480, 360), {'shared_levels': 2, 'aligned': 1}))))
    for number in range(EXAMPLES):
        text = damaged(content, json.dumps, random.Random(number))
        try:
            with limits.one_input(f'text {number}'):
                assert isinstance(parse_config(Path('a.safetensors'), text), Config)
            found['read'] += 1
        except CheckpointError as error:
            assert str(error).startswith('a.safetensors'), number
            found['refused'] += 1
    assert min(found.values()) > EXAMPLES / 20, found


def test_files_of_labels(tmp_path, budget):
    limits, found = budget(BUDGET_S, BUDGET_MIB), {'read': 0, 'refused': 0}
    path = tmp_path / 'labels.yaml'
    contents = ({'classes': [{'name': name, 'color': list(color)} for name, color
                             in zip(CAMVID.names, CAMVID.colors)]},
                {'names': dict(enumerate(CAMVID.names)), 'nc': len(CAMVID)})
    for number in range(EXAMPLES):
        rng = random.Random(number)
        text = damaged(rng.choice(contents), yaml.safe_dump, rng)
        if rng.random() < 0.02:
            text = ALIASES + rng.choice(['classes: *a39', 'names: *a39', 'names: [a]\nnc: *a39'])
        path.write_text(text)
        try:
            with limits.one_input(f'text {number}'):
                assert isinstance(load_label_set(path), LabelSet)
            found['read'] += 1
        except ValueError as error:
            assert str(error).startswith(str(path)), number
            found['refused'] += 1
    assert min(found.values()) > EXAMPLES / 20, found
