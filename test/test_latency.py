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
"""Latency: what is averaged, counted and written."""
from dataclasses import replace
import itertools
import json
import re
from types import SimpleNamespace

from featshare_core.cli import main
from featshare_core.evaluation import latency
from featshare_core.evaluation.latency import time_engines, Times
from featshare_core.evaluation.tables import engine_table
from featshare_core.evaluation.work import count_work
from featshare_core.inference import device, engines
from featshare_core.inference.engine import Engine, Prediction
from featshare_core.labels import CAMVID
from featshare_core.networks.checkpoint import Config, save_checkpoint
import numpy as np
import pytest
import torch
from torch import nn


def test_averages_by_hand():
    times = Times(key=[10.0, 12.0, 50.0], current=[4.0, 4.0, 5.0], per_frame=[11.0])
    assert times.average(1) == 12
    assert times.average(5) == pytest.approx((12 + 4 * 4) / 5)
    assert times.summary()['key'] == {'mean': 24, 'p50': 12, 'p99': pytest.approx(49.24),
                                      'worst': 50}


class Noting(Engine):
    """Notes its frames; with ``clock``, a frame takes ``seconds``."""

    def __init__(self, name, notes, clock=None, seconds=0.0):
        self.name, self.notes, self.clock, self.seconds = name, notes, clock, seconds

    def key(self, frame, stream='', confidence=False):
        return self._note(f'key {frame}')

    def current(self, frame, stream='', confidence=False):
        return self._note(f'current {frame}')

    def _note(self, text):
        self.notes.append(f'{self.name} {text}')
        if self.clock is not None:
            self.clock.now += self.seconds
        return Prediction(None, None, 0, {})

    defer = current

    def forget(self, stream):
        pass

    def close(self):
        pass


def test_engines_take_turns():
    notes = []
    times = time_engines({name: Noting(name, notes) for name in 'ab'}, iter(range(99)), 10,
                         baselines={name: Noting(f'{name}, whole,', notes) for name in 'ab'})
    warm_up = 2 * 3 * 3
    turn = [' current', ' key', *[' current'] * 4, *[', whole, key'] * 2]
    assert [note.rpartition(' ')[0] for note in notes[warm_up:]] \
        == 2 * [f'{name}{kind}' for name in 'ab' for kind in turn]
    assert [int(note.split()[-1]) for note in notes] == list(range(len(notes)))
    for taken in times.values():
        assert (len(taken.key), len(taken.current), len(taken.per_frame)) == (2, 8, 4)


def test_a_slow_engine_ends_earlier_and_all_end_in_time(monkeypatch):
    """Turns of 8 frames: one engine takes 15 of them in 12 s, one 5, and one the least, 3."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(latency, 'time', SimpleNamespace(perf_counter=lambda: clock.now))
    notes, warmed_up = [], []
    seconds = {'fast': 0.1, 'slow': 0.3, 'hopeless': 3.5}
    engines, baselines = (
        {name: Noting(name + end, notes, clock, taken) for name, taken in seconds.items()}
        for end in ('', ', whole,'))
    times = time_engines(engines, itertools.count(), 15, baselines=baselines, seconds=11.9,
                         warmed_up=lambda *one: warmed_up.append(one))
    assert warmed_up == [(name, pytest.approx(1e3 * taken)) for name, taken in seconds.items()]
    assert {name: (len(taken.key), len(taken.current), len(taken.per_frame))
            for name, taken in times.items()} \
        == {'fast': (15, 60, 30), 'slow': (5, 20, 10), 'hopeless': (3, 12, 6)}
    ends = [max(index for index, note in enumerate(notes) if note.startswith(name))
            for name in ('hopeless', 'slow', 'fast')]
    assert ends == sorted(ends)


def convolutions(network, image):
    """Count multiply-adds with hooks, for the network as it is without sharing."""
    counted = []

    def count(module, inputs, output):
        counted.append(output.numel() * module.weight[0].numel())

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    network(image)
    return sum(counted)


def test_work_is_that_of_the_convolutions():
    config = Config('fpn-efficientnet-lite0', CAMVID, (128, 96), {'shared_levels': 0})
    whole = count_work(config, (120, 100))  # rounded to 128 x 96
    with torch.device('meta'):
        network = config.build().eval()
        expected = convolutions(network, torch.empty(1, 3, 96, 128))
    # The decoder's first convolution is done by parts, not as a module: 64 from 64, each level.
    expected += sum(64 * 64 * (96 // stride) * (128 // stride) for stride in (4, 8, 16, 32))
    assert whole['key']['gmacs'] == pytest.approx(expected / 1e9)
    assert whole['whole'] == pytest.approx(whole['key'])
    # Cut, a key frame runs the 3x3 convolutions of both low levels too, from the backbone's
    # 24 + 40 and 40 channels to 64; the laterals are part of them.
    work = count_work(replace(config, options={'shared_levels': 2}), (120, 100))
    more = sum(64 * 9 * (96 // stride) * (128 // stride) * channels - 128 * own
               * (96 // stride) * (128 // stride)
               for stride, channels, own in ((4, 64, 24), (8, 40, 40)))
    assert work['key']['gmacs'] == pytest.approx((expected + more) / 1e9)
    weights = sum(p.numel() * 4 for p in network.state_dict().values()) / 1e6
    assert whole['key']['weight_mb'] == pytest.approx(weights, rel=0.02)
    assert work['current']['weight_mb'] < work['key']['weight_mb'] / 2
    ratios = []
    for levels in (0, 1, 3):
        config = Config('fpn-efficientnet-lite0', CAMVID, (128, 96), {'shared_levels': levels})
        ratios.append(count_work(config, (128, 96))['current_over_key'])
    assert ratios[0] == {'gmacs': 1, 'bytes': 1}
    for kind in ('gmacs', 'bytes'):
        assert np.all(np.diff([ratio[kind] for ratio in ratios]) < 0)


def test_work_of_a_network_whose_constructor_reads_values():
    """As timm's stochastic depth does, in MiT encoders: tensors on the meta device have none."""
    pytest.importorskip('segmentation_models_pytorch')
    config = Config('smp', CAMVID, (64, 64),
                    {'architecture': 'FPN', 'encoder': 'mit_b0', 'shared_levels': 2})
    work = count_work(config, (64, 64))
    weights = sum(p.numel() * 4 for p in config.build().state_dict().values()) / 1e6
    assert work['whole']['weight_mb'] == pytest.approx(weights, rel=0.02)
    assert work['current']['weight_mb'] < work['key']['weight_mb'] / 2
    assert work['current']['gmacs'] < work['key']['gmacs']


