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
"""Reports from results kept as JSON, and the advice that is drawn from them."""
from dataclasses import replace
import json
from pathlib import Path
import re
import sys
from unittest.mock import Mock

import cv2
import featshare_core
from featshare_core.cli import main
from featshare_core.evaluation import provenance, report, tables
from featshare_core.evaluation.advise import advice, advise, choose, pareto, Setting, settings
from featshare_core.evaluation.latency import Times
from featshare_core.evaluation.pages import results_page
from featshare_core.evaluation.provenance import short_fingerprint, write_json
from featshare_core.evaluation.recipes import find_runs
from featshare_core.evaluation.trial import _Trial
from featshare_core.labels import CAMVID, LabelSet
from featshare_core.networks.checkpoint import Config, load_checkpoint, save_checkpoint
import numpy as np
import pytest
import torch

LATENCY = Path(__file__).parents[1] / 'docs/results/latency/cpu-512x512/default-2-levels.json'


@pytest.fixture(scope='module')
def street(tmp_path_factory):
    """A tiny CamVid: seven frames of a video, all labelled."""
    root = tmp_path_factory.mktemp('camvid')
    rng = np.random.default_rng(0)
    for folder in ('val', 'valannot'):
        (root / folder).mkdir()
    for index in range(7):
        name = f'clip_{index:05d}.png'
        cv2.imwrite(str(root / 'val' / name), rng.integers(0, 256, (64, 96, 3), np.uint8))
        mask = np.repeat(np.arange(12, dtype=np.uint8), 8)[None].repeat(64, 0)
        cv2.imwrite(str(root / 'valannot' / name), mask)
    return root


def save(path, seed, **options):
    """Write a small network with random weights."""
    torch.manual_seed(seed)
    config = Config('fpn-efficientnet-lite0', CAMVID, (64, 64), {'shared_levels': 2, **options})
    save_checkpoint(path, config.build(), config)
    return path


@pytest.fixture
def pytorch_alone(monkeypatch, one_thread):
    """No other engine: exporting takes most of the time, and test_latency.py times them all."""
    for package in ('openvino', 'onnx', 'onnxruntime'):
        monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.usefixtures('pytorch_alone')
