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
"""Which checkpoint, cut and interval: measured accuracy against latency on this machine."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featshare_core.evaluation.latency import street_video, time_engines, Times
from featshare_core.evaluation.provenance import read_result, short_fingerprint
from featshare_core.evaluation.tables import table
from featshare_core.inference.engines import make_engine
from featshare_core.networks.checkpoint import find_checkpoint
from featshare_core.progress import track
import numpy as np

DATA = 'camvid-val'
FRAMES = 30


@dataclass(frozen=True)
class Setting:
    """
    A checkpoint, its shared levels and an interval, with what they cost and reach.

    :param average, worst: milliseconds of a frame on average, and of the slowest.
    :param miou: weighted over the interval; ``drop``: from key frames to the worst lag.
    :param key_age: seconds from a key frame to the next at the video rate that was scored; None
        where that is not known.
    :param input_size: ``WxH`` of the network's input; empty where it is chosen by the network.
    :param moved_frames: as ``VideoSegmenter.moved_frames``.
    """

    weights: str
    shared_levels: int
    interval: int
    average: float
    worst: float
    miou: float
    drop: float
    key_age: float | None
    input_size: str = ''
    moved_frames: int = 0


def shipped_scores(home: Path) -> list[dict[str, Any]]:
    """
    Return the scores of the shipped checkpoints' present weights, to the longest lag there is.

    :param home: the source tree, with weights and docs/results, or share/featshare_ros of an
        installation, with weights and results.
    :raises ValueError: where there are none.
    """
    longest: dict[tuple[str, int], dict[str, Any]] = {}
    for folder in (home / 'docs' / 'results' / DATA, home / 'results'):
        for file in sorted(folder.glob('*-interval-*.json')):
            found = read_result(file)
            weights = _shipped(home, found['weights'])
            if not weights.is_file() or found['sha256'] != short_fingerprint(weights):
                continue
            place = found['weights'], found['shared_levels']
            if place not in longest or found['interval'] > longest[place]['interval']:
                longest[place] = found
    if not longest:
        raise ValueError(f'no scores of the shipped checkpoints in {home}: featshare report '
                         f'makes them')
    return list(longest.values())


def _shipped(home: Path, name: str) -> Path:
    return home / 'weights' / f'{name}.safetensors'


def settings(scores: dict[str, Any], times: Times) -> list[Setting]:
    """
    Return every interval that a checkpoint and cut were scored for; at 1 nothing is shared.

    :param times: of the network at this cut, and per frame: undivided, with key frames' masks.
    """
    by_lag, hz = scores['miou']['per_lag'], scores['data']['hz']
    return [Setting(scores['weights'], 0, 1, float(np.median(times.per_frame)),
                    max(times.per_frame), by_lag[0], 0.0, None),
            *(Setting(scores['weights'], scores['shared_levels'], interval,
                      times.average(interval), max(times.key),
                      sum(by_lag[:interval]) / interval, by_lag[0] - min(by_lag[:interval]),
                      interval / hz)
              for interval in range(2, len(by_lag) + 1))]


def pareto(found: Iterable[Setting]) -> list[Setting]:
    """Return the settings that no other is both as fast and more accurate than, fastest first."""
    best: list[Setting] = []
    for setting in sorted(found, key=lambda s: (s.average, -s.miou)):
        if not best or setting.miou > best[-1].miou:
            best.append(setting)
    return best


def accurate(found: Iterable[Setting], max_drop: float | None) -> list[Setting]:
    """
    Return the settings whose worst lag costs at most ``max_drop`` points; all for None.

    :raises ValueError: where there is none.
    """
    good = [s for s in found if max_drop is None or s.drop <= max_drop]
    if not good:
        raise ValueError(f'no setting loses at most {max_drop:g} points')
    return good


def choose(found: Iterable[Setting], budget: float, max_drop: float | None) -> Setting:
    """
    Return the most accurate setting within the budget.

    :raises ValueError: where none is; the message says what the nearest is.
    """
    good = accurate(found, max_drop)
    fitting = [s for s in good if s.average <= budget]
    if not fitting:
        fastest = min(good, key=lambda s: s.average)
        raise ValueError(f'no setting takes {budget:g} ms a frame on average'
                         + (f' and loses at most {max_drop:g} points' if max_drop is not None
                            else '')
                         + f'; the fastest: {fastest.weights}, {fastest.shared_levels} shared '
                           f'levels, interval {fastest.interval}'
                         + (f', moved frames {fastest.moved_frames}' if fastest.moved_frames
                            else '')
                         + (f', input {fastest.input_size}' if fastest.input_size else '')
                         + f': {fastest.average:.1f} ms')
    return max(fitting, key=lambda s: (s.miou, -s.average))


def advise(budget: float, max_drop: float | None, device: str, size: tuple[int, int],
           home: Path | None = None) -> str:
    """
    Time the shipped checkpoints, and return the Pareto table and the node's parameters.

    :param budget: milliseconds of a frame on average; ``max_drop``: mIoU points that the longest
        lag may cost against key frames, None for any.
    :param size: (width, height) of the images.
    :param home: see ``shipped_scores``; None for the package's own.
    :raises ValueError: where there are no scores, or nothing fits.
    """
    home = home or find_checkpoint('default').parent.parent
    scores = shipped_scores(home)
    # Scores and latencies by number: two results may be of one checkpoint.
    engines = {str(index): make_engine(_shipped(home, one['weights']), 'auto', device,
                                       shared_levels=one['shared_levels'])
               for index, one in enumerate(scores)}
    whole = {name: make_engine(_shipped(home, name), 'auto', device, shared_levels=0)
             for name in {one['weights'] for one in scores}}
    times = time_engines(engines, street_video(size), FRAMES,
                         lambda turns: track(turns, 'timing', 'turns'),
                         {str(index): whole[one['weights']] for index, one in enumerate(scores)})
    found = [s for index, one in enumerate(scores) for s in settings(one, times[str(index)])]
    chosen = choose(found, budget, max_drop)
    engine = engines['0']
    title = (f'{engine.device}, engine {engine.name}, {engine.precision}, images of '
             f'{size[0]}x{size[1]}; accuracy on {DATA}')
    return advice(title, 'mIoU %', accurate(found, max_drop), chosen, budget)


def advice(title: str, accuracy: str, found: Iterable[Setting], chosen: Setting,
           budget: float, weights: str = '') -> str:
    """
    Return the Pareto table of settings, and the node's parameters for the chosen one.

    :param accuracy: title of the column with ``Setting.miou``.
    :param weights: as the node finds them, where the setting has a name for display.
    """
    rows = [[s.weights, s.shared_levels, s.interval, s.moved_frames, s.input_size,
             f'{s.average:.1f}', f'{s.worst:.1f}', f'{s.miou:.1f}', f'{s.drop:.1f}',
             '<-' if s == chosen else ''] for s in pareto(found)]
    head = ['checkpoint', 'shared levels', 'interval', 'moved frames', 'input size', 'ms a frame',
            'slowest', accuracy, 'worst lag costs', '']
    for name in ('moved frames', 'input size'):
        column = head.index(name)
        if not any(row[column] for row in rows):
            rows = [[*row[:column], *row[column + 1:]] for row in rows]
            head.remove(name)
    legend = ('shown: the settings that no other is both faster and more accurate than; slowest: '
              'its slowest kind of frame; 0 shared levels: the undivided network')
    lines = [title, '', table(head, rows), '', legend, '',
             f'For {budget:g} ms a frame on average:', '', '/**:', '  ros__parameters:',
             f'    weights: {weights or chosen.weights}']
    if chosen.shared_levels:
        lines += [f'    shared_levels: {chosen.shared_levels}']
    if chosen.interval > 1:
        lines += [f'    key_interval: {chosen.interval}']
    else:
        why = 'a smaller input is better than sharing' if chosen.input_size else \
            'the whole network fits the budget on every frame'
        lines += [f'    key_interval: 1  # {why}']
    if chosen.interval > 1:  # otherwise every frame is a key frame, and no age is to be limited
        age = '0.0  # no limit: the rate of the images is not known' if chosen.key_age is None \
            else f'{chosen.key_age:.2f}  # the age that these scores were measured up to'
        lines += [f'    max_key_age: {age}']
    if chosen.moved_frames:
        lines += [f'    moved_frames: {chosen.moved_frames}']
    if chosen.input_size:
        width, height = chosen.input_size.split('x')
        lines += [f'    input_size: [{width}, {height}]']
    return '\n'.join(lines)
