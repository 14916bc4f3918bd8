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
"""Results as text and as Markdown tables."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from featshare_core.evaluation import thesis
from featshare_core.evaluation.latency import EAGER, INTERVAL, INTERVALS
from featshare_core.evaluation.pareto import ACCURACIES, accuracies, BUDGETS, front, KINDS

Result = Mapping[str, Any]
MISSING = 'not measured'


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table; the first column is aligned left, the others right."""
    lines = [head, ['---', *['---:'] * (len(head) - 1)], *rows]
    return '\n'.join('| ' + ' | '.join(str(cell) for cell in line) + ' |' for line in lines)


def percent(value: float | None) -> str:
    """Return a score in percent to a tenth, or a dash for None."""
    return '-' if value is None else f'{value:.1f}'


def title(result: Result) -> str:
    """Return a checkpoint and its shared levels, for display."""
    levels = result['shared_levels']
    return f'{result["weights"]}, {levels} level{"s" * (levels != 1)}'


def class_lines(result: Result) -> list[str]:
    """Return a line that says which classes no mean counts, or none where all are counted."""
    classes = result.get('classes')  # results of older versions have none
    if not classes or not classes['absent']:
        return []
    return [f'! mIoU is the mean over {classes["scored"]} of {classes["of"]} classes: no pixel is '
            f'labelled {", ".join(classes["absent"])}']


def sharing_lines(result: Result) -> list[str]:
    """Return a line that says that a network without shared levels was scored, or none."""
    if result['shared_levels'] or result['interval'] == 1:
        return []
    return ['! 0 levels are shared: every frame runs the whole network, so these figures do not '
            'measure feature sharing']


def score_text(result: Result) -> str:
    """Return the scores of ``featshare evaluate`` for the terminal."""
    miou, data = result['miou'], result['data']
    lines = [f'{result["weights"]}: {result["network"]}, engine {result["engine"]}, '
             f'{result["precision"]}',
             f'{data["name"]}: {result["frames"]} of {result["labelled_frames"]} labelled frames, '
             f'each at lags 0 to {result["interval"] - 1}'
             + ('; the others have too few frames before them'
                if result['frames'] < result['labelled_frames'] else '')
             + ('' if data['made_by_hand'] else '; labels made by a machine')
             + ('; classes translated' if data['classes_translated'] else ''), '',
             *class_lines(result), *sharing_lines(result),
             f'mIoU %   key {percent(miou["key"])}   current, mean '
             f'{percent(miou["current_mean"])}, worst lag {percent(miou["current_worst"])}   '
             f'weighted {percent(miou["weighted"])}   '
             f'over {result["classes"]["scored"]} of {result["classes"]["of"]} classes',
             'by lag   ' + '  '.join(f'{lag}: {percent(score)}'
                                     for lag, score in enumerate(miou['per_lag']))]
    if result['vc8']:
        lines.append(f'VC_8 %   every frame a key frame {percent(result["vc8"]["key"])}   '
                     f'as deployed {percent(result["vc8"]["deployed"])}')
    lines += flicker_lines(result['flicker'])
    lags = range(result['interval'])
    lines += ['', f'{"IoU %":16} {"key":>6} {"current":>8}'
              + ''.join(f' {f"lag {lag}":>6}' for lag in lags[1:])]
    lines += [f'{name:16} {percent(iou["key"]):>6} {percent(iou["current_mean"]):>8}'
              + ''.join(f' {percent(one):>6}' for one in iou['per_lag'][1:])
              for name, iou in result['per_class'].items()]
    lines += things_lines('what is left of things, %', result['things'], result['interval'])
    if len(result['videos']) > 1:
        width = max(map(len, ('mIoU %', *result['videos'])))
        lines += ['', f'{"mIoU %":{width}} {"frames":>6}' + ''.join(f' {f"lag {lag}":>6}'
                                                                    for lag in lags)]
        lines += [f'{name:{width}} {one["frames"]:6}'
                  + ''.join(f' {percent(score):>6}' for score in one['miou']['per_lag'])
                  for name, one in result['videos'].items()]
    return '\n'.join(lines)


