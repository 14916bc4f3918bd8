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
"""Settings of the random variation of samples; no PyTorch, so that they are read quickly."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Augmentation:
    """
    Random variation of the frames, the same for both frames of a pair.

    :param rotation: largest rotation either way, in degrees.
    :param scale: smallest and largest factor, drawn uniformly in its logarithm.
    :param flip: mirror half of the samples, drawn at random.
    :param colour: vary saturation, brightness, colour cast, gamma and noise.
    :param passing: paste things that move into pairs, cut out of the stills, see ``passing``.
    """

    rotation: float = 10.0
    scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = True
    colour: bool = False
    passing: bool = False
