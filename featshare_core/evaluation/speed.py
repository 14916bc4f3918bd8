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
"""The page on speed, docs/speed.md, from the results kept as JSON."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featshare_core.evaluation.latency import EAGER, INTERVAL
from featshare_core.evaluation.provenance import figure, read_result
from featshare_core.evaluation.tables import Result, table, title

CPU = 'latency/cpu-512x512'
WEIGHTS = ('default', 'densenet121')


@dataclass(frozen=True)
class Goal:
    """
    A bound on a figure of a result.

    :param file: under docs/results; ``keys`` lead to the figure, see ``figure``.
    :param bound: what the figure may be at most; with ``least``, what it must be at least.
    """

    text: str
    where: str
    file: str
    keys: str
    bound: float
    least: bool = False

    def reached(self, results: Path) -> float:
        """Return the figure; raises as ``figure``."""
        return figure(results, self.file, self.keys)

    def is_met(self, results: Path) -> bool:
        """Return whether the figure is within the bound."""
        reached = self.reached(results)
        return reached >= self.bound if self.least else reached <= self.bound


def _cpu(text: str, weights: str, levels: int, ratio: str, bound: float,
         least: bool = False) -> Goal:
    return Goal(text, f'CPU, `{weights}`, {levels} levels',
                f'{CPU}/{weights}-{levels}-levels.json', f'ratios.{ratio}', bound, least)


def _cuda(text: str, row: str, ratio: str, bound: float, least: bool = False) -> Goal:
    weights, _, rest = row.partition(',')
    return Goal(text, f'CUDA, `{weights}`,{rest}', 'speed/cuda.json', f'rows.{row}.{ratio}', bound,
                least)


SHARE = 'current / key frame'
EAGER_SHARE = 'current / key frame, PyTorch eager fp32'
AVERAGE = 'average at interval 5 / per frame'
KEY_GAIN = 'key frames, times faster than eager fp32'
CURRENT_GAIN = 'current frames, times faster than eager fp32'
STEADY = 'deferred key frames at 60 Hz: p99 / p50'

GOALS = (
    *(_cpu(text, weights, 2, ratio, 2, True) for weights in WEIGHTS
      for text, ratio in ((KEY_GAIN, 'eager_key_over_best_key'),
                          (CURRENT_GAIN, 'eager_current_over_best_current'))),
    *(_cpu(SHARE, weights, levels, 'current_over_key', bound)
      for levels, bound in ((2, 0.75), (3, 0.55)) for weights in WEIGHTS),
    Goal('time that the node adds to the engine, worst, ms', 'CPU, `default`',
         'speed/bench-cpu.json', 'questions.node_overhead.overhead_ms.worst', 5),
    *(_cuda(KEY_GAIN, f'{weights}, {size}, 2 levels', 'ratios.eager_key_over_best_key', bound,
            least=True)
      for size, bound in (('512x512', 6), ('1024x512', 3)) for weights in WEIGHTS),
    *(_cuda(SHARE, f'{weights}, 512x512, {levels} levels', 'ratios.current_over_key', bound)
      for levels, bound in ((2, 0.55), (3, 0.40)) for weights in WEIGHTS),
    *(_cuda(EAGER_SHARE, f'{weights}, 512x512, 2 levels', 'ratios.eager_current_over_key', 0.45)
      for weights in WEIGHTS),
    *(_cuda(AVERAGE, f'{weights}, 512x512, 2 levels', 'average_over_baseline.graphs.5', 0.62)
      for weights in WEIGHTS),
    Goal('1280x720 image to its mask, p99, ms', 'CUDA, `default`', 'speed/cameras-cuda.json',
         'cameras.1.ms.p99', 3),
    *(Goal(STEADY, f'CUDA, `{weights}`', 'speed/deferred-cuda.json',
           f'runs.{weights}, 60 Hz, deferred.0.p99_over_p50', 1.15)
      for weights in WEIGHTS),
    Goal('images dropped, 8 cameras of 1280x720 at 30 Hz, 10 s', 'CUDA, through the node',
         'speed/live-cameras-cuda.json', 'cameras.8.dropped', 0))
"""What speed is held to; those missed stand on the page."""


def speed_page(results: Path) -> str:
    """
    Return docs/speed.md.

    :param results: the folder docs/results.
    :raises ValueError, FileNotFoundError: where a result is missing or of another form.
    """
    return '\n\n'.join(_sections(results)) + '\n'


def _sections(results: Path) -> Iterator[str]:
    """Yield the page's parts."""
    def read(name: str) -> Result:
        return read_result(results / 'speed' / f'{name}.json')

    measured = [read_result(path) for path in sorted((results / CPU).glob('*.json'))]
    cpu = [one for one in measured if one['shared_levels']]  # without the truncated network
    cuda, bench = read('cuda'), read('bench-cpu')
    origin = 'command', 'commit', 'machine'

    def answer(name: str) -> Result:
        # One of bench.py's runs, which all have its command, commit and machine.
        return {**bench['questions'][name], **{key: bench[key] for key in origin}}

    commits = ' and '.join(dict.fromkeys(f'`{one["commit"]}`' for one in cpu))
    yield '# Speed'
    yield (f'Engines on a CPU measured at {commits}, engines on CUDA measured at '
           f'`{cuda["commit"]}`, {cuda["note"]}; each table names its own commit, machine and '
           'command. *Without the search at strides 64 and 4*: a current frame takes longer with '
           'these steps of the displacement search; how much on CUDA has not been measured. Drawn '
           'by '
           '`python -m featshare_core.evaluation.pages` from the JSON files in '
           '[results](results).')
    yield ('Batch 1, from the uint8 image in host memory to the mask in host memory. A key frame '
           'runs the whole network, a current frame the shallow half; "per frame" is the same '
           'network without sharing, on the same engine. Compare only figures of one table: '
           'machines and their load differ. The machines are shared: a ratio varies by some '
           'hundredths from run to run, and at times by more.')
    yield '## CPU'
    yield (f'512x512, {cpu[0]["frames"]} frames. {_origin(cpu[0])}:\n\n'
           + '\n'.join(f'    {one["command"]}' for one in cpu)
           + '\n\nOpenVINO computes in bf16 on this CPU; on one without bf16, or with PyTorch '
           'alone, see [Int8](#int8) and [every engine](results/camvid-val.md#table-51-latency).')
    yield _engine_table(cpu)
    larger = [one for one in bench['frames'] if one['size'] != cpu[0]['size']]
    timed = [one['frames'] for one in larger]
    yield ('Every engine, and the work behind each ratio: '
           '[results on CamVid](results/camvid-val.md#table-51-latency). Larger images, '
           f'{min(timed)} to {max(timed)} frames. {_source(bench)}')
    yield _engine_table(larger)
    yield '## Int8'
    int8 = read('int8-cpu')
    yield (f'{int8["size"]}, 2 shared levels, OpenVINO on one thread. CPU time in ms of a key '
           f'frame / a current frame / the mean frame at interval {int8["interval"]}. *Limited to '
           "AVX2*: the same CPU without its AVX-512 and bf16 instructions, as most robots' CPUs "
           'are; there `precision: auto` chooses fp32. How to quantise to int8, and the loss of '
           f'accuracy: [networks](models/networks.md#in-int8). {_source(int8)}')
    yield table(['', *int8['ms']],
                [[name, *(_three_ms(by_name.get(name)) for by_name in int8['ms'].values())]
                 for name in next(iter(int8['ms'].values()))])
    yield '## CUDA'
    yield f'Medians and 99th percentiles of 100 to 250 frames. {_source(cuda)}'
    yield _engine_table(list(cuda['rows'].values()))
    yield '## Cameras'
    yield ('One engine, `default`, 2 shared levels, interval 5, 1280x720 images, frames of the '
           'cameras in turn, without pauses.')
    for one in (answer('multi_camera'), read('cameras-cuda')):
        yield from _cameras(one)
    live = read('live-cameras-cuda')
    yield (f'Through DDS and the node, {live["hz"]} Hz per camera, 10 s ({live["method"]}). '
           f'{_source(live)}')
    yield table(['cameras', 'sent', 'received', 'answered', 'dropped',
                 'age of the masks, ms, p50 / p99 / worst'],
                [[name, *(one[key] for key in ('sent', 'received', 'answered', 'dropped')),
                  _three(one['mask_age_ms'])] for name, one in live['cameras'].items()])
    yield '## The node'
    yield ('From the callback with the image to the published mask, one camera, 1280x720, '
           '`default`, ms, p50 / p95 / worst.')
    for one in (answer('node_overhead'), read('node-cuda')):
        yield _source(one)
        kinds = {'latency': 'latency_ms', 'of which the engine': 'engine_ms',
                 'of which the node': 'overhead_ms'}
        yield table(['rate', *(kind for kind, key in kinds.items() if key in one)],
                    [[f'{one["hz"]:g} Hz', *(_three(one[key]) for key in kinds.values()
                                             if key in one)]])
    yield '## Deferred key frames'
    yield ('512x512, interval 5; latency counts from the time at which a frame is due. `deferred` '
           'reduces the latency of key frames only if the device has computing capacity to spare.')
    for one in (answer('deferred'), read('deferred-cuda')):
        yield _source(one)
        yield table(['', 'ms, p50 / p99 / worst', 'p99 / p50'],
                    [[kind, _three(run), run['p99_over_p50']]
                     for kind, runs in one['runs'].items() for run in runs])
    yield '## First mask'
    start = answer('first_mask')
    yield ('The real node, started while a camera already publishes images of '
           f'{start["size"]}, a size that the network was not trained on, at '
           f'{start["rate_hz"]} Hz: once with an empty cache (*not met*), and once more (*met*). '
           'Times are in seconds; latencies are from the publication of an image to the arrival '
           'of its mask in another process. Stand-ins are masks from before the engine was '
           f'prepared for the size. `-`: the activation was not observed. {_source(start)}')
    rows = [(f'{engine}, size {state}', one) for engine, states in start['engines'].items()
            for state, one in states.items()]
    yield table(['', *rows[0][1]], [
        [name, *('-' if value is None else value for value in one.values())]
        for name, one in rows])
    yield '## Goals missed'
    missed = [goal for goal in GOALS if not goal.is_met(results)]
    yield f'Of {len(GOALS)} goals, {len(GOALS) - len(missed)} are met. These are not:'
    yield table(['goal', 'where', 'bound', 'reached'],
                [[goal.text, goal.where, f'at {"least" if goal.least else "most"} {goal.bound:g}',
                  f'{goal.reached(results):g}'] for goal in missed])


