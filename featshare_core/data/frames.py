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
"""Frames of a video file or of a folder of images."""
from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import cv2
from featshare_core.data.files import natural, read_file
from featshare_core.data.matroska import is_intact
import numpy as np
import numpy.typing as npt

Frame = npt.NDArray[np.uint8]
IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff')
RECORDING_SUFFIXES = ('.mcap', '.db3', '.bag')
GAP = 5
"""Shortest gap between frames that counts as missing frames, in mean frame intervals."""


class IncompleteVideoError(ValueError):
    """A video that ends before the number of frames that its container counts."""


def frames_of(source: Path, start: int = 0) -> Iterator[tuple[str, Frame]]:
    """
    Yield (name, HxWx3 uint8 RGB) of each frame of a video file, or of a folder's images by name.

    Numbers in the names of images count by their value: ``frame2`` comes before ``frame10``.
    Images are in the orientation in which they are stored; see ``files.read_file``.

    :param start: number of frames to skip.
    :raises ValueError: where there is nothing to read, or an image cannot be decoded completely.
    :raises IncompleteVideoError: after the last frame, where the container counts more.
    :raises FileNotFoundError: where the source does not exist.
    :raises OSError: where an image file cannot be read.
    """
    if not source.exists():
        hint = ': streams are not read; record a file, or run the node' \
            if ':/' in str(source) else ''
        raise FileNotFoundError(f'{source} does not exist{hint}')
    if source.is_dir():
        for file in images_of(source)[start:]:
            image = read_file(file, cv2.IMREAD_COLOR)
            yield file.stem, cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
        return
    if source.suffix.lower() in RECORDING_SUFFIXES:
        raise ValueError(f'{source} is a recording, not a video: segment_bag and evaluate_bag '
                         f'read it')
    video = cv2.VideoCapture(str(source))
    try:
        index, times = 0, [0.0]  # seconds
        while video.grab():
            times.append(video.get(cv2.CAP_PROP_POS_MSEC) / 1e3)
            if index >= start:
                retrieved, image = video.retrieve()
                if not retrieved:
                    break
                yield f'{index:06d}', cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(
                    np.uint8, copy=False)
            index += 1
    finally:
        video.release()
    if not index:
        raise ValueError(f'{source} cannot be read as a video: it is damaged or cut off, or in a '
                         f'format that OpenCV was built without')
    counted = count_frames(source)
    if index < counted - 1 and not _is_whole(source, times):
        raise IncompleteVideoError(f'{source}: {index} of {counted} frames could be read: the '
                                   f'video is damaged or cut off')


def _is_whole(source: Path, times: Sequence[float]) -> bool:
    """
    Return whether a video was read to its end although its container counts more frames.

    An edit list of mp4 may hide the first frames. Matroska has no count: OpenCV multiplies the
    duration by a rate, which may vary. If the times of all encoded frames are known, a long gap
    between two decoded frames is damage only if encoded frames lie in it; otherwise every long gap
    is.

    :param times: 0, and the times of all decoded frames, in seconds.
    """
    last, counted = times[-1], count_frames(source)
    interval = max(1 / (frame_rate(source) or 25.0), last / max(1, len(times) - 2))
    packets = _packets(source)
    end = packets[-1] if packets else 0.0
    gaps = [(start + interval / 2, stop - interval / 2) for start, stop in pairwise(times)
            if stop - start >= GAP * interval]
    if len(packets) >= counted - 1 or is_intact(source):
        gaps = [(start, stop) for start, stop in gaps
                if bisect(packets, start) < bisect(packets, stop)]
    else:
        end = max(end, counted / (frame_rate(source) or 25.0) - interval)
    return end - last < 2 * interval and not gaps


def _packets(source: Path) -> list[float]:
    """Return the times of the encoded frames in a video file, in seconds, in their order."""
    video = cv2.VideoCapture(str(source))
    times = []
    if video.set(cv2.CAP_PROP_FORMAT, -1):  # not decoded
        while video.grab():
            times.append(video.get(cv2.CAP_PROP_POS_MSEC) / 1e3)
    video.release()
    return sorted(times)


def images_of(folder: Path) -> list[Path]:
    """
    Return a folder's images in the order of their names.

    :raises ValueError: where there is none, or two would have the same mask.
    """
    # Hidden files such as macOS's ._NAME.jpg are no images.
    files = sorted((file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES
                    and not file.name.startswith('.')), key=natural)
    if not files:
        inside = {file.suffix for file in folder.iterdir()}
        hint = ': it is a recording, which segment_bag reads' \
            if inside & set(RECORDING_SUFFIXES) else ''
        raise ValueError(f'{folder} holds no image ({", ".join(IMAGE_SUFFIXES)}){hint}')
    for one, other in pairwise(files):
        if one.stem == other.stem:
            raise ValueError(f'{one.name} and {other.name} would have the same mask '
                             f'{one.stem}.png: rename one of them')
    return files


def count_frames(source: Path) -> int:
    """Return how many frames ``frames_of`` yields, for a video as far as the container knows."""
    if source.is_dir():
        return sum(file.suffix.lower() in IMAGE_SUFFIXES for file in source.iterdir())
    video = cv2.VideoCapture(str(source))
    count = max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
    video.release()
    return count


def frame_rate(source: Path) -> float | None:
    """Return a video file's frames per second; None where it has none."""
    if not source.is_file():
        return None
    video = cv2.VideoCapture(str(source))
    rate = video.get(cv2.CAP_PROP_FPS)
    video.release()
    return rate if 0 < rate < 10_000 else None
