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
"""What stands: houses, fences, trees, lamps, signs, bollards and traffic lights."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial

from featshare_core.data.street.common import Array, BUILDING, CIRCLE, FENCE, POLE, SIGN, TREE
from featshare_core.data.street.layout import House, KERB
from featshare_core.data.street.painter import box, Painter, Thing
from featshare_core.data.street.textures import Texture
import numpy as np

TILES = ((120, 74, 62), (96, 92, 92), (136, 96, 76), (84, 84, 92))
RED, BLUE = ((190, 30, 34), (236, 234, 230)), ((30, 72, 160), (40, 92, 186))
SIGNS = ((CIRCLE, RED), (CIRCLE, BLUE),
         (CIRCLE[[1, 5, 9]] * 1.15, ((190, 30, 34), (240, 238, 232))),
         (np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * .85, BLUE),
         (np.array([(0, -1.1), (1.1, 0), (0, 1.1), (-1.1, 0)]), ((240, 238, 232), (232, 186, 40))))
"""Outlines of the traffic signs, and the colours of their rim and face."""
BACK = ((128, 130, 132), (142, 144, 146))
LAMPS = ((90, 255, 150), (70, 52, 16), (74, 18, 16))
"""A traffic light's lamps from below, the green one lit."""


def house(plan: House, side: int, hidden: float, looks: tuple[Texture, Texture]) -> Thing:
    """
    Return a house: its front, the side that looks down the street, and its roof.

    :param hidden: height to which the house before it hides its side wall
    :param looks: textures of its front and its side wall
    """
    def draw(painter: Painter) -> None:
        x, z0, z1, high = side * plan.front, plan.start, plan.end, plan.height
        (front, blank), day = looks, painter.light
        facing = 0. if side == day.side else abs(day.sun[0]) * .95
        light = (day.ambient + day.sunlight * facing) * plan.tint
        shaded = (day.ambient * .95 + day.sunlight * max(0., -day.sun[2])) * plan.tint
        edge, back, middle = x - side * .3, x + side * 9., x + side * 4.5
        if plan.pitched:
            ridge = np.array([(edge, high - .1, z0), (edge, high - .1, z1),
                              (middle, high + 2.6, z1), (middle, high + 2.6, z0)])
            _slab(painter, ridge, np.array(TILES[plan.roof]) * (day.ambient + day.sunlight * .7))
            gable = np.array([(edge, high - .1, z0), (back, high - .1, z0),
                              (middle, high + 2.6, z0)])
            _slab(painter, gable, blank.mean * shaded)
        if high > hidden and z0 > painter.eye[2] + 2:
            painter.panel(np.array((min(x, back), hidden, z0)),
                          np.array((max(x, back), hidden, z0)), high, blank,
                          (0, .6, 1 - (high - hidden) / 18.4, 1), shaded, BUILDING)
        left = plan.first_bay / 5
        span = left, left + plan.bays / 5 * .999, 1 - plan.storeys / 6, 1
        painter.panel(np.array((x, 0, z0)), np.array((x, 0, z1)), high, front, span, light,
                      BUILDING)
        eave = np.array([(edge, high - .25, z0), (edge, high - .25, z1), (edge, high + .1, z1),
                         (edge, high + .1, z0)])
        _slab(painter, eave, np.array((150, 146, 138)) * light)
    return Thing(plan.end + .2, draw)


def _slab(painter: Painter, corners: Array, color: Array) -> None:
    """Fill a plain convex part of a house, cut off where it passes the camera."""
    corners[:, 2] = np.maximum(corners[:, 2], painter.eye[2] + 2)
    painter.polygon(corners, color, BUILDING)


def fence(x: float, a: float, b: float, tall: float, depth: float, texture: Texture) -> Thing:
    """Return a piece of fence from ``a`` to ``b``; what shows between its bars is fence too."""
    def draw(painter: Painter) -> None:
        painter.panel(np.array((x, KERB, a)), np.array((x, KERB, b)), KERB + tall, texture,
                      (0, min(1, (b - a) / 12), 0, 1), painter.light.at(x, .8, (a + b) / 2), FENCE)
    return Thing(depth, draw)


