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
"""The demo's results: a video and a contact sheet with coloured masks, a latency table."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import os
from pathlib import Path
import sys
from types import TracebackType

import cv2
from featshare_core.labels import LabelSet
from featshare_core.overlay import paint
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
"""HxWx3 uint8 RGB."""

MAX_VIDEO_WIDTH = 960
"""Largest width of the video, in pixels."""
OPACITY = 0.55
"""Opacity of the classes' colours, 0 to 1."""
_BACKGROUND, _TEXT, _FAINT, _ALERT = (24, 26, 30), (235, 235, 235), (150, 155, 165), (255, 190, 60)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_COLUMNS, _TILE_WIDTH, _GAP = 3, 320, 12


class ReportError(RuntimeError):
    """A picture or video that cannot be written."""


def draw_overlay(rgb: Picture, mask: npt.NDArray[np.uint8], labels: LabelSet) -> Picture:
    """Return HxWx3 uint8: the picture under its classes' colours; the mask may differ in size."""
    if mask.shape != rgb.shape[:2]:
        mask = np.asarray(cv2.resize(mask, rgb.shape[1::-1], interpolation=cv2.INTER_NEAREST))
    return paint(rgb, mask, labels, OPACITY)


def draw_legend(labels: LabelSet, width: int, height: int = 22) -> Picture:
    """Return a strip, ``width`` wide, with each class's colour and name; rows as needed."""
    scale = height / 50
    places, x, y = [], _GAP, 0
    for name in labels.names:
        needed = height + cv2.getTextSize(name, _FONT, scale, 1)[0][0] + height // 2
        if x + needed > width and x > _GAP:
            x, y = _GAP, y + height
        places.append((x, y))
        x += needed
    strip = np.full((y + height + 8, width, 3), _BACKGROUND, np.uint8)
    for name, color, (x, y) in zip(labels.names, labels.colors, places):
        box = height - 10
        cv2.rectangle(strip, (x, y + 9), (x + box, y + 9 + box), color, cv2.FILLED)
        _write(strip, name, (x + box + 5, y + 8 + box), scale, _TEXT)
    return strip


