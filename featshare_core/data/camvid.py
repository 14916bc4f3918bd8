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
"""CamVid (Brostow et al., 2009) in its usual eleven-class form: folders of frames and masks."""
from __future__ import annotations

from pathlib import Path

import cv2
from featshare_core.data.files import read_file
from featshare_core.data.masks import read_indices
from featshare_core.labels import CAMVID, UNLABELLED
import numpy as np
import numpy.typing as npt

VOID = 11
"""Class id of void in CamVid's masks."""


def camvid_files(root: str | Path, split: str) -> list[tuple[Path, Path]]:
    """
    Return the (frame, mask) files of ``root/SPLIT`` and ``root/SPLITannot``, in time order.

    :raises FileNotFoundError: naming the first folder or mask that is missing.
    """
    frames = Path(root) / split
    masks = Path(root) / f'{split}annot'
    for folder in (frames, masks):
        if not folder.is_dir():
            raise FileNotFoundError(
                f'{folder} is missing; CamVid is expected as {{train,val}} with frames and '
                f'{{train,val}}annot with masks of the same names')
    files = [(frame, masks / f'{frame.stem}.png') for frame in sorted(frames.iterdir())
             if frame.suffix in ('.jpg', '.png')]
    if not files:
        raise FileNotFoundError(f'{frames} holds no .jpg or .png frame')
    for _, mask in files:
        if not mask.is_file():
            raise FileNotFoundError(f'{mask} is missing: every frame needs its mask')
    return files


def read_camvid(frame: Path, mask: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """
    Return an HxWx3 RGB image and its HxW class ids, void as ``UNLABELLED``.

    :raises ValueError: where a file cannot be decoded, sizes differ or an id is out of range.
    """
    image, labels = read_file(frame, cv2.IMREAD_COLOR), read_indices(mask)
    if labels.shape != image.shape[:2]:
        raise ValueError(f'{mask} has shape {labels.shape}, its frame {image.shape[:2]}')
    wrong = labels[(labels > VOID) & (labels != UNLABELLED)]
    if wrong.size:
        raise ValueError(f'{mask} holds class id {wrong[0]}; CamVid has 0 to {len(CAMVID) - 1} '
                         f'and {VOID} for void')
    labels[labels == VOID] = UNLABELLED
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False), labels
