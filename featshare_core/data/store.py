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
"""Frames and masks at one size, decoded once into memory where they fit."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
import multiprocessing
import os

import cv2
from featshare_core.data.rendered import rendered_source
from featshare_core.data.source import Array, Labelled, Source
import numpy as np

Progress = Callable[[Sequence[str]], Iterable[str]]
MEMORY_SHARE = 0.5
"""Largest share of the machine's memory that frames and masks take."""
POOLED = 200
"""Smallest number of frames that several processes render."""


class FrameStore:
    """
    Reads a source's frames and masks, resized, from memory or from its files.

    :param size: (width, height) in pixels that all are resized to.
    """

    def __init__(self, source: Source, size: tuple[int, int]) -> None:
        self.source, self.size = source, size
        self._images: dict[str, Array] = {}
        self._masks: dict[str, Array] = {}
        self.in_memory = False

    def load(self, lags: int, processes: int = 1, progress: Progress = iter) -> None:
        """
        Decode all frames up to ``lags`` before a labelled one, if they fit into memory.

        Those that do not fit are read again for each sample.

        :param processes: number of processes on this machine that do the same.
        :param progress: wraps the list of frames, for a progress bar.
        :raises ValueError: naming the first file that is wrong.
        """
        frames = frames_before(self.source.samples, lags)
        bytes_a_frame = 3 * self.size[0] * self.size[1]
        memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') * MEMORY_SHARE
        if (len(frames) + len(self.source.samples)) * bytes_a_frame > memory / processes:
            return
        labelled = {sample.frames[0]: sample for sample in self.source.samples}
        for name in progress(frames):
            self._images[name] = self._read_image(name)
            if name in labelled:  # together, because a street renders both at once
                self._masks[labelled[name].mask] = self._read_mask(labelled[name])
        self.in_memory = True

    def image(self, name: str) -> Array:
        """Return a frame, HxWx3 uint8 RGB."""
        image = self._images.get(name)
        return self._read_image(name) if image is None else image

    def mask(self, sample: Labelled) -> Array:
        """Return a sample's mask, HxW class ids or ``UNLABELLED``."""
        mask = self._masks.get(sample.mask)
        return self._read_mask(sample) if mask is None else mask

    def _read_image(self, name: str) -> Array:
        image = self.source.read_image(name)
        if image.shape[1::-1] == self.size:
            return image
        shrinks = image.shape[1] > self.size[0]
        return np.asarray(cv2.resize(
            image, self.size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR),
            np.uint8)

    def _read_mask(self, sample: Labelled) -> Array:
        mask = self.source.read_mask(sample.mask, sample.frames[0])
        if mask.shape[1::-1] == self.size:
            return mask
        return np.asarray(cv2.resize(mask, self.size, interpolation=cv2.INTER_NEAREST), np.uint8)


def frames_before(samples: Sequence[Labelled], lags: int) -> list[str]:
    """Return the names of the labelled frames and of those up to ``lags`` before, once each."""
    return list(dict.fromkeys(name for s in samples for name in s.frames[:lags + 1]))


def street_store(seeds: tuple[int, int], clips: int, length: int,
                 size: tuple[int, int]) -> FrameStore:
    """Return a store with the rendered street in memory; see ``rendered_source``."""
    store = FrameStore(rendered_source(seeds, clips, length, size), size)
    streets = range(seeds[0], seeds[1] + 1)
    if len(streets) * clips * length < POOLED or len(streets) == 1:
        store.load(length)
        return store
    # Spawned, not forked: threads of a numerical library may be running.
    context = multiprocessing.get_context('spawn')
    jobs = [((seed, seed), clips, length, size) for seed in streets]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        for images, masks in pool.map(_render, jobs):
            store._images.update(images)
            store._masks.update(masks)
    store.in_memory = True
    return store


def _render(job: tuple[tuple[int, int], int, int, tuple[int, int]],
            ) -> tuple[dict[str, Array], dict[str, Array]]:
    """Render one street in a process of its own."""
    cv2.setNumThreads(1)
    seeds, clips, length, size = job
    store = FrameStore(rendered_source(seeds, clips, length, size), size)
    store.load(length)
    return store._images, store._masks
