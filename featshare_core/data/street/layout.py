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
"""What stands where: the street's course and widths, and the content of its blocks."""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from featshare_core.data.street.common import Array
from featshare_core.data.street.textures import FRONTS, STOREY
import numpy as np

BLOCK = 36.0
"""Length in metres of the piece of street whose content one hash decides."""
SIGHT = 180.0
"""Distance in metres at which haze hides everything but the skyline: nothing pops up from afar."""
BLOCKS = int(SIGHT / BLOCK) + 1
"""Number of blocks in sight."""
KERB = 0.12
"""Height in metres of the pavement above the road."""


@dataclass(frozen=True)
class House:
    """A building of a block: where it stands along the street, and its look."""

    start: float
    end: float
    front: float
    storeys: int
    texture: int
    first_bay: int
    bays: int
    tint: float
    pitched: bool
    roof: int

    @property
    def height(self) -> float:
        """Height of the wall in metres."""
        return self.storeys * STOREY + .3


@dataclass(frozen=True)
class Block:
    """
    One side's fixed content, in metres along the street.

    :param opening: where the houses end, where the next block starts, and what lies between:
        0 a side street, 1 grass behind a fence; 2: it is empty
    :param fences: start, end, across, texture
    :param standing: what, where, hash
    :param parked: cars: where, hash
    """

    houses: tuple[House, ...]
    opening: tuple[float, float, int]
    garden: bool
    fences: tuple[tuple[float, float, float, int], ...]
    standing: tuple[tuple[str, float, int], ...]
    parked: tuple[tuple[float, int], ...]


