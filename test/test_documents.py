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
"""The documents hang together: links lead somewhere, and every page is where it belongs."""
from __future__ import annotations

from pathlib import Path
import re

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in (*ROOT.glob('*.md'), *(ROOT / 'docs').rglob('*.md')))
README_LINES = 120
"""Most lines of README.md: what a newcomer reads in three minutes."""
LINK = re.compile(r'\[[^\]]*\]\(([^)\s]+)\)')
CODE = re.compile(r'^```.*?^```|^    .*?$|`[^`\n]*`', re.DOTALL | re.MULTILINE)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Return the anchors that a page's headings get when it is shown on the web."""
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.DOTALL | re.MULTILINE)
    found: set[str] = set()
    for heading in re.findall(r'^#+ +(.+?) *$', text, re.MULTILINE):
        slug = re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')
        # A heading that comes again is numbered.
        found.add(next(s for s in (slug, *(f'{slug}-{n}' for n in range(1, 99)))
                       if s not in found))
    return found


def broken_links(page: Path, text: str) -> list[str]:
    """Return the relative links of a page that lead to no file, or to no heading of a page."""
    broken = []
    for link in LINK.findall(CODE.sub('', text)):
        if re.match(r'[a-z]+:', link):
            continue
        path, _, anchor = link.partition('#')
        target = (page.parent / path).resolve() if path else page
        if not target.is_relative_to(ROOT) or not target.exists() \
                or (anchor and (target.suffix != '.md' or anchor not in anchors(target))):
            broken.append(link)
    return broken


@pytest.mark.parametrize('page', PAGES, ids=name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text()) == []


def test_broken_links_are_found() -> None:
    text = ('[a](docs/none.md) [b](README.md#none) [c](../outside.md) [d](#none) '
            '[e](LICENSE#none) `[f](none.md)` [g](https://none) [h](README.md#topics)\n'
            '\n    [i](none.md)\n')
    assert broken_links(ROOT / 'README.md', text) == [
        'docs/none.md', 'README.md#none', '../outside.md', '#none', 'LICENSE#none']


def test_readme_is_short() -> None:
    assert len((ROOT / 'README.md').read_text().splitlines()) <= README_LINES


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / 'README.md']
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != '.md' or not page.is_file():
            continue
        reached.add(page)
        waiting += [(page.parent / link.partition('#')[0]).resolve()
                    for link in LINK.findall(CODE.sub('', page.read_text()))
                    if not re.match(r'[a-z]+:|#', link)]
    assert {name(page) for page in PAGES} - {name(page) for page in reached} == set()


def test_reference_pages_do_not_link_into_history() -> None:
    for page in PAGES:
        if ROOT / 'docs' / 'notes' not in page.parents and page.name != 'contributing.md':
            assert 'notes/' not in ''.join(LINK.findall(page.read_text())), name(page)


def test_the_changelog_is_one_that_the_release_tools_read() -> None:
    # REP-132: the package in the title, then versions, the newest first, each with a list.
    lines = (ROOT / 'CHANGELOG.rst').read_text().splitlines()
    assert lines[1] == 'Changelog for package featshare_ros'
    assert lines[0] == lines[2] == '^' * len(lines[1])
    heads = [(lines[index - 1], line) for index, line in enumerate(lines)
             if set(line) == {'-'} and index]
    # What is not released yet stands first, under Forthcoming.
    released = heads[heads[0][0] == 'Forthcoming':]
    for head, line in heads:
        assert len(line) == len(head)
    for head, _ in released:
        assert re.fullmatch(r'\d+\.\d+\.\d+ \(\d{4}-\d\d-\d\d\)', head)
    version = re.search(r'<version>(.*)</version>', (ROOT / 'package.xml').read_text())
    assert version is not None
    assert released[0][0].startswith(f'{version[1]} (')


def test_the_node_takes_every_cut_that_a_network_has_and_no_other() -> None:
    pytest.importorskip('rclpy')
    from featshare_ros.parameters import PARAMETERS

    limits = next(spec.limits for spec in PARAMETERS if spec.name == 'shared_levels')
    text = (ROOT / 'docs' / 'models' / 'networks.md').read_text()
    table = text[text.index('## Where a network is cut'):].split('\n\n')[2]
    cuts = [int(cut) for row in table.splitlines()[2:]
            for cut in re.findall(r'\d+', row.split('|')[2])]
    assert limits == (min(cuts), max(cuts))
