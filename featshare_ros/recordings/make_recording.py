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
Make a rosbag2 recording of a video, a folder of images or a rendered street.

    make_recording VIDEO OUT
    make_recording FOLDER OUT --fps 10
    make_recording street OUT --frames 200
    make_recording traffic/cyclist-overtaken OUT

Without --fps, a clip of the passing-traffic set keeps its own rate.
"""
from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
import itertools
from pathlib import Path
import sys

from featshare_core.arguments import add_common
from featshare_core.data.frames import frame_rate, frames_of, IncompleteVideoError
from featshare_core.inference.engine import Frame
from featshare_core.packages import explain
from featshare_ros.recordings.bag import write_recording

STREET_SIZE = (960, 540)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parse(arguments)
    try:
        problems: list[str] = []
        frames, fps = _frames(options.source, options.fps, options.seed)
        frames = _until_cut_off(frames, problems)
        raw, topic = options.raw, options.topic
        topic = topic or '/camera/image_raw' + ('' if raw else '/compressed')
        count = write_recording(options.output, itertools.islice(frames, options.frames), topic,
                                fps, None if raw else options.quality, options.storage)
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        print(f'make_recording: {explain(error)}', file=sys.stderr)
        return 1
    print(f'{options.output}: {count} images of {topic}, {fps:g} Hz')
    for problem in problems:
        print(f'make_recording: {problem}; the recording ends there', file=sys.stderr)
    return 1 if problems else 0


def _until_cut_off(frames: Iterator[Frame], problems: list[str]) -> Iterator[Frame]:
    """Yield the frames; where a video ends early, add that to ``problems``."""
    try:
        yield from frames
    except IncompleteVideoError as error:
        problems.append(str(error))


def _frames(source: str, fps: float | None, seed: int) -> tuple[Iterator[Frame], float]:
    """Return the pictures and their rate in Hz: ``fps``, else the video's own, else 25."""
    if source == 'street':
        from featshare_core.data.synthetic import RenderedStreet
        street = RenderedStreet(*STREET_SIZE, seed, fps or 25.0)
        return (street.frame(index)[0] for index in itertools.count()), street.fps
    kind, _, clip = source.partition('/')
    if kind == 'traffic' and not Path(source).exists():
        from featshare_core.data.traffic import TrafficClip
        traffic = TrafficClip(clip)
        return ((traffic.frame(index)[0] for index in range(traffic.clip.frames)),
                fps or traffic.fps)
    path = Path(source)
    return (frame for _, frame in frames_of(path)), fps or frame_rate(path) or 25.0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        'make_recording', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    parser.add_argument('source', help="a video file, a folder of images, the word 'street', or "
                                       "'traffic/CLIP', a clip of the passing-traffic set")
    parser.add_argument('output', type=Path, help='the directory to create')
    parser.add_argument('--topic', help='default: /camera/image_raw[/compressed]')
    parser.add_argument('--fps', type=float,
                        help="default: the video's or the clip's own, otherwise 25")
    parser.add_argument('--frames', type=int,
                        help='largest number of images; default: all, 200 of a street')
    parser.add_argument('--seed', type=int, default=1,
                        help='seed of the street; default: %(default)s')
    parser.add_argument('--raw', action='store_true', help='raw images instead of JPEG')
    parser.add_argument('--quality', type=int, default=92,
                        help='JPEG quality, 1 to 100; default: %(default)s')
    parser.add_argument('--storage', choices=('mcap', 'sqlite3'), default='mcap')
    options = parser.parse_args(arguments)
    if options.source == 'street' and options.frames is None:
        options.frames = 200
    return options


if __name__ == '__main__':
    sys.exit(main())
