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
"""The subcommand ``featshare segment``: masks of a video file or of a folder of images."""
from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
import hashlib
import json
from pathlib import Path
import shutil
import sys
import time
from typing import Any, TYPE_CHECKING

from featshare_core.arguments import check_output
from featshare_core.durable import sync_tree
from featshare_core.inference.options import (
    add_segmenter_options,
    check_options,
    from_arguments,
    make_segmenter,
    SegmenterOptions,
)
from featshare_core.progress import preparing, reporter

if TYPE_CHECKING:
    from featshare_core.inference.engine import Frame
    from featshare_core.inference.segmenter import Result, VideoSegmenter
    from featshare_core.labels import LabelSet

STATE, LABELS, CONFIDENCE = 'segment.json', 'labels.json', 'confidence'
"""Names in the output: how far it is, the classes, and the folder of confidences."""
SAVED_EVERY = 1.0
"""Shortest time between two records of how far the output is, in seconds."""
OPACITY = 0.5
"""Weight of the classes' colours in overlays."""


def segment_command(arguments: argparse.Namespace) -> None:
    """
    Write the mask of each frame of a video file, or of each image of a folder, as PNG.

    OUTPUT/NAME.png holds class ids and a palette, labels.json the classes. Images are taken in the
    order of their names, with numbers by their value, and as they are stored: an EXIF orientation
    is not applied. A video that is damaged or cut off is an error; the masks of the frames that
    could be read are written before.
    """
    options = from_arguments(SegmenterOptions, arguments)
    state = _open(arguments, options)
    if state.get('complete'):
        print(f'{arguments.output} is complete already: {state["frame"]} masks')
        return
    check_options(options)
    preparing(options.weights)
    with closing(make_segmenter(options)) as segmenter:
        if 'frame' not in state:
            _begin(arguments, state)
        try:
            _segment(arguments, segmenter, state)
        except KeyboardInterrupt:
            print('featshare: interrupted; the same command with --resume continues',
                  file=sys.stderr)
            raise


def _open(arguments: argparse.Namespace, options: SegmenterOptions) -> dict[str, Any]:
    """
    Return the state to start or continue from; nothing is written.

    :raises ValueError, OSError: where the input cannot be read, or the output exists and may be
        neither replaced nor continued.
    """
    from featshare_core.data.frames import frames_of
    output, path = arguments.output, arguments.output / STATE
    if arguments.input.resolve() == output.resolve():
        raise ValueError(f'{output} is the input too: masks would replace its images')
    if (arguments.input / STATE).is_file():
        raise ValueError(f'{arguments.input} is an output of featshare segment (it holds {STATE}):'
                         f' its images are masks; name the folder of the pictures')
    if output.exists() and not output.is_dir():
        raise ValueError(f'{output} is a file, not a folder to write into')
    if arguments.resume and arguments.video:
        raise ValueError('a video cannot be continued: leave out --video or --resume')
    if arguments.video:
        check_output(arguments.video, arguments.overwrite)
    exists = output.exists() and any(output.iterdir())
    if exists and not path.exists():
        raise ValueError(f'{output} holds files that featshare segment did not write: name '
                         f'another folder')
    if exists and not (arguments.resume or arguments.overwrite):
        raise ValueError(f'{output} exists already; --overwrite replaces its masks, --resume '
                         f'continues an interrupted run')
    next(frames_of(arguments.input))  # an input that cannot be read leaves no output behind
    settings = _settings(arguments, options)
    return _resumed(path, settings) if exists and arguments.resume else {'settings': settings}


def _begin(arguments: argparse.Namespace, state: dict[str, Any]) -> None:
    """Make an empty output, without the masks of an earlier run."""
    from featshare_core.evaluation.provenance import write_json
    output = arguments.output
    for file in (*output.glob('*.png'), *output.glob('*_overlay.jpg')):
        file.unlink()
    shutil.rmtree(output / CONFIDENCE, ignore_errors=True)
    (output / CONFIDENCE if arguments.confidence else output).mkdir(parents=True, exist_ok=True)
    write_json(output / STATE, state)


