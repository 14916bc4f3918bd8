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
"""The passing-traffic set's clips: who passes whom, where, at what rate and in what light."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FIRST_SEED = 1_000_000
"""Smallest seed of a clip's street; training refuses this seed and every larger one."""


@dataclass(frozen=True)
class Actor:
    """
    Somebody who moves at constant velocity, or stands.

    :param x: metres across from the road's middle line, positive on the camera's side of it
    :param z: metres along from the camera at time 0
    :param velocity: m/s across (positive towards the camera's kerb) and along; a cyclist's has
        one component
    :param go: seconds at which the motion starts; a walker stands until then
    :param inward: see ``Thing``; None for what is usual: 0 for a parked car; 0 for what comes out
        from behind something
    """

    kind: Literal['cyclist', 'walker', 'car', 'lamp', 'sign', 'bollard']
    x: float
    z: float
    velocity: tuple[float, float] = (0., 0.)
    go: float = 0.
    inward: float | None = None

    def place(self, time: float) -> tuple[float, float]:
        """Return (across, along) in metres at ``time`` in seconds."""
        moved = max(0., time - self.go)
        return self.x + self.velocity[0] * moved, self.z + self.velocity[1] * moved


@dataclass(frozen=True)
class Clip:
    """
    A short drive past some actors.

    :param seed: of the street, ``FIRST_SEED`` or above
    :param fps: frames per second; ``frames`` their number
    :param start: metres along the street of the camera at time 0
    :param speed: of the camera in m/s
    :param across: metres from the road's middle line to the camera; None for its lane's middle
    :param turn: the camera's yaw is ``turn[0]`` radians times the sine of ``turn[1]`` radians a
        second
    :param dusk: after sunset, instead of the seed's weather
    :raises ValueError: where the seed may be one of training's
    """

    name: str
    seed: int
    fps: float
    frames: int
    start: float
    speed: float
    actors: tuple[Actor, ...]
    across: float | None = None
    turn: tuple[float, float] = (0., 0.)
    dusk: bool = False

    def __post_init__(self) -> None:
        """Refuse a street that training may have seen."""
        if self.seed < FIRST_SEED:
            raise ValueError(f'clip {self.name} has the seed {self.seed}; those below '
                             f'{FIRST_SEED} are for training')


def _group(z: float, way: int) -> tuple[Actor, ...]:
    """Return seven people who cross the road in a loose group, ``z`` metres along."""
    return tuple(Actor('walker', -way * (2.6 + .8 * k % 2.3), z + 1.1 * k % 2.9,
                       (way * (1.2 + .07 * (k % 3)), 0.)) for k in range(7))


CLIPS = {clip.name: clip for clip in (
    Clip('cyclist-overtaken', FIRST_SEED + 15, 15, 30, 20, 13, (
        Actor('cyclist', 3.6, 9.5, (0, 4)), Actor('cyclist', 3.7, 15, (0, 4)),
        Actor('cyclist', 3.6, 20.5, (0, 4)),
        Actor('car', -1.7, 48, (0, -10)))),
    Clip('cyclist-overtaken-dusk', FIRST_SEED + 27, 10, 24, 60, 12, (
        Actor('cyclist', 3.6, 10, (0, 4)), Actor('cyclist', 3.7, 15, (0, 4.4)),
        Actor('cyclist', 3.5, 19.5, (0, 4)), Actor('car', 1.6, 28, (0, 11))), dusk=True),
    Clip('cyclist-crossing', FIRST_SEED + 33, 15, 30, 24, 5, (
        Actor('cyclist', 5.5, 15, (-4.2, 0)), Actor('cyclist', -6.5, 22, (3.8, 0)),
        Actor('walker', 3.2, 26, (-1.4, 0)), Actor('car', -1.7, 46, (0, -9)))),
    Clip('cyclists-oncoming', FIRST_SEED + 39, 30, 40, 55, 8, (
        Actor('cyclist', -.35, 19, (0, -5)), Actor('cyclist', -3.4, 24, (0, -4.2)),
        Actor('cyclist', -.5, 32, (0, -5.5)), Actor('car', 1.7, 21, (0, 9)))),
    Clip('pedestrian-from-behind-car', FIRST_SEED + 26, 15, 30, 22, 7, (
        Actor('car', 5.4, 13.5), Actor('walker', 6.2, 16.6, (-1.7, 0), .35, 0),
        Actor('car', 5.4, 22), Actor('walker', -4.8, 27, (1.4, 0)))),
    Clip('pedestrian-from-behind-car-dusk', FIRST_SEED + 23, 15, 30, 12, 8, (
        Actor('car', 5.5, 15), Actor('walker', 6, 18.2, (-2.6, 0), .5, 0),
        Actor('car', 5.5, 23.5), Actor('walker', 6.1, 26.6, (-1.6, 0), .3, 0)), dusk=True),
    Clip('cars-oncoming', FIRST_SEED + 6, 10, 24, 18, 10, (
        Actor('car', -1.7, 24, (0, -11)), Actor('car', -1.8, 38, (0, -11)),
        Actor('car', -1.6, 55, (0, -11)), Actor('cyclist', 3.8, 22, (0, 4.6)))),
    Clip('cars-oncoming-dusk', FIRST_SEED + 38, 30, 40, 70, 9, (
        Actor('car', -1.6, 17, (0, -9)), Actor('car', -1.7, 30, (0, -9)),
        Actor('walker', 4.2, 24, (-1.5, 0))), dusk=True),
    Clip('car-cutting-across', FIRST_SEED + 15, 15, 30, 12, 6, (
        Actor('car', 9.5, 19.5, (-7, 0), 0, 0), Actor('car', -14, 21.5, (6, 0), .4, 0),
        Actor('cyclist', 3.7, 11, (0, 3.8)))),
    Clip('posts-while-turning', FIRST_SEED + 16, 10, 24, 20, 7, (
        Actor('sign', 4.7, 7), Actor('lamp', 4.8, 11.5), Actor('sign', 4.7, 16),
        Actor('bollard', 4.6, 20), Actor('lamp', 4.8, 25), Actor('walker', 5.2, 10, (0, -1.3)),
        Actor('walker', 5.5, 14, (0, 1.3)), Actor('walker', 5.1, 19, (0, -1.4)),
        Actor('car', -1.7, 30, (0, -8))), across=2.5, turn=(.28, 1.9)),
    Clip('pedestrians-far', FIRST_SEED + 14, 15, 30, 12, 3, (
        *_group(24, 1), *_group(34, -1), Actor('cyclist', 3.6, 12, (0, 4.2)))),
    Clip('car-overtakes', FIRST_SEED + 29, 15, 30, 30, 7, (
        Actor('car', -1.9, -3, (0, 14)), Actor('cyclist', 6.9, 12, (0, 4)),
        Actor('car', 5.2, 9, (0, 10)))),
)}
"""The set, by name."""
