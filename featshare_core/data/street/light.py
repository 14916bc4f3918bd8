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
"""How light comes from sun and sky to a thing, and through the air to the eye."""
from __future__ import annotations

from dataclasses import dataclass

from featshare_core.data.street.common import Array, Color
from featshare_core.data.street.layout import BLOCK, Layout, SIGHT
import numpy as np

FADE = 80.0
"""The last metres of sight, in which the haze closes."""


@dataclass(frozen=True)
class Weather:
    """A day's light: colours of zenith, horizon, sky light and sun, cloud cover, sun height."""

    zenith: Color
    horizon: Color
    ambient: Color
    sun: Color
    clouds: float
    elevation: float


WEATHERS = (
    Weather((52, 108, 200), (190, 212, 236), (.50, .55, .64), (.62, .58, .50), .45, .85),
    Weather((78, 130, 204), (208, 220, 232), (.54, .57, .62), (.52, .49, .43), .60, .75),
    Weather((150, 160, 172), (208, 212, 216), (.80, .82, .85), (.06, .06, .06), .95, .80),
    Weather((88, 120, 178), (244, 206, 160), (.54, .55, .62), (.78, .58, .36), .40, .50),
    Weather((140, 160, 190), (232, 224, 214), (.58, .60, .64), (.46, .42, .34), .55, .60),
)
DUSK = Weather((72, 86, 126), (198, 158, 136), (.42, .43, .51), (.10, .07, .05), .60, .30)
"""After sunset; no seed chooses it."""


class Light:
    """
    The light in one street on one day.

    ``sun`` is the direction to the sun, ``side`` the side of the street where it stands;
    ``ambient`` and ``sunlight`` are factors on a colour; ``haze`` is the colour of the air.
    """

    def __init__(self, weather: Weather, layout: Layout, rng: np.random.Generator) -> None:
        self.weather = weather
        self.side, ahead = int(rng.choice((-1., 1.))), rng.choice((-1., 1.))
        azimuth, height = rng.uniform(.6, 1.1), weather.elevation * rng.uniform(.9, 1.1)
        self.sun = np.array((self.side * np.sin(azimuth) * np.cos(height), np.sin(height),
                             ahead * np.cos(azimuth) * np.cos(height)))
        self.ambient = np.array(weather.ambient) * rng.uniform(.92, 1.06)
        self.sunlight = np.array(weather.sun) * rng.uniform(.9, 1.1)
        self.haze = np.array(weather.horizon) * rng.uniform(.9, 1)
        self._reach = rng.uniform(170, 420)
        self._layout = layout

    def at(self, x: float, up: float, z: float) -> Array:
        """Return the light, RGB, on something in the street: no sun where a house shades it."""
        way = max(self._layout.front - x * self.side, 0.) / abs(self.sun[0])
        heights, origin = self._layout.roofs(int(z // BLOCK) - 1, self.side)
        place = min(max(int((z + way * self.sun[2] - origin) * 2), 0), len(heights) - 1)
        climb = up + way * self.sun[1]
        lit = min(max((climb - heights[place]) / (.3 + .06 * climb) + .5, 0.), 1.)
        return self.ambient + self.sunlight * (.75 * lit)

    def on_ground(self, x: Array, along: Array, z: float) -> Array:
        """Return the sun, 0 to 1, on the ground ``along`` metres ahead of ``z``."""
        way = np.maximum(np.float32(self._layout.front) - x * self.side, 0) \
            / np.float32(abs(self.sun[0]))
        heights, origin = self._layout.roofs(int(z // BLOCK) - 1, self.side)
        place = np.clip((along + way * np.float32(self.sun[2]) + np.float32(z - origin)) * 2,
                        0, len(heights) - 2)
        left = place.astype(np.int16)
        roof = heights[left] + (heights[left + 1] - heights[left]) * (place - left)
        climb = way * np.float32(self.sun[1])
        return np.clip((climb - roof) / (.3 + .06 * climb) + .5, 0, 1)

    def through(self, distance: Array) -> Array:
        """Return the part of a thing's light that comes through so many metres of air."""
        closing = np.minimum(np.maximum((SIGHT - distance) / FADE, 0), 1)
        return np.exp(-distance / self._reach) * closing