def unlabelled_text(result: Result) -> str:
    """Return what sharing costs on video without labels for the terminal."""
    interval, stride, classes = result['interval'], result['stride'], result['classes']
    lags = range(1, interval)
    lines = [f'{result["weights"]}: {result["network"]}, engine {result["engine"]}, '
             f'{result["precision"]}',
             f'{result["data"]["name"]}: {result["frames"]} of {result["data"]["frames"]} frames, '
             + ('each at every lag' if stride == 1 else f'a key frame tried every {stride} frames')
             + '; compared with the masks of the same network run on every frame',
             f'mIoU is the mean over {classes["scored"]} of {classes["of"]} classes, those '
             'that these masks hold', *sharing_lines(result), '',
             f'{"agreement %":34}' + ''.join(f' {f"lag {lag}":>6}' for lag in lags)
             + f' {"mean":>6}']
    for part, name in (('pixels', 'pixels'), ('miou', 'mIoU')):
        lines += [f'{f"{name}: {what}":34}'
                  + ''.join(f' {percent(one):>6}' for one in found['per_lag'][1:])
                  + f' {percent(found["mean"]):>6}'
                  for what, found in (
                      ('sharing', result[part]['shared']),
                      ("key frame's mask repeated", result[part]['repeated']),
                      ('damage that remains', result[part]['damage_remaining']))]
    lines += flicker_lines(result['flicker'])
    lines += ['', f'{"IoU %, mean of lags":24} {"pixels":>6} {"sharing":>8} {"worst":>6} '
              f'{"repeated":>8} {"remains":>8}']
    lines += [f'{name:24} {percent(one["share_of_pixels"]):>6} {percent(one["shared"]["mean"]):>8}'
              f' {percent(one["shared"]["worst"]):>6} {percent(one["repeated"]["mean"]):>8} '
              f'{percent(one["damage_remaining"]["mean"]):>8}'
              for name, one in result['per_class'].items()]
    for way, name in (('shared', 'sharing'), ('repeated', "key frame's mask repeated")):
        lines += things_lines(f'what is left of things, %: {name}', result['things'][way],
                              interval)
    return '\n'.join(lines)


def flicker_lines(flicker: Mapping[str, Any] | None) -> list[str]:
    """Return a line of how many pixels change class where the reference does not, or none."""
    if not flicker or flicker['key'] is None:
        return []
    ratio, alone = flicker['ratio'], flicker.get('per_frame')
    return [f'flicker %   into key frames {flicker["key"]:.2f}'
            + ('' if flicker['between'] is None else f'   between {flicker["between"]:.2f}')
            + ('' if ratio is None else f'   ratio {ratio:.2f}')
            + ('' if alone is None else f'   every frame a key frame {alone:.2f}')]


def things_lines(head: str, things: Mapping[str, Any], interval: int) -> list[str]:
    """Return what is left of things at each lag from 1 on: mean share kept / survivors."""
    if not things:
        return []
    lines = ['', f'{head}: mean share kept / share of things of which half is kept',
             f'{"":16} {"things":>6}' + ''.join(f' {f"lag {lag}":>13}'
                                                for lag in range(1, interval))]
    for name, one in things.items():
        for row, part in ((name, one), ('  passing', one['passing'])):
            cells = [f'{percent(kept)} / {percent(survivors)}'
                     for kept, survivors in zip(part['kept'][1:], part['survivors'][1:])]
            if count := max(part['things']):
                lines.append(f'{row:16} {count:6}' + ''.join(f' {c:>13}' for c in cells))
    return lines


def latency_text(result: Result) -> str:
    """Return the figures of ``featshare benchmark`` for the terminal."""
    work, ratios = result['work'], result['ratios']
    lines = [f'{title(result)}: {result["network"]}, {result["device"]}, '
             f'{result["size"][0]}x{result["size"][1]}', '',
             f'{"ms":12}' + ''.join(f' {head:>8}' for head in (
                 'frames', 'key', 'current', 'p99', 'worst', 'baseline',
                 *(f'every {i}' for i in INTERVALS)))]
    for name, ms in result['ms'].items():
        frames = result['latency'][name]
        shown = [ms['key'], ms['current'], frames['key']['p99'],
                 max(frames['key']['worst'], frames['current']['worst']),
                 result['baseline'][name], *result['average'][name].values()]
        lines.append(f'{name:12} {result["frames_by_engine"][name]:8}'
                     + ''.join(f' {value:8.1f}' for value in shown))
    lines += ['', f'best: {result["best"]}; ' + ', '.join(
        f'{name.replace("_", " ")} {value:.2f}' for name, value in ratios.items()),
        'work of a frame: ' + ', '.join(
            f'{mode} {work[mode]["gmacs"]:.2f} G multiply-adds and '
            f'{work[mode]["weight_mb"] + work[mode]["activation_mb"]:.0f} MB'
            for mode in ('key', 'current'))
        + f'; current over key about {work["current_over_key"]["gmacs"]:.2f} by the former, '
          f'{work["current_over_key"]["bytes"]:.2f} by the latter']
    return '\n'.join(lines)


