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
"""Label sets: the classes that a network distinguishes, their ids, names and colours."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featshare_core.yaml_text import parse_yaml
import numpy as np
import numpy.typing as npt

UNLABELLED = 255
"""The id of a pixel without a class: ignored in losses and scores, drawn black."""
LONGEST_NAME = 100
"""Limit of a class name, in characters."""


@dataclass(frozen=True)
class LabelSet:
    """
    Class ``i`` is called ``names[i]`` and drawn in ``colors[i]`` (RGB, 0 to 255).

    Ids are bytes, 0 to 254 at most; 255 is ``UNLABELLED``.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        """Refuse sets that a mask of bytes or a picture cannot show."""
        if not 1 <= len(self.names) <= UNLABELLED:
            raise ValueError(f'a label set has 1 to {UNLABELLED} classes, got {len(self.names)}')
        if len(self.colors) != len(self.names):
            raise ValueError(f'{len(self.names)} class names but {len(self.colors)} colours')
        if not all(isinstance(name, str) for name in self.names):
            raise ValueError('a class name in the label set is no text')
        for name in self.names:
            # Names are shown in logs, tables and plots.
            if not name.isprintable() or len(name) > LONGEST_NAME:
                raise ValueError(f'the class name {name[:LONGEST_NAME]!r} is not printable, or '
                                 f'longer than {LONGEST_NAME} characters')
        if len(set(self.names)) != len(self.names):
            raise ValueError('a class name occurs twice in the label set')
        for name, color in zip(self.names, self.colors):
            if len(color) != 3 or not all(isinstance(c, int) and 0 <= c <= 255 for c in color):
                raise ValueError(f'the colour of {name!r} must be three integers 0 to 255')

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.names)

    def palette(self) -> npt.NDArray[np.uint8]:
        """Return a 256x3 uint8 RGB table, indexed by class id; ids without a class are black."""
        table = np.zeros((256, 3), np.uint8)
        table[:len(self.colors)] = self.colors
        return table


def load_label_set(path: str | Path) -> LabelSet:
    """
    Read a label set from a file; names without colours get those of ``label_set``.

    The file is YAML: a list ``classes`` of ``{name: str, color: [r, g, b]}`` or of names; or, as
    in the data files of ultralytics, ``names``, which is a list or a mapping from ids 0 to C - 1.
    Or it is a text of one name per line.

    :raises ValueError: where the file has another form; the message names file and entry.
    """
    try:
        text = Path(path).read_text()
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is no text: {error}') from error
    content = parse_yaml(text, path)
    if isinstance(content, str):
        entries: Any = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        entries = _entries(content, path)
    try:
        if all(isinstance(entry, str) for entry in entries):
            return label_set(entries)
        names, colors = [], []
        for index, entry in enumerate(entries):
            if not isinstance(entry, dict) or not isinstance(entry.get('name'), str) \
                    or not isinstance(entry.get('color'), list):
                raise ValueError(f'class {index} needs a name and a color: [r, g, b]')
            names.append(entry['name'])
            colors.append(tuple(entry['color']))
        return LabelSet(tuple(names), tuple(colors))
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error


def _entries(content: Any, path: str | Path) -> list[Any]:
    """Return the classes that a YAML file lists, each a name or a mapping."""
    given = [key for key in ('classes', 'names') if isinstance(content, dict) and key in content]
    if len(given) != 1:
        raise ValueError(f'{path}: expected a list "classes" of {{name, color: [r, g, b]}} or of '
                         f'names, or "names"{", not both" if given else ""}')
    entries = content[given[0]]
    if isinstance(entries, dict) and given == ['names']:
        if sorted(entries, key=str) != sorted(range(len(entries)), key=str):
            raise ValueError(f'{path}: "names" is no mapping from ids 0 to {len(entries) - 1}')
        entries = [entries[index] for index in range(len(entries))]
    if not isinstance(entries, list):
        raise ValueError(f'{path}: "{given[0]}" is no list')
    if content.get('nc', len(entries)) != len(entries):
        raise ValueError(f'{path}: "nc" is {content["nc"]}, but there are {len(entries)} names')
    return entries


