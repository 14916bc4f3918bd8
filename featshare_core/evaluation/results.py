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
"""Results as they are kept in JSON: a checkpoint's scores, latency and cheap alternatives."""
from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
import sys
from typing import Any

from featshare_core.evaluation import latency
from featshare_core.evaluation.accuracy import rounded, score
from featshare_core.evaluation.provenance import provenance, short_fingerprint, shown
from featshare_core.evaluation.rivals import Clockwork, Moving, PerFrame, RepeatMask
from featshare_core.evaluation.videos import DataChoice, RATES, Video
from featshare_core.evaluation.work import rounded_size
from featshare_core.inference.engine import Engine
from featshare_core.inference.engines import make_engine
from featshare_core.inference.export.models import ExportedModels, read_config
from featshare_core.inference.pixels import network_size
from featshare_core.networks.checkpoint import load_checkpoint
from featshare_core.networks.weights import is_exported
from featshare_core.progress import preparing, track
import numpy as np


def evaluate(weights: str | Path, data: DataChoice, interval: int,
             shared_levels: int | None = None, device: str = 'auto',
             precision: str = 'auto', aligned: bool | None = None,
             things: Collection[str] | None = None) -> dict[str, Any]:
    """
    Return a checkpoint's scores on labelled video; see ``featshare evaluate``.

    :param interval: frames from key to key frame; every frame is scored at lags 0 to interval - 1.
    :param things: as ``accuracy.score``.
    :returns: provenance, and what ``accuracy.Score.summary`` returns, in percent.
    :raises ValueError, FileNotFoundError: where data, interval or checkpoint do not fit.
    """
    # Before the network is prepared, which takes longer.
    video = data.video(data.open(), read_config(weights).labels, interval)
    key_frames = video.passes(interval)
    preparing(shown(weights))
    engine = make_engine(weights, 'auto', device, precision, shared_levels, aligned=aligned)
    counted = score({'': engine}, video, interval,
                    track(key_frames, f'{shown(weights)}, {data.name}', 'key frames'), things)['']
    levels = cut(weights, shared_levels)
    command = (f'featshare evaluate --weights {shown(weights)} {data.arguments()} '
               f'--interval {interval}'
               + (f' --shared-levels {shared_levels}' if shared_levels is not None else '')
               + ('' if aligned is None else ' --aligned' if aligned else ' --no-aligned')
               + (f' --things {" ".join(things)}' if things else ''))
    return {**provenance(command, engine.device), 'weights': shown(weights),
            'sha256': short_fingerprint(weights), 'network': engine.network_name,
            'shared_levels': levels, 'data': described(data, video), 'interval': interval,
            'engine': engine.name, 'device': engine.device, 'precision': engine.precision,
            **counted.summary(), 'labelled_frames': len(video.source.samples)}


def benchmark(weights: str | Path, shared_levels: int | None, device: str,
              size: tuple[int, int], frames: int | None = None,
              seconds: float = latency.SECONDS,
              engines: Sequence[str] | None = None) -> dict[str, Any]:
    """
    Return a checkpoint's latency on a device, in milliseconds; see ``latency.benchmark``.

    Progress goes to stderr, a line for each engine.

    :param size: (width, height) of the images, in pixels.
    :param engines: names in ``latency.TIMED``; None for those that the device computes fast.
    :raises ValueError: as ``latency.benchmark``.
    """
    timed = latency.benchmark(
        weights, shared_levels, device, size, frames, seconds, engines,
        lambda turns: track(turns, f'{shown(weights)}, {size[0]}x{size[1]}', 'turns'),
        lambda line: print(line, file=sys.stderr, flush=True))
    command = (f'featshare benchmark --weights {shown(weights)} '
               f'--device {timed["device"].split(":")[0]} --size {size[0]}x{size[1]} '
               f'--shared-levels {timed["shared_levels"]} '
               + (f'--seconds {seconds:g}' if frames is None else f'--frames {frames}')
               + (f' --engines {" ".join(engines)}' if engines else ''))
    return {**provenance(command, timed['device']), 'weights': shown(weights),
            'sha256': short_fingerprint(weights), **timed}