def test_report_makes_what_is_missing(tmp_path, street, monkeypatch):
    monkeypatch.setattr(report, 'SHEET_ROWS', 1)
    monkeypatch.setattr(report, 'STREET_SIZE', (96, 64))
    weights = save(tmp_path / 'mine.safetensors', 0)
    runs = tmp_path / 'runs'
    for name in ('thesis-truncated', 'thesis-2-levels'):
        (runs / name).mkdir(parents=True)
    truncated = save(runs / 'thesis-truncated' / 'final.safetensors', 0, shared_levels=0, levels=2)
    recipe = runs / 'thesis-2-levels' / 'final.safetensors'
    network, config = load_checkpoint(weights)
    save_checkpoint(recipe, network, replace(config, training={
        'epochs': 4, 'steps_per_epoch': 50, 'batch': 8, 'crop': [320, 256]}))
    output = tmp_path / 'results'
    command = ['report', '--weights', str(weights), '--data', 'camvid', '--root', str(street),
               '--shared-levels', '2', '--interval', '2', '--longest', '2', '--size', '64x64',
               '--frames', '5', '--device', 'cpu', '--output', str(output),
               '--sheets', str(tmp_path / 'sheets'), '--thesis', str(runs)]
    assert main(command) == 0
    text = (output / 'camvid-val.md').read_text()
    for heading in ('Table 5.1', 'Table 5.2', 'Figure 5.1', 'Figure 5.2', 'Figure 5.3',
                    'Figure 5.4', 'Rivals'):
        assert f'## {heading}' in text
    for row in ('interval 5 | 11.6 (0.79) | 7.0 (0.48) |', 'thesis: per-frame baseline | 66.3',
                'thesis: 2 shared levels, L1, alpha(d), exponential learning rate | 65 | 58.6 |'
                '  |  |  |  |'
                '\n| ours, same recipe (200 steps, batch 8, 320x256) | ', '| ours, same recipe | ',
                'ours: per-frame baseline | not measured',
                'ours: mine.safetensors, 2 levels', 'repeat the mask', 'optical flow',
                'per frame at half resolution', 'commit'):
        assert row in text, row
    assert str(tmp_path) not in text  # no folders of this machine
    folder = output / 'camvid-val'
    for plot in (folder / 'lags.png', folder / 'accuracy-latency.png',
                 folder / 'classes-mine.png', folder / 'pictures.png',
                 tmp_path / 'sheets' / 'camvid-val-mine.png'):
        assert cv2.imread(str(plot)).std() > 1, plot
    results = {path: path.read_bytes() for path in output.rglob('*.json')}
    assert {path.name for path in results} == {
        'mine-2-levels-interval-2.json', 'mine-rivals.json', 'report.json',
        'thesis-truncated-0-levels-interval-1.json', 'mine-2-levels.json',
        'thesis-truncated-0-levels.json', 'thesis-2-levels-2-levels-interval-2.json'}
    frames = {json.loads(content)['frames'] for path, content in results.items()
              if path.parent == folder and path.name != 'report.json'}
    assert frames == {6}  # those that have a frame before them, for all tables and figures
    assert text == results_page(folder / 'report.json')  # drawn from the files alone

    monkeypatch.setattr(report, 'draw_street', lambda *_: None)  # seen already
    # Other weights are scored again; the rest is kept, the network's latency too.
    save(weights, 1)
    assert main(command) == 0
    assert {path.name for path in results if path.read_bytes() != results[path]} == {
        'mine-2-levels-interval-2.json', 'mine-rivals.json'}

    # So are the rivals, with a truncated network as one more, and other frames of the same name.
    assert 'truncated (-2 levels), per frame' not in text
    results = {path: path.read_bytes() for path in output.rglob('*.json')}
    command += ['--truncated', str(truncated)]
    assert main(command) == 0
    assert {path.name for path in results if path.read_bytes() != results[path]} == {
        'mine-rivals.json', 'report.json'}
    text = (output / 'camvid-val.md').read_text()
    for row in ('truncated (-2 levels), per frame', 'ours: truncated (-2 levels) (final'):
        assert row in text, row
    results = {path: path.read_bytes() for path in output.rglob('*.json')}
    mask = next((street / 'valannot').iterdir())
    cv2.imwrite(str(mask), np.zeros_like(cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)))
    assert main(command) == 0
    assert {path.name for path in results if path.read_bytes() != results[path]} == {
        'thesis-truncated-0-levels-interval-1.json', 'mine-2-levels-interval-2.json',
        'thesis-2-levels-2-levels-interval-2.json', 'mine-rivals.json',
        'final-0-levels-interval-1.json'}


def test_a_folder_without_runs_is_reported(tmp_path):
    with pytest.raises(ValueError, match='typo holds none of the runs thesis-baseline, '):
        find_runs(tmp_path / 'typo')


def test_a_truncated_network_stands_beside_its_own_whole_one():
    whole, other, truncated = (
        {**measured, 'network': network} for network, measured in zip(
            ('fpn', 'light', 'fpn'), 3 * [json.loads(LATENCY.read_text())]))
    lines = tables.latency_table([whole, other], truncated).splitlines()
    cells = next(line for line in lines if line.startswith('| truncated')).split('|')
    assert float(cells[4]) > 0 and not cells[5].strip()


def test_results_name_the_version_that_runs(monkeypatch):
    """Not that of an older installation, beside which a source tree is used."""
    monkeypatch.setattr(provenance, 'version', lambda package: '0.0.1')
    assert provenance.versions()['featshare_ros'] == featshare_core.__version__ != '0.0.1'


def test_two_results_compared(tmp_path, capsys):
    one = {'command': 'x', 'versions': {'torch': 1}, 'miou': {'key': 60.0, 'per_lag': [60.0, 50]},
           'frames': 97, 'vc8': None, 'best': 'openvino'}
    write_json(tmp_path / 'a.json', one)
    write_json(tmp_path / 'b.json', {**one, 'miou': {'key': 61.5, 'per_lag': [61.5, 50]},
                                     'vc8': {'key': 90.0}, 'versions': {'torch': 2}})
    assert main(['report', '--compare', str(tmp_path / 'a.json'), str(tmp_path / 'b.json')]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        '| miou.key | 60 | 61.5 | +1.5 |', '| miou.per_lag.0 | 60 | 61.5 | +1.5 |',
        '2 figures are equal', 'only in B: 1 figures']


