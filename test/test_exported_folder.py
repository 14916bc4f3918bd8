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
"""Folders that `featshare export` wrote, given to every command that takes weights."""
from contextlib import suppress
import hashlib
import json
import os
import shutil

from bags import outputs, picture, without_times, write_bag
import cv2
from featshare_core.cli import main as featshare
from featshare_core.inference.engines import make_engine
from featshare_core.inference.export.models import (
    export,
    ExportedModels,
    fingerprint,
    Models,
    NetworkModels,
    read_config,
)
from featshare_core.labels import CAMVID
from featshare_core.networks.checkpoint import CheckpointError, load_checkpoint
from featshare_core.networks.weights import absolute_weights
from featshare_ros.recordings.segment_bag import main as segment_bag
import numpy as np
from os_faults import fault_at, KilledError
import pytest

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

ENGINE = ('--engine', 'onnx', '--precision', 'fp32')


@pytest.fixture(scope='module')
def exported(tmp_path_factory, random_checkpoint):
    folder = tmp_path_factory.mktemp('models') / 'exported'
    export(*load_checkpoint(random_checkpoint), folder, (96, 128))
    return folder


def change_model(folder, name, content):
    """Exchange a model, as another export would have."""
    config = json.loads((folder / 'config.json').read_text())
    config['sha256'][name] = hashlib.sha256(content).hexdigest()
    (folder / 'config.json').write_text(json.dumps(config))
    (folder / name).write_bytes(content)


def test_segment_bag_takes_it_and_goes_on_with_it(tmp_path, exported, random_checkpoint, capsys):
    write_bag(tmp_path / 'in', cameras=('front',), frames=8, size=(96, 128))
    paths = [str(tmp_path / 'in'), str(tmp_path / 'out')]
    assert segment_bag([*paths, '--weights', str(exported), *ENGINE]) == 0
    plain = [str(tmp_path / 'in'), str(tmp_path / 'plain')]
    assert segment_bag([*plain, '--weights', str(random_checkpoint), '--engine', 'torch',
                        '--precision', 'fp32', '--device', 'cpu']) == 0
    ours, theirs = (
        [np.frombuffer(message.data, np.uint8) for _, message in outputs(tmp_path / name)[
            '/segmentation/mask/compressed']] for name in ('out', 'plain'))
    assert len(ours) == len(theirs) == 8
    masks = [[cv2.imdecode(png, cv2.IMREAD_UNCHANGED) for png in side] for side in (ours, theirs)]
    assert (np.array(masks[0]) == np.array(masks[1])).mean() > 0.99
    capsys.readouterr()
    assert segment_bag([*paths, '--weights', str(exported), *ENGINE, '--resume']) == 0
    assert 'complete already: 8 images' in capsys.readouterr().out
    other = tmp_path / 'other'
    shutil.copytree(exported, other)
    change_model(other, 'current.onnx', (other / 'current.onnx').read_bytes() + b'\0')
    assert segment_bag([*paths, '--weights', str(other), *ENGINE, '--resume']) == 1
    assert 'other settings, so that --resume cannot continue it: weights' in \
        capsys.readouterr().err


@pytest.mark.parametrize(('file', 'content', 'reason'), [
    ('config.json', {'multiple': 0}, 'multiple 0 is not 1 or more'),
    ('config.json', {'size': [float('inf'), 1]}, 'cannot convert float infinity'),
    ('config.json', {'size': [-32, 64]}, 'is not 1 to 8192'),
    ('config.json', {'multiple': 1e300}, 'is not 1 to 8192'),
    pytest.param('config.json', b'[' * 100_000, 'config.json cannot be read (RecursionError',
                 id='deep'),
    ('config.json', [1], 'config.json cannot be read'),
    ('config.json', {'sha256': {'key.onnx': ''}}, "KeyError('current.onnx')"),
    ('key.onnx', b'', 'key.onnx does not match config.json'),
    ('current.onnx', b'damaged', 'current.onnx does not match config.json')])
def test_a_damaged_folder_is_refused_with_the_reason(tmp_path, exported, capsys, file, content,
                                                     reason):
    write_bag(tmp_path / 'in', cameras=('front',), frames=1, size=(96, 128))
    folder = tmp_path / 'damaged'
    shutil.copytree(exported, folder)
    if isinstance(content, dict):
        content = {**json.loads((folder / file).read_text()), **content}
    (folder / file).write_bytes(
        content if isinstance(content, bytes) else json.dumps(content).encode())
    assert segment_bag([str(tmp_path / 'in'), str(tmp_path / 'out'), '--weights', str(folder),
                        *ENGINE]) == 1
    assert reason in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_a_fleet_takes_it_by_a_relative_path(tmp_path, exported, capsys, monkeypatch):
    """Its workers have another working directory."""
    pytest.importorskip('ray')
    write_bag(tmp_path / 'archive' / 'one', cameras=('front',), frames=3, size=(96, 128))
    monkeypatch.chdir(exported.parent)
    status = segment_bag(['--ray', str(tmp_path / 'archive'), str(tmp_path / 'out'), '--weights',
                          exported.name, *ENGINE])
    said = capsys.readouterr().out
    assert status == 0, said
    assert '1 recordings: 1 done' in said
    assert without_times(tmp_path / 'out' / 'one')
    assert absolute_weights('default') == 'default'
    assert absolute_weights('mine.safetensors') == str(exported.parent / 'mine.safetensors')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert absolute_weights('~/a/b') == str(tmp_path / 'a' / 'b')


