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
"""Cityscapes (Cordts et al., arXiv 1604.01685) in its published layout."""
from __future__ import annotations

from pathlib import Path

from featshare_core.data.source import Array, Labelled, read_ids, read_image, Source
from featshare_core.labels import CITYSCAPES, UNLABELLED
import numpy as np

LAYOUT = """expected layout:
    ROOT/gtFine/SPLIT/CITY/CITY_SEQUENCE_FRAME_gtFine_labelIds.png
    ROOT/leftImg8bit/SPLIT/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png or .jpg
    ROOT/leftImg8bit_sequence/SPLIT/CITY/..., the same names, for the 29 frames around each"""
TRAINED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""labelId of each trainId 0 to 18, as in the data set's own scripts (labels.py)."""
LABEL_IDS = 34
"""Number of labelIds, without the licence plate's -1."""
MASK_SUFFIX = '_gtFine_labelIds.png'


def train_id_table() -> np.ndarray:
    """
    Return 256 entries, int16: the class (trainId) of each labelId.

    ``UNLABELLED`` where there is none, as for 255, the licence plate's -1; -1 for an invalid id.
    """
    table = np.full(256, -1, np.int16)
    table[:LABEL_IDS] = UNLABELLED
    table[UNLABELLED] = UNLABELLED
    table[list(TRAINED)] = np.arange(len(TRAINED))
    return table


def cityscapes_source(root: Path, split: str, annotations: str = 'gtFine') -> Source:
    """
    Return a split; with ``leftImg8bit_sequence``, each sample has the frames before it.

    :param annotations: the folder of the masks, in gtFine's layout.
    :raises FileNotFoundError: naming the first file or folder missing, and the layout.
    """
    folder = root / annotations / split
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder} is missing; {LAYOUT}')
    masks = sorted(folder.glob(f'*/*{MASK_SUFFIX}'))
    if not masks:
        raise FileNotFoundError(f'{folder} holds no CITY/*{MASK_SUFFIX}; {LAYOUT}')
    images = {file.name.partition('_leftImg8bit')[0]: str(file)
              for kind in ('leftImg8bit', 'leftImg8bit_sequence')
              for file in sorted((root / kind / split).glob('*/*_leftImg8bit.*'))
              if file.suffix in ('.png', '.jpg')}
    samples = []
    for mask in masks:
        name = mask.name.removesuffix(MASK_SUFFIX)
        sequence, _, number = name.rpartition('_')
        frames: list[str] = []
        while (before := f'{sequence}_{int(number) - len(frames):06d}') in images:
            frames.append(images[before])
        if not frames:
            missing = root / 'leftImg8bit' / split / mask.parent.name / f'{name}_leftImg8bit.png'
            raise FileNotFoundError(f'{missing} is missing, though {mask} exists; {LAYOUT}')
        samples.append(Labelled(tuple(frames), str(mask)))
    table = train_id_table()

    def read_mask(mask: str, frame: str) -> Array:
        return read_ids(mask, frame, table)

    kind = split if annotations == 'gtFine' else f'{split}, {annotations}'
    return Source(f'cityscapes {kind}', CITYSCAPES, samples, read_image, read_mask)
