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
Segment every image of a recording as the live node would, as fast as the device allows.

    segment_bag IN OUT
    segment_bag IN OUT --topic front=/front/image_raw --topic rear=/rear/image_raw
    segment_bag IN OUT --resume
    segment_bag --ray [ADDRESS] IN_DIR OUT_DIR

OUT is a rosbag2 recording with the original topics and, under the names of the live node's
topics, masks, class names and the timing of each image; stamps and log times are the images'.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
import contextlib
from pathlib import Path
import signal
import sys
import threading
from types import FrameType

from featshare_core.arguments import add_common
from featshare_core.inference.options import add_segmenter_options, from_arguments
from featshare_core.packages import explain
from featshare_core.progress import preparing, reporter
from featshare_ros.images import FULL_RANGE
from featshare_ros.recordings.segment_recording import Job, Outcome, segment_recording


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status: 130 where it was interrupted, 1 on errors."""
    options = _parse(arguments)
    job = from_arguments(Job, options, topics=tuple(options.topic))
    try:
        if options.ray is not None:
            from featshare_ros.recordings.fleet import segment_archive
            return segment_archive(options.input, options.output, job, options.ray,
                                   options.gpu_share)
        return _segment_one(options.input, options.output, job, options.resume)
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        print(f'segment_bag: {explain(error)}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('segment_bag: interrupted, the output is not closed; run it again with --resume',
              file=sys.stderr)
        return 130


def _segment_one(source: Path, output: Path, job: Job, resume: bool) -> int:
    """Segment one recording and show the progress; a first Ctrl-C closes the output."""
    stop = threading.Event()
    show: Callable[[int | None], None] | None = None

    def count(done: int, total: int) -> None:
        nonlocal show
        if show is None:
            # Images of an earlier run count as done, but not towards the rate.
            show = reporter('segmenting', 'images', total, done - 1)
        show(done)

    preparing(job.weights)
    try:
        with _first_signal_sets(stop):
            outcome = segment_recording(source, output, job, resume, stop, count)
    finally:
        if show is not None:
            show(None)
    _report(outcome, output)
    return 130 if outcome.state == 'interrupted' else 0


def _report(outcome: Outcome, output: Path) -> None:
    """Print the result in a line or two."""
    if outcome.state == 'complete already':
        print(f'{output} is complete already: {outcome.frames} images')
        return
    print(f'{output}: {outcome.frames} images, {outcome.new_frames} of them in this run, '
          f'{outcome.new_frames / max(outcome.seconds, 1e-9):.1f} images/s')
    if outcome.failed:
        print(f'{outcome.failed} images were left out, see the timing topic; the first: '
              f'{outcome.first_problem}', file=sys.stderr)
    if outcome.state == 'interrupted':
        print('interrupted: the recording is closed and readable; --resume continues it',
              file=sys.stderr)


@contextlib.contextmanager
def _first_signal_sets(stop: threading.Event) -> Iterator[None]:
    """Make the first SIGINT or SIGTERM set an event, and the second a KeyboardInterrupt."""
    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        'segment_bag', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    parser.add_argument('paths', nargs='+', type=Path, metavar='IN OUT',
                        help='a rosbag2 recording (directory, .mcap, .db3), and the directory to '
                             'write; with --ray, a folder of recordings each')
    parser.add_argument('--topic', action='append', default=[], metavar='[NAME=]TOPIC',
                        help='an image topic, where there are several; repeat it per camera')
    parser.add_argument('--resume', action='store_true', help='continue an interrupted output')
    parser.add_argument('--only-masks', action='store_true',
                        help='do not copy the original topics')
    parser.add_argument('--raw', action='store_true',
                        help='masks as raw images, as the node publishes them, instead of PNG')
    parser.add_argument('--overlay', action='store_true', help='write coloured pictures too')
    parser.add_argument('--confidence', action='store_true', help='write confidences too')
    parser.add_argument('--sensor-bits', type=int, default=FULL_RANGE, choices=range(8, 17),
                        metavar='BITS', help='bits of a 16-bit sample that the sensor uses, '
                        'counted from the lowest; default: %(default)s')
    add_segmenter_options(parser, stamps=True)
    parser.add_argument('--ray', nargs='?', const='', metavar='ADDRESS',
                        help='segment the recordings of a folder on a Ray cluster; without an '
                             'address, on this machine')
    parser.add_argument('--gpu-share', type=float, default=0.3, metavar='SHARE',
                        help='with --ray, the share of a GPU per recording; '
                             'default: %(default)s')
    options = parser.parse_args(arguments)
    paths = options.paths
    if options.ray and len(paths) == 1:
        # `--ray IN OUT`: the first path was taken for the address.
        paths, options.ray = [Path(options.ray), *paths], ''
    if len(paths) != 2:
        parser.error(f'two paths are needed, IN and OUT, got {len(paths)}')
    options.input, options.output = paths
    return options


if __name__ == '__main__':
    sys.exit(main())