def test_segment_and_evaluate_take_it(tmp_path, exported, capsys):
    for kind in ('frames', 'masks'):
        (tmp_path / 'mine' / 'val' / kind / 'drive').mkdir(parents=True)
    (tmp_path / 'mine' / 'labels.yaml').write_text('classes:\n' + '\n'.join(
        f'- {{name: {name}, color: {list(color)}}}'
        for name, color in zip(CAMVID.names, CAMVID.colors)))
    for index in range(4):
        name = f'drive/{index}.png'
        image = picture(index, 96, 128)
        cv2.imwrite(str(tmp_path / 'mine' / 'val' / 'frames' / name), image)
        cv2.imwrite(str(tmp_path / 'mine' / 'val' / 'masks' / name), image[..., 0] % len(CAMVID))
    frames = tmp_path / 'mine' / 'val' / 'frames' / 'drive'
    assert featshare(['segment', str(frames), str(tmp_path / 'masks'), '--weights', str(exported),
                      *ENGINE]) == 0
    assert len(list((tmp_path / 'masks').glob('*.png'))) == 4
    assert featshare(['evaluate', '--weights', str(exported), '--data', 'folder', '--root',
                      str(tmp_path / 'mine'), '--interval', '2', '--precision', 'fp32',
                      '--device', 'cpu', '--json', str(tmp_path / 'score.json')]) == 0
    result = json.loads((tmp_path / 'score.json').read_text())
    assert result['shared_levels'] == 2
    assert result['sha256'] == fingerprint(exported)[:16]


def test_the_demo_reads_its_classes(exported, random_checkpoint):
    assert read_config(exported).labels == read_config(random_checkpoint).labels == CAMVID


@pytest.mark.parametrize('command', ['benchmark', 'report --data camvid --root nowhere'])
def test_commands_that_cut_the_network_refuse_it(exported, capsys, command):
    assert featshare([*command.split(), '--weights', str(exported)]) == 1
    assert 'give the checkpoint that it was exported from' in capsys.readouterr().err


@pytest.mark.parametrize('content', [b'', b'damaged'])
def test_damaged_models_of_an_earlier_version_are_refused(tmp_path, exported, content):
    """Their config.json has no checksums."""
    folder = tmp_path / 'old'
    shutil.copytree(exported, folder)
    config = json.loads((folder / 'config.json').read_text())
    del config['sha256']
    (folder / 'config.json').write_text(json.dumps(config))
    assert ExportedModels(folder).models((96, 128)) == ExportedModels(exported).models((96, 128))
    assert fingerprint(folder) != fingerprint(exported)
    (folder / 'key.onnx').write_bytes(content)
    with pytest.raises(RuntimeError, match='ONNX Runtime cannot load the models'):
        make_engine(folder, 'onnx', 'cpu', precision='fp32').key(np.zeros((96, 128, 3), np.uint8))


@pytest.fixture
def write_export(random_checkpoint, monkeypatch):
    """Export fake models, which takes no time; return the models of a folder."""
    loaded = load_checkpoint(random_checkpoint)

    def write(folder, number):
        models = Models(b'key %d' % number, b'current %d' % number)
        monkeypatch.setattr(NetworkModels, 'models', lambda self, size: models)
        export(*loaded, folder, (96, 128))
        return models
    return write


@pytest.mark.parametrize('exchanged', ['key.onnx', 'current.onnx'])
def test_a_model_of_another_export_is_refused(tmp_path, write_export, exchanged):
    for number, name in enumerate(('one', 'two')):
        write_export(tmp_path / name, number)
    shutil.copy(tmp_path / 'two' / exchanged, tmp_path / 'one')
    for use in (lambda folder: ExportedModels(folder).models((96, 128)), fingerprint):
        with pytest.raises(CheckpointError, match=rf'{exchanged} does not match config\.json'):
            use(tmp_path / 'one')


@pytest.mark.parametrize(('first_has_checksums', 'step'), [(True, 1), (False, 4)])
def test_an_export_is_replaced_in_one_step(tmp_path, write_export, monkeypatch,
                                           first_has_checksums, step):
    """Killed at any call by which a file changes, the folder holds one of the two exports."""
    for number in range(0, 99, step):
        folder = tmp_path / str(number)
        exports = [write_export(folder, 1), Models(b'key 2', b'current 2')]
        if not first_has_checksums:
            config = json.loads((folder / 'config.json').read_text())
            del config['sha256']
            (folder / 'config.json').write_text(json.dumps(config))
        with fault_at(monkeypatch, number, KilledError()) as calls, suppress(KilledError):
            write_export(folder, 2)
        assert ExportedModels(folder).models((96, 128)) in exports, calls
        # The next export is not held up by what was left, nor does it lose the last one.
        with fault_at(monkeypatch, 12, KilledError()), suppress(KilledError):
            write_export(folder, 3)
        exports.append(Models(b'key 3', b'current 3'))
        assert ExportedModels(folder).models((96, 128)) in exports, calls
        assert write_export(folder, 3) == ExportedModels(folder).models((96, 128))
        assert sorted(os.listdir(folder)) == ['config.json', 'current.onnx', 'key.onnx']
        if len(calls) <= number:
            break
    assert number >= 12, calls
