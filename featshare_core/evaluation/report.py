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
"""The report: results that are missing are measured and kept as JSON, then all are drawn."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featshare_core.data.rendered import rendered_source
from featshare_core.durable import write_durably
from featshare_core.evaluation import plots, recipes, results, tables
from featshare_core.evaluation.accuracy import rounded
from featshare_core.evaluation.pages import PARETO, PICTURES, read_page, results_page
from featshare_core.evaluation.provenance import (
    read_result,
    short_fingerprint,
    shown,
    stem,
    write_json,
)
from featshare_core.evaluation.thesis import ROWS, TRUNCATED
from featshare_core.evaluation.videos import DataChoice, Video
from featshare_core.evaluation.work import count_work
from featshare_core.inference.device import choose_device
from featshare_core.inference.engines import make_engine
from featshare_core.inference.export.models import read_config
from featshare_core.networks.checkpoint import load_checkpoint
import numpy as np

SHEET_ROWS = 4
"""Number of moments that a picture shows."""
STREET_SEED, STREET_SIZE = 901, (640, 360)
"""Seed of the first street in the pictures, of which no network has seen any, and its size."""
Result = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """
    What a report is about; see ``featshare report --help``.

    :param cuts: shared levels; None for all cuts of each network.
    :param baseline, truncated: a per-frame checkpoint, and one without the deep levels.
    :param thesis: a folder of runs by the thesis's recipe, see ``recipes``; those that it lacks
        are trained into it where ``train`` is set.
    :param interval: frames from key to key frame, of the headline scores; the curves reach the
        lags of the interval ``longest``, where the videos are that long.
    :param size: (width, height) in pixels that latency is measured at; ``frames`` are timed.
    :param output, sheets: folders for results and pages, and for pictures of the data set.
    """

    data: DataChoice
    weights: tuple[str, ...] = ('default',)
    cuts: tuple[int, ...] | None = None
    baseline: str | None = None
    truncated: str | None = None
    thesis: Path | None = None
    train: bool = False
    interval: int = 5
    longest: int = 15
    device: str = 'auto'
    size: tuple[int, int] = (512, 512)
    frames: int = 500
    output: Path = Path('docs/results')
    sheets: Path = Path('runs/sheets')

    @property
    def folder(self) -> Path:
        """Where the scores and plots go."""
        return self.output / self.data.name

    def command(self) -> str:
        """Return the command line that makes the report, without the folders of this machine."""
        parts = ['featshare report --weights', *map(shown, self.weights), self.data.arguments()]
        for name in ('baseline', 'truncated'):
            if given := getattr(self, name):
                parts.append(f'--{name} {shown(given)}')
        if self.thesis is not None:
            parts.append(f'--thesis {shown(self.thesis)}' + ' --train' * self.train)
        plain = Plan(self.data)
        if self.cuts is not None:
            parts.append(f'--shared-levels {" ".join(map(str, self.cuts))}')
        parts += [f'--{name} {getattr(self, name)}' for name in ('interval', 'longest', 'frames')
                  if getattr(self, name) != getattr(plain, name)]
        if self.size != plain.size:
            parts.append(f'--size {self.size[0]}x{self.size[1]}')
        return ' '.join(parts)

    def cuts_of(self, weights: str) -> tuple[int, ...]:
        """Return the cuts of a checkpoint that the report is about."""
        return load_checkpoint(weights)[0].cuts[1:] if self.cuts is None else self.cuts


def kept(path: Path, fits: Callable[[Result], bool], make: Callable[[], Result]) -> Path:
    """Return the file of a result, made where it is missing or does not fit any more."""
    if not (path.is_file() and fits(read_result(path))):
        write_json(path, make())
    return path


def of_data(found: Result, plan: Plan) -> bool:
    """Return whether a result is of the labelled frames that are asked for, by fingerprint."""
    return bool(found['data'].get('sha256') == plan.data.fingerprint())


def scored(plan: Plan, weights: str, cut: int | None, interval: int,
           name: str | None = None) -> Path:
    """
    Return the file of a checkpoint's scores, which is kept where it is of these weights.

    :param name: that the file's begins with; None for the checkpoint's.
    """
    levels = results.cut(weights, cut)
    digits = short_fingerprint(weights)
    return kept(
        plan.folder / f'{name or stem(weights)}-{levels}-levels-interval-{interval}.json',
        lambda found: found['sha256'] == digits and of_data(found, plan),
        lambda: results.evaluate(weights, plan.data, interval, cut, plan.device))


def timed(plan: Plan, weights: str, cut: int | None, name: str | None = None) -> Path:
    """
    Return the file of a checkpoint's latency here, which is kept where the work is the same.

    :param name: see ``scored``.
    """
    device = choose_device(plan.device).type
    config = load_checkpoint(weights, cut)[1]
    levels = results.cut(weights, cut)

    def fits(found: Result) -> bool:
        # Other weights take no longer; another network does.
        return found['frames'] >= plan.frames and found['network'] == config.network \
            and found['work'] == rounded(count_work(config, found['network_input']))

    folder = plan.output / 'latency' / f'{device}-{plan.size[0]}x{plan.size[1]}'
    return kept(folder / f'{name or stem(weights)}-{levels}-levels.json', fits,
                lambda: results.benchmark(weights, cut, plan.device, plan.size, plan.frames))


def write_report(plan: Plan) -> Path:
    """
    Measure what is missing, draw the page and its plots, and return the Markdown file.

    Which results the page shows is written to ``report.json``, so that ``pages.results_page`` can
    draw it again from the files alone.

    :raises ValueError, FileNotFoundError: where data or checkpoints do not fit.
    """
    command = plan.command()
    runs: dict[str, Path] = {}
    # The checkpoint whose latency is shown, and the name of its file.
    truncated: tuple[str | None, str | None] = plan.truncated, None
    if plan.thesis is not None:
        if plan.train:
            recipes.train_runs(plan.thesis, plan.data, plan.device)
        runs = recipes.find_runs(plan.thesis)
        if plan.truncated is None and TRUNCATED in runs:
            # Only its latency stands beside ours: it is trained for fewer steps.
            truncated = str(runs[TRUNCATED]), ROWS[TRUNCATED].run
    reach = max(len(sample.frames) for sample in plan.data.open().samples)
    longest = min(plan.longest, reach)
    # One set of frames for all tables and figures.
    plan = replace(plan, data=replace(plan.data, before=max(plan.data.before, longest - 1)))
    pairs = [(weights, cut) for weights in plan.weights for cut in plan.cuts_of(weights)]
    first, digits = plan.weights[0], short_fingerprint(plan.weights[0])
    truncated_digits = short_fingerprint(plan.truncated) if plan.truncated is not None else None
    files: dict[str, list[Path]] = {
        'deployed': [scored(plan, *pair, plan.interval) for pair in pairs],
        'by_lag': [scored(plan, *pair, longest) for pair in pairs],
        'baseline': [scored(plan, plan.baseline, None, 1)] if plan.baseline else [],
        'truncated': [scored(plan, plan.truncated, None, 1)] if plan.truncated else [],
        'latencies': [timed(plan, *pair) for pair in pairs],
        'truncated_latency': [timed(plan, truncated[0], None, truncated[1])]
        if truncated[0] else [],
        'rivals': [kept(
            plan.folder / f'{stem(first)}-rivals.json',
            lambda found: found['sha256'] == digits and of_data(found, plan)
            and found['interval'] == plan.interval
            and found.get('truncated_sha256') == truncated_digits,
            lambda: results.rivals(first, plan.data, plan.interval, None, plan.device,
                                   plan.truncated))]}
    own = {name: scored(plan, str(path), None, 1 if results.cut(path, None) == 0 else
                        plan.interval, ROWS[name].run) for name, path in runs.items()}
    write_json(plan.folder / 'report.json', {
        'command': command,
        'recipes': {name: {'file': str(path.relative_to(plan.output)),
                           'trained': recipes.amount(runs[name])} for name, path in own.items()},
        'files': {name: [str(path.relative_to(plan.output)) for path in paths]
                  for name, paths in files.items()}})
    shows = read_page(plan.folder / 'report.json')
    plots.plot_lags(plan.folder / 'lags.png', shows['by_lag'])
    plots.plot_tradeoff(plan.folder / 'accuracy-latency.png', shows['by_lag'],
                        shows['latencies'], next(iter(shows['baseline']), None))
    for weights in plan.weights:
        plots.plot_classes(plan.folder / f'classes-{stem(weights)}.png',
                           [r for r in shows['deployed'] if r['weights'] == shown(weights)])
        draw_contact_sheet(plan, weights)
    draw_street(plan, plan.folder / PICTURES)
    if (pareto := plan.folder / PARETO).is_file():
        plots.plot_pareto(pareto.with_suffix('.png'), read_result(pareto))
    path = plan.output / f'{plan.data.name}.md'
    write_durably(path, results_page(plan.folder / 'report.json'))
    return path


def draw_contact_sheet(plan: Plan, weights: str) -> None:
    """Draw moments of the data set; see ``_draw``."""
    video = plan.data.video(plan.data.open(), read_config(weights).labels, plan.interval)
    _draw(plan, weights, video, plan.sheets / f'{plan.data.name}-{stem(weights)}.png')


def draw_street(plan: Plan, path: Path) -> None:
    """
    Draw moments of rendered streets, which may be published, for the first of the checkpoints.

    Nothing is drawn for a network of other classes than the streets'.
    """
    streets = STREET_SEED, STREET_SEED + SHEET_ROWS - 1
    source = rendered_source(streets, 1, plan.interval, STREET_SIZE)
    labels = read_config(plan.weights[0]).labels
    if labels.names == source.labels.names:
        _draw(plan, plan.weights[0], Video(source, labels), path)


def _draw(plan: Plan, weights: str, video: Video, path: Path) -> None:
    """Draw image, label, key mask, and the current mask at the longest lag of each cut."""
    cuts = plan.cuts_of(weights)
    engines = [make_engine(weights, 'auto', plan.device, shared_levels=cut) for cut in cuts]
    read = video.source.read_image
    samples = [s for s in video.source.samples if len(s.frames) >= plan.interval]
    rows = []
    for index in np.linspace(0, len(samples) - 1, min(SHEET_ROWS, len(samples))).round():
        sample = samples[int(index)]
        passed = sample.frames[plan.interval - 1::-1]
        row = [read(passed[-1]), video.read_truth(sample), engines[0].key(read(passed[-1])).mask]
        for engine in engines:
            mask = engine.key(read(passed[0])).mask
            for frame in passed[1:]:
                mask = engine.current(read(frame)).mask
            row.append(mask)
        rows.append(row)
    heads = ['image', 'label', 'key frame',
             *(f'lag {plan.interval - 1}, {cut} shared' for cut in cuts)]
    plots.draw_sheet(path, rows, video.labels, heads)


def compare_results(path_a: Path, path_b: Path) -> str:
    """
    Return what differs between two results: every figure, and whose it is.

    :raises ValueError: where a file is no result, or they have no figure in common.
    """
    a, b = (dict(_figures(read_result(path))) for path in (path_a, path_b))
    common = [name for name in a if name in b]
    if not common:
        raise ValueError(f'{path_a} and {path_b} have no figure in common: results of two kinds')
    rows = [[name, f'{a[name]:g}', f'{b[name]:g}', f'{b[name] - a[name]:+.3g}']
            for name in common if a[name] != b[name]]
    alone = [f'only in {name}: {len(more)} figures' for name, more in
             (('A', a.keys() - b.keys()), ('B', b.keys() - a.keys())) if more]
    return '\n'.join([tables.table(['', 'A', 'B', 'B - A'], rows),
                      f'{len(common) - len(rows)} figures are equal', *alone])


def _figures(value: Any, name: str = '') -> Iterator[tuple[str, float]]:
    """Yield the path and the value of every number in a result."""
    items: Any = value.items() if isinstance(value, dict) else \
        enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if key not in ('versions', 'data'):
            yield from _figures(item, f'{name}.{key}'.lstrip('.'))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name, float(value)
