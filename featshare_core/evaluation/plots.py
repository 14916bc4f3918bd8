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
"""The plots of a report, drawn with matplotlib."""
from __future__ import annotations

from collections.abc import Sequence
import io
import math
from pathlib import Path
from typing import Any

from featshare_core.durable import write_durably
from featshare_core.evaluation.latency import INTERVALS
from featshare_core.evaluation.pareto import ACCURACIES, accuracies, front, KINDS
from featshare_core.evaluation.tables import Result, title
from featshare_core.labels import LabelSet
import numpy as np
import numpy.typing as npt

COLOURS = ('#4477aa', '#ee6677', '#228833', '#ccbb44', '#66ccee', '#aa3377')
"""Paul Tol's bright scheme, which colour-blind readers tell apart."""


def _pyplot() -> Any:
    """Return matplotlib's, for files alone; ImportError says how to get it."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError('plots are drawn with matplotlib, which is not installed: '
                          'pip install matplotlib') from error
    matplotlib.use('Agg')
    from matplotlib import pyplot
    return pyplot


def _axes(width: float = 7.0, height: float = 4.2) -> tuple[Any, Any]:
    figure, axes = _pyplot().subplots(figsize=(width, height), layout='constrained')
    axes.grid(True, color='#dddddd', linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the version of matplotlib: an unchanged plot stays the same file.
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=120, metadata={'Software': None})
    _pyplot().close(figure)
    write_durably(path, content.getvalue())


def plot_lags(path: Path, results: Sequence[Result]) -> None:
    """Draw mIoU by lag, a curve for each checkpoint and cut."""
    figure, axes = _axes(9.0)
    for result, (colour, style) in zip(results, _styles(results)):
        scores = result['miou']['per_lag']
        axes.plot(range(len(scores)), scores, style, color=colour, marker='.',
                  label=title(result))
    hz = results[0]['data']['hz']
    axes.set_xlabel('lag: frames since the key frame' + (f', at {hz:g} Hz' if hz else ''))
    axes.set_ylabel(f'mIoU %, {results[0]["data"]["name"]}')
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc='outside right upper', frameon=False, fontsize=8, handlelength=4)
    _save(figure, path)


def _styles(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Return (colour, line) of each: a colour for a cut, a line for a checkpoint."""
    names = list(dict.fromkeys(r['weights'] for r in results))
    lines = ('-', '--', ':', '-.')
    return [(COLOURS[r['shared_levels'] % len(COLOURS)], lines[names.index(r['weights']) % 4])
            for r in results]


def plot_tradeoff(path: Path, scores: Sequence[Result], timed: Sequence[Result],
                  baseline: Result | None) -> None:
    """Draw weighted mIoU against the average of a frame: a point for each interval."""
    figure, axes = _axes(9.0)
    latency = {(t['weights'], t['shared_levels']): t for t in timed}
    styles = _styles(scores)
    for result, (colour, style) in zip(scores, styles):
        found = latency.get((result['weights'], result['shared_levels']))
        if found is None:
            continue
        by_lag, best = result['miou']['per_lag'], found['best']
        intervals = [i for i in INTERVALS if i <= len(by_lag)]
        x = [found['baseline'][best], *(found['average'][best][str(i)] for i in intervals)]
        y = [by_lag[0], *(sum(by_lag[:i]) / i for i in intervals)]
        axes.plot(x, y, style, color=colour, marker='o', markersize=4, label=title(result))
        for interval, here in zip((1, *intervals), zip(x, y)):
            axes.annotate(str(interval), here, xytext=(5, -3), textcoords='offset points',
                          fontsize=8, color='#555555')
    if baseline is not None:
        axes.axhline(baseline['miou']['key'], color='#777777', linewidth=1, linestyle=':',
                     label='per-frame baseline')
    one, engines = timed[0], dict.fromkeys(t['best'] for t in timed)
    axes.set_xlabel(f'mean ms per frame at {one["size"][0]}x{one["size"][1]}, '
                    f'{one["device"].split(" ")[0]}, {" and ".join(engines)}\n'
                    'labels: key frame interval')
    axes.set_ylabel(f'weighted mIoU %, {scores[0]["data"]["name"]}')
    figure.legend(loc='outside right upper', frameon=False, fontsize=8, handlelength=4)
    _save(figure, path)


