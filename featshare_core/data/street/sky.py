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
"""The sky, and the skyline of a town too far away to come nearer."""
from __future__ import annotations

import cv2
from featshare_core.data.street.common import Array, BUILDING, CIRCLE, PLASTER, TREE
from featshare_core.data.street.painter import Painter
import numpy as np


class Skyline:
    """Roofs and treetops so far away that they move with the camera's turns alone."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._shapes: list[tuple[Array, Array, int]] = []
        for angle in np.arange(-1.3, 1.3, .022):
            if rng.random() < .45:
                high, wide = rng.uniform(.03, .075), rng.uniform(.015, .03)
                outline = np.array([(-1, -1), (-1, high), (1, high), (1, -1)]) * (wide, 1)
                color, label = np.array(PLASTER[rng.integers(len(PLASTER))]) * .6, BUILDING
            else:
                high, wide = rng.uniform(.02, .05), rng.uniform(.02, .04)
                outline = CIRCLE * (wide, high)
                color, label = np.array((70., 88, 60)) * rng.uniform(.8, 1.2), TREE
            turn = angle + outline[:, 0]
            shape = np.stack((np.sin(turn), outline[:, 1], np.cos(turn)), axis=1) * 800
            self._shapes.append((shape, color, label))

    def paint(self, painter: Painter) -> None:
        """Paint what of the skyline is before the camera."""
        for shape, color, label in self._shapes:
            camera = shape @ painter.axes.T
            if camera[:, 2].min() > 100:
                pixels = camera[:, :2] / camera[:, 2:] * painter.focal + painter.centre
                if painter.seen(pixels, camera[:, 2]):
                    painter.fill(pixels, color * .22 + painter.light.haze * .78, label)


def paint_sky(painter: Painter, clouds: Array, time: float) -> None:
    """Paint the sky, coarsely: a gradient, the sun's glow, and clouds that drift."""
    light, weather = painter.light, painter.light.weather
    width, height = painter.width, painter.height
    step = max(1, width // 160)
    u = (np.arange(0, width, step, dtype=np.float32) - painter.centre[0]) / painter.focal
    v = (np.arange(0, height, step, dtype=np.float32) - painter.centre[1]) / painter.focal
    rays = np.stack(np.broadcast_arrays(u[None], v[:, None], 1), axis=-1) @ painter.axes
    rays /= np.linalg.norm(rays, axis=2, keepdims=True)
    up = np.maximum(rays[..., 1], .0)
    mix = ((1 - np.minimum(up * 1.9, 1)) ** 2.2)[..., None]
    sky = np.array(weather.zenith) * (1 - mix) + np.array(weather.horizon) * mix
    glow = np.maximum(rays @ light.sun, 0) ** 24
    sky += (glow * 90 * light.sunlight.mean())[..., None] * np.array((1, .92, .75))
    spread = 150 / (up + .12)
    cloud = cv2.remap(clouds, (rays[..., 0] * spread + time).astype(np.float32),
                      (rays[..., 2] * spread).astype(np.float32), cv2.INTER_LINEAR,
                      borderMode=cv2.BORDER_WRAP)
    cover = np.clip((cloud + weather.clouds * 1.8 - 1.0) * 1.3, 0, 1)
    cover = (cover * np.clip(up * 9, 0, .9))[..., None]
    white = (light.ambient + light.sunlight * .75) * 190 + 20
    shade = np.clip(1.06 - .16 * cloud, .7, 1.1)[..., None]
    sky = sky * (1 - cover) + np.minimum(white * shade, 250) * cover
    sky = np.clip(sky, 0, 255).astype(np.uint8)
    cv2.resize(sky, (width, height), painter.rgb, interpolation=cv2.INTER_LINEAR)
