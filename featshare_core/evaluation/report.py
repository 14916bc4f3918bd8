"""The thesis's tables and figures with ours beside its numbers, from results kept as JSON."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featshare_core.evaluation import plots, results, tables
from featshare_core.evaluation.accuracy import rounded
from featshare_core.evaluation.provenance import (
    fingerprint,
    provenance,
    read_json,
    shown,
    write_json,
)
from featshare_core.evaluation.videos import DataChoice, Video
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

    :param longest: the interval whose lags the curves reach, where the videos are that long.
    :param size: (width, height) that latency is measured at; ``frames`` are timed.
    """

    data: DataChoice
    weights: tuple[str, ...] = ('default',)
    cuts: tuple[int, ...] = (1, 2, 3)
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
        if self.cuts != plain.cuts:
            parts.append(f'--shared-levels {" ".join(map(str, self.cuts))}')
        parts += [f'--{name} {getattr(self, name)}' for name in ('interval', 'longest', 'frames')
                  if getattr(self, name) != getattr(plain, name)]
        if self.size != plain.size:
            parts.append(f'--size {self.size[0]}x{self.size[1]}')
        return ' '.join(parts)


def kept(path: Path, fits: Callable[[Result], bool], make: Callable[[], Result]) -> Result:
    """Return the result in a file, or make it, where it is missing or does not fit any more."""
    if path.is_file() and fits(found := read_json(path)):
        return found
    result = make()
    write_json(path, result)
    return result


def of_data(found: Result, plan: Plan) -> bool:
    """Return whether a result is of the data that is asked for, by more than its name."""
    return bool(found['data'].get('sha256') == plan.data.fingerprint())


def scored(plan: Plan, weights: str, cut: int | None, interval: int) -> Result:
    """Return a checkpoint's scores, from their file where it is of these weights."""
    levels = results.cut(weights, cut)
    digits = fingerprint(weights)
    return kept(
        plan.folder / f'{stem(weights)}-{levels}-levels-interval-{interval}.json',
        lambda found: found['sha256'] == digits and of_data(found, plan),
        lambda: results.evaluate(weights, plan.data, interval, cut, plan.device))


def timed(plan: Plan, weights: str, cut: int | None) -> Result:
    """Return a checkpoint's latency on this device, from its file where the work is the same."""
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


def stem(weights: str) -> str:
    """Return a checkpoint's name for files: ``runs/fast/final.safetensors`` is runs-fast-final."""
    return '-'.join(Path(shown(weights)).with_suffix('').parts)


def write_report(plan: Plan) -> Path:
    """
    Make what is missing, draw, and return the Markdown file.

    :raises ValueError, FileNotFoundError: where data or checkpoints do not fit.
    """
    pairs = [(weights, cut) for weights in plan.weights for cut in plan.cuts]
    deployed = [scored(plan, *pair, plan.interval) for pair in pairs]
    reach = max(len(sample.frames) for sample in plan.data.open().samples)
    by_lag = [scored(plan, *pair, min(plan.longest, reach)) for pair in pairs]
    single = {name: scored(plan, given, None, 1) for name in ('baseline', 'truncated')
              if (given := getattr(plan, name))}
    latencies = [timed(plan, *pair) for pair in pairs]
    truncated_ms = timed(plan, plan.truncated, None) if plan.truncated else None
    first, digits = plan.weights[0], fingerprint(plan.weights[0])
    rivals = kept(plan.folder / f'{stem(first)}-rivals.json',
                  lambda found: found['sha256'] == digits and of_data(found, plan)
                  and found['interval'] == plan.interval and found.get('truncated_sha256') == (
                      fingerprint(plan.truncated) if plan.truncated is not None else None),
                  lambda: results.rivals(first, plan.data, plan.interval, None, plan.device,
                                         plan.truncated))
    plots.plot_lags(plan.folder / 'lags.png', by_lag)
    plots.plot_tradeoff(plan.folder / 'accuracy-latency.png', by_lag, latencies,
                        single.get('baseline'))
    for weights in plan.weights:
        plots.plot_classes(plan.folder / f'classes-{stem(weights)}.png',
                           [r for r in deployed if r['weights'] == shown(weights)])
        draw_contact_sheet(plan, weights)
    text = '\n\n'.join(_sections(plan, deployed, by_lag, single, latencies, truncated_ms, rivals))
    path = plan.output / f'{plan.data.name}.md'
    path.write_text(text + '\n')
    return path