def tree(x: float, z: float, size: float, depth: float, code: int, time: float,
         crown: Texture) -> Thing:
    """Return a tree that sways in the wind; it comes in painting as if it stood at ``depth``."""
    def draw(painter: Painter) -> None:
        sway = .06 * np.sin(1.3 * time + code % 7)
        tall = 2.3 * size
        joints = np.array([(x, 0, z, .19 * size), (x + sway * .3, tall, z, .12 * size),
                           (x - .7 * size, tall + .9 * size, z, .05),
                           (x + .8 * size, tall + .8 * size, z, .05)])
        bark = np.array((92, 76, 62)) * painter.light.at(x, 1., z)
        painter.tubes(joints, [((0, 1), bark), ((1, 2), bark), ((1, 3), bark)], TREE, .4)
        wide, foot = 2.35 * size, tall - .75 * size
        painter.panel(np.array((x - wide + sway, foot, z)), np.array((x + wide + sway, foot, z)),
                      tall + 3.7 * size, crown, (0, 1, 0, 1),
                      painter.light.at(x, 4., z) * (.9 + code % 5 * .05), TREE, whole=False)
    turn = np.arange(10) * .2 * np.pi
    body = np.stack((x + 1.5 * size * np.cos(turn), np.full(10, 3.6 * size),
                     z + 1.5 * size * np.sin(turn)), axis=1)
    return Thing(depth, draw, x, body)


def post(what: str, x: float, z: float, side: int, facing: bool, code: int) -> Thing:
    """Return a lamp, sign, traffic light or bollard, its face or its back to the camera."""
    kinds: dict[str, tuple[Callable[..., None], float]] = {
        'lamp': (partial(_draw_lamp, side=side), 7.),
        'sign': (partial(_draw_sign, facing=facing, kind=code % 5), 2.8),
        'light': (partial(_draw_light, facing=facing), 3.4),
        'bollard': (_draw_bollards, 1.)}
    draw, tall = kinds[what]
    return Thing(z, partial(draw, x=x, z=z), x, box(x, z, .06, .06, tall), code=code)


def _draw_lamp(painter: Painter, x: float, z: float, side: int) -> None:
    """Paint a street lamp, its arm over the road."""
    steel = np.array((104, 108, 110)) * painter.light.at(x, 3., z)
    arm = x - side * 1.6
    joints = np.array([(x, 0, z, .13), (x, 1.2, z, .1), (x, 6.6, z, .065),
                       (x - side * .6, 7.1, z, .05), (arm, 7.2, z, .05),
                       (arm - side * .1, 7.15, z, .09), (arm - side * .7, 7.2, z, .07)])
    painter.tubes(joints, [((0, 1), steel * .9), ((1, 2), steel), ((2, 3), steel),
                           ((3, 4), steel), ((5, 6), steel * 1.2)], POLE, .4)


def _draw_bollards(painter: Painter, x: float, z: float) -> None:
    """Paint three bollards in a row."""
    light = painter.light.at(x, .5, z)
    for k in (2, 1, 0):
        at = z + k * 1.3
        joints = np.array([(x, .05, at, .09), (x, .95, at, .08), (x, .75, at, .09),
                           (x, .85, at, .09)])
        painter.tubes(joints, [((0, 1), np.array((60, 62, 66)) * light),
                               ((2, 3), np.array((220, 218, 210)) * light)], POLE, .4)


def _draw_sign(painter: Painter, x: float, z: float, facing: bool, kind: int) -> None:
    """Paint a traffic sign on its post."""
    light = painter.light.at(x, 2., z) * 1.05
    joints = np.array([(x, 0, z, .045), (x, 2.9, z, .04)])
    painter.tubes(joints, [((0, 1), np.array((150, 152, 154)) * light)], POLE, .4)
    outline, colors = SIGNS[kind]
    rim, face = colors if facing else BACK
    for scale, color in ((.44, rim), (.44 * .74, face)):
        _board(painter, (x, 2.5, z - .05), outline * (scale, -scale), np.array(color) * light)
    if facing and kind != 4:
        ink = np.array((28, 28, 30) if kind in (0, 2) else (240, 240, 240)) * light
        bar = np.array([(-.3, -.55), (.3, -.55), (.12, .55), (-.12, .55)]) * .44 * .6
        _board(painter, (x, 2.5, z - .06), bar, ink)


def _draw_light(painter: Painter, x: float, z: float, facing: bool) -> None:
    """Paint a traffic light; CamVid counts its box among the signs."""
    light = painter.light.at(x, 2., z)
    joints = np.array([(x, 0, z, .07), (x, 3.4, z, .06)])
    painter.tubes(joints, [((0, 1), np.array((70, 74, 76)) * light)], POLE, .4)
    case = np.array([(-.2, 2.5), (.2, 2.5), (.2, 3.6), (-.2, 3.6)])
    _board(painter, (x, 0, z - .1), case, np.array((30, 32, 34)) * light)
    if facing:
        for row, color in enumerate(LAMPS):
            _board(painter, (x, 2.7 + .35 * row, z - .12), .12 * CIRCLE, np.array(color, float))


def _board(painter: Painter, at: tuple[float, float, float], outline: Array,
           color: Array) -> None:
    """Paint a flat convex part of a sign that stands across the street."""
    painter.polygon(np.pad(outline, ((0, 0), (0, 1))) + at, color, SIGN)