@pytest.fixture
def weights(tmp_path):
    config = Config('fpn-efficientnet-lite0', CAMVID, (64, 64), {'shared_levels': 2})
    save_checkpoint(tmp_path / 'w.safetensors', config.build(), config)
    return tmp_path / 'w.safetensors'


def test_benchmark_writes_the_contract(weights, tmp_path, capsys):
    assert main(['benchmark', '--device', 'cpu', '--weights', str(weights),
                 '--size', '100x70', '--shared-levels', '3', '--frames', '10',
                 '--json', str(tmp_path / 'deep' / 'b.json')]) == 0
    result = json.loads((tmp_path / 'deep' / 'b.json').read_text())
    assert set(result['ms']['eager-fp32']) == {'key', 'current'}
    assert set(result['ratios']) == {'eager_key_over_best_key', 'eager_current_over_best_current',
                                     'current_over_key', 'average_over_baseline'}
    best = result['best']
    assert result['ratios']['current_over_key'] == pytest.approx(
        result['ms'][best]['current'] / result['ms'][best]['key'], abs=2e-3)
    assert (result['size'], result['network_input']) == ([100, 70], [96, 64])
    assert result['shared_levels'] == 3
    assert result['frames'] == 10
    assert result['frames_by_engine'] == dict.fromkeys(result['ms'], 10)
    assert result['command'].endswith('--size 100x70 --shared-levels 3 --frames 10')
    assert 'torch' in result['versions']
    assert 'cores' in result['machine']
    assert str(tmp_path) not in json.dumps(result)
    assert 'current over key' in capsys.readouterr().out


@pytest.fixture
def slow_bf16(monkeypatch):
    """A machine without bf16, where PyTorch alone is installed."""
    monkeypatch.setattr(device, '_cpu_multiplies_bf16', lambda: False)
    monkeypatch.setattr(engines, 'find_spec', lambda package: None)


@pytest.mark.usefixtures('slow_bf16', 'one_thread')
def test_benchmark_shows_progress_and_leaves_out_what_is_slow(weights, tmp_path, capsys):
    command = ['benchmark', '--device', 'cpu', '--weights', str(weights), '--size', '64x64',
               '--json', str(tmp_path / 'b.json'), '--seconds', '0.001']
    speed = r'warmed up, about \d+\.\d ms per current frame; to be timed for about 0\.001 s'
    assert main(command) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ['left out: eager-bf16, because cpu does not compute bf16 natively '
                         '(--engines eager-bf16 times it)', 'loading eager-fp32']
    assert len(lines) == 3
    assert re.fullmatch(f'eager-fp32, fp32: {speed}', lines[2])
    result = json.loads((tmp_path / 'b.json').read_text())
    assert result['frames_by_engine'] == {'eager-fp32': 15}
    assert result['frames'] == 15
    assert result['command'].endswith('--seconds 0.001')

    assert main([*command, '--engines', 'eager-bf16']) == 0
    output = capsys.readouterr()
    lines = output.err.splitlines()
    assert lines[0] == 'loading eager-bf16'
    assert len(lines) == 2
    assert re.fullmatch(f'eager-bf16, bf16: {speed}', lines[1])
    result = json.loads((tmp_path / 'b.json').read_text())
    assert list(result['ms']) == [result['best']] == ['eager-bf16']
    assert set(result['ratios']) == {'current_over_key', 'average_over_baseline'}
    assert result['command'].endswith('--seconds 0.001 --engines eager-bf16')
    assert re.search('^eager-bf16 +15 ', output.out, re.MULTILINE)
    assert engine_table([result]).count('not measured') == 2


@pytest.mark.usefixtures('slow_bf16')
def test_engines_that_cannot_be_timed(weights, capsys):
    assert main(['benchmark', '--device', 'cpu', '--weights', str(weights),
                 '--engines', 'eager-fp32', 'torch', 'openvino']) == 1
    assert capsys.readouterr().err == (
        'featshare: torch, openvino cannot be timed on cpu with the packages installed here; '
        'choose from eager-fp32, eager-bf16\n')


def test_options_of_benchmark(capsys):
    for value in ('0', '-1', 'nan', 'inf', 'long'):
        with pytest.raises(SystemExit):
            main(['benchmark', f'--seconds={value}'])
        assert 'is no number of seconds above 0' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(['benchmark', '--seconds', '1', '--frames', '20'])
    assert 'not allowed with' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(['benchmark', '--help'])
    text = ' '.join(capsys.readouterr().out.split())
    for name in latency.TIMED:
        assert name in text
    assert f'default: {latency.SECONDS:g}; at least {latency.LEAST_FRAMES} frames' in text


def test_a_size_that_is_none(capsys):
    for size in ('512', '0x5', 'axb', '-1x5'):
        with pytest.raises(SystemExit):
            main(['benchmark', f'--size={size}'])
        assert 'is no size such as 512x512' in capsys.readouterr().err
