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
"""A user's own data: folders of frames and of masks, and a label set in YAML."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from featshare_core.data.files import natural
from featshare_core.data.source import (
    Array,
    identity_table,
    Labelled,
    read_ids,
    read_image,
    Source,
)
from featshare_core.labels import LabelSet, load_label_set, UNLABELLED
from featshare_core.yaml_text import parse_yaml
import numpy as np

SUFFIXES = ('.png', '.jpg', '.jpeg')
LAYOUT = """expected layout:
    ROOT/labels.yaml                     "classes": names, or {name: str, color: [r, g, b]}
    ROOT/SPLIT/frames/VIDEO/NAME.png     or .jpg; a video's frames, in the order of their names
    ROOT/SPLIT/masks/VIDEO/NAME.png      of the labelled frames; PNG of class ids, 255 for no class
    ROOT/SPLIT/frames/NAME.png           files directly in frames are stills; each has a mask"""


def folder_source(root: Path, split: str, mapping: Path | None = None) -> Source:
    """
    Return a split of a user's data set.

    :param mapping: the file that says which class each id of the masks is, see ``load_mapping``;
        its classes then take the place of those of ``labels.yaml``, which need not exist.
    :raises FileNotFoundError: naming a missing file or an empty folder, and the layout.
    :raises ValueError: where the label set or the mapping cannot be read.
    """
    frames, masks = root / split / 'frames', root / split / 'masks'
    for path in (root / 'labels.yaml' if mapping is None else mapping, frames, masks):
        if not path.exists():
            raise FileNotFoundError(f'{path} is missing; {LAYOUT}')
    if mapping is None:
        labels = load_label_set(root / 'labels.yaml')
        table = identity_table(len(labels))
    else:
        labels, table = load_mapping(mapping)
    samples: list[Labelled] = []
    used = set()
    folders = sorted((path for path in frames.iterdir() if path.is_dir()), key=natural)
    for video in [frames, *folders]:
        before: tuple[str, ...] = ()
        files = (file for file in video.iterdir() if file.suffix.lower() in SUFFIXES
                 and not file.name.startswith('.'))
        for frame in sorted(files, key=natural):
            before = (str(frame), *(() if video == frames else before[:31]))
            mask = masks / frame.relative_to(frames).with_suffix('.png')
            if mask.is_file():
                samples.append(Labelled(before, str(mask)))
                used.add(mask)
            elif video == frames:
                raise FileNotFoundError(f'{mask} is missing: a still needs its mask; {LAYOUT}')
    for mask in sorted(masks.rglob('[!.]*.png')):
        if mask not in used:
            frame = frames / mask.relative_to(masks)
            raise FileNotFoundError(f'{mask} has no frame: {frame} (or .jpg) is missing')
    if not samples:
        raise FileNotFoundError(f'{root / split} holds no labelled frame; {LAYOUT}')

    def read_mask(mask: str, frame: str) -> Array:
        return read_ids(mask, frame, table)

    return Source(f'{root.resolve().name} {split}', labels, samples, read_image, read_mask)


def load_mapping(path: Path) -> tuple[LabelSet, np.ndarray]:
    """
    Read a YAML file that names the class of each id in a data set's masks.

    A line is ``ID: NAME``, or ``ID: null`` for no class, with an ID of 0 to 255. Ids that are not
    listed have no class.

    :returns: the classes, in the order in which they are named first, drawn black; and 256
        entries, int16: an id's class or ``UNLABELLED``.
    :raises ValueError: naming the file and the line that is wrong.
    :raises OSError: where it cannot be read.
    """
    try:
        content = parse_yaml(path.read_text(), path)
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is not valid YAML: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path}: expected lines "ID: NAME", as in "7: road"')
    for label_id, name in content.items():
        if type(label_id) is not int or not 0 <= label_id <= 255 \
                or not (name is None or isinstance(name, str)):
            raise ValueError(f'{path}: {label_id}: {name} is no id of 0 to 255 with the name of a '
                             f'class, or null')
    names = list(dict.fromkeys(name for name in content.values() if name is not None))
    table = np.full(256, UNLABELLED, np.int16)
    where = ''
    try:
        for label_id, name in content.items():
            if name is not None:
                table[label_id], where = names.index(name), f'{label_id}: '
                LabelSet((name,), ((0, 0, 0),))
        where = ''
        return LabelSet(tuple(names), ((0, 0, 0),) * len(names)), table
    except ValueError as error:
        raise ValueError(f'{path}: {where}{error}') from error


def in_classes(source: Source, labels: LabelSet, mapping: Path) -> Source:
    """
    Return a data set with its masks in the classes of another label set, matched by name.

    :param mapping: the file that the data set's classes come from, see ``load_mapping``.
    :raises ValueError: naming it, and the ids and classes that ``labels`` lacks.
    """
    _, ids = load_mapping(mapping)
    unknown = [f'{label_id}: {name}' for index, name in enumerate(source.labels.names)
               if name not in labels.names for label_id in np.flatnonzero(ids == index)]
    if unknown:
        raise ValueError(f'{mapping}: {", ".join(unknown)}: no such class; there are '
                         f'{", ".join(labels.names)}')
    table = np.full(256, UNLABELLED, np.uint8)
    table[:len(source.labels)] = [labels.names.index(name) for name in source.labels.names]

    def read_mask(mask: str, frame: str) -> Array:
        return table[source.read_mask(mask, frame)]

    return replace(source, labels=labels, read_mask=read_mask)
