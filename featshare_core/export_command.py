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
"""The subcommand ``featshare export``."""
from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import Any, TYPE_CHECKING

from featshare_core.arguments import check_output, size_argument

if TYPE_CHECKING:
    from featshare_core.inference.engine import Frame
    from featshare_core.inference.pixels import Size

PAIRS = 60
"""Largest number of pairs of a key and a current frame that int8 is calibrated on."""
LAGS = 3
"""Largest lag of the current frames, in frames."""


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
    from featshare_core.data.frames import frames_of
    from featshare_core.inference.export.models import export
    from featshare_core.inference.pixels import network_size
    from featshare_core.networks.checkpoint import load_checkpoint
    _check_folder(arguments.output)
    check_output(arguments.output, arguments.overwrite)
    network, config = load_checkpoint(arguments.weights, arguments.shared_levels)
    multiple, (width, height) = network.input_multiple, config.input_size
    if arguments.size:
        width, height = arguments.size
    elif arguments.int8:
        first = next(frame for _, frame in frames_of(arguments.int8))
        height, width = network_size((first.shape[0], first.shape[1]), (height, width), multiple)
    else:
        width, height = width // multiple * multiple, height // multiple * multiple
    pairs = _pairs(arguments.int8, (height, width)) if arguments.int8 else None
    export(network, config, arguments.output, (height, width), pairs)
    print(f'{config.network}, {network.shared_levels} shared levels{", int8" if pairs else ""}, '
          f'for images of {width}x{height}: {arguments.output}')


def _check_folder(output: Path) -> None:
    """Raise ValueError where an output is neither new, nor empty, nor an earlier export."""
    from featshare_core.inference.export.models import holds_export
    from featshare_core.networks.weights import CONFIG_FILE, foreign_kind
    if output.exists() and not output.is_dir():
        raise ValueError(f'{output} is a file, not a folder to write into')
    if foreign_kind(output):
        raise ValueError(f'{output} holds a network that save_pretrained wrote, whose '
                         f'{CONFIG_FILE} would be lost: name another folder')
    if output.is_dir() and any(output.iterdir()) and not holds_export(output):
        raise ValueError(f'{output} holds files that featshare export did not write: name '
                         f'another folder')


def _pairs(video: Path, size: Size) -> list[list[Frame]]:
    """
    Return pairs of a key frame and a current frame of a size, evenly spaced over a video.

    Only these are held in memory, hxwx3. The current frames have lags 1 to ``LAGS`` in turn.
    """
    from featshare_core.data.frames import count_frames, frames_of
    from featshare_core.inference.pixels import resized
    step = max(LAGS + 1, count_frames(video) // PAIRS)
    pairs: list[list[Frame]] = []
    for index, (_, frame) in enumerate(islice(frames_of(video), step * PAIRS)):
        number, lag = divmod(index, step)
        if lag in (0, 1 + number % LAGS):
            pairs += [[]] if lag == 0 else []
            pairs[-1].append(resized(frame, size))
    return pairs


def add_export_command(subparsers: Any) -> None:
    """Add ``export`` to the command line's subparsers."""
    command = subparsers.add_parser(
        'export', help='write a checkpoint as ONNX models, or quantised to int8',
        description=export_command.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.set_defaults(run=export_command)
    command.add_argument('output', type=Path, help='the folder to write into')
    command.add_argument('--overwrite', action='store_true',
                         help='replace an earlier export')
    command.add_argument('--weights', default='default',
                         help="a shipped checkpoint's name, a .safetensors file, a folder that "
                              'save_pretrained wrote, or a name that `featshare pull` fetched')
    command.add_argument('--shared-levels', type=int, help='default: as the checkpoint says')
    command.add_argument('--size', type=size_argument, metavar='WxH',
                         help="of the network's input, in multiples of 32 (default: the images "
                              "that it was trained on; with --int8 as many pixels in the video's "
                              'aspect ratio)')
    command.add_argument('--int8', type=Path, metavar='VIDEO',
                         help='quantise to int8, calibrated on a video file or a folder of '
                              'consecutive images; needs pip install nncf openvino onnx')
