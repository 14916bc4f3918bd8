"""A user's own data: folders of frames and of masks, and a label set in YAML."""
from __future__ import annotations

from pathlib import Path

from featshare_core.data.source import (
    Array,
    Labelled,
    Source,
    identity_table,
    read_ids,
    read_image,
)
from featshare_core.labels import load_label_set

SUFFIXES = ('.png', '.jpg', '.jpeg')
LAYOUT = """expected layout:
    ROOT/labels.yaml                     a list "classes" of {name: str, color: [r, g, b]}
    ROOT/SPLIT/frames/VIDEO/NAME.png     or .jpg; a video's frames, in the order of their names
    ROOT/SPLIT/masks/VIDEO/NAME.png      of the labelled frames; a byte a pixel, 255 for no class
    ROOT/SPLIT/frames/NAME.png           files directly in frames are stills; each has a mask"""


def folder_source(root: Path, split: str) -> Source:
    """
    Return a split of a user's data set.

    :raises FileNotFoundError: naming a missing file or an empty folder, and the layout.
    :raises ValueError: where the label set cannot be read.
    """
    frames, masks = root / split / 'frames', root / split / 'masks'
    for path in (root / 'labels.yaml', frames, masks):
        if not path.exists():
            raise FileNotFoundError(f'{path} is missing; {LAYOUT}')
    labels = load_label_set(root / 'labels.yaml')
    samples: list[Labelled] = []
    used = set()
    for video in [frames, *sorted(path for path in frames.iterdir() if path.is_dir())]:
        before: tuple[str, ...] = ()
        for frame in sorted(f for f in video.iterdir() if f.suffix.lower() in SUFFIXES):
            before = (str(frame), *(() if video == frames else before[:31]))
            mask = masks / frame.relative_to(frames).with_suffix('.png')
            if mask.is_file():
                samples.append(Labelled(before, str(mask)))
                used.add(mask)
            elif video == frames:
                raise FileNotFoundError(f'{mask} is missing: a still needs its mask; {LAYOUT}')
    for mask in sorted(masks.rglob('*.png')):
        if mask not in used:
            frame = frames / mask.relative_to(masks)
            raise FileNotFoundError(f'{mask} has no frame: {frame} (or .jpg) is missing')
    if not samples:
        raise FileNotFoundError(f'{root / split} holds no labelled frame; {LAYOUT}')
    table = identity_table(len(labels))

    def read_mask(mask: str, frame: str) -> Array:
        return read_ids(mask, frame, table)

    return Source(root.name, labels, samples, read_image, read_mask)
