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
"""Pages say what their results say, and what is true today: no dates, commits or history."""
import json
from pathlib import Path
import re

from featshare_core.evaluation.cards import TABLES
from featshare_core.evaluation.pages import FIGURE, fill, pages, reference_pages, TABLE
from featshare_core.evaluation.speed import GOALS, speed_page
import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / 'docs' / 'results'
WRITTEN = reference_pages(ROOT)
DRAWN = (ROOT / 'docs' / 'speed.md', *sorted(RESULTS.glob('*.md')))
HEADLINE = (ROOT / 'README.md', ROOT / 'docs' / 'models' / 'models.md')

DATE = re.compile(r'\b20\d\d-\d\d(-\d\d)?\b|\b202[5-9]\b(?!\.\d)')
# A round number is none.
COMMIT = re.compile(r'\b(?=[a-f]*\d)[0-9a-f]{7,40}\b(?<!000)')
DIARY = re.compile(r'\b(before this work|of then|of before|until then|at that time|anew|'
                   r'the former|shipped before|of that (day|hour)|last changes|since then|'
                   r'by now|no longer|nowadays)\b', re.IGNORECASE)
MEASURED = re.compile(r'(?<!at most )(?<!at least )-?\b\d+(\.\d+)?'
                      r'(?= ?(%|ms|points|mIoU|frames (a|per) second)(?!\w))')


def name(path):
    return str(path.relative_to(ROOT))


def history(text):
    """Return the dates, commits and words of a diary in a text."""
    return [found[0] for pattern in (DATE, COMMIT, DIARY) for found in pattern.finditer(text)]


def unmarked(text):
    """Return the figures in a text that no result stands behind: not marked, nor in a table."""
    for pattern in (re.compile(r'```.*?```|^    .*?$', re.DOTALL | re.MULTILINE), TABLE, FIGURE,
                    re.compile(r'`[^`\n]*`')):
        text = pattern.sub('', text)
    return [found[0] for found in MEASURED.finditer(text)]


@pytest.mark.parametrize('path', WRITTEN, ids=name)
def test_a_reference_page_contains_no_history(path):
    assert history(path.read_text()) == []


@pytest.mark.parametrize('path', DRAWN, ids=name)
def test_a_drawn_page_has_the_commits_of_its_results_alone(path):
    # Where a figure was measured is the one piece of history on a page.
    commits = {json.loads(file.read_text()).get('commit') for file in RESULTS.rglob('*.json')}
    text = path.read_text()
    assert not DATE.search(text)
    assert not DIARY.search(text)
    assert {found[0] for found in COMMIT.finditer(text)} <= {
        (commit or '').rstrip('+') for commit in commits}


def test_every_page_is_what_its_results_make_of_it():
    stale = {name(path) for path, text in pages(ROOT)
             if not path.is_file() or path.read_text() != text}
    assert stale == set(), 'run python -m featshare_core.evaluation.pages'


def test_all_pages_of_results_are_drawn():
    assert set(DRAWN) | set(WRITTEN) == {path for path, _ in pages(ROOT)}


@pytest.mark.parametrize('path', WRITTEN, ids=name)
def test_every_figure_of_a_reference_page_is_a_results(path):
    text = path.read_text()
    assert path not in HEADLINE or FIGURE.search(text) or TABLE.search(text)
    assert unmarked(text) == []


def test_the_goals_missed_stand_in_one_list():
    for path in (*WRITTEN, *DRAWN):
        lists = re.findall(r'^#+ Goals .*missed$', path.read_text(), re.MULTILINE)
        assert len(lists) == (name(path) in ('docs/speed.md', 'docs/models/models.md')), path
        assert '**missed' not in path.read_text(), path
    assert all(f'| {goal.text} | {goal.where} |' in speed_page(RESULTS)
               for goal in GOALS if not goal.is_met(RESULTS))


def test_history_and_unmarked_figures_are_found():
    assert history('on 2026-11-29, in 2026, at c7e2516, at 9082455, made anew, in 2019, '
                   'openvino 2026.4.1, deadbee, 1,000,000') == [
        '2026-11-29', '2026', 'c7e2516', '9082455', 'anew']
    assert unmarked('75.6<!-- a.json: b --> % and 75.7 % in 3 ms, 15 Hz, `5 ms`\n\n    6 ms\n\n'
                    '<!-- figures: x -->\n\n| 7 ms |\n\n<!-- end -->\n\nat most 8 ms') == [
        '75.7', '3']


def test_figures_are_filled_in(tmp_path):
    (tmp_path / 'one.json').write_text(json.dumps(
        {'command': 'x', 'miou': {'per lag': [75.577, 74.96]}, 'is': True}))
    marked = '{}<!-- one.json: miou.per lag.{} --> %'
    assert fill(marked.format('1.0', 0), tmp_path) == marked.format('75.6', 0)
    assert fill(marked.format('-3', 1), tmp_path) == marked.format('75', 1)
    for keys in ('miou.none', 'miou.per lag.2', 'miou.per lag.x', 'miou', 'is', 'command'):
        with pytest.raises(ValueError, match=f'one.json.*{keys}'):
            fill(f'1<!-- one.json: {keys} -->', tmp_path)
    with pytest.raises(FileNotFoundError):
        fill('1<!-- none.json: miou -->', tmp_path)
    with pytest.raises(ValueError, match='no table mine; there are scores of default'):
        fill('<!-- figures: mine -->\n<!-- end -->', tmp_path)
    shown = '    <!-- figures: mine -->\n    <!-- end -->'  # as code, on the page about marks
    assert fill(shown, tmp_path) == shown


@pytest.mark.parametrize('table', TABLES)
def test_tables_are_filled_in(table):
    page = f'before\n\n<!-- figures: {table} -->\n| old |\n<!-- end -->\n\nafter'
    filled = fill(page, RESULTS)
    assert filled.startswith(f'before\n\n<!-- figures: {table} -->\n\n| ')
    assert filled.endswith(' |\n\n<!-- end -->\n\nafter')
    assert 'old' not in filled
    assert fill(filled, RESULTS) == filled
