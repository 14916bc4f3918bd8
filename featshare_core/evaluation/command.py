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
"""The subcommands ``featshare evaluate``, ``benchmark``, ``report``, ``pareto`` and ``advise``."""
from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any, TYPE_CHECKING

from featshare_core.arguments import size_argument
from featshare_core.data import KINDS

if TYPE_CHECKING:
    from featshare_core.evaluation.unlabelled import Footage
    from featshare_core.evaluation.videos import DataChoice


def evaluate_command(arguments: argparse.Namespace) -> None:
    """
    Score a checkpoint on labelled video: key frames, and current frames at every lag.

    Prints mIoU in percent, the IoU of each class, the temporal consistency VC_8, flicker, and what
    is left of things (pedestrians, bicyclists, cars). With --unlabelled, measures what sharing
    costs on any video: agreement with the masks of the same network run on every frame.
    """
    from featshare_core.evaluation.provenance import write_json
    from featshare_core.evaluation.results import evaluate
    from featshare_core.evaluation.tables import score_text
    video = arguments.unlabelled
    if video is not None:
        if arguments.data is not None or arguments.root is not None \
                or arguments.mapping is not None or arguments.allow_absent_classes \
                or arguments.frames_before:
            raise ValueError('--unlabelled takes a video of its own, not --data and --root with '
                             'their options')
        run_unlabelled(arguments, _footage(video, 'evaluate --unlabelled'))
        return
    if arguments.data is None:
        raise ValueError('scores need --data and its --root (or --unlabelled VIDEO)')
    for name in ('stride', 'frames'):
        if getattr(arguments, name) is not None:
            raise ValueError(f'--{name} is for --unlabelled alone')
    result = evaluate(arguments.weights, data_choice(arguments), arguments.interval,
                      arguments.shared_levels, arguments.device, arguments.precision,
                      arguments.aligned, arguments.things)
    print(score_text(result))
    if arguments.json:
        write_json(arguments.json, result)


def _footage(video: Path, command: str) -> Footage:
    from featshare_core.data.frames import count_frames, frame_rate, frames_of
    from featshare_core.evaluation.unlabelled import Footage
    return Footage(video.name, (frame for _, frame in frames_of(video)), count_frames(video),
                   f'featshare {command} {video.name}', frame_rate(video))


def run_unlabelled(arguments: argparse.Namespace, footage: Footage) -> None:
    """Measure what sharing costs on video without labels; print it, and write the JSON file."""
    from featshare_core.evaluation.provenance import write_json
    from featshare_core.evaluation.tables import unlabelled_text
    from featshare_core.evaluation.unlabelled import evaluate_unlabelled
    result = evaluate_unlabelled(
        arguments.weights, footage, arguments.interval, arguments.stride, arguments.frames,
        arguments.shared_levels, arguments.device, arguments.precision, arguments.aligned,
        arguments.things)
    print(unlabelled_text(result))
    if arguments.json:
        write_json(arguments.json, result)


def benchmark_command(arguments: argparse.Namespace) -> None:
    """
    Time a checkpoint's key and current frames on every engine of a device, batch 1.

    From the image in host memory to the mask in it. Engines take turns; the per-frame baseline
    is in the same run. Each is timed for --seconds, or on --frames frames. PyTorch in bf16 is left
    out where the device does not compute bf16 natively, unless --engines names it.
    """
    from featshare_core.evaluation.provenance import write_json
    from featshare_core.evaluation.results import benchmark
    from featshare_core.evaluation.tables import latency_text
    _refuse_exported(arguments.weights)
    result = benchmark(arguments.weights, arguments.shared_levels, arguments.device,
                       arguments.size, arguments.frames, arguments.seconds, arguments.engines)
    print(latency_text(result))
    if arguments.json:
        write_json(arguments.json, result)


