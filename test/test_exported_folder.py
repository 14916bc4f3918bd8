"""Folders that `featshare export` wrote, given to every command that takes weights."""
import json
import shutil

import cv2
import numpy as np
import pytest
from bags import outputs, picture, without_times, write_bag

from featshare_core.cli import main as featshare
from featshare_core.inference.export.models import (
    export,
    fingerprint,
    read_config,
)
from featshare_core.labels import CAMVID
from featshare_core.networks.checkpoint import load_checkpoint
from featshare_core.networks.weights import absolute_weights
from featshare_ros.recordings.segment_bag import main as segment_bag

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

ENGINE = ('--engine', 'onnx', '--precision', 'fp32')


@pytest.fixture(scope='module')
def exported(tmp_path_factory, random_checkpoint):
    folder = tmp_path_factory.mktemp('models') / 'exported'
    export(*load_checkpoint(random_checkpoint), folder, (96, 128))
    return folder


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
    (other / 'current.onnx').write_bytes((other / 'current.onnx').read_bytes() + b'\0')
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
    ('key.onnx', b'', 'ONNX Runtime cannot load the models'),
    ('current.onnx', b'damaged', 'ONNX Runtime cannot load the models')])
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