def _engine_table(results: Sequence[Result]) -> str:
    """Return the best engine's key and current frames beside eager fp32, a row for each result."""
    rows = []
    for one in results:
        best, ratios = one['best'], one['ratios']
        latency, eager = one['latency'][best], one['ms'][EAGER]
        rows.append([
            f'{title(one)}, {_size(one["size"])}',
            *(f'{_ms(latency[kind]["p50"])} / {_ms(latency[kind]["p99"])}'
              for kind in ('key', 'current')),
            f'{ratios["current_over_key"]:g}', _ms(one['baseline'][best]),
            f'{one["average_over_baseline"][best][str(INTERVAL)]:g}',
            f'{_ms(eager["key"])} / {_ms(eager["current"])}',
            f'{ratios["eager_key_over_best_key"]:.1f} / '
            f'{ratios["eager_current_over_best_current"]:.1f}'])
    return table(['checkpoint, images', 'key ms, p50 / p99', 'current ms, p50 / p99',
                  'current / key', 'per frame ms', f'interval {INTERVAL} / per frame',
                  'eager fp32 ms, key / current', 'times faster than eager, key / current'], rows)


def _three_ms(one: dict[str, float] | None) -> str:
    """Return the times of key frame, current frame and mean; empty where not measured."""
    return ' / '.join(f'{one[kind]:g}' for kind in ('key', 'current', 'mean')) if one else ''


