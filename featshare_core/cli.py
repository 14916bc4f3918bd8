"""The `featshare` command: what can be done without ROS."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from featshare_core.inference.engine import Frame
from featshare_core.inference.segmenter import VideoSegmenter
from featshare_core.inference.timing import Rolling
from featshare_core.overlay import paint

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


def segment(arguments: argparse.Namespace) -> None:
    """Write a mask (PNG of class ids) for each frame into a folder, and print the pace."""
    segmenter = VideoSegmenter.from_checkpoint(
        arguments.weights, key_interval=arguments.key_interval, device=arguments.device,
        shared_levels=arguments.shared_levels)
    arguments.output.mkdir(parents=True, exist_ok=True)
    times = {True: Rolling(10_000), False: Rolling(10_000)}
    for name, frame in frames_of(arguments.input):
        result = segmenter.segment(frame)
        times[result.is_key].add(sum(result.timings.values()))
        written = cv2.imwrite(str(arguments.output / f'{name}.png'), result.mask)
        if arguments.overlay:
            picture = cv2.cvtColor(paint(frame, result.mask, segmenter.labels, 0.5),
                                   cv2.COLOR_RGB2BGR)
            written &= cv2.imwrite(str(arguments.output / f'{name}_overlay.jpg'), picture)
        if not written:
            raise ValueError(f'cannot write into {arguments.output}: is the disk full?')
    print(f'{segmenter.engine.network_name}, {segmenter.engine.device}, '
          f'{segmenter.engine.precision}: masks in {arguments.output}')
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
    command.add_argument('--weights', default='default',
                         help="a shipped checkpoint's name or a .safetensors file")
    command.add_argument('--key-interval', type=int, default=5)
    command.add_argument('--shared-levels', type=int, help='default: as the checkpoint says')
    command.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, RuntimeError, OSError) as error:
        print(f'featshare: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
