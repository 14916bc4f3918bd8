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
"""Pictures that the street is papered with: house fronts, tree crowns, fences, grain."""
from __future__ import annotations

import cv2
from featshare_core.data.street.common import Array, Color, Image, PLASTER
import numpy as np

STOREY = 3.0
"""Height of a storey and width of a bay in metres."""
DENSITY = 40
"""Pixels of a facade texture per metre."""
FRONTS = 9
"""Number of house fronts that a street chooses from."""
LEAVES = ((96, 128, 58), (110, 132, 52), (84, 116, 66), (150, 128, 52))


def _noise(rng: np.random.Generator, *cells: int) -> Array:
    """Return a tileable square sum of smooth noises, weaker ones last; cells divide 512."""
    size = 512
    total = np.zeros((size, size), np.float32)
    for octave, cell in enumerate(cells):
        grid = np.pad(rng.uniform(-1, 1, (cell, cell)), 2, 'wrap').astype(np.float32)
        scale = size // cell
        wide = cv2.resize(grid, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        total += wide[2 * scale:2 * scale + size, 2 * scale:2 * scale + size] * 0.6 ** octave
    return (total / (total.std() * 2)).astype(np.float32)


class Texture:
    """A picture with its shrunken copies, each axis on its own: a distant facade is narrow."""

    def __init__(self, picture: Image) -> None:
        self.height, self.width = picture.shape[:2]
        self.mean: Array = np.array(cv2.mean(picture)[:3])
        self._levels: dict[tuple[int, int], Image] = {(0, 0): picture}

    def level(self, across: int, down: int) -> Image:
        """Return the picture halved ``across`` times in width and ``down`` times in height."""
        if (across, down) not in self._levels:
            size = max(1, self.width >> across), max(1, self.height >> down)
            self._levels[across, down] = cv2.resize(
                self._levels[0, 0], size, interpolation=cv2.INTER_AREA)
        return self._levels[across, down]


def _facade(rng: np.random.Generator, grain: Array) -> tuple[Texture, Texture]:
    """Paint a house's front, six storeys of five bays, and its blank side wall."""
    cell = int(STOREY * DENSITY)
    rows, columns = 6 * cell, 5 * cell
    wall = np.array(PLASTER[rng.integers(len(PLASTER))], np.float32) * rng.uniform(.88, 1.05)
    rough = cv2.resize(np.tile(grain, (2, 2)), (columns, rows), interpolation=cv2.INTER_AREA)
    streaks = cv2.resize(grain[:64], (columns, rows))
    tone = 1 + .05 * rough + .05 * streaks \
        + .025 * rng.standard_normal((rows, columns), np.float32)
    if wall[0] < 190 and rng.random() < .8:
        line = np.arange(rows) // 5
        tone *= np.where(np.arange(rows) % 5 == 0, .86, 1)[:, None]
        tone *= np.where((np.arange(columns)[None] + 6 * (line[:, None] % 2)) % 12 == 0, .9, 1)
        tone *= 1 + .08 * grain[line[:, None] * 7 % 512,
                                (np.arange(columns)[None] + 6 * (line[:, None] % 2)) // 12 * 5]
    picture = np.clip(wall * tone[..., None], 0, 255).astype(np.uint8)
    blank = Texture(picture.copy())
    trim = np.clip(wall * rng.choice([.75, 1.2]), 0, 245)
    frame = ((236, 234, 228), (70, 50, 40), (52, 60, 62))[rng.integers(3)]
    shutter = ((70, 96, 80), (96, 60, 48), (84, 96, 116))[rng.integers(3)]
    wide, tall = int(rng.uniform(.32, .5) * cell), int(rng.uniform(.48, .62) * cell)
    shop, shutters, ledge = rng.random() < .5, rng.random() < .35, rng.random() < .6
    balcony, doorway = rng.integers(-3, 5), int(rng.integers(5))
    awning = rng.integers(40, 200, 3)

    def box(x: int, y: int, w: int, h: int, color: Color) -> None:
        fill = [float(c) for c in color]
        cv2.rectangle(picture, (x, y), (x + w - 1, y + h - 1), fill, cv2.FILLED)

    def glass(x: int, y: int, w: int, h: int) -> None:
        box(x - 4, y - 4, w + 8, h + 8, frame)
        sheen = np.linspace(rng.uniform(.4, 1), rng.uniform(0, .3), h)[:, None, None]
        patch = grain[:h, 3 * x % 300:3 * x % 300 + w, None] * .12
        pane = (1 - sheen) * np.array((38, 46, 54)) + sheen * np.array((150, 172, 190))
        picture[y:y + h, x:x + w] = np.clip(pane * (1 + patch), 0, 255)
        if rng.random() < .4:
            curtain = int(w * rng.uniform(.15, .35))
            for edge in (x, x + w - curtain):
                side = picture[y:y + h, edge:edge + curtain]
                side[:] = side // 2 + np.array((100, 98, 92), np.uint8)
        box(x, y, w, 3, (24, 26, 30))

    for floor in range(6):
        top = rows - (floor + 1) * cell
        if ledge:
            box(0, top, columns, 5, trim)
            box(0, top + 5, columns, 2, wall * .6)
        for bay in range(5):
            left = bay * cell
            if floor == 0 and bay == doorway:
                x, y, h = left + cell // 3, top + int(.24 * cell), int(.76 * cell)
                box(x - 6, y - 6, cell // 3 + 12, h + 6, trim)
                box(x, y, cell // 3, h, shutter)
                box(x, y, cell // 3, 16, (60, 72, 84))
                box(x + 5, y + 24, cell // 3 - 10, h // 3, np.array(shutter) * .8)
            elif floor == 0 and shop:
                glass(left + 10, top + int(.32 * cell), cell - 20, int(.52 * cell))
                box(left + 4, top + int(.1 * cell), cell - 8, int(.17 * cell), awning)
                box(left + 4, top + int(.27 * cell), cell - 8, 5, (30, 30, 32))
            else:
                x, y = left + (cell - wide) // 2, top + int(.2 * cell)
                box(x - 6, y + tall + 4, wide + 12, 5, trim)
                box(x - 6, y + tall + 9, wide + 12, 3, wall * .55)
                glass(x, y, wide, tall)
                box(x + wide // 2 - 2, y, 4, tall, frame)
                box(x, y + tall // 3, wide, 3, frame)
                if shutters:
                    for edge in (x - wide // 2 - 5, x + wide + 5):
                        box(edge, y, wide // 2, tall, shutter)
                        picture[y:y + tall:6, edge:edge + wide // 2] //= 2
                elif bay == balcony and floor:
                    box(left + 8, top + int(.9 * cell), cell - 16, 8, trim)
                    box(left + 8, top + int(.9 * cell) + 8, cell - 16, 4, wall * .45)
                    picture[top + int(.62 * cell):top + int(.9 * cell), left + 10:-1][
                        :, :cell - 20:5] = (40, 42, 46)
                    box(left + 8, top + int(.6 * cell), cell - 16, 4, (40, 42, 46))
    damp = np.linspace(1, .7, int(cell * .3))[:, None, None]
    picture[-len(damp):] = picture[-len(damp):] * damp
    return Texture(picture), blank


def _foliage(rng: np.random.Generator, leaf: Array, sun_side: float) -> Texture:
    """Paint a tree's crown as many leaf clusters, dark inside and light towards the sun."""
    size = 320
    crown = np.zeros((size, size, 4), np.uint8)
    crown[..., :3] = leaf * .5
    clumps, leaves = 20, 110
    middle = rng.normal((160, 156), (47, 42), (clumps, 1, 2))
    radius = rng.uniform(24, 50, (clumps, 1))
    angle = rng.uniform(0, 2 * np.pi, (clumps, leaves))
    reach = radius * np.sqrt(rng.random((clumps, leaves))) * 1.15
    offset = np.stack((np.cos(angle), np.sin(angle)), axis=2) * reach[..., None]
    place = (middle + offset).reshape(-1, 2)
    light = .66 + .26 * (offset @ (.6 * sun_side, -1.)) / radius + rng.normal(0, .09, angle.shape)
    light = np.maximum(light.ravel() + .0012 * (160 - place[:, 1]), .3)
    color = np.clip(leaf * light[:, None] + rng.normal(0, 6, (len(light), 3)), 0, 255)
    sizes = rng.uniform(1.8, 5.2, len(light))
    turns = rng.uniform(0, 180, len(light))
    for k in np.argsort(light + rng.normal(0, .18, len(light))):
        cv2.ellipse(crown, (place[k].tolist(), (2 * sizes[k], 1.2 * sizes[k]), turns[k]),
                    (*color[k].tolist(), 255), cv2.FILLED, cv2.LINE_AA)
    return Texture(crown)


def _fence(rng: np.random.Generator, kind: int) -> Texture:
    """Paint 12 m of fence: 0 planks, 1 iron bars, 2 white pickets; alpha 0 between the bars."""
    height, width = 64, 12 * 48
    fence = np.zeros((height, width, 4), np.uint8)
    if kind == 0:
        tone = rng.uniform(.75, 1.1, width // 9 + 1)[np.arange(width) // 9]
        tone = tone * np.where(np.arange(width) % 9 == 0, .5, 1)
        fence[..., :3] = np.clip(np.array((134, 104, 74)) * tone[None, :, None]
                                 * rng.normal(1, .05, (height, width, 1)), 0, 255)
        fence[..., 3] = 255
        fence[4:8, :, :3] //= 2
        return Texture(fence)
    color, step, bar = ((44, 50, 52), 7, 2) if kind == 1 else ((224, 222, 214), 9, 5)
    fence[..., :3] = color
    fence[:, np.arange(width) % step < bar, 3] = 255
    fence[:, np.arange(width) % 96 < 5, 3] = 255
    for row in (2, height - 12):
        fence[row:row + 5, :, 3] = 255
    return Texture(fence)


class Textures:
    """
    All pictures of one street.

    ``grain``, ``stains`` and ``cloud`` are tileable noise; ``facades`` are pairs of a house's
    front and its blank side; ``fences`` are planks, iron bars and white pickets.
    """

    def __init__(self, rng: np.random.Generator, sun_side: float) -> None:
        self.grain = _noise(rng, 512, 256, 128)
        self.stains = _noise(rng, 16, 32, 64, 128)
        self.cloud = _noise(rng, 8, 16, 32, 64, 128)
        self.facades = [_facade(rng, self.stains) for _ in range(FRONTS)]
        leaf = np.array(LEAVES[rng.choice(4, p=(.35, .3, .25, .1))]) * 1.25
        self.crowns = [_foliage(rng, leaf * rng.uniform(.85, 1.1), sun_side) for _ in range(4)]
        self.fences = [_fence(rng, kind) for kind in range(3)]
