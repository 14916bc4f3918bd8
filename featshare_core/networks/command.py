"""The subcommand ``featshare convert``."""
from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from featshare_core.arguments import size_argument


def convert_command(arguments: argparse.Namespace) -> None:
    """
    Make a checkpoint of a segmentation_models_pytorch model, or of torchvision's fcn_resnet50.

    From a folder that save_pretrained wrote, or a file of torch.save(model.state_dict()). The
    weights are checked against the undivided model and kept in full precision.
    """
    import torch

    from featshare_core.labels import load_label_set
    from featshare_core.networks.checkpoint import save_checkpoint
    from featshare_core.networks.convert import LABELS, convert
    if (arguments.mean is None) != (arguments.std is None):
        raise ValueError('give --mean and --std together')
    labels = LABELS.get(arguments.labels) or load_label_set(arguments.labels)
    try:
        options = json.loads(arguments.arguments)
    except ValueError as error:
        raise ValueError(f'--arguments is no JSON: {error}') from error
    network, config = convert(
        arguments.source, labels, arguments.input_size, arguments.architecture,
        arguments.encoder, options, arguments.shared_levels,
        (arguments.mean, arguments.std) if arguments.mean else None)
    save_checkpoint(arguments.output, network, config, torch.float32)
    print(f'written: {arguments.output}, {network.shared_levels} shared levels; it can share '
          f'{", ".join(map(str, network.cuts))}')


def add_convert_command(subparsers: Any) -> None:
    """Add ``convert`` to the command line's subparsers."""
    command = subparsers.add_parser(
        'convert', help='make a checkpoint of a segmentation_models_pytorch model',
        description=convert_command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    command.set_defaults(run=convert_command)
    command.add_argument('source', type=Path, help='a folder of save_pretrained, or a file')
    command.add_argument('output', type=Path, help='the .safetensors file to write')
    command.add_argument('--labels', required=True,
                         help='camvid, cityscapes, or a YAML file of classes, in the order of '
                              'the logits')
    command.add_argument('--input-size', type=size_argument, required=True, metavar='WxH',
                         help='of the images it was trained on, as in 640x480')
    command.add_argument('--architecture', help='of a file: Unet, FPN, ..., or fcn_resnet50')
    command.add_argument('--encoder', help='of a file: resnet34, tu-convnext_tiny, ...')
    command.add_argument('--arguments', default='{}', metavar='JSON',
                         help="of a file: what else the architecture was made with, such as "
                              "'{\"encoder_depth\": 4}'")
    command.add_argument('--shared-levels', type=int,
                         help='default: 2, or the fewest that the architecture can share')
    command.add_argument('--mean', type=float, nargs=3, metavar=('R', 'G', 'B'),
                         help="of RGB in 0 to 1; default: the encoder's ImageNet weights'")
    command.add_argument('--std', type=float, nargs=3, metavar=('R', 'G', 'B'))
