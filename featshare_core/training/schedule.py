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
"""The learning rate over a run."""
from __future__ import annotations

import math

DECAY = 0.1
"""Decay rate k of the exponential schedule, per update."""
EPOCHS_PER_UPDATE = 30
"""Interval between updates of the exponential schedule, in epochs."""
WARM_UP = 0.15
"""Rising part of the one-cycle schedule, as a share of the run's steps."""
START = 0.04
"""Factor at the first step of the one-cycle schedule."""


def factor(schedule: str, step: int, steps: int, steps_per_epoch: int) -> float:
    """
    Return the factor of the configured learning rate at a step, 0 to 1.

    ``constant`` is 1. ``exponential`` is the thesis's lr = lr_prev exp(-k n), k = 0.1, once every
    30 epochs, n being the number of the update: after n of them exp(-k n (n + 1) / 2).
    ``one-cycle`` rises from 0.04 for 15 % of the run and falls to 0, both as half a cosine (Smith
    and Topin, arXiv 1708.07120).

    :param schedule: ``constant``, ``exponential`` or ``one-cycle``.
    :param step: optimisation steps so far, 0 to ``steps``.
    :param steps: optimisation steps of the whole run.
    """
    if schedule == 'constant':
        return 1.0
    if schedule == 'exponential':
        update = step // steps_per_epoch // EPOCHS_PER_UPDATE
        return math.exp(-DECAY * update * (update + 1) / 2)
    rise = WARM_UP * steps
    if step < rise:
        return 1 - (1 - START) * (1 + math.cos(math.pi * step / rise)) / 2
    return (1 + math.cos(math.pi * min(1.0, (step - rise) / (steps - rise)))) / 2
