"""The `featshare` command: what can be done without ROS."""
from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featshare_core.doctor.command import add_doctor_command
from featshare_core.evaluation.command import add_evaluation_commands
from featshare_core.export_command import add_export_command
from featshare_core.inference.options import (
    SegmenterOptions,
    add_segmenter_options,
    from_arguments,
    make_segmenter,
)
from featshare_core.networks.command import add_convert_command
from featshare_core.packages import explain
from featshare_core.training.command import add_train_command
from featshare_core.weights_command import add_weights_commands

if TYPE_CHECKING:
    from featshare_core.inference.engine import Frame
    from featshare_core.inference.segmenter import Result


def segment(arguments: argparse.Namespace) -> None:
    """Write a mask (PNG of class ids) for each frame into a folder; print rate and latencies."""
    # Here, because they take seconds that `featshare --help` need not.
    import cv2

    from featshare_core.data.frames import count_frames, frames_of
    from featshare_core.inference.timing import Rolling
    from featshare_core.overlay import paint
    from featshare_core.pipeline import overlap
    if arguments.input.resolve() == arguments.output.resolve():
        raise ValueError(f'{arguments.output} is the input too: masks would replace its images')
    segmenter = make_segmenter(from_arguments(SegmenterOptions, arguments))
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
    add_segmenter_options(command, stamps=False)
    add_train_command(commands)
    add_convert_command(commands)
    add_export_command(commands)
    add_evaluation_commands(commands)
    add_doctor_command(commands)
    add_weights_commands(commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        print(f'featshare: {explain(error)}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
