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
"""The passing-traffic set: rendered clips of things that pass, for evaluation alone."""
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from zlib import crc32

from featshare_core.data.source import Instance, Labelled, Source
from featshare_core.data.street.cars import car
from featshare_core.data.street.clips import Actor, Clip, CLIPS
from featshare_core.data.street.common import Array, Image
from featshare_core.data.street.fixtures import post
from featshare_core.data.street.layout import KERB
from featshare_core.data.street.light import DUSK
from featshare_core.data.street.painter import Painter, Thing
from featshare_core.data.street.people import cyclist, walker
from featshare_core.data.street.scene import fixed_things, strollers
from featshare_core.data.synthetic import RenderedStreet
from featshare_core.labels import CAMVID
import numpy as np
import numpy.typing as npt

SIZE = (480, 360)
"""Width and height of the set's frames in pixels."""
SAMPLED = 400
"""Largest number of an instance's pixels whose motion is computed."""

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Rendered:
    """
    A rendered frame.

    :param rgb: HxWx3 uint8 picture; ``labels`` HxW uint8 CamVid class ids
    :param ids: HxW int32, which car, person or post each pixel shows; 0 for none
    """

    rgb: Image
    labels: Image
    ids: Ids


class TrafficClip(RenderedStreet):
    """
    One of ``CLIPS``: frame and motion are decided by its name and the frame's index alone.

    :raises ValueError: where no clip has that name, or a size is below 16 pixels
    """

    def __init__(self, name: str, width: int = SIZE[0], height: int = SIZE[1]) -> None:
        if name not in CLIPS:
            raise ValueError(f'{name!r} is no clip of passing traffic; those are '
                             f'{", ".join(CLIPS)}')
        self.clip: Clip = CLIPS[name]
        super().__init__(width, height, self.clip.seed, self.clip.fps,
                         DUSK if self.clip.dusk else None)
        rng = np.random.default_rng((self.clip.seed, 6, crc32(name.encode())))
        self._codes = [int(code) for code in rng.integers(1, 1 << 30, len(self.clip.actors))]

    def render(self, index: int) -> Rendered:
        """
        Render frame ``index`` with its instance ids.

        :raises ValueError: where the clip has no such frame
        """
        self._check(index)
        painter = self._camera(index / self.fps)
        ids = np.zeros(painter.labels.shape, np.int32)

        def draw(thing: Thing) -> None:
            # A thing paints its labels on an empty map, which then shows what is the thing's.
            behind, painter.labels = painter.labels, np.full_like(painter.labels, 255)
            thing.draw(painter)
            drawn = painter.labels != 255
            np.copyto(behind, painter.labels, where=drawn)
            ids[drawn] = thing.code
            painter.labels = behind

        self._paint(painter, index / self.fps, draw)
        return Rendered(self._expose(painter.rgb, index), painter.labels, ids)

    def frame(self, index: int) -> tuple[Image, Image]:
        """Return the picture and the labels of ``render``."""
        rendered = self.render(index)
        return rendered.rgb, rendered.labels

    def instances(self, index: int, lag: int) -> tuple[Ids, dict[int, Instance]]:
        """
        Return the instance ids of frame ``index`` (HxW int32, 0 for none), and each instance.

        Motion is geometry: where the camera of frame ``index - lag`` saw the points of the
        thing's box that the thing's pixels show now. The swing of limbs is left out.

        :raises ValueError: where the clip has no frame ``index`` or ``index - lag``
        """
        self._check(index - lag)
        rendered = self.render(index)
        now, before = (self._camera(k / self.fps) for k in (index, index - lag))
        bodies, earlier = ({
            thing.code: painter.world(thing.body) for thing in self._things(
                float(painter.eye[2]), k / self.fps) if thing.code and thing.body is not None}
            for painter, k in ((now, index), (before, index - lag)))
        found = {}
        for code in np.unique(rendered.ids[rendered.ids > 0]).tolist():
            mine = rendered.ids == code
            rows, columns = np.nonzero(mine)
            step = len(rows) // SAMPLED + 1
            pixels = np.stack((columns, rows), axis=1)[::step].astype(np.float64)
            motion = None
            if code in earlier:
                motion = _motion(now, before, pixels, bodies[code], earlier[code])
            label = int(np.bincount(rendered.labels[mine]).argmax())
            found[code] = Instance(label, len(rows), motion)
        return rendered.ids, found

    def _check(self, index: int) -> None:
        """Refuse an index that the clip does not have."""
        if not 0 <= index < self.clip.frames:
            raise ValueError(f'{self.clip.name} has the frames 0 to {self.clip.frames - 1}, '
                             f'not {index}')

    def _drive(self, time: float) -> tuple[float, float, float]:
        """Return the camera's metres along and across, and its turn from the lane in radians."""
        clip, street = self.clip, self._layout
        across = street.lane / 2 if clip.across is None else clip.across
        turn = clip.turn[0] * np.sin(clip.turn[1] * time)
        return clip.start + clip.speed * time, street.traffic * across, street.traffic * turn

    def _things(self, z: float, time: float) -> list[Thing]:
        """Return what stands, who walks on the pavements, and the clip's actors."""
        layout = self._layout
        actors = [self._act(actor, code, time)
                  for actor, code in zip(self.clip.actors, self._codes)]
        return [*fixed_things(layout, self._textures, z, time), *strollers(layout, z, time),
                *(thing for thing in actors if thing.depth > z - 6)]

    def _act(self, actor: Actor, code: int, time: float) -> Thing:
        """Return an actor as a thing in the street."""
        side = self._layout.traffic
        x, z = actor.place(time)
        x, z = side * x, z + self.clip.start
        velocity = np.array((side * actor.velocity[0], actor.velocity[1]))
        speed = float(np.linalg.norm(velocity))
        way = (velocity / speed).tolist() if speed else (0., 1.)
        if actor.kind == 'car':
            usual = 6. if speed else 0.
            return car(x, z, way, code, usual if actor.inward is None else actor.inward)
        if actor.kind == 'cyclist':
            return cyclist(x, z, (round(way[0]), round(way[1])), code, time)
        if actor.kind == 'walker':
            floor = KERB if abs(x) > self._layout.road else 0.
            thing = walker(x, z, floor, (round(way[0]), round(way[1])), code, time,
                           float(time >= actor.go))
            return thing if actor.inward is None else replace(thing, inward=actor.inward)
        return post(actor.kind, x, z, side, True, code)


