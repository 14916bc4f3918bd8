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
"""Training runs that are killed, resumed, shared by processes, or cannot continue."""
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys

import pytest
import torch

pytest.importorskip('lightning', reason='training needs the package lightning')

from featshare_core.networks.checkpoint import load_checkpoint, save_checkpoint
from featshare_core.training import data
from featshare_core.training.config import load_config
from featshare_core.training.module import LearningError
from featshare_core.training.run import train
from trainings import losses, per_frame, SHARING, SMALL, train_file, write

pytestmark = pytest.mark.usefixtures('one_thread', 'streets_rendered_once')

SCRIPT = """
import os, signal, sys
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


def run_script(folder, config, output, devices=1, kill=''):
    script = folder / 'script.py'
    script.write_text(SCRIPT)
    environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[1]),
                   'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}
    return subprocess.run(
        [sys.executable, str(script), str(config), str(output), str(devices), kill],
        env=environment, capture_output=True, text=True, timeout=300)


def test_a_killed_run_goes_on_to_the_same_weights(baselines, tmp_path):
    path = write(tmp_path / 'sharing.yaml', {
        **SHARING, 'epochs': 3, 'baseline': str(baselines / 'fpn-efficientnet-lite0.safetensors')})
    killed = run_script(tmp_path, path, tmp_path / 'killed', kill='kill')
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    state = torch.load(tmp_path / 'killed' / 'last.ckpt', weights_only=True)
    assert state['epoch'] == 0
    train_file(path, tmp_path / 'killed')
    train_file(path, tmp_path / 'unbroken')
    assert len(losses(tmp_path / 'unbroken')) == 3
    assert torch.load(tmp_path / 'killed' / 'previous.ckpt', weights_only=True)['epoch'] == 1
    assert losses(tmp_path / 'killed')[-2:] == losses(tmp_path / 'unbroken')[1:]
    one, two = (torch.load(tmp_path / run / 'last.ckpt', weights_only=True)['state_dict']
                for run in ('killed', 'unbroken'))
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


def test_two_processes_learn_what_one_does(baselines, tmp_path):
    # Batch norms see their own process's samples on CPUs (on GPUs they are synchronised).
    path = write(tmp_path / 'sharing.yaml', {
        **SHARING, 'batch': 4, 'frozen_norms': 'all',
        'baseline': str(baselines / 'fpn-efficientnet-lite0.safetensors')})
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


def test_mending_is_learned_and_nothing_else(baselines, tmp_path):
    base = baselines / 'fpn-efficientnet-lite0.safetensors'
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
    with pytest.raises(LearningError, match=(
            r'the run that is here had another lr, seed: name another output')):
        train_file(path, tmp_path / 'run', {'lr': 1e-3, 'seed': 1})


def test_a_run_does_not_go_on_with_another_baseline(baselines, tmp_path):
    baseline = tmp_path / 'baseline.safetensors'
    shutil.copy(baselines / 'fpn-efficientnet-lite0.safetensors', baseline)
    path = write(tmp_path / 'a.yaml', per_frame(baselines, baseline=str(baseline)))
    train_file(path, tmp_path / 'run')
    network, config = load_checkpoint(baseline)
    network.classifier.bias.data += 1
    save_checkpoint(baseline, network, config)
    with pytest.raises(LearningError, match=r"had another baseline's content: name another"):
        train_file(path, tmp_path / 'run')


def test_what_cannot_run_is_said_before_data_are_read(tmp_path):
    config = load_config([write(tmp_path / 'a.yaml', {**SMALL, 'batch': 3, 'shared_levels': 0})],
                         {})
    with pytest.raises(ValueError, match='a batch of 3 cannot be shared evenly by 2 processes'):
        train(config, tmp_path / 'run', Path(), 'cpu', devices=2, progress=False)
    assert not (tmp_path / 'run').exists()