def test_what_cannot_be_compared_is_reported(tmp_path, capsys):
    def failure(*paths):
        assert main(['report', '--compare', *map(str, paths)]) == 1
        return capsys.readouterr().err

    for name, content in (('a', '{"command": "x", "ms": 1}'), ('b', '{"command": "x", "s": 1}'),
                          ('list', '[]'), ('text', 'hello')):
        (tmp_path / name).write_text(content)
    assert 'no figure in common' in failure(tmp_path / 'a', tmp_path / 'b')
    assert 'is no result of featshare' in failure(tmp_path / 'a', tmp_path / 'list')
    assert 'is no JSON file' in failure(tmp_path / 'text', tmp_path / 'a')
    assert main(['report']) == 1
    assert 'needs --data and its --root' in capsys.readouterr().err


def scores(weights, per_lag):
    return {'weights': weights, 'shared_levels': 2, 'miou': {'per_lag': per_lag},
            'data': {'hz': 15.0}}


def test_settings_by_hand():
    found = settings(scores('big', [60.0, 54.0, 51.0]), Times(
        key=[30.0, 34.0], current=[8.0], per_frame=[28.0, 30.0]))
    assert [(s.shared_levels, s.interval, s.average, s.miou, s.drop) for s in found] == [
        (0, 1, 29.0, 60.0, 0.0), (2, 2, 20.0, 57.0, 6.0), (2, 3, 16.0, 55.0, 9.0)]
    assert found[2].worst == 34.0
    assert found[2].key_age == pytest.approx(0.2)


def setting(name, average, miou, drop=0.0):
    return Setting(name, 2, 5, average, 2 * average, miou, drop, 0.3)


def test_the_best_setting_within_the_budget():
    found = [setting('slow', 30, 60), setting('poor', 20, 50, 1), setting('good', 15, 58, 4),
             setting('fast', 10, 55, 6)]
    assert [s.weights for s in pareto(found)] == ['fast', 'good', 'slow']
    assert choose(found, 20, None).weights == 'good'
    assert choose(found, 20, 3.0).weights == 'poor'
    assert choose(found, 12, None).weights == 'fast'
    with pytest.raises(ValueError, match=r'no setting takes 9 ms .* the fastest: fast.* 10\.0 ms'):
        choose(found, 9, None)
    with pytest.raises(ValueError, match=r'at most 0\.5 points; the fastest: slow'):
        choose(found, 12, 0.5)
    with pytest.raises(ValueError, match='no setting loses at most -1 points'):
        choose(found, 12, -1)


@pytest.mark.usefixtures('pytorch_alone')
def test_advice_from_the_shipped_scores(tmp_path):
    (tmp_path / 'weights').mkdir()
    weights = save(tmp_path / 'weights' / 'fast.safetensors', 0)
    folder = tmp_path / 'results'
    with pytest.raises(ValueError, match='no scores of the shipped checkpoints'):
        advise(1e6, None, 'cpu', (64, 64), tmp_path)
    for name, digits, per_lag in (('short', short_fingerprint(weights), [60.0, 50.0]),
                                  ('long', short_fingerprint(weights), [60.0, 59.0, 58.0]),
                                  ('old', 'of other weights', [99.0, 98.0, 97.0, 96.0])):
        write_json(folder / f'{name}-interval-{len(per_lag)}.json', {
            **scores('fast', per_lag), 'command': 'x', 'sha256': digits,
            'interval': len(per_lag)})
    text = advise(1e6, None, 'cpu', (80, 60), tmp_path)
    assert 'images of 80x60' in text
    assert '| fast | 0 | 1 |' in text  # the whole network: the most accurate
    # Without max_key_age: every frame is a key frame.
    assert text.endswith('    weights: fast\n    key_interval: 1  # the whole network fits the '
                         'budget on every frame')
    with pytest.raises(ValueError, match='no setting takes 0 ms'):
        advise(0.0, None, 'cpu', (80, 60), tmp_path)


