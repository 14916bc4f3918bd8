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
Agreement between the masks of two recordings, to see what a new checkpoint changes.

Neither is ground truth: intersection over union says how similar they are, not which is better.
"""
from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
import sys
from typing import Any

import cv2
from featshare_core.arguments import add_common
from featshare_core.evaluation.accuracy import class_iou, confusion_matrix, Matrix, mean_iou
from featshare_core.labels import UNLABELLED
from featshare_core.packages import explain
from featshare_ros.recordings.bag import (
    COMPRESSED_IMAGE,
    describe_topics,
    IMAGE,
    open_bag,
    read_messages,
    RecordingError,
)
from featshare_ros.recordings.bag_output import output_types
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.uint8]


@dataclass
class Agreement:
    """
    Agreement of the masks of two recordings, A and B.

    ``matrix`` counts pixels by class in A (row) and class in B (column); ``per_lag`` does so for
    each distance from the key frame in A's timing topic, where A has one. ``only_a`` and
    ``only_b`` count frames without a counterpart.
    """

    cameras: list[str]
    """Cameras that are in both recordings."""
    names: list[str]
    matrix: Matrix
    per_lag: dict[int, Matrix] = field(default_factory=dict)
    frames: int = 0
    only_a: int = 0
    only_b: int = 0


class MaskRecording:
    """
    The masks of a rosbag2 recording: a context manager.

    A camera is named by its topic without /mask or /mask/compressed.

    :raises ValueError: where the path cannot be read, or holds no masks.
    :raises ImportError: where rosbags is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._reader = open_bag(self.path)
        self._types = output_types()
        self._masks = {
            connection.topic.removesuffix('/compressed').removesuffix('/mask'): connection
            for connection in self._reader.connections if connection.msgcount
            and connection.topic.removesuffix('/compressed').endswith('/mask')
            and connection.msgtype in (IMAGE, COMPRESSED_IMAGE)}
        if not self._masks:
            topics = describe_topics(self._reader)
            self._reader.close()
            raise ValueError(f'{path}: no masks in it (topics that end in /mask or '
                             f'/mask/compressed); {topics}')

    @property
    def cameras(self) -> set[str]:
        """Return the cameras that have masks."""
        return set(self._masks)

    def masks(self, camera: str) -> Iterator[tuple[int, Mask]]:
        """
        Yield stamp in nanoseconds and mask (HxW uint8) of every frame.

        :raises ValueError: where one cannot be read.
        """
        for stamp, message in self._read(self._masks[camera]):
            if hasattr(message, 'format'):
                mask = cv2.imdecode(message.data, cv2.IMREAD_UNCHANGED)
            else:
                rows = message.data[:message.height * message.step]
                mask = rows.reshape(message.height, message.step)[:, :message.width]
            if mask is None or mask.ndim != 2 or mask.dtype != np.uint8:
                raise ValueError(f'{self.path}: the mask of {camera} at {stamp} ns is not '
                                 'HxW uint8')
            yield stamp, mask

    def lags(self, camera: str) -> dict[int, int]:
        """Return the frames since the key frame by stamp, of frames that the timing topic has."""
        found = {}
        for stamp, message in self._read(self._topic(f'{camera}/timing')):
            values = {item.key: item.value for item in message.status[0].values}
            if 'frames since key' in values:
                found[stamp] = int(values['frames since key'])
        return found

    def class_names(self, camera: str) -> list[str]:
        """Return the class names by id; empty where the recording has no label_info."""
        for _, message in self._read(self._topic(f'{camera}/label_info')):
            names = {item.class_id: item.class_name for item in message.class_map}
            return [names.get(index, str(index)) for index in range(max(names, default=-1) + 1)]
        return []

    def _topic(self, topic: str) -> Any:
        return next((c for c in self._reader.connections if c.topic == topic), None)

    def _read(self, connection: Any) -> Iterator[tuple[int, Any]]:
        """Yield stamp and message of every message of a topic, if there is one."""
        if connection is None:
            return
        try:
            for _, _, content in read_messages(self._reader, [connection], self.path):
                message: Any = self._types.deserialize_cdr(content, connection.msgtype)
                stamp = message.header.stamp
                yield stamp.sec * 10**9 + stamp.nanosec, message
        except RecordingError:
            raise
        except Exception as error:  # of any type, as in open_bag
            raise ValueError(f'{self.path}: {connection.topic} is unreadable: {error}') from error

    def __enter__(self) -> MaskRecording:
        """Return the recording, which is open already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._reader.close()


def compare_bags(path_a: str | Path, path_b: str | Path) -> Agreement:
    """
    Compare the masks of two recordings of the same images, matched by their stamps.

    :raises ValueError: where they have no camera or no frame in common, or masks differ in size.
    """
    with MaskRecording(path_a) as a, MaskRecording(path_b) as b:
        cameras = sorted(a.cameras & b.cameras)
        if not cameras:
            raise ValueError(f'no camera in common: {path_a} has masks of '
                             f'{", ".join(sorted(a.cameras))}, {path_b} of '
                             f'{", ".join(sorted(b.cameras))}')
        names = a.class_names(cameras[0]) or b.class_names(cameras[0])
        # Ids without a name get a row too. Pixels that are unlabelled in A are not counted.
        agreement = Agreement(cameras, names,
                              np.zeros((UNLABELLED + 1, UNLABELLED + 1), np.int64))
        for camera in cameras:
            lags = a.lags(camera)
            for stamp, mask_a, mask_b in _pairs(a.masks(camera), b.masks(camera), agreement):
                if mask_a.shape != mask_b.shape:
                    raise ValueError(f'the masks of {camera} at {stamp} ns differ in size: '
                                     f'{mask_a.shape[::-1]} and {mask_b.shape[::-1]}')
                matrix = confusion_matrix(mask_a, mask_b, UNLABELLED + 1)
                agreement.matrix += matrix
                agreement.frames += 1
                if stamp in lags:
                    lag = lags[stamp]
                    agreement.per_lag[lag] = agreement.per_lag.get(lag, 0) + matrix
    if not agreement.frames:
        raise ValueError(f'no frame in common: no stamp of {path_a} is in {path_b}')
    return agreement


def _pairs(a: Iterator[tuple[int, Mask]], b: Iterator[tuple[int, Mask]],
           agreement: Agreement) -> Iterator[tuple[int, Mask, Mask]]:
    """Yield masks with the same stamp, of ascending stamps, and count those without a pair."""
    entry_a, entry_b = next(a, None), next(b, None)
    while entry_a or entry_b:
        if entry_a and entry_b and entry_a[0] == entry_b[0]:
            yield entry_a[0], entry_a[1], entry_b[1]
            entry_a, entry_b = next(a, None), next(b, None)
        elif entry_b is None or (entry_a and entry_a[0] < entry_b[0]):
            agreement.only_a += 1
            entry_a = next(a, None)
        else:
            agreement.only_b += 1
            entry_b = next(b, None)


def report(agreement: Agreement) -> str:
    """Return the agreement as text: overall, per class, and per lag."""
    matrix = agreement.matrix
    pixels = int(matrix.sum())
    present = np.flatnonzero(matrix.sum(0) + matrix.sum(1))
    lines = [f'{", ".join(agreement.cameras)}: {agreement.frames} frames compared, '
             f'{agreement.only_a} only in A, {agreement.only_b} only in B',
             f'{_share(matrix):.2f} % of the pixels agree, mean IoU {100 * mean_iou(matrix):.2f} '
             f'over {len(present)} of {max(len(present), len(agreement.names))} classes',
             '', f'{"class":16} {"IoU":>7} {"in A":>8} {"in B":>8}']
    iou = class_iou(matrix)
    for index in present:
        name = agreement.names[index] if index < len(agreement.names) else f'id {index}'
        lines.append(f'{name:16} {100 * iou[index]:7.2f} {100 * matrix[index].sum() / pixels:7.2f}'
                     f'% {100 * matrix[:, index].sum() / pixels:7.2f}%')
    if agreement.per_lag:
        lines += ['', f'{"frames since key":16} {"pixels":>7}   {"mean IoU":>8}']
        lines += [f'{lag:<16} {_share(part):7.2f}%  {100 * mean_iou(part):8.2f}'
                  for lag, part in sorted(agreement.per_lag.items())]
    return '\n'.join(lines)


def _share(matrix: Matrix) -> float:
    """Return the percentage of pixels that agree."""
    return 100 * float(np.trace(matrix)) / float(matrix.sum())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print how far the masks of two recordings agree; return the exit status."""
    parser = argparse.ArgumentParser(
        'compare_bags', description='Print how far the masks of two recordings agree: per class, '
                                    'and per distance to the key frame.')
    add_common(parser)
    parser.add_argument('a', type=Path, help='a rosbag2 recording with masks')
    parser.add_argument('b', type=Path, help='another, of the same images')
    paths = parser.parse_args(arguments)
    try:
        print(report(compare_bags(paths.a, paths.b)))
    except (ValueError, OSError, ImportError) as error:
        print(f'compare_bags: {explain(error)}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