def _motion(now: Painter, before: Painter, pixels: Array, body: Array,
            earlier: Array) -> float | None:
    """
    Return the median length in pixels of the motion of a thing's Nx2 ``pixels``.

    :param body, earlier: the corners of the thing's box now and before, Nx3 in the world
    :returns: None where the thing was beside or behind the camera before
    """
    low, high = body.min(axis=0), body.max(axis=0)
    rays = np.column_stack(((pixels - now.centre) / now.focal, np.ones(len(pixels)))) @ now.axes
    rays = np.where(np.abs(rays) < 1e-9, 1e-9, rays)
    # Entry into the box by the slab method; a ray that misses meets the middle's distance.
    ends = np.stack(((low - now.eye) / rays, (high - now.eye) / rays))
    enter, leave = ends.min(axis=0).max(axis=1), ends.max(axis=0).min(axis=1)
    middle = float(now.axes[2] @ ((low + high) / 2 - now.eye))
    reach = np.where((enter < leave) & (enter > 0), enter, middle)
    points = now.eye + rays * reach[:, None] + (earlier.min(axis=0) - low)
    camera = (points - before.eye) @ before.axes.T
    if camera[:, 2].min() < .6:
        return None
    came_from = camera[:, :2] / camera[:, 2:] * before.focal + before.centre
    return float(np.median(np.linalg.norm(pixels - came_from, axis=1)))


def traffic_source(size: tuple[int, int] = SIZE) -> Source:
    """
    Return all clips of the passing-traffic set; a frame is named ``CLIP/INDEX``.

    :param size: (width, height) of the frames in pixels
    """
    samples = []
    for clip in CLIPS.values():
        names = [f'{clip.name}/{index}' for index in range(clip.frames)]
        samples += [Labelled(tuple(reversed(names[:last + 1])), names[last])
                    for last in range(clip.frames)]

    @lru_cache(maxsize=1)
    def opened(name: str) -> TrafficClip:
        return TrafficClip(name, *size)

    # A frame's picture and mask are asked for at different times, some frames apart.
    @lru_cache(maxsize=32)
    def render(name: str) -> tuple[Image, Image]:
        clip, _, index = name.partition('/')
        return opened(clip).frame(int(index))

    def read_image(name: str) -> Image:
        return render(name)[0]

    def read_mask(mask: str, frame: str) -> Image:
        return render(mask)[1]

    def read_instances(name: str, lag: int) -> tuple[Ids, dict[int, Instance]]:
        clip, _, index = name.partition('/')
        return opened(clip).instances(int(index), lag)

    return Source('traffic', CAMVID, samples, read_image, read_mask, read_instances)
