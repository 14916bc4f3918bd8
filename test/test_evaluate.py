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
"""featshare evaluate, and the same maps scored by cityscapesScripts."""
import json

import cv2
from featshare_core.cli import main
from featshare_core.data.cityscapes import TRAINED
from featshare_core.evaluation.accuracy import score
from featshare_core.evaluation.rivals import Clockwork, Moving, PerFrame, RepeatMask
from featshare_core.evaluation.videos import DataChoice, Video
from featshare_core.inference.engine import Engine, Prediction
from featshare_core.labels import CAMVID, CITYSCAPES
from featshare_core.networks.checkpoint import Config, save_checkpoint
import numpy as np
import pytest
import torch

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A small network with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'random.safetensors'
    config = Config('fpn-efficientnet-lite0', CAMVID, (64, 64), {'shared_levels': 2})
    save_checkpoint(path, config.build(), config)
    return path


def write_video(root, frames=6, classes=11, last_id=None):
    """A data set of one's own: one video, random frames, CamVid's classes."""
    rng = np.random.default_rng(0)
    root.mkdir()
    entries = [f'- {{name: {name}, color: [{r}, {g}, {b}]}}'
               for name, (r, g, b) in zip(CAMVID.names[:classes], CAMVID.colors)]
    (root / 'labels.yaml').write_text('classes:\n' + '\n'.join(entries))
    for kind in ('frames', 'masks'):
        (root / 'val' / kind / 'drive').mkdir(parents=True)
    for index in range(frames):
        image = rng.integers(0, 256, (48, 64, 3), np.uint8)
        mask = rng.integers(0, classes, (48, 64), np.uint8)
        mask[:, :4] = 255
        if last_id is not None and index == frames - 1:
            mask[-1, -1] = last_id
        cv2.imwrite(str(root / 'val' / 'frames' / 'drive' / f'{index}.png'), image)
        cv2.imwrite(str(root / 'val' / 'masks' / 'drive' / f'{index}.png'), mask)
    return root


def test_json_holds_the_contract(tmp_path, checkpoint, capsys):
    root = write_video(tmp_path / 'mine')
    assert main(['evaluate', '--weights', str(checkpoint), '--data', 'folder', '--root',
                 str(root), '--split', 'val', '--interval', '3', '--shared-levels', '3',
                 '--device', 'cpu', '--precision', 'fp32',
                 '--json', str(tmp_path / 'score.json')]) == 0
    result = json.loads((tmp_path / 'score.json').read_text())
    miou = result['miou']
    assert set(miou) == {'key', 'current_mean', 'current_worst', 'per_lag', 'weighted'}
    assert len(miou['per_lag']) == 3
    assert miou['key'] == miou['per_lag'][0]
    assert miou['current_mean'] == pytest.approx(np.mean(miou['per_lag'][1:]), abs=2e-3)
    assert miou['current_worst'] == min(miou['per_lag'][1:])
    assert miou['weighted'] == pytest.approx(miou['key'] / 3 + 2 / 3 * miou['current_mean'],
                                             abs=2e-3)
    assert 0 < miou['key'] < 100
    assert list(result['per_class']) == list(CAMVID.names)
    for iou in result['per_class'].values():
        assert set(iou) == {'key', 'current_mean', 'per_lag'}
        assert iou['key'] == iou['per_lag'][0] and len(iou['per_lag']) == 3
    assert set(result['flicker']) == {'per_frame', 'key', 'between', 'ratio', 'pairs'}
    assert result['flicker']['pairs'] == 3
    assert result['things'] == {}  # noise has none of their size
    assert list(result['videos']) == ['drive']
    assert result['videos']['drive']['miou'] == miou
    assert result['videos']['drive']['frames'] == 4
    assert (result['frames'], result['labelled_frames'], result['interval']) == (4, 6, 3)
    assert (result['precision'], result['shared_levels']) == ('fp32', 3)
    assert str(tmp_path) not in json.dumps(result)
    said = capsys.readouterr().out
    assert 'mIoU %   key' in said
    assert 'over 11 of 11 classes' in said
    assert '! 0 levels' not in said


def test_what_is_wrong_is_reported(tmp_path, checkpoint, capsys):
    def failure(root, *more, data='folder'):
        assert main(['evaluate', '--weights', str(checkpoint), '--data', data, '--root',
                     str(root), '--device', 'cpu', *more]) == 1
        return capsys.readouterr().err

    assert 'interval 9 is longer than the video' in failure(
        write_video(tmp_path / 'short'), '--interval', '9')
    assert '5.png holds the id 12; known are 0 to 10 and 255' in failure(
        write_video(tmp_path / 'odd', last_id=12))
    error = failure(write_video(tmp_path / 'other', classes=3))
    assert 'the network tells apart sky, building, ' in error
    assert '; --mapping FILE says which of its classes each id is' in error
    assert 'preparing' not in error
    broken = write_video(tmp_path / 'broken')
    (broken / 'val' / 'frames' / 'drive' / '3.png').unlink()
    assert 'has no frame' in failure(broken)
    assert 'valannot is missing' in failure(_camvid_without_masks(tmp_path), data='camvid')
    assert 'shared_levels is one of 0, 1, 2, 3' in failure(broken.parent / 'short',
                                                           '--shared-levels', '4')


