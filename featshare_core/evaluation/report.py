"""The report: results that are missing are measured and kept as JSON, then all are drawn."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featshare_core.durable import write_durably
from featshare_core.evaluation import plots, results, tables
from featshare_core.evaluation.accuracy import rounded
from featshare_core.evaluation.pages import PARETO, read_page, results_page
from featshare_core.evaluation.provenance import (
    fingerprint,
    read_json,
    shown,
    stem,
    write_json,
)
from featshare_core.evaluation.videos import DataChoice
from featshare_core.evaluation.work import count_work
from featshare_core.inference.device import choose_device
from featshare_core.inference.engines import make_engine
from featshare_core.networks.checkpoint import load_checkpoint

SHEET_ROWS = 4
Result = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """
    What a report is about; see ``featshare report --help``.

    :param cuts: shared levels; None for all cuts of each network.
    :param baseline, truncated: a per-frame checkpoint, and one without the deep levels.
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
    if not (path.is_file() and fits(read_json(path))):
        write_json(path, make())
    return path


def of_data(found: Result, plan: Plan) -> bool:
    """Return whether a result is of the labelled frames that are asked for, by fingerprint."""
    return bool(found['data'].get('sha256') == plan.data.fingerprint())


def scored(plan: Plan, weights: str, cut: int | None, interval: int) -> Path:
    """Return the file of a checkpoint's scores, which is kept where it is of these weights."""
    levels = results.cut(weights, cut)
    digits = fingerprint(weights)
    return kept(
        plan.folder / f'{stem(weights)}-{levels}-levels-interval-{interval}.json',
        lambda found: found['sha256'] == digits and of_data(found, plan),
        lambda: results.evaluate(weights, plan.data, interval, cut, plan.device))


def timed(plan: Plan, weights: str, cut: int | None) -> Path:
    """Return the file of a checkpoint's latency here, which is kept where the work is the same."""
    device = choose_device(plan.device).type
    config = load_checkpoint(weights, cut)[1]
    levels = results.cut(weights, cut)

    def fits(found: Result) -> bool:
        # Other weights take no longer; another network does.
        return found['frames'] >= plan.frames and found['network'] == config.network \
            and found['work'] == rounded(count_work(config, found['network_input']))

    folder = plan.output / 'latency' / f'{device}-{plan.size[0]}x{plan.size[1]}'
    return kept(folder / f'{stem(weights)}-{levels}-levels.json', fits,
                lambda: results.benchmark(weights, cut, plan.device, plan.size, plan.frames))


def write_report(plan: Plan) -> Path:
    """
    Measure what is missing, draw the page and its plots, and return the Markdown file.

    Which results the page shows is written to ``report.json``, so that ``pages.results_page`` can
    draw it again from the files alone.

    :raises ValueError, FileNotFoundError: where data or checkpoints do not fit.
    """
    pairs = [(weights, cut) for weights in plan.weights for cut in plan.cuts_of(weights)]
    reach = max(len(sample.frames) for sample in plan.data.open().samples)
    first, digits = plan.weights[0], fingerprint(plan.weights[0])
    truncated_digits = fingerprint(plan.truncated) if plan.truncated is not None else None
    files: dict[str, list[Path]] = {
        'deployed': [scored(plan, *pair, plan.interval) for pair in pairs],
        'by_lag': [scored(plan, *pair, min(plan.longest, reach)) for pair in pairs],
        **{name: [scored(plan, given, None, 1)] for name in ('baseline', 'truncated')
           if (given := getattr(plan, name))},
        'latencies': [timed(plan, *pair) for pair in pairs],
        'truncated_latency': [timed(plan, plan.truncated, None)] if plan.truncated else [],
        'rivals': [kept(
            plan.folder / f'{stem(first)}-rivals.json',
            lambda found: found['sha256'] == digits and of_data(found, plan)
            and found['interval'] == plan.interval
            and found.get('truncated_sha256') == truncated_digits,
            lambda: results.rivals(first, plan.data, plan.interval, None, plan.device,
                                   plan.truncated))]}
    write_json(plan.folder / 'report.json', {
        'command': plan.command(),
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
    if (pareto := plan.folder / PARETO).is_file():
        plots.plot_pareto(pareto.with_suffix('.png'), read_json(pareto))
    path = plan.output / f'{plan.data.name}.md'
    write_durably(path, results_page(plan.folder / 'report.json'))
    return path


def draw_contact_sheet(plan: Plan, weights: str) -> None:
    """Draw image, label, key mask, and the current mask at the longest lag of each cut."""
    cuts = plan.cuts_of(weights)
    engines = [make_engine(weights, 'auto', plan.device, shared_levels=cut) for cut in cuts]
    video = plan.data.video(plan.data.open(), engines[0].labels, plan.interval)
    read = video.source.read_image
    samples = [s for s in video.source.samples if len(s.frames) >= plan.interval]
    rows = []
    for index in np.linspace(0, len(samples) - 1, min(SHEET_ROWS, len(samples))).round():
        sample = samples[int(index)]
        path = sample.frames[plan.interval - 1::-1]
        row = [read(path[-1]), video.read_truth(sample), engines[0].key(read(path[-1])).mask]
        for engine in engines:
            mask = engine.key(read(path[0])).mask
            for frame in path[1:]:
                mask = engine.current(read(frame)).mask
            row.append(mask)
        rows.append(row)
    heads = ['image', 'label', 'key frame',
             *(f'lag {plan.interval - 1}, {cut} shared' for cut in cuts)]
    plots.draw_sheet(plan.sheets / f'{plan.data.name}-{stem(weights)}.png', rows, video.labels,
                     heads)


def compare_results(path_a: Path, path_b: Path) -> str:
    """
    Return what differs between two results: every figure, and whose it is.

    :raises ValueError: where a file is no result, or they have no figure in common.
    """
    a, b = (dict(_figures(read_json(path))) for path in (path_a, path_b))
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
