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
"""Cars: four shapes in many paints."""
from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from featshare_core.data.street.common import Array, CAR, CIRCLE, PAINT
from featshare_core.data.street.painter import box, Painter, Thing, turned
import numpy as np

FINISHES = ((0, 0, 0), (34, 42, 50), (70, 84, 96), (22, 22, 24), (122, 124, 128), (176, 24, 22),
            (246, 246, 238), (230, 228, 212), (52, 54, 58))
"""Colours of a car's parts: paint (its own), glass, glass that mirrors the sky, tyre, hub, rear
lamp, head lamp, number plate, bumper."""


class _Shape:
    """A car's faces about the middle of its foot, its front towards +z, farther parts first."""

    def __init__(self, length: float, tall: float, cabin: Sequence[float]) -> None:
        """Build a body of lofted sections, a cabin (its four corners by length), and details."""
        self.length, self.tall = length, tall
        self._corners: list[Array] = []
        self._finish: list[int] = []
        half, belt = .9, .62 * tall if tall < 1.9 else .56 * tall
        nose = .9 if tall < 1.9 else .97
        body = [(-1, .84, .86), (-.93, .98, .97), (-.5, 1, 1), (.45, 1, 1), (.88, .97, nose),
                (1, .8, nose * .82)]
        rings = [np.array([(w * .95 * half, .24, z * length), (w * half, .55, z * length),
                           (w * .94 * half, top * belt, z * length)]) for z, w, top in body]
        mirror = np.array((-1, 1, 1))
        # The dark underside, between the wheels.
        for s in (-.78, .78):
            self._add([(-.7, .16, s * length), (.7, .16, s * length), (.7, .4, s * length),
                       (-.7, .4, s * length)], 3)
            self._add([(s, .16, -.8 * length), (s, .16, .8 * length), (s, .4, .8 * length),
                       (s, .4, -.8 * length)], 3)
        for a, b in pairwise(rings):
            for side in (mirror, np.ones(3)):
                for row in (0, 1):
                    self._add(np.array((a[row], b[row], b[row + 1], a[row + 1])) * side, 0)
            self._add([a[2], b[2], b[2] * mirror, a[2] * mirror], 0)
        for ring in (rings[0], rings[-1]):
            for row in (0, 1):
                self._add([ring[row], ring[row + 1], ring[row + 1] * mirror, ring[row] * mirror],
                          8 if row == 0 else 0)
        low = np.array([(.93 * half, belt * .97, cabin[k] * length) for k in (0, 3)])
        high = np.array([(.74 * half, tall, cabin[k] * length) for k in (1, 2)])
        sides = [np.array((low[0], low[1], high[1], high[0])) * s for s in (mirror, np.ones(3))]
        ends = [np.array((low[k] * mirror, low[k], high[k], high[k] * mirror)) for k in (0, 1)]
        for quad in (*sides, *ends, np.array((high[0], high[1], high[1] * mirror,
                                              high[0] * mirror))):
            self._add(quad, 0)
        for quad in sides:
            for left, right in ((.1, .5), (.54, .93)):
                self._pane(quad, left, right, .5, .9)
        for quad in ends:
            self._pane(quad, .07, .93, .55, .93)
        for x in (-half, half):
            for z in (-.6 * length, .62 * length):
                for radius, out, finish in ((.37, .99, 8), (.32, 1., 3), (.18, 1.01, 4)):
                    self._add(np.column_stack((np.full(12, x * out),
                                               np.maximum(.31 + radius * CIRCLE[:, 1], 0),
                                               z + radius * CIRCLE[:, 0])), finish)
        for s in (-1, 1):
            for z in (.3, .33):
                self._add([(s * u, belt + v, z * length) for u, v in (
                    (.88, .02), (1.03, .02), (1.03, .13), (.88, .13))], 8)
            self._end(-1, s * .62, .13, belt * .62, belt * .8, 5)
            self._end(1, s * .54, .17, belt * .6, belt * .72, 6)
        self._end(1, 0, .32, belt * .58, belt * .7, 8)
        for end in (-1, 1):
            self._end(end, 0, .26, belt * .4, belt * .52, 7)
        self.points = np.concatenate(self._corners)
        starts = np.cumsum([0] + [len(corners) for corners in self._corners])
        self.faces = [np.arange(a, b) for a, b in pairwise(starts)]
        self.finish = np.array(self._finish)
        self.middles = np.array([corners.mean(axis=0) for corners in self._corners])
        normals = np.array([np.cross(c[1] - c[0], c[2] - c[1]) for c in self._corners])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        outward = ((self.middles - (0, .6, 0)) * normals).sum(axis=1, keepdims=True)
        self.normals = normals * np.where(outward < 0, -1, 1)
        self.sizes = np.array([np.ptp(corners, axis=0).max() for corners in self._corners])

    def _add(self, corners: Array | Sequence[Any], finish: int) -> None:
        self._corners.append(np.array(corners, np.float64))
        self._finish.append(finish)

    def _pane(self, quad: Array, left: float, right: float, mirror: float, high: float) -> None:
        """Add a window to a quad (low left, low right, high right, high left), and its gleam."""
        def at(u: float, v: float) -> Array:
            low, top = (quad[a] * (1 - u) + quad[b] * u for a, b in ((0, 1), (3, 2)))
            return low * (1 - v) + top * v
        for foot, finish in ((.12, 1), (mirror, 2)):
            self._add([at(left, foot), at(right, foot), at(right, high), at(left, high)], finish)

    def _end(self, end: int, x: float, half: float, low: float, high: float,
             finish: int) -> None:
        """Add an upright rectangle on the front (1) or the rear (-1)."""
        z = end * self.length * 1.003
        self._add([(x - half, low, z), (x + half, low, z), (x + half, high, z),
                   (x - half, high, z)], finish)


