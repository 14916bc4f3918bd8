"""The `featshare` command: what can be done without ROS."""
from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from featshare_core.evaluation.command import add_evaluation_commands
from featshare_core.evaluation.compare import compare_bags, report
from featshare_core.inference.command import add_export_command
from featshare_core.inference.engine import Frame
from featshare_core.inference.pipeline import overlap
from featshare_core.inference.segmenter import Result, VideoSegmenter
from featshare_core.inference.timing import Rolling
from featshare_core.networks.convert import add_convert_command
from featshare_core.overlay import paint
from featshare_core.training.command import add_train_command

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff')


def frames_of(source: Path) -> Iterator[tuple[str, Frame]]:
    """
    Yield (name, HxWx3 uint8 RGB) of each frame of a video file, or of a folder's images by name.

    :raises ValueError: where there is nothing to read, or an image cannot be decoded.
    """
    if source.is_dir():
        files = sorted(f for f in source.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise ValueError(f'{source} holds no image ({", ".join(IMAGE_SUFFIXES)})')
        for one, other in pairwise(files):
            if one.stem == other.stem:
                raise ValueError(f'{one.name} and {other.name} would have the same mask '
                                 f'{one.stem}.png: rename one of them')
        for file in files:
            image = cv2.imread(str(file), cv2.IMREAD_COLOR)
            if image is None:
                raise ValueError(f'{file} cannot be decoded as an image')
            yield file.stem, cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
        return
    video = cv2.VideoCapture(str(source))
    index = 0
    while True:
        read, image = video.read()
        if not read:
            break
        yield f'{index:06d}', cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
        index += 1
    video.release()
    if not index:
        raise ValueError(f'{source} is no folder, and no video file that OpenCV can read')


def count_frames(source: Path) -> int:
    """Return how many frames ``frames_of`` yields, for a video as far as the container knows."""
    if source.is_dir():
        return sum(file.suffix.lower() in IMAGE_SUFFIXES for file in source.iterdir())
    video = cv2.VideoCapture(str(source))
    count = max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
    video.release()
    return count


def segment(arguments: argparse.Namespace) -> None:
    """Write a mask (PNG of class ids) for each frame into a folder, and print the pace."""
    if arguments.input.resolve() == arguments.output.resolve():
        raise ValueError(f'{arguments.output} is the input too: masks would replace its images')
    segmenter = VideoSegmenter.from_checkpoint(
        arguments.weights, key_interval=arguments.key_interval, device=arguments.device,
        shared_levels=arguments.shared_levels)
    arguments.output.mkdir(parents=True, exist_ok=True)
    times = {True: Rolling(10_000), False: Rolling(10_000)}

    def run(entry: tuple[str, Frame]) -> tuple[str, Frame, Result]:
        result = segmenter.segment(entry[1])
        times[result.is_key].add(sum(result.timings.values()))
        return *entry, result

    def write(entry: tuple[str, Frame, Result]) -> None:
        name, frame, result = entry
        written = cv2.imwrite(str(arguments.output / f'{name}.png'), result.mask)
        if arguments.overlay:
            picture = cv2.cvtColor(paint(frame, result.mask, segmenter.labels, 0.5),
                                   cv2.COLOR_RGB2BGR)
            written &= cv2.imwrite(str(arguments.output / f'{name}_overlay.jpg'), picture)
        if not written:
            raise ValueError(f'cannot write into {arguments.output}: is the disk full?')

    start = time.monotonic()
    total = count_frames(arguments.input)
    stages = overlap(frames_of(arguments.input), lambda entry: entry, run, write)
    for count, _ in enumerate(stages, start=1):
        rate = count / (time.monotonic() - start)
        if sys.stderr.isatty():
            print(f'\r{count} of about {total} frames, {rate:.1f} a second, '
                  f'{max(0, total - count) / rate:.0f} s left ', end='', file=sys.stderr)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(f'{segmenter.engine.network_name}, {segmenter.engine.device}, '
          f'{segmenter.engine.precision}: masks in {arguments.output}, {rate:.1f} frames a second')
    for is_key, rolling in times.items():
        percentiles = rolling.percentiles()
        if percentiles:
            p50, p95, largest = percentiles
            print(f'{len(rolling)} {"key" if is_key else "current"} frames: {p50:.1f} ms median, '
                  f'{p95:.1f} ms 95th percentile, {largest:.1f} ms at most')


def compare(arguments: argparse.Namespace) -> None:
    """Print how far the masks of two recordings agree: per class, and per distance to the key."""
    print(report(compare_bags(arguments.a, arguments.b)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser('featshare', description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser('segment', help='masks for a video file or a folder of images',
                                  description=segment.__doc__)
    command.set_defaults(run=segment)
    command.add_argument('input', type=Path, help='a video file, or a folder of images')
    command.add_argument('output', type=Path, help='the folder to write into')
    command.add_argument('--overlay', action='store_true', help='write coloured overlays too')
    command.add_argument('--weights', default='default',
                         help="a shipped checkpoint's name or a .safetensors file")
    command.add_argument('--key-interval', type=int, default=5)
    command.add_argument('--shared-levels', type=int, help='default: as the checkpoint says')
    command.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    command = commands.add_parser('compare-bags',
                                  help='agreement between two segmented recordings',
                                  description=compare.__doc__)
    command.set_defaults(run=compare)
    command.add_argument('a', type=Path, help='a rosbag2 recording with masks')
    command.add_argument('b', type=Path, help='another, of the same images')
    add_train_command(commands)
    add_convert_command(commands)
    add_export_command(commands)
    add_evaluation_commands(commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        print(f'featshare: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
