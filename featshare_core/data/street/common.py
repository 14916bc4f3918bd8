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
"""Words that all rooms of the street share: class ids, array types and colours."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

(SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST) = range(11)

Array = npt.NDArray['np.floating[Any]']  # as text: NumPy 1.21, Humble's, cannot evaluate it
Image = npt.NDArray[np.uint8]
Color = Sequence[float] | npt.NDArray[Any]

CIRCLE = np.stack([np.cos(np.arange(12) * np.pi / 6), np.sin(np.arange(12) * np.pi / 6)], axis=1)

PLASTER = ((226, 210, 180), (214, 212, 206), (205, 172, 120), (182, 118, 92), (146, 82, 66),
           (182, 158, 120), (164, 160, 152), (172, 186, 194), (212, 178, 166), (168, 178, 154))
PAINT = ((235, 235, 232), (28, 30, 34), (120, 124, 130), (178, 182, 188), (150, 24, 28),
         (28, 52, 110), (36, 80, 66), (196, 160, 60), (70, 74, 82), (92, 132, 170))
