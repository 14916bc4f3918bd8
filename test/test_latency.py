"""Latency: what is averaged, counted and written."""
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from featshare_core.cli import main
from featshare_core.evaluation.latency import Times, time_engines
from featshare_core.evaluation.work import count_work
from featshare_core.inference.engine import Engine, Prediction
from featshare_core.labels import CAMVID
from featshare_core.networks.checkpoint import Config, save_checkpoint


def test_averages_by_hand():
    times = Times(key=[10.0, 12.0, 50.0], current=[4.0, 4.0, 5.0], per_frame=[11.0])
    assert times.average(1) == 12
    assert times.average(5) == pytest.approx((12 + 4 * 4) / 5)
    assert times.summary()['key'] == {'mean': 24, 'p50': 12, 'p99': pytest.approx(49.24),
                                      'worst': 50}


def test_engines_take_turns():
    class Noting(Engine):
        def __init__(self, name):
            self.name = name

        def key(self, frame, stream='', confidence=False):
            notes.append(f'{self.name} key {frame}')
            return Prediction(None, None, 0, {})

        def current(self, frame, stream='', confidence=False):
            notes.append(f'{self.name} current {frame}')
            return Prediction(None, None, 0, {})

        defer = current

        def forget(self, stream):
            pass

        def close(self):
            pass

    notes = []
    times = time_engines({name: Noting(name) for name in 'ab'}, iter(range(99)), 10,
                         baselines={name: Noting(f'{name}, whole,') for name in 'ab'})
    warm_up = 2 * 3 * 3
    turn = [' current', ' key', *[' current'] * 4, *[', whole, key'] * 2]
    assert [note.rpartition(' ')[0] for note in notes[warm_up:]] \
        == 2 * [f'{name}{kind}' for name in 'ab' for kind in turn]
    assert [int(note.split()[-1]) for note in notes] == list(range(len(notes)))
    for taken in times.values():
        assert (len(taken.key), len(taken.current), len(taken.per_frame)) == (2, 8, 4)


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


def test_benchmark_writes_the_contract(tmp_path, capsys):
    config = Config('fpn-efficientnet-lite0', CAMVID, (64, 64), {'shared_levels': 2})
    save_checkpoint(tmp_path / 'w.safetensors', config.build(), config)
    assert main(['benchmark', '--device', 'cpu', '--weights', str(tmp_path / 'w.safetensors'),
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
    assert 'torch' in result['versions']
    assert 'cores' in result['machine']
    assert str(tmp_path) not in json.dumps(result)
    assert 'current over key' in capsys.readouterr().out


def test_a_size_that_is_none(capsys):
    for size in ('512', '0x5', 'axb', '-1x5'):
        with pytest.raises(SystemExit):
            main(['benchmark', f'--size={size}'])
        assert 'is no size such as 512x512' in capsys.readouterr().err
