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
"""The ground: road, markings, kerb, pavement and grass."""
from __future__ import annotations

import cv2
from featshare_core.data.street.common import Array, Image, PAVEMENT, ROAD, TREE
from featshare_core.data.street.layout import BLOCK, KERB, Layout
from featshare_core.data.street.painter import Painter
from featshare_core.data.street.textures import Textures
import numpy as np

ASPHALT, SLABS, KERBSTONE, GRASS = range(4)
COLORS = np.array(((118, 118, 120), (164, 158, 150), (184, 180, 174), (98, 122, 62)), np.float32)
LABELS = np.array((ROAD, PAVEMENT, PAVEMENT, TREE), np.uint8)


class _Ground:
    """
    Where the pixels' rays meet the ground.

    ``x`` and ``along`` are metres to the right of the street's middle line and ahead of the eye,
    ``beside`` is metres from the middle line; row 0 is the picture's row ``top``. ``below`` tells
    which pixels look down, ``raised`` which meet pavement or kerb.
    """

    def __init__(self, painter: Painter, layout: Layout) -> None:
        """Intersect rays with road and pavement."""
        focal, axes, eye = painter.focal, painter.axes.astype(np.float32), painter.eye
        middle = painter.centre.astype(np.float32)
        a = (np.arange(painter.width, dtype=np.float32) - middle[0])[None] / np.float32(focal)
        sides = -(axes[0, 1] * a[0, [0, -1]] + axes[2, 1]) / axes[1, 1] * focal
        horizon = np.floor((sides + painter.centre[1]).min())
        self.top = int(np.clip(horizon, 0, painter.height - 1))
        b = np.arange(self.top, painter.height, dtype=np.float32) - middle[1]
        b = b[:, None] / np.float32(focal)
        fall = -(axes[0, 1] * a + axes[1, 1] * b + axes[2, 1])
        self.below = fall > .0025
        reach = np.float32(eye[1] - KERB) / np.maximum(fall, .0025)
        right = (axes[0, 0] * a + axes[1, 0] * b + axes[2, 0]) * reach
        along = (axes[0, 2] * a + axes[1, 2] * b + axes[2, 2]) * reach

        def across(right: Array, along: Array) -> Array:
            x = right + np.float32(eye[0])
            for k, (size, rate) in enumerate(layout.curves):
                offset = (rate * eye[2] + layout.phases[k]) % (2 * np.pi)
                x = x - np.float32(size) * np.sin(np.float32(rate) * along + np.float32(offset))
            return x

        # A ray that meets the raised pavement's plane over the road goes on down to the road.
        raised = np.abs(across(right, along)) > layout.road
        deeper = np.where(raised, np.float32(1), np.float32(eye[1] / (eye[1] - KERB)))
        self.z, self.along = float(eye[2]), along * deeper
        self.x = across(right * deeper, self.along)
        self.beside = np.abs(self.x)
        self.kerb = np.where(raised, self.beside < layout.road + .16, self.beside > layout.road)
        self.raised = raised | self.kerb
        self._fine_x = self.along / np.float32(focal)
        self.fine_z = np.maximum(self.along * self.along / np.float32(focal * eye[1]),
                                 np.float32(1e-3))

    def lines(self, across: Array, half: float) -> Array:
        """Return how much of each pixel a line along the street covers, by its distance."""
        return _cover(across, half, self._fine_x)

    def bars(self, along: Array, half: float) -> Array:
        """Return how much of each pixel a bar across the street covers, by its distance."""
        return _cover(along, half, self.fine_z)

    def row(self, step: float, half: float) -> Array:
        """Return how much of each pixel bars cover that follow each other by ``step`` metres."""
        return self.bars(_every(step, self.along, self.z), half)

    def noise(self, texture: Array, scale: int) -> Array:
        """Return a tileable noise that lies on the ground, ``scale`` of its pixels a metre."""
        return cv2.remap(texture, self.x * scale,
                         self.along * scale + np.float32(self.z * scale % 512),
                         cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def _cover(offset: Array, half: float, fine: Array) -> Array:
    """Return how much of a pixel ``fine`` metres wide a stripe ``offset`` metres away covers."""
    return np.clip((half - np.abs(offset)) / fine + .5, 0, np.minimum(1, 2 * half / fine))


def _every(step: float, way: Array, start: float) -> Array:
    """Return the distance to the nearest of the lines that are ``step`` metres apart."""
    steps = way * np.float32(1 / step) + np.float32(start / step % 1)
    return (steps - np.floor(steps) - np.float32(.5)) * np.float32(step)


def paint_ground(painter: Painter, layout: Layout, textures: Textures) -> None:
    """Paint the ground and its labels, in the shadows that the painter has cast."""
    ground, light = _Ground(painter, layout), painter.light
    beside, along = ground.beside, ground.along
    kind = _kinds(ground, layout)
    grain, stains = ground.noise(textures.grain, 64), ground.noise(textures.stains, 14)
    near = np.minimum(1, .04 / ground.fine_z)
    tone = 1 + .15 * grain * near + .06 * stains * np.minimum(1, .4 / ground.fine_z)
    joints = np.maximum(ground.lines(_every(.6, beside, -layout.road), .008), ground.row(.8, .008))
    tone -= np.where(kind == SLABS, .35 * joints, 0)
    tone -= np.where(kind == KERBSTONE, .3 * ground.row(1.0, .01), 0)
    wear = .03 * np.cos(beside * np.float32(4 * np.pi / layout.lane))
    wear -= .12 * np.exp(-(beside - layout.road + .1) ** 2 * 9)
    tone += np.where(kind == ASPHALT, wear, 0)
    paint = _markings(ground, layout) * np.clip(.9 + .25 * stains + .1 * grain * near, 0, 1)

    top, width = ground.top, painter.width
    shade = cv2.blur(painter.shade, (width // 160 + 1,) * 2)[top:] * np.float32(1 / 255)
    contact = cv2.blur(painter.contact, (width // 100 + 1,) * 2)[top:] * np.float32(.6 / 255)
    lit = light.on_ground(ground.x, along, ground.z) * (1 - .85 * shade)
    tone *= (1 - contact) * (1 - .35 * np.exp(-np.maximum(layout.front - beside, 0) * 2.2))
    clear = light.through(along)
    color = np.empty((*kind.shape, 3), np.float32)
    for c in range(3):
        body = COLORS[:, c][kind]
        body += (232 - body) * paint
        body *= tone * (np.float32(light.ambient[c]) + np.float32(light.sunlight[c]) * lit)
        color[..., c] = body * clear + np.float32(light.haze[c]) * (1 - clear)
    np.copyto(painter.rgb[top:], np.clip(color, 0, 255).astype(np.uint8),
              where=ground.below[..., None])
    np.copyto(painter.labels[top:], LABELS[kind], where=ground.below)


def _kinds(ground: _Ground, layout: Layout) -> Image:
    """Return what each pixel of the ground is: asphalt, slabs, kerbstone or grass."""
    # What the ground beside the road is, every 0.1 m: pavement 0, side street 1, grass 2.
    table = np.zeros((2, 4400), np.uint8)
    for side, block in layout.blocks(ground.z):
        row = table[(side + 1) // 2]
        start = block.opening[1] - BLOCK - ground.z
        if block.garden:
            row[max(0, int(start * 10)):max(0, int((start + BLOCK) * 10))] = 2
        begin, end = (max(0, int((at - ground.z) * 10)) for at in block.opening[:2])
        row[begin:end] = 1 + block.opening[2]
    place = np.clip(ground.along * 10, 0, 4399).astype(np.int16)
    use = table[(ground.x > 0).view(np.uint8), place]
    street = ~ground.raised | (use == 1)
    kind = np.where(street, ASPHALT, SLABS).astype(np.uint8)
    kind[ground.kerb & ~street] = KERBSTONE
    kind[(use == 2) & (ground.beside > layout.front)] = GRASS
    return kind


def _markings(ground: _Ground, layout: Layout) -> Array:
    """Return how much of each pixel is white paint: lane lines, parking bays and zebras."""
    beside, dashes = ground.beside, ground.row(8, 1.5)
    paint = ground.lines(beside - layout.lanes * layout.lane, .06)
    if layout.lanes == 2:
        paint = np.maximum(paint, ground.lines(beside - .12, .05))
        paint = np.maximum(paint, ground.lines(beside - layout.lane, .06) * dashes)
    else:
        paint = np.maximum(paint, ground.lines(ground.x, .07) * dashes)
    if layout.parking:
        paint = np.maximum(paint, ground.lines(beside - layout.road + 2.25, .05)
                           * ground.row(2, .5))
    for zebra in layout.zebras(ground.z, blocks=4):
        band = np.float32(zebra - ground.z) - ground.along
        stripes = ground.lines(_every(1., ground.x, 0.), .25) * (beside < layout.road - .3)
        paint = np.maximum(paint * (1 - ground.bars(band, 4)), ground.bars(band, 1.7) * stripes)
    return paint * ~ground.raised
