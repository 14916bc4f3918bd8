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
"""The demo's page: video, legend, table and contact sheet, for a browser to open from disk."""
from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from featshare_core.labels import LabelSet

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>featshare_ros demo: {title}</title>
<style>
body {{ margin: 0 auto; max-width: 1000px; padding: 1.5rem; background: #fff; color: #222;
       font: 16px/1.5 system-ui, sans-serif; }}
h1 {{ margin: 0; font-size: 1.7rem; }}
h2 {{ margin: 2.2rem 0 .7rem; font-size: 1.2rem; }}
p {{ margin: .5rem 0 1rem; }}
a {{ color: #0b57d0; }}
video, img {{ display: block; width: 100%; height: auto; border-radius: 6px; }}
.note {{ color: #5c6370; font-size: .875rem; }}
.legend {{ display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: .9rem 0; padding: 0;
          list-style: none; }}
.legend span {{ display: inline-block; width: .9em; height: .9em; margin-right: .45em;
               border: 1px solid #0003; border-radius: 3px; vertical-align: -.08em; }}
table {{ width: 100%; border-collapse: collapse; }}
th, td {{ padding: .4rem .7rem; border-bottom: 1px solid #e2e5ea; text-align: left;
         vertical-align: top; font-weight: normal; }}
th {{ width: 50%; color: #5c6370; }}
tr:nth-child(odd) {{ background: #f7f8fa; }}
</style>
</head>
<body>
<h1>featshare_ros: {title}</h1>
<p>Each image of the recording went to the segmentation node over ROS 2; the colours are the mask
that the node published for it. On a <b>key</b> frame the whole network ran, on a <b>current</b>
frame its shallow half, with the deep features of the last key frame. The time is from publishing
the image to receiving its mask. A <b>dropped</b> image got no mask: the last mask is shown.</p>
<video src="overlay.webm" controls autoplay loop muted playsinline
  aria-label="The recording under the colours of its masks">
<p>This browser does not play the video: <a href="overlay.webm">overlay.webm</a>.</p>
</video>
<ul class="legend">
{legend}
</ul>
<h2>Latency</h2>
<table>
{rows}
</table>
<h2>Moments</h2>
<a href="contact_sheet.png"><img src="contact_sheet.png"
  alt="Images of the recording, each beside the same image under the colours of its mask"></a>
<p class="note">The video is VP8 in WebM: Chrome, Edge and Firefox play it, and Safari from 16 on
macOS and 17.4 on iOS. Files: <a href="overlay.webm">overlay.webm</a>,
<a href="contact_sheet.png">contact_sheet.png</a>, <a href="latency.md">latency.md</a>,
<a href="node.log">node.log</a>.</p>
</body>
</html>
"""


def write_page(folder: Path, title: str, labels: LabelSet,
               rows: Sequence[tuple[str, str]]) -> None:
    """
    Write ``index.html`` into the folder of the other results, which it refers to.

    :param title: name of the recording.
    :param rows: of the table, name and value.
    """
    legend = '\n'.join(
        f'<li><span style="background: rgb{tuple(map(int, color))}"></span>{escape(name)}</li>'
        for name, color in zip(labels.names, labels.colors))
    table = '\n'.join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
                      for name, value in rows)
    (folder / 'index.html').write_text(
        _PAGE.format(title=escape(title), legend=legend, rows=table), encoding='utf-8')
