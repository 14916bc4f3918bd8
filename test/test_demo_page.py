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
"""The demo's page: every file that it refers to exists, and a browser shows and plays it."""
from __future__ import annotations

from dataclasses import dataclass, field
import html
from html.parser import HTMLParser
import json
import os
from pathlib import Path
import re
import shutil
import subprocess
from urllib.parse import unquote, urlsplit

import cv2
import pytest

pytest.importorskip('rclpy')

from featshare_core.data.synthetic import RenderedStreet
from featshare_core.labels import CAMVID
from featshare_ros.demo import __main__ as demo
from featshare_ros.demo.page import write_page
from featshare_ros.demo.replay import Run
from featshare_ros.recordings.bag import open_recording, write_recording
from sensor_msgs.msg import Image

SIZE, FPS, FRAMES = (320, 192), 8, 8
ROWS = [('engine', 'OpenVINO, fp32, on cpu'), ('a <name>', 'a & b')]
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'firefox')
"""Browsers that are looked up on PATH; ``FEATSHARE_BROWSER`` names one elsewhere."""
FLAGS = ('--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--hide-scrollbars',
         '--disable-background-networking', '--disable-component-update', '--disable-sync')
"""What Chromium needs in a container, and what keeps it from the network."""

PROBE = """<script>
const video = document.querySelector('video'), root = document.documentElement;
setInterval(() => { document.body.dataset.seen = JSON.stringify({
  played: video.currentTime, size: [video.videoWidth, video.videoHeight], error: video.error,
  sheet: document.querySelector('img').naturalWidth, wide: root.scrollWidth - root.clientWidth,
  rows: [...document.querySelectorAll('tr')].map(row => row.innerText),
  legend: [...document.querySelectorAll('.legend span')].map(
    box => getComputedStyle(box).backgroundColor)}); }, 50);
</script></body>"""


@dataclass
class Page(HTMLParser):
    """The references of a page, and its texts for users who cannot see it."""

    text: str
    references: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    title: str = ''
    _within: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.references += [value or '' for name, value in attrs if name in ('src', 'href')]
        if tag in ('img', 'video') and not given.get({'img': 'alt', 'video': 'aria-label'}[tag]):
            self.unnamed.append(tag)
        if tag not in ('meta', 'img'):
            self._within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._within.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._within[-1:] == ['title']:
            self.title += data


def check_page(folder: Path) -> None:
    """Check the references, the texts for pictures and the title of the demo's page."""
    text = (folder / 'index.html').read_text()
    page = Page(text)
    assert page.title and not page.unnamed and not page._within
    assert {'overlay.webm', 'contact_sheet.png', 'latency.md'} <= set(page.references)
    for reference in page.references:
        parts = urlsplit(reference)
        # Relative paths within the folder, so that it can be moved and sent.
        assert not (parts.scheme or parts.netloc) and '..' not in parts.path, reference
        assert (folder / unquote(parts.path)).stat().st_size > 0, reference
        assert not Path(parts.path).is_absolute(), reference
    assert 'url(' not in text and '@import' not in text


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the demo's results for a street whose masks are its own labels."""
    folder = tmp_path_factory.mktemp('demo results')
    street = RenderedStreet(*SIZE, seed=3, fps=FPS)
    frames = [street.frame(index) for index in range(FRAMES)]
    write_recording(folder / 'street', (rgb for rgb, _ in frames), '/camera/image_raw', FPS)
    run = Run()
    with open_recording(folder / 'street') as recording:
        for image, (_, mask) in zip(recording, frames):
            run.sent[image.stamp_ns] = run.received[image.stamp_ns] = 1.0
            run.keep_mask(image.stamp_ns, Image(height=SIZE[1], width=SIZE[0],
                                                data=mask.tobytes()))
        demo.write_pictures(recording, run, None, CAMVID, folder)
    for name in ('latency.md', 'node.log'):
        (folder / name).write_text('text')
    write_page(folder, 'a <street>', CAMVID, ROWS)
    return folder


@pytest.fixture(scope='module')
def browser() -> str:
    """Return a browser's path, or skip the test."""
    named = os.environ.get('FEATSHARE_BROWSER', '')
    found = named or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip(f'no browser: none of {", ".join(BROWSERS)} is on PATH, and '
                    f'FEATSHARE_BROWSER names none')
    return found


def browse(browser: str, page: Path, *flags: str) -> str:
    """Open a page from disk and return what the browser prints."""
    if 'firefox' in Path(browser).name:
        flags = ('--headless', '--profile', str(page.parent / 'profile'), *flags)
        (page.parent / 'profile').mkdir(exist_ok=True)
    else:
        flags = (*FLAGS, f'--user-data-dir={page.parent / "profile"}', *flags)
    done = subprocess.run([browser, *flags, page.as_uri()], capture_output=True, text=True,
                          timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_page_refers_only_to_what_is_there(folder: Path) -> None:
    check_page(folder)
    text = (folder / 'index.html').read_text()
    assert '<title>featshare_ros demo: a &lt;street&gt;</title>' in text
    assert '<th scope="row">a &lt;name&gt;</th><td>a &amp; b</td>' in text
    assert all(re.search(f'</span>{name}</li>', text) for name in CAMVID.names)


def test_what_a_page_lacks_is_found(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / 'copy')
    page = tmp_path / 'copy' / 'index.html'
    text = page.read_text()
    for old, new in (('alt="', 'name="'), ('title>', 'b>'), ('"overlay.webm"', '"/overlay.webm"'),
                     ('src="contact', 'src="missing'),
                     ('"latency.md"', '"https://host/latency.md"')):
        assert old in text
        page.write_text(text.replace(old, new))
        with pytest.raises((AssertionError, FileNotFoundError)):
            check_page(page.parent)


@pytest.mark.timeout(120)
def test_browser_plays_the_video(folder: Path, browser: str) -> None:
    if 'firefox' in Path(browser).name:
        pytest.skip('Firefox prints no page: only its screenshot is looked at')
    probe = folder / 'probe.html'
    probe.write_text((folder / 'index.html').read_text().replace('</body>', PROBE))
    dom = browse(browser, probe, '--virtual-time-budget=3000', '--window-size=1100,900',
                 '--dump-dom')
    found = re.search(r'data-seen="([^"]*)"', dom)
    assert found, dom
    seen = json.loads(html.unescape(found[1]))
    assert seen['error'] is None and seen['played'] > 0, seen
    assert seen['size'][0] == SIZE[0] and seen['size'][1] > SIZE[1]
    assert seen['sheet'] > SIZE[0] and seen['wide'] == 0
    assert seen['rows'] == ['\t'.join(row) for row in ROWS]
    assert seen['legend'] == [f'rgb({r}, {g}, {b})' for r, g, b in CAMVID.colors]


@pytest.mark.timeout(120)
@pytest.mark.parametrize('width', (1100, 500))
def test_browser_shows_the_page(folder: Path, browser: str, width: int) -> None:
    shot = folder / f'{width}.png'
    size = f'{width},1600'
    browse(browser, folder / 'index.html', f'--window-size={size}', *(
        ('--screenshot', str(shot)) if 'firefox' in Path(browser).name else
        (f'--screenshot={shot}', '--timeout=5000')))
    picture = cv2.imread(str(shot))
    assert picture is not None and picture.shape[1] == width
    assert (picture == 255).all(2).mean() > 0.1  # dark on light
    shown = set(map(tuple, picture[..., ::-1].reshape(-1, 3).tolist()))
    assert set(CAMVID.colors) <= shown