class OverlayVideo:
    """
    A .webm of pictures with their masks in colour, a line of text and a legend.

    A context manager; the first picture sets the size for all, which is scaled down to at most
    ``MAX_VIDEO_WIDTH``.
    """

    def __init__(self, path: str | Path, labels: LabelSet, fps: float) -> None:
        self._path, self._labels, self._fps = str(path), labels, fps
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._legend = np.empty((0, 0, 3), np.uint8)

    def _open(self, rgb: Picture) -> cv2.VideoWriter:
        """Start the file, for pictures of this size."""
        height, width = rgb.shape[:2]
        if width > MAX_VIDEO_WIDTH:
            height, width = max(1, round(height * MAX_VIDEO_WIDTH / width)), MAX_VIDEO_WIDTH
        # The codec stores even sizes.
        self._size = (width + width % 2, height + height % 2)
        self._legend = draw_legend(self._labels, self._size[0])
        total = (self._size[0], self._size[1] + self._legend.shape[0])
        # VP8: pip's OpenCV has no encoder of H.264, and browsers do not play its MPEG-4.
        with _silenced_stderr():
            writer = cv2.VideoWriter(self._path, cv2.VideoWriter.fourcc(*'VP80'), self._fps,
                                     total)
        if not writer.isOpened():
            raise ReportError(f'OpenCV cannot write {self._path}: the folder is not writable, or '
                              'OpenCV was built without a VP8 encoder')
        return writer

    def add(self, rgb: Picture, mask: npt.NDArray[np.uint8] | None, text: str,
            alert: str = '') -> None:
        """Append a picture; a mask of None adds no colours; ``alert`` is drawn in orange."""
        if self._writer is None:
            self._writer = self._open(rgb)
        rgb = cv2.resize(rgb, self._size, interpolation=cv2.INTER_AREA)
        frame = rgb if mask is None else draw_overlay(rgb, mask, self._labels)
        _write_bar(frame, text, alert)
        frame = np.vstack([frame, self._legend])
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def __enter__(self) -> OverlayVideo:
        """Return the video; its file begins with the first picture."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()


@contextlib.contextmanager
def _silenced_stderr() -> Iterator[None]:
    """Discard what libraries write to stderr: OpenCV warns that WebM has no tag for VP8."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, 'wb') as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def write_contact_sheet(path: str | Path, moments: Sequence[tuple[Picture, Picture, str]],
                        labels: LabelSet, title: str) -> None:
    """
    Write a PNG of moments side by side: the picture beside its overlay, with a caption.

    :param moments: picture, class ids (HxW uint8) and caption of each.
    """
    columns = min(_COLUMNS, len(moments))
    width = columns * (2 * _TILE_WIDTH + _GAP) + _GAP
    tiles = []
    for rgb, mask, caption in moments:
        size = (_TILE_WIDTH, max(1, round(rgb.shape[0] * _TILE_WIDTH / rgb.shape[1])))
        pair = [rgb, draw_overlay(rgb, mask, labels)]
        small = np.hstack([cv2.resize(side, size, interpolation=cv2.INTER_AREA) for side in pair])
        tile = np.full((small.shape[0] + 22, small.shape[1], 3), _BACKGROUND, np.uint8)
        tile[:small.shape[0]] = small
        _write(tile, caption, (2, tile.shape[0] - 7), 0.4, _FAINT)
        tiles.append(tile)
    # A recording may change its image size: a row is as high as its highest tile.
    rows = [tiles[at:at + columns] for at in range(0, len(tiles), columns)]
    strips = []
    for row in rows:
        strip = np.full((max(tile.shape[0] for tile in row) + 6, width, 3), _BACKGROUND, np.uint8)
        for index, tile in enumerate(row):
            x = _GAP + index * (2 * _TILE_WIDTH + _GAP)
            strip[:tile.shape[0], x:x + 2 * _TILE_WIDTH] = tile
        strips.append(strip)
    heading = np.full((44, width, 3), _BACKGROUND, np.uint8)
    _write(heading, title, (_GAP, 29), 0.6, _TEXT)
    sheet = np.vstack([heading, *strips, draw_legend(labels, width, 24)])
    if not cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)):
        raise ReportError(f'cannot write {path}')


def percentiles(milliseconds: Sequence[float]) -> str:
    """Return 'p50 / p95 / max' of latencies in milliseconds, or a dash for none."""
    if not milliseconds:
        return '–'
    p50, p95 = np.percentile(milliseconds, (50, 95))
    return f'{p50:.1f} / {p95:.1f} / {max(milliseconds):.1f}'


def markdown_table(rows: Sequence[tuple[str, str]]) -> str:
    """Return a two-column Markdown table, its columns aligned for reading as plain text."""
    name_width = max(len(name) for name, _ in rows)
    value_width = max(len(value) for _, value in rows)
    lines = [f'| {"":{name_width}} | {"":{value_width}} |',
             f'|:{"-" * name_width}-|:{"-" * value_width}-|']
    lines += [f'| {name:{name_width}} | {value:{value_width}} |' for name, value in rows]
    return '\n'.join(lines)


def _write_bar(frame: Picture, text: str, alert: str) -> None:
    """Write a line of text over the darkened top of a picture, in place."""
    bar = frame[:26]
    bar[:] = bar // 3
    _write(frame, text, (_GAP, 18), 0.48, _TEXT)
    if alert:
        length = cv2.getTextSize(text, _FONT, 0.48, 1)[0][0]
        _write(frame, alert, (2 * _GAP + length, 18), 0.48, _ALERT)


def _write(picture: Picture, text: str, at: tuple[int, int], scale: float,
           color: tuple[int, int, int]) -> None:
    """Write a line of text with its lower left corner at (x, y), in place."""
    cv2.putText(picture, text, at, _FONT, scale, color, 1, cv2.LINE_AA)