def plot_pareto(path: Path, result: Result) -> None:
    """Draw each accuracy against time, side by side, with the front of all points."""
    pyplot = _pyplot()
    methods, first = result['methods'], result['weights'][0]
    points = [point for method in methods for point in method['points']]
    shown = accuracies(points)
    figure, panels = pyplot.subplots(1, len(shown), figsize=(6.5 * len(shown), 6.0),
                                     layout='constrained')
    for axes, accuracy in zip(panels, shown):
        axes.grid(True, color='#dddddd', linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ('top', 'right'):
            axes.spines[side].set_visible(False)
        best = front(points, accuracy)
        axes.step([p['time'] for p in best], [p[accuracy] for p in best], where='post',
                  color='#bbbbbb', linewidth=6, alpha=0.5, zorder=0, label='front')
        counts = dict.fromkeys(KINDS, 0)
        labels: list[tuple[Result, str, bool]] = []
        for method in methods:
            kind, here = method['kind'], method['points']
            if kind == 'rival':  # in the table alone, and in the front
                continue
            index = counts[kind]
            counts[kind] += 1
            colour = '#222222' if kind == 'per frame' else COLOURS[index % len(COLOURS)]
            axes.plot([p['time'] for p in here], [p[accuracy] for p in here],
                      '-' if method['weights'] == first else '--', color=colour,
                      marker={'per frame': 's', 'sharing': 'o', 'moved': 'D'}[kind],
                      markersize=5, linewidth=1.2, label=method['name'])
            labels += [(point, colour, kind == 'per frame') for point in here]
        axes.set_xlabel('time per frame / that of the per-frame network at full size')
        axes.set_ylabel(f'{ACCURACIES[accuracy]}, {result["data"]["name"]}')
        axes.set_xlim(left=0)
        # Masks that are no longer of use would squeeze together what decides.
        useful = [p[accuracy] for m in methods if m['kind'] != 'rival' for p in m['points']]
        lowest, highest = min(useful), max(point[accuracy] for point in points)
        axes.set_ylim(lowest - 0.15 * (highest - lowest) - 0.5,
                      highest + 0.1 * (highest - lowest) + 0.5)
        _label(axes, labels, accuracy)
    handles, names = panels[0].get_legend_handles_labels()
    threads = result['threads']
    figure.legend(handles, names, loc='outside lower center', ncols=3, frameon=False, fontsize=8,
                  title='labels: input size or key frame interval; '
                  + {'cpu': 'CPU time', 'wall': 'time that passes'}[result['clock']]
                  + (f', {threads} thread{"s" * (threads != 1)}' if threads else '')
                  + f', {result["engine"]}, {result["precision"]}', title_fontsize=8)
    _save(figure, path)


def _label(axes: Any, labels: Sequence[tuple[Result, str, bool]], accuracy: str) -> None:
    """Label points (point, colour, whether left of it), except where labels would overlap."""
    taken: list[tuple[float, float]] = []
    wide, high = (abs(a - b) for a, b in (axes.get_xlim(), axes.get_ylim()))
    for point, colour, left in labels:
        place = point['time'] / wide, point[accuracy] / high  # shares of the panel
        near = 0.055 if left else 0.028
        if any(abs(place[0] - x) < near and abs(place[1] - y) < 0.022 for x, y in taken):
            continue
        taken.append(place)
        axes.annotate(point['label'], (point['time'], point[accuracy]), annotation_clip=True,
                      xytext=(-4, 5) if left else (4, -9), textcoords='offset points',
                      ha='right' if left else 'left', fontsize=7, color=colour)


def plot_classes(path: Path, results: Sequence[Result]) -> None:
    """Draw the IoU of each class on key frames, and on current frames of each cut."""
    figure, axes = _axes(9.0, 4.2)
    first = results[0]
    names = list(first['per_class'])
    columns = [('key', first, 'key')]
    columns += [(f'current, {title(r)}', r, 'current_mean') for r in results]
    width = 0.8 / len(columns)
    for index, (label, result, mode) in enumerate(columns):
        heights = [math.nan if (iou := result['per_class'][name][mode]) is None else iou
                   for name in names]
        axes.bar(np.arange(len(names)) + (index - (len(columns) - 1) / 2) * width, heights, width,
                 label=label, color='#999999' if mode == 'key'
                 else COLOURS[result['shared_levels'] % len(COLOURS)])
    axes.set_xticks(range(len(names)), names, rotation=30, ha='right')
    axes.set_ylabel(f'IoU %, {first["data"]["name"]}')
    axes.grid(False, axis='x')
    axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def draw_sheet(path: Path, rows: Sequence[Sequence[npt.NDArray[np.uint8]]], labels: LabelSet,
               heads: Sequence[str]) -> None:
    """Draw rows of an image and masks of class ids beside it, in the classes' colours."""
    pyplot = _pyplot()
    height, width = rows[0][0].shape[:2]
    figure, grid = pyplot.subplots(
        len(rows), len(heads), squeeze=False, layout='constrained',
        figsize=(3.2 * len(heads), 3.2 * height / width * len(rows) + 0.9))
    palette = labels.palette()
    for line, pictures in zip(grid, rows):
        for axes, picture in zip(line, pictures):
            axes.imshow(picture if picture.ndim == 3 else palette[picture])
            axes.axis('off')
    for axes, head in zip(grid[0], heads):
        axes.set_title(head, fontsize=9)
    patches = [pyplot.Rectangle((0, 0), 1, 1, color=np.array(colour) / 255)
               for colour in labels.colors]
    figure.legend(patches, labels.names, loc='outside lower center', ncols=len(labels) // 2 + 1,
                  fontsize=8, frameon=False)
    _save(figure, path)