def _resumed(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the state of an interrupted run; ValueError where it had other settings."""
    try:
        state = json.loads(path.read_text())
        theirs = dict(state['settings'])
        if 'frame' in state:
            state['frame'] = int(state['frame'])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f'{path} is damaged ({error}), so that the run cannot be continued: '
                         f'--overwrite starts again') from error
    # Runs of earlier versions do not name all settings.
    theirs.setdefault('moved_frames', 0)
    other = [name for name, value in settings.items() if theirs.get(name) != value]
    if other:
        raise ValueError(f'{path.parent} was started with other settings, so that --resume cannot '
                         f'continue it: {", ".join(other)}')
    return dict(state)


def _settings(arguments: argparse.Namespace, options: SegmenterOptions) -> dict[str, Any]:
    """Return what a continued run must share with the interrupted one, as JSON knows it."""
    from featshare_core.data.frames import images_of
    from featshare_core.inference.export.models import fingerprint
    source = arguments.input
    files = images_of(source) if source.is_dir() else [source]
    digest = hashlib.sha256('\n'.join(f'{f.name} {f.stat().st_size}' for f in files).encode())
    # The device may differ, as with segment_bag. An age has no meaning without stamps.
    left_out = ('device', 'max_key_age',
                *(('change_threshold',) if options.key_policy != 'change' else ()))
    fields = {name: value for name, value in asdict(options).items() if name not in left_out}
    found = {**fields, 'weights': fingerprint(options.weights), 'input': digest.hexdigest()[:16],
             'overlay': arguments.overlay, 'confidence': arguments.confidence}
    return dict(json.loads(json.dumps(found)))


def _segment(arguments: argparse.Namespace, segmenter: VideoSegmenter,
             state: dict[str, Any]) -> None:
    """Segment the frames that are left; ValueError where the video ends early."""
    from featshare_core.data.frames import count_frames, frames_of, IncompleteVideoError
    from featshare_core.evaluation.provenance import write_json
    from featshare_core.inference.timing import Rolling
    from featshare_core.pipeline import overlap
    source, output = arguments.input, arguments.output
    first = done = int(state.get('frame', 0))
    write_json(output / LABELS, _described(segmenter.labels))
    times = {kind: Rolling(100_000) for kind in ('key', 'current', 'moved')}

    def run(entry: tuple[str, Frame]) -> tuple[str, Frame, Result]:
        result = segmenter.segment(entry[1], confidence=arguments.confidence)
        times[result.kind].add(sum(result.timings.values()))
        return *entry, result

    def finish(entry: tuple[str, Frame, Result]) -> tuple[Result, Frame | None]:
        name, frame, result = entry
        return result, _write(arguments, name, frame, result, segmenter.labels)

    show = reporter('segmenting', 'frames', count_frames(source) or None, first)
    append = _video(arguments.video, source) if arguments.video else None
    start, saved, problem = time.monotonic(), time.monotonic(), ''
    with closing(overlap(frames_of(source, first), lambda entry: entry, run, finish)) as stages:
        try:
            for done, (result, picture) in enumerate(stages, start=first + 1):
                # Masks before this one are written. A run may begin at a key frame: its mask and
                # those that follow depend on no earlier frame.
                if result.is_key and time.monotonic() - saved >= SAVED_EVERY:
                    saved = time.monotonic()
                    write_json(output / STATE, {**state, 'frame': done - 1})
                if append is not None and picture is not None:
                    append(picture)
                show(done)
        except IncompleteVideoError as error:
            problem = str(error)
        finally:
            show(None)
            if append is not None:
                append(None)
    seconds = time.monotonic() - start
    if not problem:
        sync_tree(output)  # only masks that survive a power cut count as complete
        write_json(output / STATE, {**state, 'frame': done, 'complete': True})
    _report(arguments, segmenter, done - first, seconds, times, problem)
    if problem:
        raise ValueError(f'{problem}; the masks of these are in {output}')


def _described(labels: LabelSet) -> dict[str, Any]:
    """Return the content of labels.json."""
    from featshare_core.labels import UNLABELLED
    classes = enumerate(zip(labels.names, labels.colors))
    return {'classes': [{'id': index, 'name': name, 'color': list(color)}
                        for index, (name, color) in classes], 'unlabelled': UNLABELLED}


def _write(arguments: argparse.Namespace, name: str, frame: Frame, result: Result,
           labels: LabelSet) -> Frame | None:
    """Write the requested files of a frame; return the overlay, HxWx3 RGB, if it is needed."""
    import cv2
    from featshare_core.data.masks import encode_indices
    from featshare_core.overlay import paint
    output = arguments.output
    (output / f'{name}.png').write_bytes(
        encode_indices(result.mask, labels.palette()[:len(labels)]))
    written = True
    picture: Frame | None = None
    if result.confidence is not None:
        written &= cv2.imwrite(str(output / CONFIDENCE / f'{name}.png'), result.confidence)
    if arguments.overlay or arguments.video:
        picture = paint(frame, result.mask, labels, OPACITY)
    if arguments.overlay and picture is not None:
        written &= cv2.imwrite(str(output / f'{name}_overlay.jpg'),
                               cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not written:
        raise ValueError(f'cannot write into {output}: is the disk full?')
    return picture


def _video(path: Path, source: Path) -> Callable[[Frame | None], None]:
    """Return a function that appends a picture to a video at the input's rate; None ends it."""
    import cv2
    from featshare_core.data.frames import frame_rate
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = frame_rate(source) or 25.0
    video: cv2.VideoWriter | None = None
    size = (0, 0)

    def append(picture: Frame | None) -> None:
        nonlocal video, size
        if picture is None:
            if video is not None:
                video.release()
            return
        height, width = picture.shape[:2]
        if video is None:
            size = width, height
            video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'mp4v'), rate, size)
            if not video.isOpened():
                raise ValueError(f'{path} cannot be written as a video: name it OUT.mp4, in a '
                                 f'folder that can be written')
        if size != (width, height):
            raise ValueError(f'{path}: a video has pictures of one size, here {size[0]}x{size[1]} '
                             f'and {width}x{height}: leave out --video')
        video.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    return append


