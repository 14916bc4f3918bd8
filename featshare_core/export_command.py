"""The subcommand ``featshare export``."""
from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featshare_core.inference.options import size_argument

if TYPE_CHECKING:
    from featshare_core.inference.engine import Frame

CALIBRATION_FRAMES = 240
"""Number of frames that are read for int8's calibration, in runs spread over the video."""
RUN = 4
"""Number of consecutive frames in a run: a key frame, and current frames at lags 1 to 3."""


def export_command(arguments: argparse.Namespace) -> None:
    """
    Write a checkpoint as two models: what a key frame runs, and what a current frame runs.

    The folder holds key.onnx, current.onnx and config.json. The node, segment_bag and the demo,
    featshare segment and featshare evaluate take it as weights; the other commands cut the
    network themselves and need its checkpoint. Images are uint8 RGB, of one size.

    With --int8 most layers compute in 8 bits, for the engine openvino: faster on CPUs without
    bf16. The ranges of activations are taken from the frames of a video. It should come from the
    robot's own camera, last some minutes, and show all light that the robot works in (day and
    night). The folder holds key.xml, key.bin, current.xml and current.bin instead of the ONNX
    models. Measure the loss of accuracy with featshare evaluate.
    """
    from featshare_core.inference.export.models import export
    from featshare_core.inference.pixels import network_size
    from featshare_core.networks.checkpoint import load_checkpoint
    network, config = load_checkpoint(arguments.weights, arguments.shared_levels)
    multiple, (width, height) = network.input_multiple, config.input_size
    runs = _runs(arguments.int8) if arguments.int8 else None
    if arguments.size:
        width, height = arguments.size
    elif runs:
        height, width = network_size(runs[0][0].shape[:2], (height, width), multiple)
    else:
        width, height = width // multiple * multiple, height // multiple * multiple
    export(network, config, arguments.output, (height, width), runs)
    print(f'{config.network}, {network.shared_levels} shared levels{", int8" if runs else ""}, '
          f'for images of {width}x{height}: {arguments.output}')


def _runs(video: Path) -> list[list[Frame]]:
    """Return runs of ``RUN`` consecutive frames, evenly spaced over a video or folder."""
    from featshare_core.data.frames import count_frames, frames_of
    wanted = CALIBRATION_FRAMES // RUN
    step = max(RUN, count_frames(video) // wanted)
    runs: list[list[Frame]] = []
    for index, (_, frame) in enumerate(islice(frames_of(video), step * wanted)):
        if index % step == 0:
            runs.append([])
        if index % step < RUN:
            runs[-1].append(frame)
    return runs


def add_export_command(subparsers: Any) -> None:
    """Add ``export`` to the command line's subparsers."""
    command = subparsers.add_parser(
        'export', help='write a checkpoint as ONNX models, or quantised to int8',
        description=export_command.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.set_defaults(run=export_command)
    command.add_argument('output', type=Path, help='the folder to write into')
    command.add_argument('--weights', default='default',
                         help="a shipped checkpoint's name or a .safetensors file")
    command.add_argument('--shared-levels', type=int, help='default: as the checkpoint says')
    command.add_argument('--size', type=size_argument, metavar='WxH',
                         help="of the network's input, in multiples of 32 (default: the images "
                              "that it was trained on; with --int8 as many pixels in the video's "
                              "aspect ratio)")
    command.add_argument('--int8', type=Path, metavar='VIDEO',
                         help='quantise to int8, calibrated on a video file or a folder of '
                              'consecutive images; needs pip install nncf openvino onnx')
