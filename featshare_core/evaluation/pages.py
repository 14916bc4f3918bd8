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
"""
The pages that are drawn from results kept as JSON, and the figures on other pages.

    python -m featshare_core.evaluation.pages

draws docs/results/*.md and docs/speed.md, and fills in the figures that README.md and the pages
under docs mark:

* ``75.6<!-- camvid-val/default-2-levels-interval-5.json: miou.key -->``: the number before the
  comment is the result's, rounded to the decimals that stand there;
* what stands between ``<!-- figures: NAME -->`` and ``<!-- end -->`` is the table of that name in
  ``cards.TABLES``.
"""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import re

from featshare_core.durable import write_durably
from featshare_core.evaluation import tables
from featshare_core.evaluation.cards import TABLES
from featshare_core.evaluation.provenance import figure, read_result, stem
from featshare_core.evaluation.speed import speed_page
from featshare_core.evaluation.tables import Result

ROOT = Path(__file__).parents[2]
PARETO = 'pareto.json'
"""Name of the result of ``featshare pareto`` beside ``report.json``."""
PICTURES = 'pictures.png'
"""Name of the pictures of rendered streets beside ``report.json``."""
FIGURE = re.compile(r'(?P<number>-?\d+(?:\.(?P<decimals>\d+))?)'
                    r'<!-- (?P<file>[\w./-]+\.json): (?P<keys>[^>]+?) -->')
TABLE = re.compile(r'^(?P<head><!-- figures: (?P<name>[^>]+?) -->\n).*?^(?P<end><!-- end -->)',
                   re.DOTALL | re.MULTILINE)


def fill(text: str, results: Path) -> str:
    """
    Return a page with its marked figures and tables as the results have them.

    :param results: the folder docs/results.
    :raises ValueError, FileNotFoundError: naming the figure or table that there is not.
    """
    def number(found: re.Match[str]) -> str:
        value = figure(results, found['file'], found['keys'])
        return f'{value:.{len(found["decimals"] or "")}f}' + found[0][len(found['number']):]

    def block(found: re.Match[str]) -> str:
        if found['name'] not in TABLES:
            raise ValueError(f'there is no table {found["name"]}; there are {", ".join(TABLES)}')
        return f'{found["head"]}\n{TABLES[found["name"]](results)}\n\n{found["end"]}'

    return TABLE.sub(block, FIGURE.sub(number, text))


def pages(root: Path) -> Iterator[tuple[Path, str]]:
    """
    Yield every page that holds results, and what it has to be.

    :param root: the source tree, with README.md and docs.
    :raises ValueError, FileNotFoundError: where a result is missing or of another form.
    """
    results = root / 'docs' / 'results'
    for file in sorted(results.glob('*/report.json')):
        yield results / f'{file.parent.name}.md', results_page(file)
    yield root / 'docs' / 'speed.md', speed_page(results)
    for path in reference_pages(root):
        yield path, fill(path.read_text(), results)


def reference_pages(root: Path) -> list[Path]:
    """Return the pages that people write, but for the notes; those drawn whole are not there."""
    docs = root / 'docs'
    return [path for path in (root / 'README.md', *sorted(docs.rglob('*.md')))
            if path != docs / 'speed.md'
            and not {docs / 'notes', docs / 'results'} & set(path.parents)]


def read_page(file: Path) -> dict[str, list[Result]]:
    """
    Return the results that a page of results shows, by their part in it.

    :param file: its ``report.json``, in a folder beside the page, with the names of the results'
        files.
    :raises ValueError, FileNotFoundError: where one is missing or no result.
    """
    names = read_result(file)['files']
    return {part: [read_result(file.parents[1] / name) for name in names.get(part, [])]
            for part in ('deployed', 'by_lag', 'baseline', 'truncated', 'latencies',
                         'truncated_latency', 'rivals')}


def read_recipes(file: Path) -> dict[str, tuple[str, Result]]:
    """
    Return the results of the thesis's recipe by the names of its rows, see ``tables.score_table``.

    :param file, raises: as ``read_page``.
    """
    return {name: (one['trained'], read_result(file.parents[1] / one['file']))
            for name, one in read_result(file).get('recipes', {}).items()}


def results_page(file: Path) -> str:
    """
    Return docs/results/NAME.md: the thesis's tables and figures, with ours beside its numbers.

    :param file, raises: as ``read_page``.
    """
    return '\n\n'.join(_sections(file, **read_page(file))) + '\n'