def _camvid_without_masks(tmp_path):
    (tmp_path / 'camvid' / 'val').mkdir(parents=True)
    return tmp_path / 'camvid'


class Answering(Engine):
    """Answers each frame with the map that belongs to it."""

    def __init__(self, masks):
        self.masks = iter(masks)

    def key(self, frame, stream='', confidence=False):
        return Prediction(next(self.masks), None, 0, {})

    current = defer = key

    def forget(self, stream):
        pass

    def close(self):
        pass


def test_cityscapes_scripts_agree(real_data, tmp_path):
    """The machine-made maps of the labelled frames, scored against the hand-made ones."""
    scripts = pytest.importorskip(
        'cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling',
        reason='cityscapesScripts requires an obsolete `typing` that breaks mypy, so it is no '
               'dependency: pip install --no-deps cityscapesScripts pyquaternion')
    root = real_data / 'cityscapes'
    truths = sorted((root / 'gtFine').glob('train/*/*_labelIds.png'))
    predictions = [root / 'machine_labels' / path.relative_to(root / 'gtFine') for path in truths]
    # The scripts count an ignored prediction on a labelled pixel as missed, but a network has
    # only the 19 classes: those pixels are given to one of them.
    table = np.full(256, 7, np.uint8)
    table[list(TRAINED)] = TRAINED
    files, classes = [], []
    for path in predictions:
        ids = table[cv2.imread(str(path), cv2.IMREAD_UNCHANGED)]
        files.append(str(tmp_path / path.name))
        cv2.imwrite(files[-1], ids)
        classes.append(np.searchsorted(TRAINED, ids).astype(np.uint8))
    arguments = scripts.args
    arguments.evalInstLevelScore = arguments.JSONOutput = False
    arguments.quiet = True
    theirs = scripts.evaluateImgLists(files, list(map(str, truths)), arguments)

    video = Video(DataChoice('cityscapes', root, 'train').open(), CITYSCAPES)
    ours = score({'': Answering(classes)}, video, 1)[''].summary()
    assert ours['frames'] == 4
    assert ours['miou']['key'] == pytest.approx(100 * theirs['averageScoreClasses'], abs=1e-3)
    for name, iou in ours['per_class'].items():
        expected = theirs['classScores'][name]
        assert iou['key'] == (None if np.isnan(expected)
                              else pytest.approx(100 * expected, abs=1e-3)), name


def test_cityscapes_in_the_classes_of_camvid(real_data):
    source = DataChoice('cityscapes', real_data / 'cityscapes', 'train').open()
    sample = source.samples[0]
    as_published = Video(source, CITYSCAPES).read_truth(sample)
    translated = Video(source, CAMVID).read_truth(sample)
    for name, other in (('road', 'road'), ('vegetation', 'tree'), ('person', 'pedestrian')):
        pixels = as_published == CITYSCAPES.names.index(name)
        assert pixels.any()
        assert (translated[pixels] == CAMVID.names.index(other)).all()
    assert (translated[as_published == CITYSCAPES.names.index('terrain')] == 255).all()


class Showing(Engine):
    """Shows a frame's first channel as its mask, and counts its key frames."""

    name = device = precision = network_name = 'test'
    labels, trained_size = CAMVID, (1, 1)
    keys = 0

    def key(self, frame, stream='', confidence=False):
        self.keys += 1
        return Prediction(frame[:, :, 0].copy(), None, 0, {})

    def current(self, frame, stream='', confidence=False):
        return Prediction(frame[:, :, 0] + 100, None, 0, {})

    defer = current

    def forget(self, stream):
        pass

    def close(self):
        pass


def test_rivals_by_hand():
    frames = [np.full((4, 4, 3), index, np.uint8) for index in range(5)]

    def shown(rival):
        inside = rival.engine
        masks = [(rival.current if index else rival.key)(frame).mask[0, 0]
                 for index, frame in enumerate(frames)]
        return masks, inside.keys

    assert shown(PerFrame(Showing())) == ([0, 1, 2, 3, 4], 5)
    assert shown(RepeatMask(Showing())) == ([0, 0, 0, 0, 0], 1)
    # The deep stages run on every other frame.
    assert shown(Clockwork(Showing())) == ([0, 101, 2, 103, 4], 3)


def test_flow_moves_the_mask_with_the_picture():
    rng = np.random.default_rng(0)
    wide = cv2.GaussianBlur(rng.integers(0, 256, (96, 160, 3), np.uint8), (0, 0), 3)
    wide = cv2.normalize(wide, None, 0, 255, cv2.NORM_MINMAX)
    before, after = (np.ascontiguousarray(wide[:, x:x + 128]) for x in (8, 12))
    rival = Moving(Showing(), 1)
    rival.key(before)
    moved = rival.current(after).mask
    wanted = after[:, :, 0]
    inside = np.s_[16:-16, 16:-16]
    error = np.abs(moved.astype(int) - wanted)[inside].mean()
    still = np.abs(before[:, :, 0].astype(int) - wanted)[inside].mean()
    assert error < still / 4