@pytest.mark.usefixtures('pytorch_alone')
def test_advice_on_a_video_without_labels(tmp_path, capsys):
    weights = tmp_path / 'mine.safetensors'
    config = Config('fpn-efficientnet-lite0', CAMVID, (96, 64), {'shared_levels': 2})
    network = config.build()
    for name, parameter in network.state_dict().items():
        if name.endswith('classifier.bias'):
            parameter.zero_()  # masks of more than one class
    save_checkpoint(weights, network, config)
    video = tmp_path / 'video'
    video.mkdir()
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (64, 96, 3), np.uint8)
    for index in range(31):
        cv2.imwrite(str(video / f'{index:02}.png'), np.roll(picture, index, 1))

    def advised(*more):
        status = main(['advise', '--weights', str(weights), '--on', str(video), '--device', 'cpu',
                       *more])
        return status, capsys.readouterr()

    status, (text, progress) = advised('--latency-budget', '1e6')
    assert status == 0
    assert progress.startswith('preparing mine.safetensors')
    assert re.search(r'^measuring [1-9]\d* settings on at most 199 frames$', progress, re.M)
    assert '30 frames of video, 96x64' in text
    # The whole network agrees with itself, and a budget of any size allows it.
    assert '| mine.safetensors | 0 | 1 |' in text
    assert '| 100.0 | 0.0 | <- |' in text
    assert '    key_interval: 1  # the whole network fits the budget on every frame' in text
    assert f'    weights: {weights}\n' in text  # as the node finds them
    status, (_, error) = advised('--latency-budget', '0')
    assert status == 1
    assert 'no setting takes 0 ms a frame on average' in error
    for file in sorted(video.iterdir())[30:]:
        file.unlink()
    status, (_, error) = advised('--latency-budget', '1e6')
    assert 'video holds 30 frames, and at least 31 are needed' in error
    assert main(['advise', '--latency-budget', '60', '--weights', str(weights)]) == 1
    assert '--on VIDEO measures other weights' in capsys.readouterr().err


def test_agreement_is_over_the_classes_of_the_reference():
    trial = _Trial(Mock(labels=LabelSet(('a', 'b'), ((0, 0, 0),) * 2)), 1, 0, '', (2,))
    # Of 10 pixels of a, the current frame takes two for b, which the reference never shows.
    trial.matrices = [np.array([[10, 0], [0, 0]]), np.array([[8, 2], [0, 0]])]
    trial.milliseconds = [[1.0], [1.0]]
    (found,) = trial.settings('mine', None)
    assert (found.miou, found.drop) == (90, 20)
    # A class with less than a thousandth of the pixels is not counted.
    trial.matrices = [np.array([[10_000, 0], [9, 0]])] * 2
    assert next(trial.settings('mine', None)).miou == pytest.approx(100, abs=0.1)


def test_advice_recommends_a_smaller_input_only_where_it_is_better():
    shared = Setting('mine', 2, 5, 10.0, 12.0, 90.0, 12.0, None)
    small = Setting('mine', 0, 1, 9.0, 9.0, 91.0, 9.0, None, '320x224')
    text = advice('title', 'agreement', [shared, small], small, 20.0)
    assert text.endswith('    key_interval: 1  # a smaller input is better than sharing\n'
                         '    input_size: [320, 224]')
    moving = Setting('mine', 2, 6, 8.0, 12.0, 92.0, 8.0, 0.4, moved_frames=1)
    text = advice('title', 'agreement', [shared, moving], moving, 20.0)
    assert '| checkpoint | shared levels | interval | moved frames | ms a frame |' in text
    assert '| mine | 2 | 6 | 1 | 8.0 |' in text
    assert text.endswith('    key_interval: 6\n    max_key_age: 0.40  # the age that these scores '
                         'were measured up to\n    moved_frames: 1')
    undivided = Setting('mine', 0, 3, 8.0, 12.0, 92.0, 8.0, None, moved_frames=2)
    assert '    weights: mine\n    key_interval: 3\n' in advice('title', 'agreement', [undivided],
                                                              undivided, 20.0)
    with pytest.raises(ValueError, match=r'interval 6, moved frames 1: 8\.0 ms'):
        choose([shared, moving], 5, None)
    text = advice('title', 'agreement', [shared], shared, 20.0)
    assert '    weights: mine\n    shared_levels: 2\n    key_interval: 5\n' in text
    assert text.endswith('max_key_age: 0.0  # no limit: the rate of the images is not known')
    timed = Setting('mine', 2, 5, 10.0, 12.0, 90.0, 12.0, 0.33)
    text = advice('title', 'agreement', [timed], timed, 20.0)
    assert '    max_key_age: 0.33  # the age that' in text
    assert 'input size' not in text
