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
"""The options of a command that segments: the live node's parameters, with its defaults."""
from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, TYPE_CHECKING, TypeVar

from featshare_core.arguments import size_argument

if TYPE_CHECKING:
    from featshare_core.inference.segmenter import VideoSegmenter


@dataclass(frozen=True)
class SegmenterOptions:
    """
    What determines the masks of a video: the network, how it runs, and its key frames.

    :param shared_levels: None for the checkpoint's own.
    :param max_key_age: seconds of image stamps; 0 for no limit.
    :param change_threshold: 0 to 1; counts with ``key_policy`` ``change`` only.
    :param moved_frames: see ``VideoSegmenter.moved_frames``.
    :param input_size: (width, height) of the network's input in pixels; None for the checkpoint's
        number of pixels in the image's aspect ratio.
    """

    weights: str = 'default'
    device: str = 'auto'
    precision: str = 'auto'
    engine: str = 'auto'
    shared_levels: int | None = None
    key_interval: int = 5
    max_key_age: float = 0.3
    key_policy: str = 'fixed'
    change_threshold: float = 0.05
    key_mode: str = 'blocking'
    input_size: tuple[int, int] | None = None
    mask_size: str = 'image'
    moved_frames: int = 0


Options = TypeVar('Options', bound=SegmenterOptions)


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the weights and the engine that runs them."""
    add = partial(_add, parser)
    add('weights', help="a shipped checkpoint's name, a .safetensors file, a folder that "
                        '`featshare export` or save_pretrained wrote, or a name that '
                        '`featshare pull` fetched')
    add('device', help='auto, cpu, cuda or cuda:N')
    add('precision', help='auto, fp32, bf16 or fp16')
    add('engine', help='auto, torch, graphs, openvino, onnx, onnx-cuda, onnx-tensorrt or '
                       'onnx-openvino')


def add_segmenter_options(parser: argparse.ArgumentParser, stamps: bool) -> None:
    """
    Add the options to a command's parser.

    :param stamps: whether the command's images have stamps, without which an age has no meaning.
    """
    add_engine_options(parser)
    add = partial(_add, parser)
    add('shared_levels', type=int, metavar='N',
        help='pyramid levels that current frames reuse; default: as the checkpoint says')
    add('key_interval', type=int, metavar='N', help='a key frame every N images')
    if not stamps:  # segment_bag --resume continues after any image, with no mask to move
        add('moved_frames', type=int, metavar='N',
            help='on N images after each one that the network ran on, move its mask along '
                 'optical flow instead of running the network')
    if stamps:
        add('max_key_age', type=float, metavar='SECONDS',
            help='a key frame after this time at the latest; 0: no limit')
    add('key_policy', choices=('fixed', 'change'),
        help='change: a key frame also when the picture has changed by --change-threshold')
    add('change_threshold', type=float, metavar='SHARE',
        help='with --key-policy change: mean difference of brightness since the key frame, 0 to '
             '1')
    add('key_mode', choices=('blocking', 'deferred'),
        help='deferred is for the live node alone, and refused here: its masks depend on timing')
    add('input_size', type=size_argument, metavar='WxH',
        help="of the network's input in pixels, multiples of 32; default: as many pixels as the "
             "checkpoint was trained on, in the image's aspect ratio")
    add('mask_size', choices=('image', 'network'), help="the image's, or the network input's")


def _add(parser: argparse.ArgumentParser, name: str, **arguments: Any) -> None:
    """Add the option of a field of ``SegmenterOptions``, with the field's default."""
    default = getattr(SegmenterOptions, name)
    if default is not None:
        arguments['help'] += '; default: %(default)s'
    parser.add_argument(f'--{name.replace("_", "-")}', default=default, **arguments)


def from_arguments(kind: type[Options], arguments: argparse.Namespace, **others: Any) -> Options:
    """Return the options that a command line gives; what it lacks has its default."""
    given = {field.name: getattr(arguments, field.name) for field in fields(kind)
             if hasattr(arguments, field.name)}
    return kind(**{**given, **others})


def check_options(options: SegmenterOptions) -> None:
    """
    Refuse options that no network can be run with.

    :raises ValueError: for ``key_mode`` ``deferred``, or a ``change_threshold`` or
        ``moved_frames`` that are out of range or have no effect.
    """
    from featshare_core.inference.moving import checked_frames
    if options.key_mode == 'deferred':
        raise ValueError('key_mode deferred is for live images alone: which features a frame '
                         'uses depends on timing, so that two runs would give different masks; '
                         'choose blocking')
    if checked_frames(options.moved_frames) and options.key_interval == 1:
        raise ValueError('moved_frames has no effect with key_interval 1: key frames are not '
                         'moved')
    if not 0 <= options.change_threshold <= 1:
        raise ValueError(f'change_threshold must be 0 to 1, not {options.change_threshold}')
    if options.key_policy != 'change' \
            and options.change_threshold != SegmenterOptions.change_threshold:
        raise ValueError('change_threshold has no effect without key_policy change')


def make_segmenter(options: SegmenterOptions) -> VideoSegmenter:
    """
    Load the segmenter of the options.

    :raises CheckpointError, RuntimeError, ImportError, ValueError: as
        ``VideoSegmenter.from_checkpoint``, and ``check_options``.
    """
    from featshare_core.inference.segmenter import VideoSegmenter
    check_options(options)
    return VideoSegmenter.from_checkpoint(
        options.weights, options.key_interval, options.device, options.precision,
        options.shared_levels, options.max_key_age or None, options.input_size,
        full_size=options.mask_size == 'image', engine=options.engine, key_mode=options.key_mode,
        change_threshold=options.change_threshold if options.key_policy == 'change' else None,
        moved_frames=options.moved_frames)
