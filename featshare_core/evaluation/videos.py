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
"""Labelled video to score on: the data set, its classes, and which frame is run after which."""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
import hashlib
import os
from pathlib import Path
import re
from typing import Generic, TypeVar

from featshare_core.data.cityscapes import cityscapes_source
from featshare_core.data.coverage import require_classes
from featshare_core.data.folder import folder_source, in_classes
from featshare_core.data.source import Array, camvid_source, Labelled, Source
from featshare_core.data.street.clips import CLIPS
from featshare_core.data.traffic import traffic_source
from featshare_core.labels import CAMVID, CITYSCAPES, LabelSet, UNLABELLED
import numpy as np

RATES = {'camvid': 15.0, 'cityscapes': 17.0}
"""Frames a second of the data sets' video."""

# As CamVid's 32 classes became 11 (SegNet, arXiv 1511.00561): walls are buildings, traffic lights
# signs, lorries and buses cars, motorcycles bicycles. What grows on the ground has no such class.
CITYSCAPES_AS_CAMVID = {
    'road': 'road', 'sidewalk': 'pavement', 'building': 'building', 'wall': 'building',
    'fence': 'fence', 'pole': 'pole', 'traffic light': 'sign', 'traffic sign': 'sign',
    'vegetation': 'tree', 'sky': 'sky', 'person': 'pedestrian', 'rider': 'bicyclist',
    'car': 'car', 'truck': 'car', 'bus': 'car', 'train': 'car', 'motorcycle': 'bicyclist',
    'bicycle': 'bicyclist'}

Key = TypeVar('Key', bound=Hashable)
Value = TypeVar('Value')


class Cache(Generic[Key, Value]):
    """A function that remembers its newest ``size`` results."""

    def __init__(self, function: Callable[[Key], Value], size: int) -> None:
        self._function, self._size = function, size
        self._held: OrderedDict[Key, Value] = OrderedDict()

    def __call__(self, key: Key) -> Value:
        """Return the function's result."""
        if key not in self._held:
            self._held[key] = self._function(key)
            if len(self._held) > self._size:
                self._held.popitem(last=False)
        return self._held[key]


@dataclass(frozen=True)
class Pass:
    """A key frame and the frames after it, in order; ``samples`` are those to score, by lag."""

    frames: tuple[str, ...]
    samples: dict[int, Labelled]


class Video:
    """
    A data set's frames and labels, in the classes of a network.

    ``names`` has the name of the video that each labelled frame is of; see ``video_names``.

    :raises ValueError: where the data set has other classes, and no translation is known.
    """

    def __init__(self, source: Source, labels: LabelSet) -> None:
        self.source, self.labels = source, labels
        self.names = video_names(source.samples)
        self._table: Array | None = None
        if source.labels.names == labels.names:
            return
        if (source.labels.names, labels.names) != (CITYSCAPES.names, CAMVID.names):
            raise ValueError(f'the network tells apart {", ".join(labels.names)}, but '
                             f'{source.name} is labelled with {", ".join(source.labels.names)}')
        self._table = np.full(256, UNLABELLED, np.uint8)
        for index, name in enumerate(source.labels.names):
            if name in CITYSCAPES_AS_CAMVID:
                self._table[index] = labels.names.index(CITYSCAPES_AS_CAMVID[name])

    @property
    def is_translated(self) -> bool:
        """Whether the labels are another data set's classes, translated."""
        return self._table is not None

    def read_truth(self, sample: Labelled) -> Array:
        """Return a sample's HxW class ids or ``UNLABELLED``; ValueError names a wrong file."""
        truth = self.source.read_mask(sample.mask, sample.frames[0])
        return truth if self._table is None else self._table[truth]

    def class_of(self, label: int) -> int:
        """Return the network's class of one of the data set's, ``UNLABELLED`` for none."""
        return label if self._table is None else int(self._table[label])

    def passes(self, interval: int) -> list[Pass]:
        """
        Return the key frames to run, so that every labelled frame is met at every lag.

        :raises ValueError: where no labelled frame has ``interval - 1`` frames before it.
        """
        if interval < 1:
            raise ValueError(f'an interval is 1 frame or more, not {interval}')
        samples = [s for s in self.source.samples if len(s.frames) >= interval]
        if not samples:
            longest = max(len(s.frames) for s in self.source.samples)
            raise ValueError(f'interval {interval} is longer than the video: in '
                             f'{self.source.name}, a labelled frame has at most {longest - 1} '
                             f'frames before it, so choose an interval of at most {longest}')
        frames: dict[str, tuple[str, ...]] = {}
        targets: dict[str, dict[int, Labelled]] = {}
        for sample in samples:
            for lag in reversed(range(interval)):
                path = sample.frames[lag::-1]
                if len(path) > len(frames.get(path[0], ())):
                    frames[path[0]] = path
                targets.setdefault(path[0], {})[lag] = sample
        return [Pass(path, targets[key]) for key, path in frames.items()]


def video_names(samples: Iterable[Labelled]) -> dict[str, str]:
    """
    Return the name of the video that each labelled frame belongs to, by the frame's name.

    Samples that share frames are of one video, and the stills of a folder are taken for one. A
    video is named by what its frames' names have in common, without the number (``0016E5``,
    ``aachen_000000``); by its folder where that is nothing; by both where videos of several
    folders would be named alike.
    """
    groups: list[list[str]] = []
    seen: set[str] = set()
    folder, still = '', False
    for sample in samples:
        where, alone = str(Path(sample.frames[0]).parent), len(sample.frames) == 1
        if not (seen & set(sample.frames) or (still and alone and where == folder)):
            groups.append([])
            seen = set()
        groups[-1].append(sample.frames[0])
        seen |= set(sample.frames)
        folder, still = where, alone
    words = []
    for frames in groups:
        common = os.path.commonprefix([Path(frame).stem for frame in frames])
        words.append(re.sub(r'[_-]?\d*$', '', common.removesuffix('_leftImg8bit')))
    folders = [Path(frames[0]).parent for frames in groups]
    names = {}
    for word, parent, frames in zip(words, folders, groups):
        alike = {other for name, other in zip(words, folders) if name == word}
        whole = word if word and len(alike) == 1 else '/'.join(filter(None, (parent.name, word)))
        names.update(dict.fromkeys(frames, whole))
    return names


