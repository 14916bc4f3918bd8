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
"""People: who walks and who rides a bicycle."""
from __future__ import annotations

from collections.abc import Sequence

import cv2
from featshare_core.data.street.common import Array, BICYCLIST, PAINT, PEDESTRIAN
from featshare_core.data.street.painter import box, fixed, Painter, Thing
import numpy as np

CLOTHES = ((40, 44, 60), (150, 40, 44), (60, 96, 140), (210, 204, 190), (80, 84, 60), (34, 34, 36),
           (196, 150, 60), (110, 70, 110), (90, 120, 90), (170, 170, 176), (226, 110, 60))
SKIN = ((232, 190, 160), (200, 150, 115), (140, 95, 70), (90, 62, 48))
HAIR = ((40, 30, 24), (96, 66, 40), (190, 160, 100), (24, 22, 22), (150, 148, 146))

Limb = tuple[Sequence[int], Array]


def walker(x: float, z: float, floor: float, way: tuple[int, int], code: int, time: float,
           stride: float = 1.) -> Thing:
    """
    Return a person who walks ``way`` (across, along).

    :param floor: height of the ground; who walks on the road (0) hides what stands beside it
    :param stride: 0 for one who stands
    """
    def draw(painter: Painter) -> None:
        phase = 2 * np.pi * (time * 0.95 + code % 31 / 31)
        joints: list[Sequence[float]] = []
        for side in (-1, 1):
            angle = -side * .5 * np.sin(phase) * stride
            bend = .15 + .55 * max(0., -side * np.cos(phase) * stride)
            hip = np.array((0., .9, side * .09))
            knee = hip + (.44 * np.sin(angle), -.44 * np.cos(angle), 0)
            foot = knee + (.42 * np.sin(angle - bend), -.42 * np.cos(angle - bend), 0)
            shoulder = np.array((.02, 1.4, side * .18))
            arm = -angle * .8
            elbow = shoulder + (.27 * np.sin(arm), -.27 * np.cos(arm), side * .04)
            hand = elbow + (.25 * np.sin(arm + .35), -.25 * np.cos(arm + .35), 0)
            joints += [(*hip, .095), (*knee, .07), (*foot, .05), (*(foot + (.13, -.02, 0)), .04),
                       (*shoulder, .07), (*elbow, .05), (*hand, .045)]
        joints += [(.03, 1.62, 0, .105), (0., 1.66, 0, .112), (.02, 1.48, 0, .06)]
        local = np.array(joints)
        local[:, 1] -= local[[2, 9], 1].min() - .06
        ahead, up, aside, radius = local.T * (.92 + code % 17 / 17 * .16)
        placed = np.stack((x + way[0] * ahead + way[1] * aside, up + floor,
                           z + way[1] * ahead - way[0] * aside, radius), axis=1)
        _paint_person(painter, placed, way[1] > 0, code, PEDESTRIAN, painter.light.at(x, 1., z))
    return Thing(z, draw, x, box(x, z, .2, .2, 1.7), 8. * (floor == 0), code)