CARS = (_Shape(2.2, 1.45, (-.74, -.46, .1, .42)), _Shape(1.95, 1.5, (-.97, -.84, .08, .46)),
        _Shape(2.2, 1.72, (-.98, -.86, .08, .44)), _Shape(2.5, 2.15, (-.99, -.97, .42, .74)))
"""A saloon, a hatchback, an off-roader and a van."""


def car(x: float, z: float, way: tuple[float, float], code: int, inward: float = 6.) -> Thing:
    """Return a car at (x, z) that heads ``way``, a unit vector (across, along)."""
    shape = CARS[code % len(CARS)]
    across, along = abs(way[0]), abs(way[1])
    half_width = along * .85 + across * (shape.length - .1)
    half_length = along * (shape.length - .1) + across * .85

    def draw(painter: Painter) -> None:
        back = (-way[0], way[1])
        pixels, depth = painter.project(turned(shape.points, way) + (x, 0, z))
        if not painter.seen(pixels, depth):
            return
        eye = turned(painter.eye - (x + float(painter.bend(np.array(z))), 0, z), back)
        looking = ((eye - shape.middles) * shape.normals).sum(axis=1) > 0
        looking &= shape.sizes * painter.focal > 2.5 * float(depth.mean())
        light = painter.light
        sunny = (light.at(x, 1., z) - light.ambient) / (light.sunlight * .75)
        angle = np.maximum(shape.normals @ turned(light.sun, back), 0)[:, None]
        shine = light.ambient * (.8 + .25 * shape.normals[:, 1:2]) + light.sunlight * sunny * angle
        finish = np.array(FINISHES, np.float64)
        finish[0] = PAINT[code // 4 % len(PAINT)]
        finish[1] += light.haze * .06
        finish[2] = finish[2] * .6 + light.haze * .15
        colors = painter.hazy(finish[shape.finish] * shine, depth)
        for face in np.flatnonzero(looking):
            painter.fill(pixels[shape.faces[face]], colors[face], CAR)
    return Thing(z - along * shape.length - across * .9, draw, x,
                 box(x, z, half_width, half_length, shape.tall * .85), inward, code)
