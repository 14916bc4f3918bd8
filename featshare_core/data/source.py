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
"""Labelled frames with the frames before them, whatever data set they come from."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
import re

import cv2
from featshare_core.data.camvid import camvid_files, read_camvid
from featshare_core.data.files import read_file
from featshare_core.data.masks import read_indices
from featshare_core.labels import CAMVID, LabelSet, UNLABELLED
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Labelled:
    """
    A labelled frame: ``frames[d]`` names the frame ``d`` before it, ``frames[0]`` itself.

    ``mask`` names its mask. Only a still has no frame before it.
    """

    frames: tuple[str, ...]
    mask: str


@dataclass(frozen=True)
class Instance:
    """
    One thing in a frame: a car, a person with or without a bicycle, a post.

    :param label: class id of most of its pixels; ``pixels`` their number, all classes together
    :param motion: median length in pixels of its pixels' motion since an earlier frame; None
        where it was not before the camera then
    """

    label: int
    pixels: int
    motion: float | None


@dataclass(frozen=True)
class Source:
    """
    A data set that training or validation draws from.

    :param name: for messages, with the split where there are several.
    :param read_image: from a frame's name to HxWx3 uint8 RGB.
    :param read_mask: from (mask's name, frame's name) to HxW class ids or ``UNLABELLED``; it
        raises ValueError, naming the file, for another size, an unknown id, a damaged file.
    :param read_instances: from (frame's name, lag in frames) to HxW int32 instance ids, 0 for
        none, and each id's instance with its motion over the lag; None where none are known.
    """

    name: str
    labels: LabelSet
    samples: Sequence[Labelled]
    read_image: Callable[[str], Array]
    read_mask: Callable[[str, str], Array]
    read_instances: Callable[[str, int], tuple[npt.NDArray[np.int32], dict[int, Instance]]] \
        | None = None


# The check of a mask's size reads the frame that was read just before.
@lru_cache(maxsize=2)
def read_image(path: str) -> Array:
    """
    Return an image file as HxWx3 uint8 RGB, in the orientation in which it is stored.

    :raises ValueError, OSError: where it cannot be read completely.
    """
    image = read_file(path, cv2.IMREAD_COLOR)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def read_ids(path: str, frame: str, table: npt.NDArray[np.int16]) -> Array:
    """
    Return a mask file's ids, translated to classes; see ``masks.read_indices``.

    :param frame: its frame's file, whose size it must have.
    :param table: 256 entries: an id's class, ``UNLABELLED``, or -1 for an invalid id.
    :returns: HxW uint8 class ids or ``UNLABELLED``.
    :raises ValueError: naming the file, for another size, an invalid id, or a damaged file.
    """
    ids = read_indices(path)
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise ValueError(f'{path} is no mask of one byte a pixel: shape {ids.shape}, {ids.dtype}; '
                         f'masks hold class ids, not colours: palette or grey PNGs')
    size = read_image(frame).shape[:2]
    if ids.shape != size:
        raise ValueError(f'{path} has {ids.shape[1]} x {ids.shape[0]} pixels, its frame {frame} '
                         f'{size[1]} x {size[0]}')
    classes = table[ids]
    if classes.min() < 0:
        known = np.flatnonzero(table >= 0)
        raise ValueError(f'{path} holds the id {ids[classes < 0][0]}; known are '
                         f'{known.min()} to {known[known < 255].max()} and 255 for no class')
    return classes.astype(np.uint8)


def identity_table(classes: int) -> npt.NDArray[np.int16]:
    """Return the table of masks that hold class ids: 0 to ``classes - 1``, 255 for none."""
    table = np.full(256, -1, np.int16)
    table[:classes] = np.arange(classes)
    table[UNLABELLED] = UNLABELLED
    return table


def camvid_source(root: Path, split: str) -> Source:
    """
    Return a split of CamVid.

    Frames whose numbers differ by at most two (val, at 15 Hz of 30) are neighbours; train's, a
    second apart, are stills.
    """
    files = camvid_files(root, split)
    masks = {str(frame): mask for frame, mask in files}
    samples: list[Labelled] = []
    before: tuple[str, ...] = ()
    last: tuple[str, int] = ('', 0)
    for frame, mask in files:
        match = re.fullmatch(r'(.*?)(\d+)', frame.stem)
        clip, number = (match[1], int(match[2])) if match else (frame.stem, 0)
        if clip != last[0] or not 0 < number - last[1] <= 2:
            before = ()
        before = (str(frame), *before)
        samples.append(Labelled(before[:32], str(mask)))
        last = clip, number

    def read_mask(mask: str, frame: str) -> Array:
        return read_camvid(Path(frame), masks[frame])[1]

    return Source(f'camvid {split}', CAMVID, samples, read_image, read_mask)