def cyclist(x: float, z: float, way: tuple[int, int], code: int, time: float) -> Thing:
    """
    Return a cyclist who rides ``way`` (across, along), one of them 0 and the other 1 or -1.

    Between the spokes the wheels are bicyclist too.
    """
    across, along = abs(way[0]), abs(way[1])

    def draw(painter: Painter) -> None:
        light = painter.light.at(x, 1., z)
        turn = np.arange(16) * np.pi / 8
        iron = np.array((30, 30, 34)) * light
        for wheel in (-.52, .52):
            reach = wheel + .33 * np.cos(turn)
            ring = np.stack((x + across * reach, .34 + .33 * np.sin(turn), z + along * reach),
                            axis=1)
            pixels, depth = painter.project(ring)
            if not painter.seen(pixels, depth):
                return
            rim = fixed(pixels)
            thick = max(1, round(.05 * painter.focal / depth.mean()))
            cv2.polylines(painter.rgb, [rim], True, iron.tolist(), thick, cv2.LINE_AA, 4)
            cv2.polylines(painter.labels, [rim], True, BICYCLIST, thick, cv2.LINE_8, 4)
            cv2.fillConvexPoly(painter.labels, rim, BICYCLIST, cv2.LINE_8, 4)
        crank = 2 * np.pi * (time * 1.2 + code % 19 / 19)
        joints: list[Sequence[float]] = []
        for side, angle in ((-1, crank), (1, crank + np.pi)):
            foot = np.array((-.02 + .17 * np.cos(angle), .34 + .17 * np.sin(angle), side * .1))
            hip = np.array((-.28, .98, side * .09))
            middle, span = (foot + hip) / 2, np.linalg.norm(hip - foot)
            out = np.sqrt(max(.45 ** 2 - (span / 2) ** 2, 0))
            knee = middle + np.array((hip[1] - foot[1], foot[0] - hip[0], 0)) / span * out
            shoulder, hand = np.array((.12, 1.45, side * .17)), np.array((.42, 1.05, side * .22))
            elbow = (shoulder + hand) / 2 + (-.02, -.08, side * .05)
            joints += [(*hip, .1), (*knee, .075), (*foot, .05), (*(foot + (.14, .0, 0)), .04),
                       (*shoulder, .08), (*elbow, .05), (*hand, .045)]
        joints += [(.22, 1.66, 0, .105), (.19, 1.71, 0, .115), (.15, 1.52, 0, .06),
                   # The bicycle: rear hub, seat tube, pedals, head, front hub, saddle, handlebar.
                   (-.52, .34, 0, .02), (-.2, .85, 0, .02), (0, .32, 0, .025), (.38, .85, 0, .025),
                   (.52, .34, 0, .02), (-.3, .92, 0, .06), (.42, 1.03, -.26, .02),
                   (.42, 1.03, .26, .02)]
        ahead, up, aside, radius = np.array(joints).T
        placed = np.stack((x + way[0] * ahead + way[1] * aside, up,
                           z + way[1] * ahead - way[0] * aside, radius), axis=1)
        paint = np.array(PAINT[code // 7 % len(PAINT)]) * light
        painter.tubes(placed, [((17, 19), paint), ((19, 18), paint), ((18, 20), paint),
                               ((19, 20), paint), ((20, 21), iron), ((18, 22), iron),
                               ((23, 24), iron)], BICYCLIST)
        _paint_person(painter, placed[:17], way[1] > 0, code, BICYCLIST, light)
    body = box(x, z, .25 * along + .8 * across, .8 * along + .25 * across, 1.5)
    return Thing(z, draw, x, body, 5, code)


def _paint_person(painter: Painter, joints: Array, away: bool, code: int, label: int,
                  light: Array) -> None:
    """
    Paint a person, the farther limbs first.

    :param joints: for each side hip, knee, foot, toes, shoulder, elbow, hand; face, hair, neck
    :param away: the back of the head shows
    """
    coat = np.array(CLOTHES[code % 11]) * light
    trousers = np.array(CLOTHES[code // 11 % 6]) * light * .8
    skin = np.array(SKIN[code // 66 % 4]) * light
    hair = np.array(HAIR[code // 264 % 5]) * light
    shoe = np.array((40, 36, 34)) * light
    near = joints[0, 2] + joints[4, 2] > joints[7, 2] + joints[11, 2]
    first, second = (0, 7) if near else (7, 0)
    trunk = ((0, 7, 4, 11), coat)
    if joints[0, 2] > painter.eye[2] + 35:
        painter.tubes(joints, [((first, first + 2), trousers * .8),
                               ((second, second + 2), trousers), trunk, ((14, 15), hair)], label)
        return

    def leg(s: int, shade: float) -> list[Limb]:
        return [((s, s + 1), trousers * shade), ((s + 1, s + 2), trousers * shade),
                ((s + 2, s + 3), shoe)]

    def arm(s: int, shade: float) -> list[Limb]:
        return [((s + 4, s + 5), coat * shade), ((s + 5, s + 6), coat * shade), ((s + 6,), skin)]

    head: list[Limb] = [((14,), skin), ((15,), hair)]
    painter.tubes(joints, [*arm(first, .8), *leg(first, .8), *leg(second, 1.),
                           ((16, 14), skin), trunk, *(head if away else head[::-1]),
                           *arm(second, 1.06)], label)
