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
"""What is in sight at a time: all that stands, and who is under way."""
from __future__ import annotations

from itertools import pairwise

from featshare_core.data.street.cars import car
from featshare_core.data.street.fixtures import fence, house, post, tree
from featshare_core.data.street.layout import Block, KERB, Layout, SIGHT
from featshare_core.data.street.painter import Thing
from featshare_core.data.street.people import cyclist, walker
from featshare_core.data.street.textures import Texture, Textures
import numpy as np


def scene(layout: Layout, textures: Textures, z: float, time: float) -> list[Thing]:
    """Return all that is in sight from ``z`` at ``time``, in no order."""
    return [*fixed_things(layout, textures, z, time), *_riders(layout, z, time),
            *strollers(layout, z, time), *_crossing(layout, z, time)]


def fixed_things(layout: Layout, textures: Textures, z: float, time: float) -> list[Thing]:
    """Return all in sight that stands, parked cars too, in no order."""
    things: list[Thing] = []
    beside = {-1: (0., 0.), 1: (0., 0.)}
    for side, block in layout.blocks(z):
        for plan in block.houses:
            height, front = beside[side]
            things.append(house(plan, side, height if front == plan.front else 0.,
                                textures.facades[plan.texture]))
            beside[side] = plan.height, plan.front
        if block.opening[1] > block.opening[0]:
            beside[side] = 0., 0.
        fixed = [*_fences(layout, block, side, textures.fences, z),
                 *_standing(layout, block, side, textures.crowns, z, time),
                 *(car(side * (layout.road - 1.1), at, (0, side * layout.traffic), code, 0.)
                   for at, code in block.parked)]
        things += [thing for thing in fixed if thing.depth > z]
    return things


def _fences(layout: Layout, block: Block, side: int, textures: list[Texture],
            z: float) -> list[Thing]:
    """Return fences in pieces: people walk before a garden's, but on both sides of a railing."""
    things = []
    for start, end, x, kind in block.fences:
        railing = x < layout.front
        pieces = np.linspace(start, end, int((end - start) / 3) + 1 if railing else 2)
        things += [fence(side * x, a, b, 1.05 if railing else 1.35, a + .3 if railing else b + .1,
                         textures[kind])
                   for a, b in pairwise(pieces) if z + 2 < b and a < z + 110]
    return things


def _standing(layout: Layout, block: Block, side: int, crowns: list[Texture], z: float,
              time: float) -> list[Thing]:
    """Return trees along the kerb and behind the fence, and posts."""
    things = []
    for what, at, code in block.standing:
        if not z + 2 < at < z + SIGHT:
            continue
        far = what == 'grove'
        if far or what == 'tree':
            things.append(tree(side * (layout.front + 2.5 if far else layout.road + .8), at,
                               1 + code % 97 / 97 * .5 + .3 * far,
                               block.opening[1] + .3 if far else at, code, time,
                               crowns[code % 4]))
        else:
            things.append(post(what, side * (layout.road + .5), at, side,
                               side == layout.traffic, code))
    return things


def _riders(street: Layout, z: float, time: float) -> list[Thing]:
    """Return cars and cyclists under way."""
    things = [car(-street.traffic * street.lane * (lane + .5), at, (0, -1), code)
              for lane in range(street.lanes)
              for at, code in street.stream(lane, -street.speed * time, z, 34, .75)]
    if street.lanes == 2:
        things += [car(street.traffic * street.lane * 1.5, at, (0, 1), code)
                   for at, code in street.stream(5, street.speed * .8 * time, z, 36, .7)]
    if street.led:
        lead = z + 24 + 8 * np.sin(.17 * time + street.phases[12])
        things.append(car(street.traffic * street.lane * .5, lead, (0, 1),
                          7919 * (street.seed + 1)))
    for way, speed in ((1, 4.6), (-1, -4.2)):
        things += [cyclist(way * street.traffic * (street.cycling + code % 11 / 11 * .3 - .15),
                           at, (0, way), code, time)
                   for at, code in street.stream(10 + way, speed * time, z, 26, .85)]
    return things


def strollers(street: Layout, z: float, time: float) -> list[Thing]:
    """Return who walks on the pavements."""
    width = street.front - street.road - 1.9
    return [walker(side * (street.road + 1.4 + width * (code % 13 / 13)), at, KERB,
                   (0, way), code, time)
            for side in (-1, 1) for way in (-1, 1)
            for at, code in street.stream(20 + 2 * side + (way > 0), 1.35 * way * time, z, 9,
                                          .8, 105.)]


def _crossing(street: Layout, z: float, time: float) -> list[Thing]:
    """Return who crosses the road before the cars come."""
    things = []
    length = street.road + 1
    for zebra in street.zebras(z):
        arrival = zebra / street.speed - (4.2 if street.led else 2.2)
        for k, (early, way) in enumerate(((.6, 1), (1.8, -1), (0., -1))):
            place = length - 1.4 * max(0., arrival - early - time)
            if zebra >= z + 3 and place > -length - 8:
                x = way * max(-length, place)
                things.append(walker(
                    x, zebra - 1 + k, KERB if abs(x) > street.road else 0., (way, 0),
                    int(zebra) * 7 + k * 104729, time, float(abs(place) < length)))
    return things