def report_command(arguments: argparse.Namespace) -> None:
    """
    Draw tables and plots of checkpoints: the thesis's, with ours beside its numbers.

    Makes the results that are missing (or of other weights) and keeps them as JSON files beside
    the tables; delete one to have it measured again. Pictures with the data set's frames go to
    --sheets. With --compare, prints what differs between two results instead.
    """
    from featshare_core.evaluation.report import compare_results, Plan, write_report
    if arguments.compare:
        print(compare_results(*arguments.compare))
        return
    if arguments.data is None:
        raise ValueError('a report needs --data and its --root (or --compare A B)')
    if arguments.train and arguments.thesis is None:
        raise ValueError('--train needs the folder --thesis to train into')
    _refuse_exported(*arguments.weights, arguments.baseline, arguments.truncated)
    plan = Plan(data_choice(arguments), tuple(arguments.weights),
                tuple(arguments.shared_levels) if arguments.shared_levels else None,
                **{name: getattr(arguments, name) for name in (
                    'baseline', 'truncated', 'thesis', 'train', 'interval', 'longest', 'device',
                    'size', 'frames', 'output', 'sheets')})
    print(f'written: {write_report(plan)}')


def pareto_command(arguments: argparse.Namespace) -> None:
    """
    Draw accuracy against time: per frame at six sizes, every cut and interval, moved frames.

    And simpler alternatives: the mask repeated, Clockwork.

    With --data, all are timed and scored in one run on the same frames, and written to the JSON
    file first. Without, the file is drawn again. The picture is FILE with the suffix .png.
    """
    from featshare_core.evaluation.pareto import measure_pareto
    from featshare_core.evaluation.plots import plot_pareto
    from featshare_core.evaluation.provenance import read_result, write_json
    from featshare_core.evaluation.tables import class_lines, pareto_table
    if arguments.data is not None:
        _refuse_exported(*arguments.weights)
        write_json(arguments.file, measure_pareto(
            arguments.weights, data_choice(arguments), arguments.shared_levels, arguments.device,
            arguments.precision, arguments.clock, arguments.threads or None, arguments.frames))
    result = read_result(arguments.file)
    if 'methods' not in result:
        raise ValueError(f'{arguments.file} is no result of featshare pareto')
    print('\n'.join([*class_lines(result), pareto_table(result)]))
    picture = arguments.file.with_suffix('.png')
    plot_pareto(picture, result)
    print(f'written: {picture}')


def advise_command(arguments: argparse.Namespace) -> None:
    """
    Choose checkpoint, shared levels and interval for this machine.

    Times the shipped checkpoints here, takes their measured accuracy, and prints the settings
    that none is both faster and better than, with the node's parameters for the best of those
    that the budget allows. With --on, times one checkpoint, which may be your own, on a video of
    yours without labels: accuracy is then the agreement with the same network run on every frame,
    and that network at smaller input sizes, and moved frames, are among the settings.
    """
    if arguments.on is not None:
        from featshare_core.evaluation.trial import advise_on
        weights = arguments.weights or 'default'
        _refuse_exported(weights)
        print(advise_on(weights, _footage(arguments.on, 'advise --on'),
                        arguments.latency_budget, arguments.max_drop, arguments.device))
        return
    if arguments.weights is not None:
        raise ValueError('only shipped checkpoints have scores: --on VIDEO measures other weights')
    from featshare_core.evaluation.advise import advise
    print(advise(arguments.latency_budget, arguments.max_drop, arguments.device,
                 arguments.size))


def _refuse_exported(*weights: str | None) -> None:
    from featshare_core.networks.weights import is_exported
    for one in weights:
        if one is not None and is_exported(one):
            raise ValueError(f'{one} is exported, with one cut and one size: give the checkpoint '
                             f'that it was exported from')


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f'{text!r} is no number of seconds above 0')
    return seconds


def data_choice(arguments: argparse.Namespace) -> DataChoice:
    """Return the data set that the command line names."""
    from featshare_core.evaluation.videos import DataChoice
    return DataChoice(arguments.data, arguments.root, arguments.split, arguments.annotations,
                      arguments.mapping, arguments.allow_absent_classes, arguments.frames_before)


