"""The subcommands ``featshare evaluate``, ``benchmark``, ``report`` and ``advise``."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from featshare_core.evaluation.videos import KINDS, DataChoice
from featshare_core.inference.export.command import size_argument


def evaluate_command(arguments: argparse.Namespace) -> None:
    """
    Score a checkpoint on labelled video: key frames, and current frames at every lag.

    Prints mIoU in percent, the IoU of each class, and the temporal consistency VC_8.
    """
    from featshare_core.evaluation.provenance import write_json
    from featshare_core.evaluation.results import evaluate
    from featshare_core.evaluation.tables import score_text
    result = evaluate(arguments.weights, data_choice(arguments), arguments.interval,
                      arguments.shared_levels, arguments.device, arguments.precision,
                      arguments.aligned)
    print(score_text(result))
    if arguments.json:
        write_json(arguments.json, result)


def benchmark_command(arguments: argparse.Namespace) -> None:
    """
    Time a checkpoint's key and current frames on every engine of a device, batch 1.

    From the image in host memory to the mask in it. Engines take turns; the per-frame baseline
    is in the same run.
    """
    from featshare_core.evaluation.provenance import write_json
    from featshare_core.evaluation.results import benchmark
    from featshare_core.evaluation.tables import latency_text
    result = benchmark(arguments.weights, arguments.shared_levels, arguments.device,
                       arguments.size, arguments.frames)
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
    from featshare_core.evaluation.report import Plan, compare_results, write_report
    if arguments.compare:
        print(compare_results(*arguments.compare))
        return
    if arguments.data is None:
        raise ValueError('a report needs --data and its --root (or --compare A B)')
    plan = Plan(data_choice(arguments), tuple(arguments.weights), tuple(arguments.shared_levels),
                **{name: getattr(arguments, name) for name in (
                    'baseline', 'truncated', 'interval', 'longest', 'device', 'size', 'frames',
                    'output', 'sheets')})
    print(f'written: {write_report(plan)}')


def advise_command(arguments: argparse.Namespace) -> None:
    """
    Choose checkpoint, shared levels and interval for this machine.

    Times the shipped checkpoints here, takes their measured accuracy, and prints the settings
    that none is both faster and better than, with the node's parameters for the best of those
    that the budget allows.
    """
    from featshare_core.evaluation.advise import advise
    print(advise(arguments.latency_budget, arguments.max_drop, arguments.device,
                 arguments.size))


def data_choice(arguments: argparse.Namespace) -> DataChoice:
    """Return the data set that the command line names."""
    return DataChoice(arguments.data, arguments.root, arguments.split, arguments.annotations)


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
                             help="the data set's folder, see docs/training.md for the layouts; "
                                  'traffic is rendered and has none')
        command.add_argument('--split', default='val')
        command.add_argument('--annotations', default='gtFine',
                             help="Cityscapes' folder of masks (default: gtFine)")

    def add_device(command: Any, default: str = 'auto') -> None:
        command.add_argument('--device', default=default, help='auto, cpu, cuda or cuda:N')

    command = add('evaluate', evaluate_command, 'score a checkpoint on labelled video')
    command.add_argument('--weights', default='default',
                         help="a shipped checkpoint's name or a .safetensors file")
    add_data(command, required=True)
    command.add_argument('--interval', type=int, default=5, help='frames from key to key frame')
    command.add_argument('--shared-levels', type=int, help='default: as the checkpoint says')
    command.add_argument('--aligned', action=argparse.BooleanOptionalAction,
                         help='whether cached features follow the scene (default: as the '
                              'checkpoint says)')
    add_device(command)
    command.add_argument('--precision', default='auto', help='auto, fp32, bf16 or fp16')
    command.add_argument('--json', type=Path, metavar='FILE', help='write the scores there too')

    command = add('benchmark', benchmark_command, 'time a checkpoint')
    command.add_argument('--weights', default='default',
                         help="a shipped checkpoint's name or a .safetensors file")
    add_device(command)
    command.add_argument('--size', type=size_argument, default=(512, 512), metavar='WxH',
                         help='of the images (default: 512x512)')
    command.add_argument('--shared-levels', type=int, help='default: as the checkpoint says')
    command.add_argument('--frames', type=int, default=500,
                         help='timed on each engine (default: 500)')
    command.add_argument('--json', type=Path, metavar='FILE', help='write the figures there too')

    command = add('report', report_command, 'tables and plots of checkpoints')
    command.add_argument('--weights', nargs='+', default=['default'])
    command.add_argument('--shared-levels', type=int, nargs='+', default=[1, 2, 3])
    add_data(command, required=False)
    command.add_argument('--baseline', metavar='WEIGHTS', help='a per-frame checkpoint')
    command.add_argument('--truncated', metavar='WEIGHTS', help='one without the deep levels')
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

    command = add('advise', advise_command, 'which setting for this machine')
    command.add_argument('--latency-budget', type=float, required=True, metavar='MS',
                         help='for a frame, on average')
    command.add_argument('--max-drop', type=float, metavar='POINTS',
                         help='mIoU that the longest lag may cost against key frames')
    add_device(command)
    command.add_argument('--size', type=size_argument, default=(1280, 720), metavar='WxH',
                         help="of the camera's images (default: 1280x720)")
