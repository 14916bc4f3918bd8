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
"""The rendered street as a data set: short drives, every frame of them exactly labelled."""
from __future__ import annotations

from functools import lru_cache

from featshare_core.data.source import Array, Labelled, Source
from featshare_core.data.street.clips import FIRST_SEED
from featshare_core.data.synthetic import RenderedStreet
from featshare_core.labels import CAMVID

START = 50
"""Distance between the starts of two clips of a street, in frames at 15 Hz."""


def rendered_source(seeds: tuple[int, int], clips: int, length: int,
                    size: tuple[int, int]) -> Source:
    """
    Return ``clips`` clips of ``length`` frames at 15 Hz of each street.

    A clip's first frame, which has no frame before it, is a sample only where ``length`` is 1.

    :param seeds: seeds of the first and of the last street.
    :param size: (width, height) of the frames in pixels.
    :raises ValueError: where there is no frame, or a seed is the passing-traffic set's, which
        nothing may learn from.
    """
    if seeds[1] >= FIRST_SEED:
        raise ValueError(f'seeds {seeds[0]} to {seeds[1]}: those from {FIRST_SEED} on are the '
                         f"passing-traffic set's, which is for evaluation alone")
    samples = []
    for seed in range(seeds[0], seeds[1] + 1):
        for clip in range(clips):
            start = clip * max(START, length)
            names = [f'{seed}/{index}' for index in range(start, start + length)]
            samples += [Labelled(tuple(reversed(names[:last + 1])), names[last])
                        for last in range(min(1, length - 1), length)]
    if not samples:
        raise ValueError(f'a street of seeds {seeds[0]} to {seeds[1]}, {clips} clips of {length} '
                         f'frames is empty')
    width, height = size

    # Callers read a frame's picture and mask together, and one street after another.
    @lru_cache(maxsize=1)
    def street(seed: int) -> RenderedStreet:
        return RenderedStreet(width, height, seed=seed, fps=15)

    @lru_cache(maxsize=1)
    def render(name: str) -> tuple[Array, Array]:
        seed, index = name.split('/')
        return street(int(seed)).frame(int(index))

    def read_image(name: str) -> Array:
        return render(name)[0]

    def read_mask(mask: str, frame: str) -> Array:
        return render(mask)[1]

    return Source('street', CAMVID, samples, read_image, read_mask)