def latency_table(results: Sequence[Result], truncated: Result | None) -> str:
    """
    Return Table 5.1: the average frame's ms by interval, and its ratio to the baseline.

    :param truncated: the latency of a truncated network, shown beside results of its network.
    """
    head = ['ms per frame', 'thesis, 1 level', 'thesis, 2 levels', *map(title, results)]
    rows = [[thesis.BASELINE, thesis.BASELINE_MS, thesis.BASELINE_MS,
             *(f'{r["baseline"][r["best"]]:.1f}' for r in results)],
            [thesis.TRUNCATED, '', thesis.TRUNCATED_MS,
             *(_truncated_ms(truncated, r) for r in results)]]
    for interval in INTERVALS:
        ours = []
        for result in results:
            best, ratio = result['best'], _ceiling(result, interval)
            ours.append(f'{result["average"][best][str(interval)]:.1f} '
                        f'({result["average_over_baseline"][best][str(interval)]:.2f}; {ratio})')
        rows.append([f'interval {interval}', *(
            f'{thesis.INTERVAL_MS[n][interval]} '
            f'({thesis.INTERVAL_MS[n][interval] / thesis.BASELINE_MS:.2f})' for n in (1, 2)),
            *ours])
    rows += [[f'{kind} frame, median / p99 / worst', '', '', *(
        ' / '.join(f'{r["latency"][r["best"]][kind][part]:.1f}' for part in
                   ('p50', 'p99', 'worst')) for r in results)] for kind in ('key', 'current')]
    return table(head, rows)


def _truncated_ms(truncated: Result | None, result: Result) -> str:
    if truncated is None:
        return MISSING
    if truncated['network'] != result['network']:
        return ''  # it has the deep levels of another network removed
    return f'{truncated["ms"][truncated["best"]]["key"]:.1f}'


def _ceiling(result: Result, interval: int) -> str:
    """Return the ratio to the per-frame network that multiply-adds alone would give."""
    work = {kind: found['gmacs'] for kind, found in result['work'].items()}
    average = (work['key'] + (interval - 1) * work['current']) / interval
    return f'{average / work["whole"]:.2f}'


def engine_table(results: Sequence[Result]) -> str:
    """Return ms of every engine's key and current frames, and their multiply-adds and MB."""
    rows = []
    for result in results:
        work = result['work']
        for name, ms in result['ms'].items():
            eager = result['ms'].get(EAGER)
            rows.append([title(result), name, f'{ms["key"]:.1f}', f'{ms["current"]:.1f}',
                         f'{ms["current"] / ms["key"]:.2f}', f'{result["baseline"][name]:.1f}',
                         f'{result["average_over_baseline"][name][str(INTERVAL)]:.2f}',
                         *(f'{eager[kind] / ms[kind]:.2f}' if eager else MISSING
                           for kind in ('key', 'current'))])
        rows.append([title(result), 'work: multiply-adds, G', f'{work["key"]["gmacs"]:.2f}',
                     f'{work["current"]["gmacs"]:.2f}',
                     f'{work["current_over_key"]["gmacs"]:.2f}', '', '', '', ''])
        rows.append([title(result), 'work: MB read and written', *(
            f'{work[mode]["weight_mb"] + work[mode]["activation_mb"]:.0f}'
            for mode in ('key', 'current')), f'{work["current_over_key"]["bytes"]:.2f}',
            '', '', '', ''])
    return table(['checkpoint', 'engine', 'key ms', 'current ms', 'current / key', 'per frame ms',
                  f'interval {INTERVAL} / per frame', 'key, times faster than eager',
                  'current, times faster'], rows)


def score_table(results: Sequence[Result], baseline: Result | None, truncated: Result | None,
                recipes: Mapping[str, tuple[str, Result]]) -> str:
    """
    Return Table 5.2: mIoU and VC_8 on key and on current frames, in percent.

    :param recipes: by the name of a row of the thesis, how long ours by the same recipe was
        trained, and its scores.
    """
    head = ['mIoU %', 'key', 'current', 'worst lag', 'weighted', 'VC_8 key', 'VC_8 deployed']
    rows: list[list[str]] = []
    for name, row in thesis.ROWS.items():
        rows.append([f'thesis: {name}', f'{row.key:g}', f'{row.current:g}', '', '', '', ''])
        if name in recipes:
            amount, ours = recipes[name]
            rows.append([f'ours, same recipe{f" ({amount})" if amount else ""}', *_scores(ours)])
    for name, single in ((thesis.BASELINE, baseline), (thesis.TRUNCATED, truncated)):
        if single is None and name in recipes:
            continue
        rows.append([f'ours: {name}' + (f' ({single["weights"]})' if single else ''),
                     percent(single['miou']['key']) if single else MISSING, '', '', '',
                     _consistency(single, 'key') if single else '', ''])
    rows += [[f'ours: {title(r)}', *_scores(r)] for r in results]
    return table(head, rows)