def add_evaluate_options(command: argparse.ArgumentParser) -> None:
    """Add the options that ``featshare evaluate`` and ``evaluate_bag`` share."""
    command.add_argument('--weights', default='default',
                         help="a shipped checkpoint's name, a .safetensors file, a folder that "
                              '`featshare export` or save_pretrained wrote, or a name that '
                              '`featshare pull` fetched')
    command.add_argument('--interval', type=int, default=5, help='frames from key to key frame')
    command.add_argument('--shared-levels', type=int, help='default: as the checkpoint says')
    command.add_argument('--aligned', action=argparse.BooleanOptionalAction,
                         help='whether cached features follow the scene (default: as the '
                              'checkpoint says)')
    command.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    command.add_argument('--precision', default='auto', help='auto, fp32, bf16 or fp16')
    command.add_argument('--things', nargs='+', metavar='CLASS',
                         help='classes whose things are followed (default: pedestrian, '
                              "bicyclist, car and Cityscapes' kinds of them)")
    command.add_argument('--frames', type=int, metavar='N',
                         help='without labels: frames to read at most')
    command.add_argument('--stride', type=int, metavar='N',
                         help='without labels: a key frame is tried every N frames (default: 1, '
                              'every frame at every lag; in videos of more than 500 frames the '
                              'interval, every frame at one lag)')
    command.add_argument('--json', type=Path, metavar='FILE', help='write the result there too')