def rivals(weights: str | Path, data: DataChoice, interval: int,
           shared_levels: int | None = None, device: str = 'auto',
           truncated: str | Path | None = None) -> dict[str, Any]:
    """
    Return scores and latency of feature sharing and of its cheap alternatives, in one run.

    All see the same frames in turn, so that a busy machine slows all alike. Images have the data
    set's size.

    :returns: provenance, and by row ``miou`` and ``vc8`` in percent and ``ms``: the median of
        each lag, their mean over the interval, and the slowest lag, in milliseconds.
    :raises ValueError, FileNotFoundError: where data, interval or a checkpoint do not fit.
    """
    ours = make_engine(weights, 'auto', device, shared_levels=shared_levels)
    video = data.video(data.open(), ours.labels, interval)
    sample = video.source.read_image(video.source.samples[0].frames[0])
    network = load_checkpoint(weights)[0]
    multiple = network.input_multiple
    height, width = network_size(sample.shape[:2], ours.trained_size, multiple)
    half = rounded_size((width // 2, height // 2), multiple)
    whole = make_engine(weights, 'auto', device, shared_levels=0)
    engines: dict[str, Engine] = {
        'per frame': PerFrame(whole),
        f'feature sharing, {cut(weights, shared_levels)} levels': ours,
        'repeat the mask': RepeatMask(whole), 'Clockwork, untrained': Clockwork(ours),
        'mask moved by DIS optical flow': Moving(whole, interval - 1),
        f'per frame at half resolution ({half[0]}x{half[1]})':
        PerFrame(make_engine(weights, 'auto', device, shared_levels=0, input_size=half))}
    if network.aligned:
        engines['feature sharing without alignment'] = make_engine(
            weights, 'auto', device, shared_levels=shared_levels, aligned=False)
    if truncated is not None:
        engines['truncated (-2 levels), per frame'] = PerFrame(
            make_engine(truncated, 'auto', device))
    key_frames = video.passes(interval)
    for engine in engines.values():
        for _ in range(latency.WARM_UP):
            engine.key(sample)
            engine.current(sample)
    scores = score(engines, video, interval,
                   track(key_frames, f'rivals, {data.name}', 'key frames'))
    rows = {}
    for name, counted in scores.items():
        per_lag = [float(np.median(times)) for times in counted.milliseconds]
        summary = counted.summary()
        rows[name] = {'miou': summary['miou'], 'vc8': summary['vc8'],
                      'flicker': summary['flicker'], 'things': summary['things'],
                      'ms': {'per_lag': per_lag, 'mean': float(np.mean(per_lag)),
                             'worst_lag': max(per_lag)}}
    command = (f'featshare report --weights {shown(weights)} {data.arguments()} '
               f'--interval {interval}'
               + (f' --truncated {shown(truncated)}' if truncated is not None else ''))
    return rounded({
        **provenance(command, ours.device), 'weights': shown(weights),
        'sha256': short_fingerprint(weights),
        'truncated_sha256': short_fingerprint(truncated) if truncated is not None else None,
        'shared_levels': cut(weights, shared_levels),
        'data': described(data, video), 'interval': interval, 'engine': ours.name,
        'device': ours.device, 'precision': ours.precision,
        'image': [sample.shape[1], sample.shape[0]], 'network_input': [width, height],
        'classes': next(iter(scores.values())).classes,
        'frames': next(iter(scores.values())).frames, 'rows': rows})


def cut(weights: str | Path, shared_levels: int | None) -> int:
    """Return the shared levels that a checkpoint or an exported folder runs with."""
    if is_exported(weights):
        return ExportedModels(Path(weights).expanduser()).shared_levels
    return load_checkpoint(weights)[0].shared_levels if shared_levels is None else shared_levels


def described(data: DataChoice, video: Video) -> dict[str, Any]:
    """Return what a result says of its data, without the folder that they lie in."""
    return {'name': data.name, 'kind': data.kind, 'split': data.split,
            'annotations': data.annotations if data.kind == 'cityscapes' else 'masks',
            'sha256': data.fingerprint(),
            'made_by_hand': data.kind != 'cityscapes' or data.annotations == 'gtFine',
            'classes_translated': video.is_translated, 'hz': RATES.get(data.kind)}
