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
Measure what sharing costs on a recording, without labels.

    evaluate_bag RECORDING
    evaluate_bag RECORDING --topic /front/image_raw --frames 1000 --json cost.json

Compares the masks of current frames, at every lag, with those of the same network run on every
frame: docs/models/evaluation.md says what the figures mean. For video files and folders of images:
`featshare evaluate --unlabelled`.
"""
from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
import sys
import threading

from featshare_core.arguments import add_common
from featshare_core.evaluation.command import add_evaluate_options, run_unlabelled
from featshare_core.evaluation.unlabelled import Footage
from featshare_core.inference.engine import Frame
from featshare_core.packages import explain
from featshare_ros.recordings.bag_input import BagInput, decode


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parse(arguments)
    topics = [options.topic] if options.topic else []
    try:
        with BagInput(options.recording, topics, copy=False) as bag:
            problems: list[str] = []
            name = options.recording.resolve().name
            command = ' '.join(('evaluate_bag', name, *(f'--topic {topic}' for topic in topics)))
            run_unlabelled(options, Footage(name, _frames(bag, problems), bag.frame_count,
                                            command))
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        print(f'evaluate_bag: {explain(error)}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if problems:
        print(f'{len(problems)} images were left out: the first, {problems[0]}', file=sys.stderr)
    return 0


def _frames(bag: BagInput, problems: list[str]) -> Iterator[Frame]:
    """Yield the camera's pictures; add to ``problems`` what is wrong with the others."""
    for group in bag.groups(threading.Event()):
        if group.camera is None:
            continue
        image = decode(group.camera, group.image)
        if image.frame is None:
            problems.append(image.problem)
        else:
            yield image.frame


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        'evaluate_bag', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    parser.add_argument('recording', type=Path,
                        help='a rosbag2 recording: a directory, .mcap or .db3')
    parser.add_argument('--topic', help='the image topic, where there are several')
    add_evaluate_options(parser)
    return parser.parse_args(arguments)


if __name__ == '__main__':
    sys.exit(main())