def _sections(plan: Plan, deployed: list[Result], by_lag: list[Result],
              single: dict[str, Result], latencies: list[Result], truncated_ms: Result | None,
              rivals: Result) -> Iterator[str]:
    """Yield the report's parts."""
    first, folder = deployed[0], plan.data.name
    data, here = first['data'], provenance(plan.command(), first['device'])
    yield f'# Results on {folder}'
    yield (f'Drawn by\n\n    {here["command"]}\n\non {tables.origin(here)}; from the JSON files '
           f'in [{folder}]({folder}) and [latency](latency), each with its own command, machine, '
           f'versions and commit.')
    if not data['made_by_hand']:
        yield ('**The labels of these videos were made by a machine** (another network), so '
               'these figures say how alike two networks are, not how good one is.')
    if data['classes_translated']:
        yield ("The network's classes are CamVid's eleven; Cityscapes' labels were translated "
               'into them (`CITYSCAPES_AS_CAMVID` in `featshare_core/evaluation/videos.py`), '
               'and what has no such class was left out.')
    rate = f' ({data["hz"]:g} Hz)' if data['hz'] else ''
    yield (f'{first["frames"]} labelled frames, each at lags 0 to {plan.interval - 1} since its '
           f'key frame{rate}. The figures of the thesis are of Cityscapes val, so only '
           'differences between rows can be compared. "current" is the mean over lags 1 to d-1, '
           '"weighted" 1/d key + (d-1)/d current.')
    yield '## Table 5.1: latency'
    for name, measured in _latency_folders(plan, latencies):
        yield (f'{name}, {measured[0]["frames"]} frames each, best engine '
               f'{", ".join(dict.fromkeys(r["best"] for r in measured))}; '
               f'{tables.origin(measured[0])}:\n\n{tables.commands(measured)}')
        yield tables.latency_table(measured, truncated_ms)
        yield ('In brackets: the ratio to the per-frame baseline of the same run; then, for ours, '
               'what the multiply-adds alone would make of it.')
        yield 'Every engine, and the work that a frame is:'
        yield tables.engine_table(measured)
    yield '## Table 5.2: accuracy'
    yield tables.commands([*single.values(), *deployed])
    yield tables.score_table(deployed, single.get('baseline'), single.get('truncated'))
    yield '## Figure 5.1: accuracy against latency'
    yield f'![weighted mIoU against latency]({folder}/accuracy-latency.png)'
    yield tables.interval_table(by_lag)
    yield tables.commands(by_lag)
    yield '## Figure 5.2: accuracy by lag'
    yield (f'![mIoU by lag]({folder}/lags.png)\n\nOf the {by_lag[0]["frames"]} frames that have '
           f'{by_lag[0]["interval"] - 1} frames before them.')
    yield tables.lag_table(by_lag)
    yield '## Figure 5.4: classes'
    for weights in plan.weights:
        yield f'![IoU of each class]({folder}/classes-{stem(weights)}.png)'
    yield tables.class_table(deployed)
    yield '## Figure 5.5: pictures'
    yield ("Image, label, key and current masks: the command writes them into `runs/sheets`; the "
           "data set's licence keeps its frames out of this repository.")
    yield '## Rivals'
    yield (f'What a reader will ask about, on the same network ({tables.title(rivals)}, engine '
           f'{rivals["engine"]}, {rivals["precision"]}), frames and run; latency at '
           f'{rivals["image"][0]}x{rivals["image"][1]} on {tables.origin(rivals)}:\n\n'
           f'{tables.commands([rivals])}')
    yield tables.rival_table(rivals)


def _latency_folders(plan: Plan, here: list[Result]) -> Iterator[tuple[str, list[Result]]]:
    """Yield the name and the latencies of each device and size that they were measured on."""
    wanted = {(r['weights'], r['shared_levels']): i for i, r in enumerate(here)}
    for folder in sorted((plan.output / 'latency').iterdir()):
        found = [read_json(file) for file in sorted(folder.glob('*.json'))]
        found = [r for r in found if (r['weights'], r['shared_levels']) in wanted]
        if found:
            yield folder.name, sorted(
                found, key=lambda r: wanted[r['weights'], r['shared_levels']])


def draw_contact_sheet(plan: Plan, weights: str) -> None:
    """Draw image, label, key mask, and the current mask at the longest lag of each cut."""
    engines = [make_engine(weights, 'auto', plan.device, shared_levels=cut) for cut in plan.cuts]
    video = Video(plan.data.open(), engines[0].labels)
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
             *(f'lag {plan.interval - 1}, {cut} shared' for cut in plan.cuts)]
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
