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
"""Sharing's cost on video without labels, on masks that can be counted by hand."""
import json
import sys

from bags import picture, write_bag
import cv2
from featshare_core.cli import main
from featshare_core.evaluation.unlabelled import compared, SharingCost
from featshare_core.inference.engine import Engine, Prediction
from featshare_core.labels import LabelSet
from featshare_ros.recordings.evaluate_bag import main as evaluate_bag
import numpy as np
import pytest

LABELS = LabelSet(('building', 'car', 'sky'), ((0, 0, 0),) * 3)
WIDTH = 40


def frame(t):
    """A car of two columns, which moves right by one a frame; a frame shows its mask."""
    picture = np.zeros((100, WIDTH, 3), np.uint8)
    picture[:, t:t + 2] = 1
    return picture


class Late(Engine):
    """Right on key frames and at lag 1; later it shows the frame before."""

    labels = LABELS

    def __init__(self):
        self.streams = {}

    def key(self, frame, stream='', confidence=False):
        self.streams[stream] = [frame[:, :, 0]]
        return Prediction(frame[:, :, 0], None, 0, {})

    def current(self, frame, stream='', confidence=False):
        shown = self.streams[stream]
        shown.append(frame[:, :, 0])
        lag = len(shown) - 1
        return Prediction(shown[-1 if lag == 1 else -2], None, lag, {})

    def defer(self, frame, stream='', confidence=False):
        raise NotImplementedError

    def forget(self, stream):
        pass

    def close(self):
        pass


@pytest.mark.parametrize('stride', [1, 3])
def test_cost_counted_by_hand(stride):
    cost = SharingCost(Late(), 3, stride)
    for t in range(12):
        cost.add(frame(t))
        assert len(cost._keys) <= 2 and len(cost.engine.streams) <= 4
    found = cost.summary()
    assert found['frames'] == 10
    # A mask repeated at lag 1 errs in 2 of 40 columns, at lag 2 in 4; sharing only at lag 2, in 2.
    assert found['pixels'] == {
        'shared': {'per_lag': [100, 100, 95], 'mean': 97.5, 'worst': 95},
        'repeated': {'per_lag': [100, 95, 90], 'mean': 92.5, 'worst': 90},
        'damage_remaining': {'per_lag': [None, 0, 50], 'mean': pytest.approx(100 / 3, abs=1e-3)}}
    # The car: one column of three at a shift of one, none of four at a shift of two.
    car, building = found['per_class']['car'], found['per_class']['building']
    assert list(found['per_class']) == ['building', 'car']
    assert (car['share_of_pixels'], building['share_of_pixels']) == (5, 95)
    assert car['shared']['per_lag'] == [100, 100, 33.333]
    assert car['repeated']['per_lag'] == [100, 33.333, 0]
    assert car['damage_remaining']['per_lag'] == [None, 0, 66.667]
    assert building['repeated']['per_lag'] == [100, 94.872, 90]
    miou = found['miou']
    assert miou['repeated']['per_lag'] == [100, pytest.approx((100 / 3 + 3700 / 39) / 2, abs=1e-3),
                                           45]
    assert miou['damage_remaining']['per_lag'] == [
        None, 0, pytest.approx(100 * (100 - miou['shared']['per_lag'][2]) / 55, abs=1e-3)]
    # Of the 38 columns where the per-frame masks of two frames agree, two change into a key frame.
    flicker = found['flicker']
    assert (flicker['key'], flicker['between'], flicker['ratio']) == (5.263, 0, None)
    things = {way: one['car'] for way, one in found['things'].items()}
    assert things['shared']['kept'] == [100, 100, 50]
    assert things['repeated']['kept'] == [100, 50, 0]
    assert things['repeated']['survivors'] == [100, 100, 0]
    assert list(things['shared']['by_motion']) == ['0-16']
    assert things['shared']['things'][1:] == ([10, 10] if stride == 1 else [3, 4])
    assert things['shared']['things'][0] == (10 if stride == 1 else 3)


