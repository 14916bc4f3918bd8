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
"""
What a current frame saves, of multiply-adds and of time, at each cut of smp networks.

    python benchmarks/networks.py --json docs/results/networks.json

For each network: the whole one, as the package runs it, and a current frame at each cut, fp32,
batch 1, random weights. Multiply-adds are counted without computing anything. The timed
variants take turns, round after round; of each, the fastest round counts, because whatever else
the machine does can only make one slower.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
import json
import os
from pathlib import Path
import statistics
import sys
import time
from typing import Any

from featshare_core.arguments import size_argument
from featshare_core.evaluation.provenance import provenance
from featshare_core.networks.smp.build import divide, smp_model
import torch
from torch.utils.flop_counter import FlopCounterMode

CLASSES = 19
NETWORKS: list[tuple[str, str, dict[str, Any]]] = [
    *((architecture, encoder, {}) for architecture in
      ('Unet', 'FPN', 'PSPNet', 'UPerNet', 'Segformer')
      for encoder in ('densenet121', 'resnet18', 'mit_b0')),
    *(('DeepLabV3Plus', encoder, {}) for encoder in ('resnet18', 'mobilenet_v2',
                                                     'efficientnet-b0')),
    ('PAN', 'densenet121', {'encoder_output_stride': 32}),
    ('PAN', 'resnet18', {}), ('PAN', 'efficientnet-b0', {}),
    *((architecture, encoder, {}) for encoder in ('tu-convnext_tiny', 'tu-tf_efficientnet_lite2')
      for architecture in ('FPN', 'UPerNet', 'Segformer', 'DeepLabV3Plus', 'PAN'))]


def multiply_adds(run: Callable[[], Any]) -> int:
    """Return how many multiply-adds a call makes."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


@torch.inference_mode()
def measure(architecture: str, encoder: str, arguments: dict[str, Any], size: tuple[int, int],
            rounds: int, device: torch.device) -> dict[str, Any]:
    """Return a network's multiply-adds and milliseconds, whole and at each cut."""
    def build(where: torch.device) -> tuple[Any, Any, torch.Tensor]:
        whole, parts = (smp_model(CLASSES, architecture, encoder, **arguments).eval().to(where)
                        for _ in range(2))
        network = divide(parts, encoder, 0)
        network.configure(aligned=True)  # as converted ones are
        return whole, network, torch.zeros(1, 3, *size[::-1], device=where)

    def current(network: Any, image: torch.Tensor, cut: int) -> Callable[[], Any]:
        network.configure(shared_levels=cut)
        shared = network.high(network.low(image))

        def run() -> Any:
            network.configure(shared_levels=cut)
            return network.decode(network.low(image), shared)
        return run

    whole, network, image = build(torch.device('meta'))
    cuts = network.cuts[1:]
    counted = [multiply_adds(lambda: whole(image))]
    counted += [multiply_adds(current(network, image, cut)) for cut in cuts]
    whole, network, image = build(device)
    image.normal_()
    variants = [lambda: whole(image), *(current(network, image, cut) for cut in cuts)]
    times: list[list[float]] = []
    for number in range(rounds + 1):
        row = []
        for run in variants:
            start = time.perf_counter()
            run()
            if device.type == 'cuda':
                torch.cuda.synchronize(device)
            row.append(1000 * (time.perf_counter() - start))
        times += [row] if number else []  # the first warms up
    return {
        'architecture': architecture, 'encoder': encoder, 'arguments': arguments,
        'whole': {'multiply_adds': counted[0], **_milliseconds(times, 0)},
        'cuts': {cut: {'multiply_adds': counted[index],
                       'multiply_adds_saved': round(1 - counted[index] / counted[0], 4),
                       **_milliseconds(times, index)}
                 for index, cut in enumerate(cuts, 1)}}


def _milliseconds(times: list[list[float]], index: int) -> dict[str, float]:
    fastest = [min(column) for column in zip(*times)]
    found = {'milliseconds': round(fastest[index], 2),
             'median_milliseconds': round(statistics.median(row[index] for row in times), 2)}
    if index:
        found['time_saved'] = round(1 - fastest[index] / fastest[0], 4)
    return found


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: percent of multiply-adds / of time saved at each cut."""
    lines = ['| architecture | encoder | whole, 1e9 multiply-adds | ms | 1 | 2 | 3 | 4 |',
             '|---|---|---|---|---|---|---|---|']
    for result in results:
        cells = [f'{100 * found["multiply_adds_saved"]:.0f} / {100 * found["time_saved"]:.0f}'
                 if found else '' for found in map(result['cuts'].get, range(1, 5))]
        lines.append(f'| {result["architecture"]} | {result["encoder"]} | '
                     f'{result["whole"]["multiply_adds"] / 1e9:.1f} | '
                     f'{result["whole"]["milliseconds"]:.0f} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--size', type=size_argument, default=(480, 352), metavar='WxH')
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--json', type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    before = os.getloadavg()
    results = []
    for architecture, encoder, options in NETWORKS:
        results.append(measure(architecture, encoder, options, arguments.size,
                               arguments.rounds, device))
        print(table(results[-1:]).splitlines()[-1], flush=True)
    print(table(results))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({
            'size': list(arguments.size), 'rounds': arguments.rounds,
            'threads': arguments.threads, 'classes': CLASSES,
            'load_before': before[0], 'load_after': os.getloadavg()[0],
            **provenance(' '.join(('python', *sys.argv)), arguments.device),
            'networks': results}, indent=1) + '\n')


if __name__ == '__main__':
    main()