def _sections(file: Path, deployed: list[Result], by_lag: list[Result],
              baseline: list[Result], truncated: list[Result], latencies: list[Result],
              truncated_latency: list[Result], rivals: list[Result]) -> Iterator[str]:
    """Yield the parts of a page of results."""
    first, folder = deployed[0], file.parent.name
    data, interval = first['data'], first['interval']
    yield f'# Results on {folder}'
    commits = dict.fromkeys(
        f'`{r["commit"]}`' for r in (*deployed, *by_lag, *baseline, *truncated, *latencies,
                                     *(one for _, one in read_recipes(file).values()), *rivals))
    changed = ' (+: with changes that were not committed)' * any('+' in one for one in commits)
    yield (f'Measured at {", ".join(commits)}{changed} by\n\n    '
           f'{read_result(file)["command"]}\n\n'
           f'Drawn from the JSON files in [{folder}]({folder}) and [latency](latency), each with '
           'its own command, machine, versions and commit.')
    if not data['made_by_hand']:
        yield ('**The labels of these videos were made by a machine** (another network), so '
               'these figures say how alike two networks are, not how good one is.')
    if data['classes_translated']:
        yield ("The network's classes are CamVid's eleven; Cityscapes' labels were translated "
               'into them (`CITYSCAPES_AS_CAMVID` in `featshare_core/evaluation/videos.py`), '
               'and what has no such class was left out.')
    rate = f' ({data["hz"]:g} Hz)' if data['hz'] else ''
    yield (f'{first["frames"]} labelled frames, each at lags 0 to {interval - 1} since its '
           f'key frame{rate}. The figures of the thesis are of Cityscapes val, so only '
           'differences between rows can be compared. "current" is the mean over lags 1 to d-1, '
           '"weighted" 1/d key + (d-1)/d current.')
    for line in tables.class_lines(first):
        yield f'**{line.removeprefix("! ")}.**'
    yield '## Table 5.1: latency'
    for name, measured in _latency_folders(file.parents[1], latencies):
        yield (f'{name}, {measured[0]["frames"]} frames each, best engine '
               f'{", ".join(dict.fromkeys(r["best"] for r in measured))}; '
               f'{tables.origin(measured[0])}:\n\n'
               f'{tables.commands([*measured, *truncated_latency])}')
        yield tables.latency_table(measured, next(iter(truncated_latency), None))
        yield ('In brackets: the ratio to the per-frame baseline of the same run; then, for ours, '
               'the ratio that multiply-adds alone would give.')
        if truncated_latency:
            unknown = '' if truncated else \
                '; how accurate one is that was trained as long as they were has not been measured'
            yield ('A truncated network stands only under the checkpoints of its own network'
                   f'{unknown}.')
        yield 'Every engine, and the work of a frame:'
        yield tables.engine_table(measured)
    yield '## Table 5.2: accuracy'
    recipes = read_recipes(file)
    yield tables.commands([*(one for _, one in recipes.values()), *baseline, *truncated,
                           *deployed])
    yield tables.score_table(deployed, next(iter(baseline), None),
                             next(iter(truncated), None), recipes)
    if recipes:
        yield ('"same recipe": trained as the thesis does ([training](../models/training.md)), '
               'but only for as long as the row says, and on these data: the thesis trained its '
               'networks for 75 to 100 epochs on Cityscapes.')
    yield '## Figure 5.1: accuracy against latency'
    yield f'![weighted mIoU against latency]({folder}/accuracy-latency.png)'
    yield tables.interval_table(by_lag)
    yield tables.commands(by_lag)
    yield '## Figure 5.2: accuracy by lag'
    yield (f'![mIoU by lag]({folder}/lags.png)\n\nOf the {by_lag[0]["frames"]} frames that have '
           f'{by_lag[0]["interval"] - 1} frames before them.')
    yield tables.lag_table(by_lag)
    yield '## Figure 5.3: pictures'
    if file.with_name(PICTURES).is_file():
        yield (f'![image, label and masks]({folder}/{PICTURES})\n\nRendered streets that no '
               f'network was trained on, with {first["weights"]}.')
    yield ('The command writes pictures of the data set into `runs/sheets`: its licence keeps its '
           'frames out of this repository.')
    yield '## Figure 5.4: classes'
    for weights in dict.fromkeys(r['weights'] for r in deployed):
        yield f'![IoU of each class]({folder}/classes-{stem(weights)}.png)'
    yield tables.class_table(deployed)
    yield '## Rivals'
    for one in rivals:
        yield (f'Simpler alternatives on the same network ({tables.title(one)}, engine '
               f'{one["engine"]}, {one["precision"]}), frames and run; latency at '
               f'{one["image"][0]}x{one["image"][1]} on {tables.origin(one)}:\n\n'
               f'{tables.commands([one])}')
        yield tables.rival_table(one)
    pareto = file.with_name(PARETO)
    if pareto.is_file():
        found = read_result(pareto)
        yield '## Accuracy against time'
        yield (f'![mIoU against time]({folder}/{pareto.stem}.png)\n\nOf {found["frames"]} '
               f'frames, on {tables.origin(found)}:\n\n{tables.commands([found])}\n\n'
               'The most accurate point of each kind of method within shares of the time of the '
               "first checkpoint's per-frame network at full size:")
        yield tables.budget_table(found)
        yield ('All points; in bold, those for which no other point is both faster and at least '
               'as accurate:')
        yield tables.pareto_table(found)


def _latency_folders(results: Path, wanted: list[Result]) -> Iterator[tuple[str, list[Result]]]:
    """Yield each device and size that latency was measured on, and the latencies wanted."""
    order = {(r['weights'], r['shared_levels']): i for i, r in enumerate(wanted)}
    for folder in sorted((results / 'latency').iterdir()):
        found = [read_result(file) for file in sorted(folder.glob('*.json'))]
        found = [r for r in found if (r['weights'], r['shared_levels']) in order]
        if found:
            yield folder.name, sorted(found,
                                      key=lambda r: order[r['weights'], r['shared_levels']])


def write_pages(root: Path = ROOT) -> list[Path]:
    """Write every page that holds results, and return those that changed; raises as ``pages``."""
    changed = []
    for path, text in pages(root):
        if not path.is_file() or path.read_text() != text:
            write_durably(path, text)
            changed.append(path)
    return changed


if __name__ == '__main__':
    for changed_page in write_pages():
        print(f'written: {changed_page}')