@dataclass(frozen=True)
class DataChoice:
    """
    Which labelled video to score on.

    :param kind: one of ``data.KINDS``; ``traffic`` is rendered: it has no folder and no splits.
    :param annotations: Cityscapes' folder of masks; only ``gtFine`` is made by hand.
    :param mapping: of a ``folder``: the file with the class of each id, see ``load_mapping``.
    :param allow_absent: score although a class has no labelled pixel. Rendered data are exempt
        from the check: their labels are exact.
    :param before: smallest number of frames before a labelled frame that is scored, so that
        results of several intervals are of the same frames.
    :raises ValueError: if ``root`` is missing for a data set that needs one, or ``mapping`` is
        given for another kind than ``folder``.
    """

    kind: str
    root: Path | None = None
    split: str = 'val'
    annotations: str = 'gtFine'
    mapping: Path | None = None
    allow_absent: bool = False
    before: int = 0

    def __post_init__(self) -> None:
        """Refuse a data set without its folder, and a mapping of ids that are fixed."""
        if self.mapping is not None and self.kind != 'folder':
            raise ValueError(f'--mapping is for --data folder, not for {self.kind}')
        if self.root is None and self.kind != 'traffic':
            raise ValueError(f'--data {self.kind} needs --root FOLDER')

    @property
    def name(self) -> str:
        """Return a name for files: ``camvid-val``, ``cityscapes-train-machine_labels``."""
        if self.kind == 'traffic':
            return self.kind
        by_hand = self.kind != 'cityscapes' or self.annotations == 'gtFine'
        return f'{self.kind}-{self.split}' + ('' if by_hand else f'-{self.annotations}')

    def arguments(self) -> str:
        """Return the command line's arguments, without the folders of this machine."""
        if self.kind == 'traffic':
            return ' '.join([f'--data {self.kind}', *self._frames()])
        given = [f'--data {self.kind} --root DIR --split {self.split}']
        if self.annotations != 'gtFine':
            given.append(f'--annotations {self.annotations}')
        if self.mapping is not None:
            given.append(f'--mapping {self.mapping.name}')
        if self.allow_absent:
            given.append('--allow-absent-classes')
        return ' '.join([*given, *self._frames()])

    def _frames(self) -> list[str]:
        return [f'--frames-before {self.before}'] if self.before else []

    def fingerprint(self) -> str:
        """
        Return 16 digits that tell the labelled frames from others'.

        They are of the names and sizes of files, with the mapping's content, or of the definitions
        of rendered clips.

        :raises ValueError, FileNotFoundError: as ``open``.
        """
        digest = hashlib.sha256()
        if self.kind == 'traffic':
            digest.update(repr((CLIPS, self.before) if self.before else CLIPS).encode())
            return digest.hexdigest()[:16]
        if self.mapping is not None:
            digest.update(self.mapping.read_bytes())
        for sample in self.open().samples:
            for path in (Path(sample.frames[0]), Path(sample.mask)):
                digest.update(f'{path.name} {path.stat().st_size}\n'.encode())
        return digest.hexdigest()[:16]

    def open(self) -> Source:  # noqa: A003
        """
        Return the split, with the labelled frames that have ``before`` frames before them.

        :raises ValueError, FileNotFoundError: naming the file that is wrong or missing; ValueError
            where no frame has so many before it.
        """
        source = self._whole()
        samples = [s for s in source.samples if len(s.frames) > self.before]
        if not samples:
            raise ValueError(f'{self.name}: no labelled frame has {self.before} frames before it')
        return replace(source, samples=samples)

    def _whole(self) -> Source:
        if self.kind == 'traffic' or self.root is None:
            return traffic_source()
        if self.kind == 'camvid':
            return camvid_source(self.root, self.split)
        if self.kind == 'cityscapes':
            return cityscapes_source(self.root, self.split, self.annotations)
        return folder_source(self.root, self.split, self.mapping)

    def video(self, source: Source, labels: LabelSet, interval: int) -> Video:
        """
        Return a source of ``open`` in the classes of a network.

        :param interval: frames from key to key frame.
        :raises ValueError: as ``Video``; for a mapping to a class that the network lacks; and,
            unless ``allow_absent``, where a class that the data set can hold has no pixel in the
            frames that are scored.
        """
        mapped = None
        if self.mapping is not None:
            mapped, source = source.labels.names, in_classes(source, labels, self.mapping)
        try:
            video = Video(source, labels)
        except ValueError as error:
            remedy = '; --mapping FILE says which of its classes each id is' \
                if self.kind == 'folder' else ''
            raise ValueError(f'{error}{remedy}') from error
        classes = {video.class_of(index) for index, name in enumerate(source.labels.names)
                   if mapped is None or name in mapped}
        scored = [s for s in source.samples if len(s.frames) >= interval]
        if scored and self.kind != 'traffic':  # without any, ``passes`` says what is wrong
            require_classes(map(video.read_truth, scored), classes - {UNLABELLED}, labels.names,
                            self.name, '--allow-absent-classes', self.allow_absent)
        return video
