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
"""The thesis's results (ch. 5): Cityscapes val, latency at 512x512 on its GPU, 500 frames."""
from __future__ import annotations

from dataclasses import dataclass

BASELINE_MS = 14.6
TRUNCATED_MS = 6.8
INTERVAL_MS = {1: {2: 12.6, 5: 11.6, 10: 11.5, 15: 11.4},
               2: {2: 9.38, 5: 7.0, 10: 6.93, 15: 6.91}}
"""Average of a frame by shared levels and interval."""

BASELINE = 'per-frame baseline'
TRUNCATED = 'truncated (-2 levels)'


@dataclass(frozen=True)
class Row:
    """
    A row of Table 5.2, and how docs/models/training.md trains it.

    :param key, current: the thesis's mIoU in percent on key and on current frames.
    :param run: name of the run's folder.
    :param config: the configuration's name in config/train.
    :param settings: what its command sets, ``KEY=VALUE``.
    """

    key: float
    current: float
    run: str
    config: str = 'thesis-2-levels'
    settings: tuple[str, ...] = ()


ROWS = {
    BASELINE: Row(66.3, 66.3, 'thesis-baseline', 'thesis-baseline'),
    TRUNCATED: Row(58.5, 58.5, 'thesis-truncated', 'thesis-baseline', ('levels=2',)),
    '1 shared level, L1, alpha(d), exponential learning rate': Row(
        65.7, 65.25, 'thesis-1-level', settings=('shared_levels=1',)),
    '2 shared levels, L1, alpha(d), exponential learning rate': Row(
        65.0, 58.6, 'thesis-2-levels'),
    '1 shared level, L2, alpha 0.3, constant learning rate': Row(
        60.2, 58.0, 'thesis-1-level-l2-alpha-constant', settings=(
            'shared_levels=1', 'loss.alpha=0.3', 'loss.match=l2', 'schedule=constant')),
    '2 shared levels, L2, alpha 0.3, constant learning rate': Row(
        60.0, 55.0, 'thesis-2-levels-l2-alpha-constant', settings=(
            'loss.alpha=0.3', 'loss.match=l2', 'schedule=constant')),
    '2 shared levels, L1, alpha 0.3, constant learning rate': Row(
        63.0, 56.0, 'thesis-2-levels-l1-alpha-constant', settings=(
            'loss.alpha=0.3', 'schedule=constant'))}
"""Table 5.2, in the thesis's order."""
