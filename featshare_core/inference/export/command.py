"""The subcommand ``featshare export``."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def export_command(arguments: argparse.Namespace) -> None:
    """
    Write a checkpoint as two ONNX models: what a key frame runs, and what a current frame runs.

    The folder holds key.onnx, current.onnx and config.json. The node, segment_bag and the demo,
    featshare segment and featshare evaluate take it as weights; the other commands cut the
    network themselves and need its checkpoint. Images are uint8 RGB, of one size.
    """
    from featshare_core.inference.export.models import export
    from featshare_core.networks.checkpoint import load_checkpoint
    network, config = load_checkpoint(arguments.weights, arguments.shared_levels)
    width, height = arguments.size or (
        side // network.input_multiple * network.input_multiple for side in config.input_size)
    export(network, config, arguments.output, (height, width))
    print(f'{config.network}, {network.shared_levels} shared levels, for images of '
          f'{width}x{height}: {arguments.output}')


def add_export_command(subparsers: Any) -> None:
    """Add ``export`` to the command line's subparsers."""
    command = subparsers.add_parser(
        'export', help='write a checkpoint as ONNX models', description=export_command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    command.set_defaults(run=export_command)
    command.add_argument('output', type=Path, help='the folder to write into')
    command.add_argument('--weights', default='default',
                         help="a shipped checkpoint's name or a .safetensors file")
    command.add_argument('--shared-levels', type=int, help='default: as the checkpoint says')
    command.add_argument('--size', type=size_argument, metavar='WxH',
                         help="of the network's input, in multiples of 32 (default: the images "
                              "that it was trained on)")


def size_argument(text: str) -> tuple[int, int]:
    """Return (width, height) of ``WxH``."""
    width, _, height = text.partition('x')
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f'{text!r} is no size such as 512x512')
    return int(width), int(height)
