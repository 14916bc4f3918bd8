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
"""
Whether key frames chosen by change are worth more than as many at a fixed interval.

    python benchmarks/key_policy.py CAMVID_FOLDER [--weights default] [--device auto]

CamVid's validation video, 15 Hz, every frame labelled. Two measures of change since the key frame
are compared: of a small grey thumbnail (what ``key_policy: change`` uses), and the mean mismatch
of the network's shallow features once they are moved (what is mended by). Each gets the threshold
at which it makes as many key frames as the interval.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from featshare_core.data.camvid import camvid_files, read_camvid
from featshare_core.evaluation.accuracy import confusion_matrix, mean_iou
from featshare_core.inference.pixels import network_size
from featshare_core.inference.schedule import difference, thumbnail
from featshare_core.inference.segmenter import VideoSegmenter
from featshare_core.networks.alignment import displacement, warp
from featshare_core.networks.checkpoint import load_checkpoint
from featshare_core.networks.mending import mismatch
from featshare_core.networks.split import Tensors
import numpy as np
import numpy.typing as npt
import torch

LONGEST = 15
"""The most frames from one key frame to the next."""

Table = npt.NDArray[np.float64]


def landmarks(frames: list[npt.NDArray[np.uint8]], weights: str) -> list[Tensors]:
    """Return the shallow features by which every frame is matched."""
    network, config = load_checkpoint(weights)
    network.eval()
    mean, std = (255 * torch.tensor(v).view(3, 1, 1) for v in (config.mean, config.std))
    size = network_size(frames[0].shape[:2], config.input_size[::-1], network.input_multiple)
    found = []
    with torch.inference_mode():
        for frame in frames:
            planes = torch.from_numpy(frame).permute(2, 0, 1).float()
            image = torch.nn.functional.interpolate(
                ((planes - mean) / std)[None], size=size, mode='bilinear', antialias=True)
            found.append(network._landmarks(network.low(image)))
    return found


@torch.inference_mode()
def mean_mismatch(key: Tensors, current: Tensors) -> float:
    """Return how badly a key frame's landmarks fit a current frame's once they are moved."""
    (ours, *finer), (theirs, *finer_key) = current, key
    moved = displacement(ours, theirs, *finer, *finer_key)
    return float(mismatch(ours, warp(theirs, moved)).mean())


def distances(items: list[Any], distance: Callable[[Any, Any], float]) -> Table:
    """Return the distance of each item to the ones after it, by lag."""
    table = np.full((len(items), LONGEST), np.nan)
    for key in range(len(items)):
        for lag in range(min(LONGEST, len(items) - key)):
            table[key, lag] = distance(items[key], items[key + lag])
    return table


def run(due: Callable[[int, int], bool], matrices: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Return (frames a key frame, mIoU) of a policy, over every frame to begin at."""
    keys, frames = 0, 0
    total = np.zeros(matrices.shape[2:], np.int64)
    for start in range(LONGEST):
        key = start
        for index in range(start, len(matrices)):
            lag = index - key
            if lag >= LONGEST or (lag and due(key, lag)):
                key, lag = index, 0
            if index >= LONGEST:
                keys, frames = keys + (lag == 0), frames + 1
                total += matrices[key, lag]
    return frames / keys, 100 * mean_iou(total)


def threshold_for(frames_a_key: float, table: Table, matrices: npt.NDArray[np.int64]) -> float:
    """Return the smallest threshold that makes no more key frames than that."""
    low, high = 0.0, float(np.nanmax(table))
    for _ in range(30):
        middle = (low + high) / 2
        found, _ = run(lambda key, lag: table[key, lag] > middle, matrices)  # noqa: B023
        low, high = (middle, high) if found < frames_a_key else (low, middle)
    return high


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('camvid', help='folder with val and valannot')
    parser.add_argument('--weights', default='default')
    parser.add_argument('--device', default='auto')
    arguments = parser.parse_args()
    segmenter = VideoSegmenter.from_checkpoint(arguments.weights, device=arguments.device)
    engine, classes = segmenter.engine, len(segmenter.labels)
    video = [read_camvid(*files) for files in camvid_files(arguments.camvid, 'val')]
    frames = [frame for frame, _ in video]
    matrices = np.zeros((len(video), LONGEST, classes, classes), np.int64)
    for key in range(len(video)):
        for lag in range(min(LONGEST, len(video) - key)):
            mask = (engine.current if lag else engine.key)(frames[key + lag]).mask
            matrices[key, lag] = confusion_matrix(video[key + lag][1], mask, classes)
    measures = {'thumbnail': distances([thumbnail(frame) for frame in frames], difference),
                'mismatch': distances(landmarks(frames, arguments.weights), mean_mismatch)}
    for interval in (2, 3, 5, 8, 10):
        _, miou = run(lambda _, lag: lag >= interval, matrices)  # noqa: B023
        print(f'fixed interval {interval}: mIoU {miou:.2f}')
        for name, table in measures.items():
            threshold = threshold_for(interval, table, matrices)
            found, miou = run(lambda key, lag: table[key, lag] > threshold, matrices)  # noqa: B023
            print(f'    {name} > {threshold:.3g}: mIoU {miou:.2f}, '
                  f'a key frame every {found:.2f} frames')


if __name__ == '__main__':
    main()
