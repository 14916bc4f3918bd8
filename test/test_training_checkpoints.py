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
"""The states of a training run: one is always whole, and a damaged one is named."""
from contextlib import suppress
import errno
import os
import shutil
import tempfile
import zipfile

import pytest
import torch

pytest.importorskip('lightning', reason='training needs the package lightning')

from featshare_core.networks.checkpoint import load_checkpoint
from featshare_core.training.checkpoints import DurableCheckpoints, find_state, LAST, PREVIOUS
import lightning
from os_faults import fault_at, KilledError
from trainings import SMALL, train_file, write

pytestmark = pytest.mark.usefixtures('one_thread', 'streets_rendered_once')


def save(output, step):
    DurableCheckpoints().save_checkpoint(
        {'featshare': '{}', 'step': step, 'weights': torch.full((5000,), float(step))},
        output / LAST)


def step_of(path):
    state = torch.load(path, weights_only=True)
    assert (state['weights'] == state['step']).all()
    return state['step']


def test_the_state_before_is_kept(tmp_path):
    assert find_state(tmp_path) is None
    for step in (1, 2, 3):
        save(tmp_path / 'run', step)
        assert step_of(find_state(tmp_path / 'run')) == step
    assert step_of(tmp_path / 'run' / PREVIOUS) == 2
    assert sorted(os.listdir(tmp_path / 'run')) == [LAST, PREVIOUS]


@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, 'No space left on device'),
                                   KilledError()])
def test_a_save_that_fails_anywhere_leaves_a_whole_state(tmp_path, monkeypatch, error):
    """At each call by which a file changes, as on a full disk or killed there."""
    (tmp_path / 'tmp').mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'tmp'))
    for number in range(99):
        output = tmp_path / str(number)
        save(output, 1)
        save(output, 2)
        with fault_at(monkeypatch, number, error) as calls, suppress(type(error)):
            save(output, 3)
        assert step_of(find_state(output)) in (2, 3), calls
        save(output, 4)  # the next one is not held up by what was left
        assert step_of(find_state(output)) == 4
        assert sorted(os.listdir(output)) == [LAST, PREVIOUS]
        if len(calls) <= number:
            break
    assert number >= 6, calls
    assert not os.listdir(tmp_path / 'tmp')


def damage(path, kind):
    content = bytearray(path.read_bytes())
    if kind == 'bit':
        with zipfile.ZipFile(path) as archive:
            largest = max(archive.infolist(), key=lambda info: info.file_size)
        content[largest.header_offset + largest.file_size // 2] ^= 1
    elif kind == 'cut':
        del content[len(content) // 2:]
    elif kind == 'zeros':
        content[:] = bytes(len(content))
    elif kind == 'empty':
        content.clear()
    path.write_bytes(content)
    if kind == 'other':
        torch.save({'state_dict': {}}, path)


@pytest.mark.parametrize('kind', ['bit', 'cut', 'zeros', 'empty', 'other'])
def test_a_damaged_state_is_named_before_data_are_read(tmp_path, kind):
    path = write(tmp_path / 'a.yaml', {
        **SMALL, 'network': 'fpn-efficientnet-lite0', 'shared_levels': 0,
        'train': [{'kind': 'folder', 'root': 'no such folder'}]})
    run = tmp_path / 'run'
    save(run, 1)
    save(run, 2)
    damage(run / LAST, kind)
    with pytest.raises(ValueError, match=rf'last\.ckpt is damaged .*remove it, and the run '
                                         rf'resumes from {PREVIOUS}'):
        train_file(path, run)
    (run / LAST).unlink()
    assert step_of(find_state(run)) == 1
    damage(run / PREVIOUS, kind)
    with pytest.raises(ValueError, match=r'previous\.ckpt is damaged .*starts from the beginning'):
        train_file(path, run)


def test_weights_are_saved_before_they_are_scored(tmp_path, monkeypatch):
    path = write(tmp_path / 'a.yaml', {**SMALL, 'network': 'fpn-efficientnet-lite0',
                                       'shared_levels': 0, 'steps_per_epoch': 1})

    def fail(*arguments, **options):
        raise RuntimeError('out of memory')
    with monkeypatch.context() as patch:
        patch.setattr(lightning.Trainer, 'validate', fail)
        with pytest.raises(RuntimeError, match='out of memory'):
            train_file(path, tmp_path / 'run')
    unscored, config = load_checkpoint(tmp_path / 'run' / 'final.safetensors')
    assert config.scores == {}
    shutil.copytree(tmp_path / 'run', tmp_path / 'copy')
    scores = train_file(path, tmp_path / 'run')  # only scores
    scored, config = load_checkpoint(tmp_path / 'run' / 'final.safetensors')
    assert config.scores.keys() == scores.keys() and scores
    for name, tensor in unscored.state_dict().items():
        assert torch.equal(tensor, scored.state_dict()[name]), name
    # Where only the state before is left, the run resumes from it.
    os.replace(tmp_path / 'copy' / LAST, tmp_path / 'copy' / PREVIOUS)
    assert train_file(path, tmp_path / 'copy') == scores
