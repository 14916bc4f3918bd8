"""Label sets: the classes that a network distinguishes, their ids, names and colours."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml

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
    Read a label set from a YAML file: a list ``classes`` of ``{name: str, color: [r, g, b]}``.

    :raises ValueError: where the file has another form; the message names file and entry.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is not valid YAML: {error}') from error
    entries = content.get('classes') if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f'{path}: expected a list "classes" of {{name, color: [r, g, b]}}')
    names, colors = [], []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get('name'), str) \
                or not isinstance(entry.get('color'), list):
            raise ValueError(f'{path}: class {index} needs a name and a color: [r, g, b]')
        names.append(entry['name'])
        colors.append(tuple(entry['color']))
    try:
        return LabelSet(tuple(names), tuple(colors))
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error


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