def find_label_set(name_or_path: str | Path) -> LabelSet:
    """
    Return a label set of ``named_sets`` by its name, or that of a file.

    :raises ValueError: where the file holds none.
    :raises OSError: where there is no such file.
    """
    if str(name_or_path) in named_sets():
        return {'camvid': CAMVID, 'cityscapes': CITYSCAPES}.get(str(name_or_path)) \
            or load_label_set(SETS / f'{name_or_path}.yaml')
    if not Path(name_or_path).is_file():
        raise FileNotFoundError(f'{name_or_path} is neither a file nor one of the label sets '
                                f'{", ".join(named_sets())}')
    return load_label_set(name_or_path)


def recolored(labels: LabelSet, colors: LabelSet, origin: str | Path) -> LabelSet:
    """
    Return a label set with the colours that another one has for the same names, in any order.

    :param origin: where the colours come from, for messages.
    :raises ValueError: where the two do not have the same names.
    """
    missing = [name for name in labels.names if name not in colors.names]
    unknown = [name for name in colors.names if name not in labels.names]
    problems = [f'{title}: {", ".join(names)}' for title, names in
                (('missing', missing), ('not a class of the network', unknown)) if names]
    if problems:
        raise ValueError(f'{origin}: the classes are not those of the network: '
                         f'{"; ".join(problems)}')
    by_name = dict(zip(colors.names, colors.colors))
    return LabelSet(labels.names, tuple(by_name[name] for name in labels.names))


def named_sets() -> list[str]:
    """Return the names of the label sets that come with the package."""
    return sorted(('camvid', 'cityscapes', *(file.stem for file in SETS.glob('*.yaml'))))


def label_set(names: Sequence[str]) -> LabelSet:
    """
    Return a label set of these names.

    :returns: CamVid's or Cityscapes' own, where these are their names; otherwise with colours that
        people with a colour vision deficiency can tell apart: Okabe's and Ito's, of which later
        rounds are darker and lighter shades.
    :raises ValueError: where the names are no label set.
    """
    for known in (CAMVID, CITYSCAPES):
        if tuple(names) == known.names:
            return known
    rounds = -(-len(names) // len(OKABE_ITO))
    colors = []
    for index in range(len(names)):
        # 0 in the first round; then from dark, -0.6, to light, 0.6
        turn, base = divmod(index, len(OKABE_ITO))
        shade = 0.0 if not turn else (-0.6, 0.6)[turn % 2] * (1 + turn // 2) / (1 + rounds // 2)
        towards = 255 if shade > 0 else 0
        colors.append(tuple(round(value + abs(shade) * (towards - value))
                            for value in OKABE_ITO[base]))
    return LabelSet(tuple(names), tuple(colors))  # type: ignore[arg-type]


OKABE_ITO = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
             (213, 94, 0), (204, 121, 167))
"""Okabe's and Ito's colours (RGB) without black, which stands for pixels without a class."""
SETS = Path(__file__).parent / 'label_sets'
"""Folder of the label sets that come with the package."""

CAMVID = LabelSet(
    names=('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car',
           'pedestrian', 'bicyclist'),
    colors=((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222),
            (128, 128, 0), (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0),
            (0, 128, 192)))
"""CamVid's usual eleven classes and colours; void is ``UNLABELLED``."""

CITYSCAPES = LabelSet(
    names=('road', 'sidewalk', 'building', 'wall', 'fence', 'pole', 'traffic light',
           'traffic sign', 'vegetation', 'terrain', 'sky', 'person', 'rider', 'car', 'truck',
           'bus', 'train', 'motorcycle', 'bicycle'),
    colors=((128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153),
            (153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152),
            (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100),
            (0, 80, 100), (0, 0, 230), (119, 11, 32)))
"""Cityscapes' nineteen evaluated classes by trainId, with the data set's colours."""