def _scores(result: Result) -> list[str]:
    miou = result['miou']
    return [*(percent(miou[name]) for name in ('key', 'current_mean', 'current_worst',
                                               'weighted')),
            _consistency(result, 'key'), _consistency(result, 'deployed')]


def _consistency(result: Result, mode: str) -> str:
    return percent(result['vc8'][mode]) if result['vc8'] else '-'


def lag_table(results: Sequence[Result]) -> str:
    """Return mIoU by lag, in percent."""
    lags = range(max(len(r['miou']['per_lag']) for r in results))
    return table(['mIoU % at lag', *map(str, lags)],
                 [[title(r), *map(percent, r['miou']['per_lag'])] for r in results])


def interval_table(results: Sequence[Result]) -> str:
    """Return the weighted mIoU and the worst lag of each interval, from the scores by lag."""
    rows = []
    for result in results:
        scores = result['miou']['per_lag']
        cells = [f'{sum(scores[:i]) / i:.1f} / {min(scores[1:i]):.1f}' if i <= len(scores) else '-'
                 for i in INTERVALS]
        rows.append([title(result), *cells])
    return table(['weighted / worst mIoU %', *(f'interval {i}' for i in INTERVALS)], rows)


def rival_table(result: Result) -> str:
    """Return the alternatives: mIoU by lag and VC_8 in percent, and ms per frame."""
    head = ['', *(f'lag {lag}' for lag in range(result['interval'])), 'mean', 'VC_8',
            'ms per frame', 'slowest lag, ms']
    rows = [[name, *map(percent, row['miou']['per_lag']), percent(row['miou']['weighted']),
             percent(row['vc8']['deployed']) if row['vc8'] else '-', f'{row["ms"]["mean"]:.1f}',
             f'{row["ms"]["worst_lag"]:.1f}'] for name, row in result['rows'].items()]
    return table(head, rows)


def pareto_table(result: Result) -> str:
    """Return every point of the plot of accuracy against time, by line."""
    points = [point for method in result['methods'] for point in method['points']]
    fronts = {accuracy: front(points, accuracy) for accuracy in accuracies(points)}

    def score(point: Result, accuracy: str) -> str:
        on_it = any(point is one for one in fronts[accuracy])
        return f'**{point[accuracy]:.1f}**' if on_it else f'{point[accuracy]:.1f}'

    rows = [[method['name'], point['label'], f'{point["time"]:.2f}', f'{point["ms"]:.1f}',
             *(score(point, accuracy) for accuracy in fronts)]
            for method in result['methods'] for point in method['points']]
    return table(['', 'input size or interval', 'time / per frame', 'ms per frame',
                  *(ACCURACIES[accuracy] for accuracy in fronts)], rows)


def budget_table(result: Result) -> str:
    """Return the most accurate point of each kind of method within each of ``BUDGETS``."""
    points = [point for method in result['methods'] for point in method['points']]

    def best(kind: str, budget: float, accuracy: str) -> str:
        within = [(point, method) for method in result['methods'] if method['kind'] == kind
                  for point in method['points'] if point['time'] <= budget]
        if not within:
            return '–'
        point, method = max(within, key=lambda one: (one[0][accuracy], -one[0]['time']))
        how = point['label'] if kind == 'per frame' else \
            f'{method["name"].partition(", ")[2]}, interval {point["label"]}'
        return f'{point[accuracy]:.1f} `{method["weights"]}`, {how}'

    return table(['time / per frame', 'accuracy', *KINDS.values()],
                 [[f'at most {budget:g}', ACCURACIES[accuracy],
                   *(best(kind, budget, accuracy) for kind in KINDS)]
                  for budget in BUDGETS for accuracy in accuracies(points)])


def class_table(results: Sequence[Result]) -> str:
    """Return the IoU of each class in percent, key frames / mean of the current frames."""
    return table(['IoU %, key / current', *map(title, results)],
                 [[name, *(f'{percent(r["per_class"][name]["key"])} / '
                           f'{percent(r["per_class"][name]["current_mean"])}' for r in results)]
                  for name in results[0]['per_class']])


def commands(results: Iterable[Result]) -> str:
    """Return the commands that results were made with, each once, as a block of code."""
    return '\n'.join(dict.fromkeys(f'    {result["command"]}' for result in results))


def origin(result: Result) -> str:
    """Return the machine, the versions and the commit that a result comes from."""
    versions = ', '.join(f'{name} {version}' for name, version in result['versions'].items())
    return f'{result["machine"]}; {versions}; commit {result["commit"] or "unknown"}'
