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
"""The tables of docs/models, by the name that a page marks them with; see ``pages.fill``."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from featshare_core.evaluation.provenance import read_result
from featshare_core.evaluation.tables import budget_table, percent, Result, table

DATA = 'camvid-val'
CUTS = (1, 2, 3)
INTERVAL = 5
"""Of the headline scores, in frames."""
INTERVALS = (5, 10, 15)
"""Intervals of the losses, in frames; the longest is that of the scores by lag."""

PER_FRAME_GOALS = {'default': 72.0, 'light': 75.0, 'densenet121': 68.0}
"""Lowest mIoU of key frames, in percent."""
LOSS_GOALS: dict[int, dict[int, tuple[float | None, float | None]]] = {
    1: {10: (0.3, None)},
    2: {5: (0.5, 1.0), 10: (1.5, 3.0), 15: (3.0, None)},
    3: {5: (1.5, None)}}
"""Most that sharing may cost, in points of mIoU: by shared levels and interval, its mean over the
interval and its worst lag."""


def scores(results: Path, weights: str) -> str:
    """Return the headline scores of a checkpoint, a row for each cut, in percent."""
    rows = []
    for cut in CUTS:
        one = _read(results, weights, cut, INTERVAL)
        miou = one['miou']
        rows.append([cut, *(percent(miou[key]) for key in
                            ('key', 'current_mean', 'current_worst', 'weighted')),
                     percent(one['vc8']['key']), percent(one['vc8']['deployed'])])
    return table(['shared levels', 'key frames', 'current frames, mean', 'worst lag',
                  'all frames', 'VC_8, every frame a key frame', 'VC_8'], rows)


def classes(results: Path, weights: str) -> str:
    """Return the IoU of each class on key frames and on current frames of each cut, in percent."""
    found = [_read(results, weights, cut, INTERVAL)['per_class'] for cut in CUTS]
    return table(['', 'key frames', *(f'current, {_levels(cut)}' for cut in CUTS)],
                 [[name, percent(found[0][name]['key']),
                   *(percent(one[name]['current_mean']) for one in found)] for name in found[0]])


def losses(results: Path, weights: str) -> str:
    """Return what sharing costs against the key frames of the same frames, in points of mIoU."""
    rows = []
    for cut in CUTS:
        rows.append([cut, *(' / '.join(f'{loss:.2f}' for loss in
                                       _loss(results, weights, cut, interval))
                            for interval in INTERVALS)])
    return table(['shared levels', *(f'interval {i}, mean / worst lag' for i in INTERVALS)], rows)


def loss_goals() -> str:
    """Return what sharing may cost at most, in points of mIoU, by shared levels and interval."""
    def bounds(cut: int, interval: int) -> str:
        found = LOSS_GOALS[cut].get(interval)
        return ' / '.join('none' if one is None else f'{one:g}' for one in found) if found else ''

    return table(['shared levels', *(f'interval {i}, mean / worst lag' for i in INTERVALS)],
                 [[cut, *(bounds(cut, i) for i in INTERVALS)] for cut in CUTS])


def goals_missed(results: Path) -> str:
    """Return the goals of accuracy that the shipped checkpoints miss."""
    return table(['checkpoint', 'goal', 'bound', 'reached'], _missed(results))


def _missed(results: Path) -> Iterator[list[str]]:
    """Yield a row for each goal missed."""
    for weights, bound in PER_FRAME_GOALS.items():
        reached = _read(results, weights, 2, INTERVAL)['miou']['key']
        if reached < bound:
            yield [f'`{weights}`', 'mIoU of key frames, %', f'at least {bound:g}',
                   f'{reached:.2f}']
        for cut, by_interval in LOSS_GOALS.items():
            for interval, bounds in by_interval.items():
                lost = _loss(results, weights, cut, interval)
                for kind, most, reached in zip(('mean', 'worst lag'), bounds, lost):
                    if most is not None and reached > most:
                        yield [f'`{weights}`', f'{_levels(cut)}, interval {interval}: points '
                               f'lost, {kind}', f'at most {most:g}', f'{reached:.2f}']


def networks(results: Path) -> str:
    """Return what sharing saves in segmentation_models_pytorch's networks, by cut, in percent."""
    rows = []
    for one in read_result(results / 'networks.json')['networks']:
        whole, cuts = one['whole'], one['cuts']
        rows.append([one['architecture'], one['encoder'], f'{1e-9 * whole["multiply_adds"]:.1f}',
                     f'{whole["milliseconds"]:.0f}',
                     *(f'{100 * cuts[cut]["multiply_adds_saved"]:.0f} / '
                       f'{100 * cuts[cut]["time_saved"]:.0f}' if cut in cuts else ''
                       for cut in '1234')])
    return table(['architecture', 'encoder', 'whole, 1e9 multiply-adds', 'ms', *'1234'], rows)


