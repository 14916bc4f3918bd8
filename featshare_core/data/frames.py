"""Frames of a video file or of a folder of images."""
from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from featshare_core.data.files import read_file

Frame = npt.NDArray[np.uint8]
IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff')


def frames_of(source: Path) -> Iterator[tuple[str, Frame]]:
    """
    Yield (name, HxWx3 uint8 RGB) of each frame of a video file, or of a folder's images by name.

    :raises ValueError: where there is nothing to read, or an image cannot be decoded completely.
    :raises OSError: where an image file cannot be read.
    """
    if source.is_dir():
        files = sorted(f for f in source.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise ValueError(f'{source} holds no image ({", ".join(IMAGE_SUFFIXES)})')
        for one, other in pairwise(files):
            if one.stem == other.stem:
                raise ValueError(f'{one.name} and {other.name} would have the same mask '
                                 f'{one.stem}.png: rename one of them')
        for file in files:
            image = read_file(file, cv2.IMREAD_COLOR)
            yield file.stem, cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
        return
    video = cv2.VideoCapture(str(source))
    index = 0
    while True:
        read, image = video.read()
        if not read:
            break
        yield f'{index:06d}', cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
        index += 1
    video.release()
    if not index:
        raise ValueError(f'{source} is no folder, and no video file that OpenCV can read')


def count_frames(source: Path) -> int:
    """Return how many frames ``frames_of`` yields, for a video as far as the container knows."""
    if source.is_dir():
        return sum(file.suffix.lower() in IMAGE_SUFFIXES for file in source.iterdir())
    video = cv2.VideoCapture(str(source))
    count = max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
    video.release()
    return count
