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
"""One frame being painted: the camera, shapes with their labels, and what is to be painted."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
from featshare_core.data.street.common import Array, CIRCLE, Image, SKY
from featshare_core.data.street.light import Light
from featshare_core.data.street.textures import Texture
import numpy as np
import numpy.typing as npt


def fixed(pixels: Array) -> npt.NDArray[np.int32]:
    """Return pixels in sixteenths, as OpenCV's drawing functions take them with ``shift`` 4."""
    return np.rint(pixels * 16).astype(np.int32)


def box(x: float, z: float, half_width: float, half_length: float, height: float) -> Array:
    """Return the eight corners of a box whose foot's centre is (x, 0, z)."""
    return np.array([(x + i * half_width, y, z + k * half_length)
                     for y in (0., height) for i in (-1, 1) for k in (-1, 1)])


def turned(points: Array, way: tuple[float, float]) -> Array:
    """
    Return Nx3 points (or one), turned about the vertical so that +z becomes ``way``.

    :param way: a unit vector (across, along); ``(-across, along)`` turns back
    """
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    return np.stack((x * way[1] + z * way[0], y, z * way[1] - x * way[0]), axis=-1)


class Painter:
    """One frame being painted: a pinhole camera in the street, the picture and its labels."""

    def __init__(self, size: tuple[int, int], eye: Array, angles: tuple[float, float, float],
                 bend: tuple[Array, Array], light: Light) -> None:
        """Look from ``eye`` by yaw, pitch and roll at a street that bends as the table says."""
        self.width, self.height = size
        self.focal = 0.8 * self.width
        self.centre = np.array((self.width - 1, self.height - 1)) / 2
        self.rgb: Image = np.zeros((self.height, self.width, 3), np.uint8)
        self.labels: Image = np.full((self.height, self.width), SKY, np.uint8)
        self.shade, self.contact = np.zeros((2, self.height, self.width), np.uint8)
        self.eye, self.light, self._bend = eye, light, bend
        yaw, pitch, roll = angles
        forward = np.array((np.sin(yaw) * np.cos(pitch), np.sin(pitch),
                            np.cos(yaw) * np.cos(pitch)))
        level = np.array((np.cos(yaw), 0, -np.sin(yaw)))
        below = np.cross(level, forward)
        right = np.cos(roll) * level + np.sin(roll) * below
        self.axes = np.stack((right, np.cos(roll) * below - np.sin(roll) * level, forward))

    def bend(self, along: Array) -> Array:
        """Return how far the street lies to the right of a straight line, ``along`` metres on."""
        return np.interp(along, *self._bend)

    def world(self, points: Array) -> Array:
        """Bend Nx3 street coordinates (across, up, along, in metres) along the road's curve."""
        bent = np.array(points, np.float64)
        bent[:, 0] += self.bend(bent[:, 2])
        return bent

    def project(self, points: Array) -> tuple[Array, Array]:
        """Return the pixels (Nx2) and the depths (N) of Nx3 street coordinates."""
        camera = (self.world(points) - self.eye) @ self.axes.T
        depth = np.maximum(camera[:, 2], 1e-3)
        return camera[:, :2] / depth[:, None] * self.focal + self.centre, camera[:, 2]

    def seen(self, pixels: Array, depth: Array) -> bool:
        """Tell whether something at these pixels is before the camera and in the picture."""
        low, high = pixels.min(axis=0), pixels.max(axis=0)
        return bool(depth.min() > .6 and high[0] > 0 and high[1] > 0
                    and low[0] < self.width and low[1] < self.height)

    def faces(self, across: Array, along: Array) -> npt.NDArray[np.bool_]:
        """Tell whether the camera looks towards some places, with some metres to spare."""
        x, z = across + self.bend(along) - self.eye[0], along - self.eye[2]
        depth = self.axes[2, 0] * x + self.axes[2, 2] * z
        return np.abs(self.axes[0, 0] * x + self.axes[0, 2] * z) < .68 * depth + 6

    def hazy(self, color: Array, depth: Array) -> Array:
        """Return a colour (or Nx3 of them) as seen through the air before its points' depths."""
        clear = self._clear(depth)
        return np.minimum(color, 255) * clear + self.light.haze * (1 - clear)

    def _clear(self, depth: Array) -> float:
        return float(self.light.through(np.maximum(depth.sum() / len(depth), 0.)))

    def fill(self, pixels: Array, color: Array, label: int) -> None:
        """Fill a convex polygon, smooth in the picture and sharp in the labels."""
        shape = fixed(pixels)
        cv2.fillConvexPoly(self.rgb, shape, color.tolist(), cv2.LINE_AA, 4)
        cv2.fillConvexPoly(self.labels, shape, label, cv2.LINE_8, 4)

    def polygon(self, corners: Array, color: Array, label: int) -> None:
        """Fill a convex polygon of Nx3 street coordinates, whichever way it turns."""
        pixels, depth = self.project(corners)
        if self.seen(pixels, depth):
            self.fill(pixels, self.hazy(color, depth), label)

    def tubes(self, points: Array, tubes: Sequence[tuple[Sequence[int], Array]],
              label: int, foot: float = 1.) -> None:
        """
        Fill the hulls of discs, Nx4 (across, up, along, radius): limbs, posts and trunks.

        :param tubes: the discs of each, and its colour
        :param foot: height of a disc by its width: 1 for a ball, less for a post's flat end
        """
        pixels, depth = self.project(points[:, :3])
        if not self.seen(pixels, depth):
            return
        clear = self._clear(depth)
        radii = (points[:, 3] * self.focal / depth)[:, None, None]
        discs = fixed(pixels[:, None] + CIRCLE * (1, foot) * radii)
        gleam = fixed(pixels[:, None] + (CIRCLE * .45 - (.3, .2)) * radii)
        for joints, color in tubes:
            chosen = list(joints)
            hull = cv2.convexHull(discs[chosen].reshape(-1, 1, 2))
            seen = (color * clear + self.light.haze * (1 - clear)).tolist()
            cv2.fillConvexPoly(self.rgb, hull, seen, cv2.LINE_AA, 4)
            cv2.fillConvexPoly(self.labels, hull, label, cv2.LINE_8, 4)
            if radii[chosen[0], 0, 0] > 2.5:
                hull = cv2.convexHull(gleam[chosen].reshape(-1, 1, 2))
                lit = [min(c * 1.13 + 6, 255) for c in seen]
                cv2.fillConvexPoly(self.rgb, hull, lit, cv2.LINE_AA, 4)

    def panel(self, low: Array, high: Array, top: float, texture: Texture,
              span: tuple[float, float, float, float], light: Array, label: int,
              whole: bool = True) -> None:
        """
        Paint an upright rectangle from a texture.

        :param low, high: its two lower corners (across, up, along); ``top`` its upper height
        :param span: the texture's part that it shows: left, right, top, bottom, 0 to 1
        :param whole: label the whole rectangle; else what the texture's alpha covers
        """
        corners = np.array((low, high, (high[0], top, high[2]), (low[0], top, low[2])))
        a, b = self.world(corners[:2])
        near = self.eye[2] + 1.5
        if b[2] - a[2] > 1:
            if b[2] < near + .1:
                return
            part = max(0., (near - a[2]) / (b[2] - a[2]))
            corners[[0, 3], 2] += part * (corners[1, 2] - corners[0, 2])
            # The straight wall, not the bent street, decides where its cut end stands.
            cut = a + part * (b - a)
            corners[[0, 3], 0] = cut[0] - self.bend(corners[:1, 2])[0]
        pixels, depth = self.project(corners)
        if not self.seen(pixels, depth):
            return
        x0, y0 = np.maximum(np.floor(pixels.min(axis=0)).astype(int) - 1, 0)
        x1, y1 = np.minimum(np.ceil(pixels.max(axis=0)).astype(int) + 2,
                            (self.width, self.height))
        extent = np.ptp(pixels, axis=0)
        if whole and extent.min() < 3:
            self.fill(pixels, self.hazy(texture.mean * light, depth), label)
            return
        wide, tall = texture.width * (span[1] - span[0]), texture.height * (span[3] - span[2])
        levels = [int(np.clip(np.log2(max(pair[0] / max(pair[1], 1), 1)) + .3, 0, 5))
                  for pair in zip((wide, tall), extent)]
        picture = texture.level(*levels)
        rows, columns = picture.shape[:2]
        # Texture pixel (s, t) lies at start + s * across + t * down in the world.
        across = (b - a) / (columns * (span[1] - span[0]))
        down = np.array((0, low[1] - top, 0)) / (rows * (span[3] - span[2]))
        start = a + (0, top - low[1], 0) - across * (columns * span[0] - .5) \
            - down * (rows * span[2] - .5)
        matrix = self.axes @ np.stack((across, down, start - self.eye), axis=1)
        matrix[:2] = matrix[:2] * self.focal + np.outer(self.centre - (x0, y0), matrix[2])
        size = int(x1 - x0), int(y1 - y0)
        warped = cv2.warpPerspective(picture, matrix, size, flags=cv2.INTER_LINEAR,
                                     borderMode=cv2.BORDER_REPLICATE)
        shape = fixed(pixels - (x0, y0))
        cover = np.zeros((size[1], size[0]), np.uint8)
        cv2.fillConvexPoly(cover, shape, 255, cv2.LINE_AA, 4)
        labels = self.labels[y0:y1, x0:x1]
        if whole:
            cv2.fillConvexPoly(labels, shape, label, cv2.LINE_8, 4)
        if picture.shape[2] == 4:
            cover = cv2.multiply(cover, np.ascontiguousarray(warped[..., 3]), scale=1 / 255)
        if not whole:
            labels[cover > 127] = label
        clear = self._clear(depth)
        change = np.zeros((3, picture.shape[2] + 1))
        change[:, :3] = np.diag(light * clear)
        change[:, -1] = self.light.haze * (1 - clear)
        warped = cv2.transform(warped, change)
        weight = cover.astype(np.float32)
        target = self.rgb[y0:y1, x0:x1]
        target[:] = cv2.blendLinear(warped, target, weight, 255 - weight)

    def cast(self, points: Array) -> None:
        """Mark the shadow of a body's Nx3 points: on the ground beneath and away from the sun."""
        sun = self.light.sun
        ground = points - sun * (points[:, 1:2] / sun[1])
        pixels, depth = self.project(np.vstack((ground, points * (1, 0, 1))))
        count = len(points)
        for mask, part in ((self.shade, slice(0, count)), (self.contact, slice(count, None))):
            if self.seen(pixels[part], depth[part]):
                hull = cv2.convexHull(pixels[part].astype(np.float32))
                cv2.fillConvexPoly(mask, fixed(hull), 255, cv2.LINE_8, 4)


@dataclass(frozen=True)
class Thing:
    """
    Something to paint, far to near.

    :param depth: metres along the street; decides the order
    :param across: with depth, where to look to see it; None: always look
    :param body: points that cast a shadow
    :param inward: metres by which it is painted as if nearer: what is nearer and farther to the
        side hides nothing, so what moves on the road may come after what stands beside it
    :param code: hash of a car, a person or a post, the same in every frame; 0 for the rest
    """

    depth: float
    draw: Callable[[Painter], None]
    across: float | None = None
    body: Array | None = None
    inward: float = 0.
    code: int = 0