def traffic(results: Path) -> str:
    """Return what sharing costs on the rendered traffic: of each lag, in percent."""
    found = [read_result(file) for file in sorted(
        (results / 'traffic').glob(f'*-interval-{INTERVAL}.json'))]

    def row(name: str, values: Callable[[Result], Sequence[float | None]]) -> list[str]:
        return [name, *(', '.join(map(percent, values(one))) for one in found)]

    def per_class(name: str) -> Callable[[Result], Sequence[float | None]]:
        return lambda one: one['per_class'][name]['per_lag']

    def kept(name: str) -> Callable[[Result], Sequence[float | None]]:
        return lambda one: one['things'][name]['passing']['kept'][1:]

    names = sorted(found[0]['things'])
    heads = (f'`{one["weights"]}`, {_levels(one["shared_levels"])}' for one in found)
    return table(['', *heads], [
        row('mIoU', lambda one: one['miou']['per_lag']),
        *(row(f'IoU of {name}', per_class(name)) for name in names),
        *(row(f'passing: kept of {name}, from lag 1', kept(name)) for name in names)])


def int8(results: Path) -> str:
    """Return what int8 costs on CamVid val, by what it was calibrated on."""
    miou = read_result(results / 'speed' / 'int8-cpu.json')['miou']
    sources = next(iter(miou.values()))
    return table(['mIoU, key frames / mean at interval 5', *sources],
                 [[f'`{weights}`', *(f'{one["key"]:g} / {one["mean"]:g}' for one in by.values())]
                  for weights, by in miou.items()])


def _read(results: Path, weights: str, cut: int, interval: int) -> Result:
    return read_result(results / DATA / f'{weights}-{cut}-levels-interval-{interval}.json')


def _loss(results: Path, weights: str, cut: int, interval: int) -> tuple[float, float]:
    """Return points of mIoU below lag 0: the mean over all lags, the worst lag from 1 on."""
    by_lag = _read(results, weights, cut, max(INTERVALS))['miou']['per_lag'][:interval]
    return by_lag[0] - sum(by_lag) / interval, by_lag[0] - min(by_lag[1:])


def _levels(cut: int) -> str:
    return f'{cut} level{"s" * (cut != 1)}'


def _budgets(data: str) -> Callable[[Path], str]:
    return lambda results: budget_table(read_result(results / data / 'pareto.json'))


def _of(draw: Callable[[Path, str], str], weights: str) -> Callable[[Path], str]:
    return lambda results: draw(results, weights)


TABLES: dict[str, Callable[[Path], str]] = {
    **{f'{name} of {weights}': _of(draw, weights) for weights in PER_FRAME_GOALS
       for name, draw in (('scores', scores), ('classes', classes), ('losses', losses))},
    'goals of losses': lambda results: loss_goals(),
    'goals of accuracy missed': goals_missed, 'networks': networks, 'int8': int8,
    'traffic': traffic,
    **{f'budgets of {data}': _budgets(data) for data in ('camvid-val', 'traffic')}}
"""What draws each table from the folder docs/results."""