def add_evaluation_commands(subparsers: Any) -> None:
    """Add them to the command line's subparsers."""
    def add(name: str, run: Any, summary: str) -> Any:
        command = subparsers.add_parser(name, help=summary, description=run.__doc__,
                                        formatter_class=argparse.RawDescriptionHelpFormatter)
        command.set_defaults(run=run)
        return command

    def add_data(command: Any, required: bool) -> None:
        command.add_argument('--data', choices=KINDS, required=required)
        command.add_argument('--root', type=Path,
                             help="the data set's folder, layouts: docs/models/training.md; "
                                  'traffic is rendered and has none')
        command.add_argument('--split', default='val')
        command.add_argument('--annotations', default='gtFine',
                             help="Cityscapes' folder of masks (default: gtFine)")
        command.add_argument('--mapping', type=Path, metavar='FILE',
                             help="of a folder: a YAML file of lines 'ID: NAME', the network's "
                                  'class of each id in the masks; other ids have no class')
        command.add_argument('--allow-absent-classes', action='store_true',
                             help='score although a class has no labelled pixel; the mean '
                                  'leaves it out')
        command.add_argument('--frames-before', type=int, default=0, metavar='N',
                             help='score only labelled frames with at least N frames before '
                                  'them, so that results of several intervals are of the same '
                                  'frames')

    def add_device(command: Any, default: str = 'auto') -> None:
        command.add_argument('--device', default=default, help='auto, cpu, cuda or cuda:N')

    command = add('evaluate', evaluate_command, 'score a checkpoint on video')
    command.add_argument('--unlabelled', type=Path, metavar='VIDEO',
                         help='a video file or a folder of images, instead of --data; recordings: '
                              'evaluate_bag')
    add_data(command, required=False)
    add_evaluate_options(command)

    command = add('benchmark', benchmark_command, 'time a checkpoint')
    command.add_argument('--weights', default='default',
                         help="a shipped checkpoint's name, a .safetensors file, a folder that "
                              'save_pretrained wrote, or a name that `featshare pull` fetched')
    add_device(command)
    command.add_argument('--size', type=size_argument, default=(512, 512), metavar='WxH',
                         help='of the images (default: 512x512)')
    command.add_argument('--shared-levels', type=int, help='default: as the checkpoint says')
    amount = command.add_mutually_exclusive_group()
    amount.add_argument('--seconds', type=_seconds, default=20,
                        help='timing of each engine, with its per-frame baseline (default: 20; at '
                             'least 15 frames)')
    amount.add_argument('--frames', type=int, metavar='N',
                        help='timed on each engine, instead of --seconds')
    command.add_argument('--engines', nargs='+', metavar='NAME',
                         help='of eager-fp32, eager-bf16, openvino, onnx (CPU), graphs (CUDA); '
                              'default: those that are installed and that the device computes '
                              'fast')
    command.add_argument('--json', type=Path, metavar='FILE', help='write the figures there too')

    command = add('report', report_command, 'tables and plots of checkpoints')
    command.add_argument('--weights', nargs='+', default=['default'])
    command.add_argument('--shared-levels', type=int, nargs='+',
                         help='default: all cuts of each network')
    add_data(command, required=False)
    command.add_argument('--baseline', metavar='WEIGHTS', help='a per-frame checkpoint')
    command.add_argument('--truncated', metavar='WEIGHTS',
                         help='one without the deep levels; default: that of --thesis, in '
                              'Table 5.1 only')
    command.add_argument('--thesis', type=Path, metavar='RUNS',
                         help="a folder with runs by the thesis's recipe, under their names in "
                              'docs/models/training.md (thesis-baseline, ...): Table 5.2 has '
                              "their scores beside the thesis's")
    command.add_argument('--train', action='store_true',
                         help='with --thesis: first train the runs that the folder lacks, '
                              '200 steps each')
    command.add_argument('--interval', type=int, default=5)
    command.add_argument('--longest', type=int, default=15,
                         help='interval whose lags the curves reach (default: 15)')
    add_device(command)
    command.add_argument('--size', type=size_argument, default=(512, 512), metavar='WxH',
                         help='that latency is measured at (default: 512x512)')
    command.add_argument('--frames', type=int, default=500,
                         help='timed for each latency (default: 500)')
    command.add_argument('--output', type=Path, default=Path('docs/results'))
    command.add_argument('--sheets', type=Path, default=Path('runs/sheets'),
                         help="for pictures with the data set's frames (default: runs/sheets)")
    command.add_argument('--compare', type=Path, nargs=2, metavar=('A', 'B'),
                         help='two results, JSON files')

    command = add('pareto', pareto_command, 'accuracy against time, measured or drawn again')
    command.add_argument('file', type=Path, metavar='FILE',
                         help='the JSON file; beside report.json as pareto.json, the report '
                              'shows it')
    command.add_argument('--weights', nargs='+', default=['default'],
                         help='checkpoints; time is measured by the per-frame network of the '
                              'first')
    command.add_argument('--shared-levels', type=int, nargs='+',
                         help='default: all cuts of each network')
    add_data(command, required=False)
    add_device(command)
    command.add_argument('--precision', default='auto', help='auto, fp32, bf16 or fp16')
    command.add_argument('--clock', choices=('cpu', 'wall'),
                         help="the process's CPU time, or time that passes (default: cpu; wall "
                              'on CUDA)')
    command.add_argument('--threads', type=int, default=1,
                         help='computing threads of an engine; 0: as many as usual (default: 1)')
    command.add_argument('--frames', type=int, metavar='N',
                         help='labelled frames to score (default: all)')

    command = add('advise', advise_command, 'which setting for this machine')
    command.add_argument('--latency-budget', type=float, required=True, metavar='MS',
                         help='for a frame, on average')
    command.add_argument('--max-drop', type=float, metavar='POINTS',
                         help='mIoU (with --on, agreement) that the worst lag may cost')
    add_device(command)
    command.add_argument('--size', type=size_argument, default=(1280, 720), metavar='WxH',
                         help="of the camera's images (default: 1280x720); with --on, the "
                              "video's")
    command.add_argument('--on', type=Path, metavar='VIDEO',
                         help='a video file or a folder of images on which --weights is measured')
    command.add_argument('--weights', help="with --on: a shipped checkpoint's name, a "
                                           '.safetensors file, a folder of save_pretrained, or a '
                                           'name that was pulled (default: default)')
