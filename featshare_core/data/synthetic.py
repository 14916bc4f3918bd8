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
"""A rendered street: an endless drive with an exact CamVid label for every pixel."""
from __future__ import annotations

from collections.abc import Callable

import cv2
from featshare_core.data.street.common import Image
from featshare_core.data.street.ground import paint_ground
from featshare_core.data.street.layout import Layout
from featshare_core.data.street.light import Light, Weather, WEATHERS
from featshare_core.data.street.painter import Painter, Thing
from featshare_core.data.street.scene import scene
from featshare_core.data.street.sky import paint_sky, Skyline
from featshare_core.data.street.textures import Textures
import numpy as np


class RenderedStreet:
    """
    A drive through an endless street, rendered with labels in CamVid's eleven classes.

    Picture and labels are drawn from the same outlines. As in CamVid, a fence and a bicycle's
    wheel are one region, with what shows between the bars; grass counts as tree, and a traffic
    light's box as sign.

    :param width, height: size of the frames in pixels
    :param seed: decides the street, its traffic and the weather
    :param fps: frames per second; the camera moves at about 10 m/s
    :param weather: the seed's own where None
    :raises ValueError: where a size is below 16 pixels, or fps or seed is out of range
    """

    def __init__(self, width: int = 960, height: int = 540, seed: int = 0,
                 fps: float = 25.0, weather: Weather | None = None) -> None:
        """Decide what the seed decides for the whole street, and paint its textures."""
        if min(width, height) < 16:
            raise ValueError(f'a street needs at least 16 x 16 pixels, got {width} x {height}')
        if seed < 0:
            raise ValueError(f'the seed must not be negative, got {seed}')
        if not (np.isfinite(fps) and fps > 0):
            raise ValueError(f'fps must be positive, got {fps}')
        self.size, self.seed, self.fps = (width, height), seed, fps
        rng = np.random.default_rng((seed, 0))
        drawn = WEATHERS[rng.integers(len(WEATHERS))]
        self._layout = Layout(seed, rng)
        self._light = Light(weather or drawn, self._layout, rng)
        self._textures = Textures(rng, self._light.side)
        # Its own generator: how many numbers it takes depends on the size, the scene must not.
        noise = np.random.default_rng((seed, 5)).standard_normal(
            (height + 64, width + 64, 3), np.float32)
        self._noise = (noise * rng.uniform(1.5, 4)).astype(np.int8)
        y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
        fall = 1 - rng.uniform(.05, .16) * (x * x + y * y)
        self._vignette = np.repeat(fall[..., None], 3, axis=2).astype(np.float32)
        grade = rng.uniform(.97, 1.03, 3) * rng.uniform(1., 1.16)
        curve = (np.arange(256) / 255)[:, None] ** rng.uniform(.9, 1.08) * grade
        contrast = curve - .03 * np.sin(2 * np.pi * np.minimum(curve, 1))
        self._tone = np.clip(contrast * 255, 0, 255).astype(np.uint8)[:, None]
        self._skyline = Skyline(rng)

    def frame(self, index: int) -> tuple[Image, Image]:
        """
        Render frame ``index``, at ``index / fps`` seconds, whatever was rendered before.

        :returns: the picture, HxWx3 uint8 RGB, and its labels, HxW uint8 class ids
        :raises ValueError: where the index is negative
        """
        if index < 0:
            raise ValueError(f'a frame index must not be negative, got {index}')
        painter = self._camera(index / self.fps)
        self._paint(painter, index / self.fps, lambda thing: thing.draw(painter))
        return self._expose(painter.rgb, index), painter.labels

    def _things(self, z: float, time: float) -> list[Thing]:
        """Return all that is in sight from ``z`` at ``time``, in no order."""
        return scene(self._layout, self._textures, z, time)

    def _paint(self, painter: Painter, time: float, draw: Callable[[Thing], None]) -> None:
        """Paint sky, ground and, by ``draw``, all things, far to near."""
        z = float(painter.eye[2])
        things = self._things(z, time)
        places = np.array([(thing.across or 0, thing.depth) for thing in things])
        things = [thing for thing, faced in zip(things, painter.faces(*places.T))
                  if faced or thing.across is None]
        for thing in things:
            if thing.body is not None and thing.depth < z + 60:
                painter.cast(thing.body)
        paint_sky(painter, self._textures.cloud, time)
        self._skyline.paint(painter)
        paint_ground(painter, self._layout, self._textures)
        for thing in sorted(things, key=lambda thing: thing.inward - thing.depth):
            draw(thing)

    def _drive(self, time: float) -> tuple[float, float, float]:
        """Return the camera's metres along and across, and its turn from the lane in radians."""
        street, phase = self._layout, self._layout.phases[2]
        z = street.speed * time + 3 * (np.sin(.25 * time + phase) - np.sin(phase))
        return z, street.traffic * street.lane / 2, 0.

    def _camera(self, time: float) -> Painter:
        """Place the camera: along its drive, with the sway of a car on its springs."""
        street, p = self._layout, self._layout.phases
        z, across, turn = self._drive(time)
        drift = .25 * np.sin(.4 * time + p[3])
        bounce = .012 * np.sin(9.1 * time + p[4]) + .02 * np.sin(2.7 * time + p[5])
        slope = sum(reach * rate * np.cos(rate * z + p[k])
                    for k, (reach, rate) in enumerate(street.curves))
        yaw = float(np.arctan(slope)) \
            + .02 * np.sin(.5 * time + p[6]) + .003 * np.sin(5 * time + p[7]) + turn
        pitch = .004 + .004 * np.sin(2.9 * time + p[8]) + .0022 * np.sin(10.3 * time + p[9])
        roll = .006 * np.sin(1.9 * time + p[10]) + .002 * np.sin(8.3 * time + p[11])
        x = across + drift + float(street.bend(np.array(z)))
        ahead = z + np.arange(-20, 240, .5)
        return Painter(self.size, np.array((x, 1.4 + bounce, z)), (yaw, pitch, roll),
                       (ahead, street.bend(ahead)), self._light)

    def _expose(self, rgb: Image, index: int) -> Image:
        """Return a picture as a camera takes it: vignette, contrast and noise."""
        y, x = np.random.default_rng((self.seed, 1, index)).integers(0, 64, 2)
        width, height = self.size
        rgb = cv2.multiply(rgb, self._vignette, dtype=cv2.CV_8U)
        rgb = cv2.LUT(rgb, self._tone)
        return cv2.add(rgb, self._noise[y:y + height, x:x + width], dtype=cv2.CV_8U)