def _report(arguments: argparse.Namespace, segmenter: VideoSegmenter, frames: int,
            seconds: float, times: dict[str, Any], problem: str) -> None:
    """Print rate and latencies, and write them as JSON if that is requested."""
    from featshare_core.evaluation.provenance import (
        provenance,
        short_fingerprint,
        shown,
        write_json,
    )
    engine, rate = segmenter.engine, frames / max(seconds, 1e-9)
    print(f'{engine.network_name}, {engine.device}, engine {engine.name}, {engine.precision}: '
          f'masks in {arguments.output}, {rate:.1f} frames a second')
    timed: dict[str, Any] = {}
    for kind, rolling in times.items():
        percentiles = rolling.percentiles()
        if percentiles:
            p50, p95, worst = percentiles
            timed[kind] = {'frames': len(rolling), 'p50': p50, 'p95': p95, 'worst': worst}
            print(f'{len(rolling)} {kind} frames: {p50:.1f} ms median, {p95:.1f} ms 95th '
                  f'percentile, {worst:.1f} ms at most')
    if arguments.json:
        write_json(arguments.json, {
            **provenance(f'featshare segment {arguments.input.name} {arguments.output.name}',
                         engine.device),
            'weights': shown(arguments.weights),
            'sha256': short_fingerprint(arguments.weights),
            'settings': {name: value for name, value in asdict(
                from_arguments(SegmenterOptions, arguments)).items() if name != 'weights'},
            'network': engine.network_name, 'engine': engine.name, 'device': engine.device,
            'precision': engine.precision, 'frames': frames, 'seconds': seconds,
            'frames_per_second': rate, 'ms': timed, 'problem': problem})


def add_segment_command(subparsers: Any) -> None:
    """Add ``segment`` to the command line's subparsers."""
    command = subparsers.add_parser(
        'segment', help='masks for a video file or a folder of images',
        description=segment_command.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.set_defaults(run=segment_command)
    command.add_argument('input', type=Path,
                         help='a video file, or a folder of images: one video, in the order of '
                              'their names (for unrelated pictures, --key-interval 1)')
    command.add_argument('output', type=Path, help='the folder to write into')
    command.add_argument('--overlay', action='store_true', help='write coloured overlays too')
    command.add_argument('--video', type=Path, metavar='OUT.mp4',
                         help='write the overlays as a video too')
    command.add_argument('--confidence', action='store_true',
                         help='write confidences too, 255 times the probability of the class')
    command.add_argument('--resume', action='store_true', help='continue an interrupted output')
    command.add_argument('--overwrite', action='store_true',
                         help='replace the masks of an earlier run')
    command.add_argument('--json', type=Path, metavar='FILE', help='write the timings there too')
    add_segmenter_options(command, stamps=False)
