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
"""The subcommand ``featshare convert``."""
from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from featshare_core.arguments import check_output, size_argument


def convert_command(arguments: argparse.Namespace) -> None:
    """
    Make a checkpoint of a model of segmentation_models_pytorch, transformers or torchvision.

    From a folder that save_pretrained wrote (of transformers: SegFormer, and UPerNet on ConvNeXt),
    or a file of torch.save(model.state_dict()) (of torchvision: fcn_resnet50). The
    network is compared with the undivided model; the weights are kept in full precision.
    """
    from featshare_core.labels import find_label_set
    from featshare_core.networks.checkpoint import licence_remark, save_checkpoint
    from featshare_core.networks.convert import convert
    from featshare_core.networks.normalisation import as_options
    import torch
    output = arguments.output
    if output.suffix != '.safetensors':  # by which all commands know a checkpoint
        output = output.with_name(f'{output.name}.safetensors')
    check_output(output, arguments.overwrite)
    if (arguments.mean is None) != (arguments.std is None):
        raise ValueError('give --mean and --std together')
    labels = find_label_set(arguments.labels) if arguments.labels else None
    try:
        options = json.loads(arguments.arguments)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'--arguments is no JSON: {error}') from error
    network, config = convert(
        arguments.source, labels, arguments.input_size, arguments.architecture,
        arguments.encoder, options, arguments.shared_levels,
        (tuple(arguments.mean), tuple(arguments.std)) if arguments.mean else None)
    save_checkpoint(output, network, config, torch.float32)
    width, height = config.input_size
    print(f'written: {output}, {network.shared_levels} shared levels; it can share '
          f'{", ".join(map(str, network.cuts))}')
    print(f'normalisation: {as_options((config.mean, config.std))} '
          f'({config.training["normalisation"]}); images of {width}x{height}')
    not_used = config.training.get('not_used', ())
    if not_used:
        more = f' and {len(not_used) - 5} more' if len(not_used) > 5 else ''
        print(f'not used: {", ".join(not_used[:5])}{more}')
    print(f'licence: {config.licence}{licence_remark(config)}')


def add_convert_command(subparsers: Any) -> None:
    """Add ``convert`` to the command line's subparsers."""
    command = subparsers.add_parser(
        'convert', help='make a checkpoint of a model of another package',
        description=convert_command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    command.set_defaults(run=convert_command)
    command.add_argument('source', type=Path, help='a folder of save_pretrained, or a file')
    command.add_argument('output', type=Path,
                         help='the checkpoint to write; .safetensors is appended if it is missing')
    command.add_argument('--overwrite', action='store_true', help='replace the checkpoint')
    command.add_argument('--labels',
                         help='classes in the order of the logits: camvid, cityscapes, ade20k, '
                              'voc, coco-stuff, mapillary, or a file of names, with or without '
                              'colours; required for a file; default: those that a folder of '
                              'transformers names')
    command.add_argument('--input-size', type=size_argument, metavar='WxH',
                         help='of the images it was trained on, as in 640x480; default: as the '
                              'albumentations_config_eval.json beside the weights says; without '
                              'that, required')
    command.add_argument('--architecture', help='of a file: Unet, FPN, ..., or fcn_resnet50')
    command.add_argument('--encoder', help='of a file: resnet34, tu-convnext_tiny, ...')
    command.add_argument('--arguments', default='{}', metavar='JSON',
                         help='of a file: what else the architecture was made with, such as '
                              "'{\"encoder_depth\": 4}'")
    command.add_argument('--shared-levels', type=int,
                         help='default: 2, or the fewest that the architecture can share')
    command.add_argument('--mean', type=float, nargs=3, metavar=('R', 'G', 'B'),
                         help='of RGB in 0 to 1; default: as buffers mean and std in the file, or '
                              "albumentations_config_eval.json, say, else the encoder's "
                              "ImageNet weights'")
    command.add_argument('--std', type=float, nargs=3, metavar=('R', 'G', 'B'))
