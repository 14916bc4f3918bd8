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
What one would run instead, each network on every frame, beside this package at interval 5.

    python benchmarks/instead.py [--size 512x512] [--rounds 15] [--json FILE]

PyTorch eager and compiled in fp32 and, where the device multiplies it, bf16; ONNX Runtime; and
two networks of segmentation_models_pytorch with random weights, as far as these are installed.
Variants take turns; all begin with the uint8 image and end with the class of each pixel.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.util import find_spec
import itertools
import time
from typing import Any

from featshare_core.data.synthetic import RenderedStreet
from featshare_core.inference.device import choose_device, choose_precision, PRECISIONS
from featshare_core.inference.engine import Engine, Frame
from featshare_core.inference.engines import installed_engines, make_engine
from featshare_core.inference.parts import Pixels
from featshare_core.networks.checkpoint import Config, load_checkpoint
from figures import engine_parser, report
import numpy as np
import torch
from torch import nn

INTERVAL = 5
LIGHT = (('FPN', 'densenet121'), ('Segformer', 'mit_b0'), ('PAN', 'mobilenet_v2'))

Run = Callable[[Frame], Any]


def per_frame(network: nn.Module, config: Config, device: torch.device, precision: str,
              compiled: bool = False) -> Run:
    """Return the plain way: normalise, run, upsample, argmax."""
    network = network.eval().to(device, PRECISIONS[precision], memory_format=torch.channels_last)
    pixels = Pixels(config).to(device)
    if compiled:
        network = torch.compile(network)  # type: ignore[assignment]

    @torch.inference_mode()
    def run(frame: Frame) -> Any:
        image = pixels(torch.from_numpy(frame).to(device)[None]).to(PRECISIONS[precision])
        logits = nn.functional.interpolate(network(image).float(), frame.shape[:2],
                                           mode='bilinear')
        return logits.argmax(1)[0].byte().cpu().numpy()
    return run


def sharing(engine: Engine) -> Run:
    """Return this package's way; the call's number decides what kind of frame it is."""
    numbers = itertools.count()
    return lambda frame: (engine.current if next(numbers) % INTERVAL else engine.key)(frame)


def variants(arguments: argparse.Namespace) -> dict[str, Run]:
    """Return everything that can run here, by name."""
    device = choose_device(arguments.device)
    size = tuple(map(int, arguments.size.split('x')))
    best = choose_precision('auto', device)
    config = load_checkpoint(arguments.weights)[1]

    def whole() -> nn.Module:
        return load_checkpoint(arguments.weights, shared_levels=0)[0]

    found: dict[str, Run] = {}
    ours = make_engine(arguments.weights, device=arguments.device, input_size=size)
    found[f'feature sharing, interval {INTERVAL} ({ours.name} {ours.precision})'] = sharing(ours)
    uncut = make_engine(arguments.weights, device=arguments.device, shared_levels=0,
                        input_size=size)
    found[f'the same network per frame ({uncut.name} {uncut.precision})'] = uncut.key
    for precision in dict.fromkeys(('fp32', best)):
        found[f'the same network per frame, PyTorch eager {precision}'] = \
            per_frame(whole(), config, device, precision)
        found[f'the same network per frame, torch.compile {precision}'] = \
            per_frame(whole(), config, device, precision, compiled=True)
    if 'onnx' in installed_engines(device.type):
        found['the same network per frame, ONNX Runtime fp32'] = make_engine(
            arguments.weights, 'onnx', shared_levels=0, input_size=size).key
    if find_spec('segmentation_models_pytorch'):
        from featshare_core.networks.smp.build import smp_model
        for architecture, encoder in LIGHT:
            for precision in dict.fromkeys(('fp32', best)):
                found[f'smp {architecture}-{encoder} per frame, PyTorch eager {precision}'] = \
                    per_frame(smp_model(len(config.labels), architecture, encoder), config,
                              device, precision)
    return found


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the milliseconds of a frame of each variant."""
    street = RenderedStreet(*map(int, arguments.size.split('x')), seed=0)
    frames = [street.frame(index)[0] for index in range(INTERVAL)]
    found, broken = variants(arguments), {}
    for name, run in tuple(found.items()):
        try:
            for frame in frames:
                run(frame)
        except Exception as error:  # torch.compile has many ways to fail, none of them ours
            broken[name] = f'{type(error).__name__}: {str(error).splitlines()[0][:200]}'
            del found[name]
    taken: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(arguments.rounds):
        for name, run in found.items():
            run(frames[-1])  # the threads of the one before spin on for milliseconds
            start = time.perf_counter()
            for frame in frames:
                run(frame)
            taken[name].append(1e3 * (time.perf_counter() - start) / len(frames))
    middle = {name: float(np.median(values)) for name, values in taken.items()}
    ours = next(iter(middle.values()))
    return {'size': arguments.size, 'device': str(choose_device(arguments.device)),
            'rounds': arguments.rounds,
            'ms a frame': {name: round(value, 2) for name, value in middle.items()},
            'times ours': {name: round(value / ours, 2) for name, value in middle.items()},
            'could not run': broken}


if __name__ == '__main__':
    parser = engine_parser(__doc__, '512x512')
    parser.add_argument('--rounds', type=int, default=15)
    report(parser, measure)