class Layout:
    """
    The street as its seed decides it.

    Metres across count from the middle line to the right: ``lane`` is a lane's width, ``cycling``
    where cyclists ride, ``road`` where the pavement begins, ``front`` where it ends. ``traffic``
    is the side one drives on, ``led`` tells whether a car drives ahead of the camera, and
    ``speed`` is what cars drive, in m/s.
    """

    def __init__(self, seed: int, rng: np.random.Generator) -> None:
        self.seed = seed
        self.lanes = int(rng.choice((1, 1, 1, 2)))
        self.lane = float(rng.uniform(3.1, 3.5))
        self.parking = bool(rng.random() < .6)
        self.cycling = self.lanes * self.lane + .6
        self.road = self.lanes * self.lane + 1.2 + 2.1 * self.parking
        self.front = self.road + float(rng.uniform(3.4, 5.2))
        self.traffic = 1 if rng.random() < .6 else -1
        self.led = bool(rng.random() < .5)
        self.speed = float(rng.uniform(8.5, 11))
        self._density = rng.uniform(.25, .65)
        self.phases = rng.uniform(0, 2 * np.pi, 16)
        self.curves = [(rng.uniform(2, 5), 2 * np.pi / rng.uniform(190, 260)),
                       (rng.uniform(.3, .9), 2 * np.pi / rng.uniform(90, 120))]
        self._block = lru_cache(maxsize=64)(self._make_block)
        self.roofs = lru_cache(maxsize=4)(self._make_roofs)
        self._place = lru_cache(maxsize=1024)(self._make_place)

    def bend(self, along: Array) -> Array:
        """Return how far the street lies to the right of a straight line, ``along`` metres on."""
        (reach, rate), (small, quick) = self.curves
        return reach * np.sin(rate * along + self.phases[0]) \
            + small * np.sin(quick * along + self.phases[1])

    def blocks(self, z: float) -> list[tuple[int, Block]]:
        """Return the blocks in sight from ``z`` as (side, block)."""
        first = int(z // BLOCK)
        return [(side, self._block(number, side)) for number in range(first, first + BLOCKS)
                for side in (-1, 1)]

    def zebras(self, z: float, blocks: int = BLOCKS) -> list[float]:
        """Return where the next blocks from ``z`` have zebra crossings, in metres along."""
        first = int(z // BLOCK)
        zebras = (self._zebra(number) for number in range(first, first + blocks))
        return [zebra for zebra in zebras if zebra is not None]

    def _zebra(self, number: int) -> float | None:
        """Return where block ``number`` has a zebra crossing, if it has one."""
        rng = np.random.default_rng((self.seed, 2, number + 1000))
        here = number % 4 == 1 or rng.random() < .2
        return (number + rng.uniform(.35, .55)) * BLOCK if here else None

    def _make_block(self, number: int, side: int) -> Block:
        """Return the fixed content of one side of block ``number``."""
        rng = np.random.default_rng((self.seed, 3, number + 1000, side + 1))
        start, zebra = number * BLOCK, self._zebra(number)
        use = int(rng.choice(3, p=(.25, .4, .35)))
        gap = (7.5, rng.uniform(4, 9), 0.)[use]
        opening = start + BLOCK - gap
        garden = bool(rng.random() < .45)
        front = self.front + 3.2 * garden
        shares = rng.uniform(.7, 1.4, rng.integers(2, 4))
        edges = start + np.concatenate(((0,), np.cumsum(shares / shares.sum()))) * (BLOCK - gap)
        base = int(rng.integers(2, 5))
        houses = tuple(
            House(a, b, front, max(2, int(base + rng.integers(-1, 2))), int(rng.integers(FRONTS)),
                  int(rng.integers(2)), max(2, min(4, round((b - a) / STOREY))),
                  rng.uniform(.88, 1.06), bool(rng.random() < .5), int(rng.integers(4)))
            for a, b in pairwise(edges))
        fences = []
        if garden:
            style = int(rng.integers(3))
            fences += [(house.start, house.end, self.front, style) for house in houses]
        if use == 1:
            fences.append((edges[-1], start + BLOCK, self.front, int(rng.integers(3))))
        rail = rng.uniform(2, 8), rng.uniform(9, 15)
        railing = zebra is None and rng.random() < .55
        if railing:
            a = start + rail[0]
            fences.append((a, a + rail[1], self.road + .3, 1))
        standing, parked = [], []
        for slot in range(9):
            z = start + 4 * slot + rng.uniform(1, 3)
            kind = ('lamp' if slot % 5 == (0 if side > 0 else 3) else
                    str(rng.choice(['tree', 'sign', 'bollard', 'none'], p=(.42, .2, .1, .28))))
            if kind != 'none' and (use or z <= opening - 1):
                standing.append((kind, z, int(rng.integers(1 << 30))))
        if use == 1:
            standing += [('grove', opening + t * gap, int(rng.integers(1 << 30)))
                         for t in (.25, .7)]
        for slot in range(6):
            z = start + 6 * slot + 3
            clear = (zebra is None or abs(z - zebra) > 8) and (use or z < opening - 3)
            clear = clear and not (railing and start + rail[0] - 3 < z < start + sum(rail) + 3)
            if self.parking and clear and rng.random() < self._density:
                parked.append((z + rng.uniform(-.4, .4), int(rng.integers(1 << 30))))
        if zebra is not None:
            standing.append(('light', zebra - 2.6, int(rng.integers(1 << 30))))
        return Block(houses, (opening, start + BLOCK, use), garden, tuple(fences),
                     tuple(standing), tuple(parked))

    def _make_roofs(self, number: int, side: int) -> tuple[Array, float]:
        """Return one side's roof heights every half metre, and where that table begins."""
        count = BLOCKS + 3
        table = np.zeros(int(count * BLOCK * 2), np.float32)
        origin = number * BLOCK
        for k in range(count):
            for house in self._block(number + k, side).houses:
                span = slice(int((house.start - origin) * 2), int((house.end - origin) * 2))
                table[span] = house.height + house.pitched * 1.5
        return table, origin

    def stream(self, name: int, origin: float, z: float, spacing: float, share: float,
               sight: float = SIGHT) -> list[tuple[float, int]]:
        """Return where movers of one speed are, and their hashes; ``origin`` moves with them."""
        first = int((z + 2 - origin) // spacing) - 1
        spots = []
        for k in range(first, first + int(sight / spacing) + 2):
            slack, empty, code = self._place(name, k)
            at = (k + slack) * spacing + origin
            if empty < share and z + 3 < at < z + sight:
                spots.append((at, code))
        return spots

    def _make_place(self, name: int, number: int) -> tuple[float, float, int]:
        """Return one place in a stream: its slack, share of being empty, hash."""
        rng = np.random.default_rng((self.seed, 4, name, number + 1_000_000))
        return rng.uniform(0, .6), rng.random(), int(rng.integers(1 << 30))