def _cameras(result: Result) -> Iterator[str]:
    """Yield the origin and the table of a run of ``benchmarks/multi_camera.py``."""
    yield _source(result)
    has_memory = 'memory_mib' in next(iter(result['cameras'].values()))
    yield table(['cameras', 'frames per second, all cameras', 'ms, p50 / p99 / worst',
                 *(['memory of the process, MiB'] if has_memory else [])],
                [[name, one['frames_per_second'], _three(one['ms']),
                  *([one['memory_mib']] if has_memory else [])]
                 for name, one in result['cameras'].items()])


def _origin(result: Result) -> str:
    """Return the commit and the machine of a result, as the beginning of a sentence."""
    commit = f'at `{result["commit"]}`' if result['commit'] else 'at a commit that is not recorded'
    note = f', {result["note"]}' if 'note' in result else ''
    return f'Measured {commit}{note}, on {result["machine"]}'


def _source(result: Result) -> str:
    return f'{_origin(result)}:\n\n    {result["command"]}'


def _size(size: list[int]) -> str:
    return f'{size[0]}x{size[1]}'


def _three(values: Mapping[str, Any]) -> str:
    """Return the median, a high percentile and the worst."""
    return ' / '.join(_ms(values[key]) for key in ('p50', 'p95', 'p99', 'worst') if key in values)


def _ms(value: float) -> str:
    """Return milliseconds to three significant digits, from 1000 on to whole ones."""
    return f'{value:.0f}' if value >= 1000 else f'{value:.3g}'