def test_damage_that_is_none():
    assert compared([1, 0.5], [1, 1])['damage_remaining'] == {'per_lag': [None, None],
                                                             'mean': None}
    found = compared([1, None, 0.75], [1, None, 0.5])
    assert found['damage_remaining'] == {'per_lag': [None, None, 50], 'mean': None}
    assert found['shared']['worst'] == 75


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match='interval of 1 has no current frames'):
        SharingCost(Late(), 1)
    with pytest.raises(ValueError, match='stride is 1 frame or more'):
        SharingCost(Late(), 2, 0)
    with pytest.raises(ValueError, match="no class 'lorry'"):
        SharingCost(Late(), 2, things=['lorry'])
    cost = SharingCost(Late(), 3)
    cost.add(frame(0))
    with pytest.raises(ValueError, match=r'interval 3 needs .* there are 1'):
        cost.summary()
    with pytest.raises(ValueError, match='frame 1 is 40x50, the ones before it 40x100'):
        cost.add(frame(1)[:50])


@pytest.fixture
def pictures(tmp_path, monkeypatch, one_thread):
    """A folder of eight images; and no engine but PyTorch, since exporting takes long."""
    for package in ('openvino', 'onnx', 'onnxruntime'):
        monkeypatch.setitem(sys.modules, package, None)
    folder = tmp_path / 'clip'
    folder.mkdir()
    for index in range(8):
        cv2.imwrite(str(folder / f'{index}.png'), picture(index)[..., ::-1])
    return folder


def test_a_folder_and_a_recording_give_the_same(pictures, random_checkpoint, tmp_path, capsys):
    options = ['--weights', str(random_checkpoint), '--device', 'cpu', '--precision', 'fp32',
               '--interval', '3', '--things', 'tree', '--frames', '7']
    assert main(['evaluate', '--unlabelled', str(pictures), *options,
                 '--json', str(tmp_path / 'folder.json')]) == 0
    said = capsys.readouterr().out
    write_bag(tmp_path / 'bag', frames=8, cameras=('front',))
    assert evaluate_bag([str(tmp_path / 'bag'), *options,
                         '--json', str(tmp_path / 'bag.json')]) == 0
    one, other = (json.loads((tmp_path / f'{name}.json').read_text())
                  for name in ('folder', 'bag'))
    assert one['command'] == (f'featshare evaluate --unlabelled clip --weights '
                              f'{random_checkpoint.name} --interval 3 --stride 1 --frames 7 '
                              f'--things tree')
    assert other['command'].startswith('evaluate_bag bag --weights')
    assert one['data'] == {**other['data'], 'name': 'clip'}
    assert (one['data']['frames'], one['frames'], one['stride']) == (7, 5, 1)
    for name in ('pixels', 'miou', 'per_class', 'flicker', 'things', 'sha256', 'weights'):
        assert one[name] == other[name], name
    assert one['pixels']['shared']['per_lag'][0] == 100
    assert str(tmp_path) not in json.dumps([one, other])
    assert list(one['things']['shared']) == ['tree']
    for words in ('pixels: sharing', 'mIoU: damage that remains', 'mIoU is the mean over ',
                  'flicker %', 'what is left of things'):
        assert words in said


def test_of_a_long_video_every_frame_is_seen_at_one_lag(pictures, random_checkpoint, tmp_path,
                                                        monkeypatch):
    monkeypatch.setattr('featshare_core.evaluation.unlabelled.MANY', 7)
    for length, stride in (('8', 3), ('7', 1)):
        assert main(['evaluate', '--unlabelled', str(pictures), '--weights',
                     str(random_checkpoint), '--device', 'cpu', '--interval', '3', '--frames',
                     length, '--json', str(tmp_path / 'cost.json')]) == 0
        assert json.loads((tmp_path / 'cost.json').read_text())['stride'] == stride


def test_what_is_wrong_with_a_call_is_said(pictures, tmp_path, capsys):
    def failure(*arguments):
        assert main(['evaluate', *map(str, arguments)]) == 1
        return capsys.readouterr().err

    assert 'scores need --data and its --root (or --unlabelled VIDEO)' in failure()
    assert '--stride is for --unlabelled alone' in failure('--data', 'folder', '--root', pictures,
                                                           '--stride', 2)
    assert 'not --data and --root' in failure('--unlabelled', pictures, '--root', pictures)
    assert '2 frames are fewer than an interval of 5' in failure('--unlabelled', pictures,
                                                                 '--frames', 2)
    write_bag(tmp_path / 'bag', frames=2)
    assert evaluate_bag([str(tmp_path / 'bag')]) == 1
    assert 'several image topics, choose with --topic' in capsys.readouterr().err
