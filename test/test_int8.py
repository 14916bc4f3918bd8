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
"""Models that `featshare export --int8` has quantised."""
import json
import shutil

import cv2
from featshare_core import export_command
from featshare_core.cli import main as featshare
from featshare_core.data.synthetic import RenderedStreet
from featshare_core.inference import engines
from featshare_core.inference.engines import engine_choices, make_engine
from featshare_core.inference.export.models import ExportedModels, fingerprint
from featshare_core.inference.segmenter import VideoSegmenter
from featshare_core.networks.checkpoint import CheckpointError
import numpy as np
import pytest
import torch

pytest.importorskip('nncf')
pytestmark = pytest.mark.usefixtures('one_thread')
FRAMES = 12


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    """A folder with a rendered street, and its frames."""
    folder = tmp_path_factory.mktemp('street')
    street = RenderedStreet(256, 128, seed=3)
    frames = [street.frame(index)[0] for index in range(FRAMES)]
    for index, frame in enumerate(frames):
        cv2.imwrite(str(folder / f'{index:03d}.png'), frame[..., ::-1])
    return folder, frames


@pytest.fixture(scope='module')
def exported(tmp_path_factory, video):
    folder = tmp_path_factory.mktemp('int8') / 'models'
    assert featshare(['export', str(folder), '--weights', 'light', '--int8', str(video[0]),
                      '--size', '256x128']) == 0
    return folder


def test_its_masks_are_those_of_the_network(exported, video):
    int8 = VideoSegmenter(make_engine(exported, 'openvino', 'cpu', 'fp32'), 4)
    plain = VideoSegmenter(make_engine('light', 'openvino', 'cpu', 'fp32', input_size=(256, 128)),
                           4)
    assert int8.engine.network_name == f'{plain.engine.network_name}, int8'
    same = []
    for frame in video[1]:
        ours, theirs = int8.segment(frame), plain.segment(frame)
        assert (ours.is_key, ours.frames_since_key) == (theirs.is_key, theirs.frames_since_key)
        same.append((ours.mask == theirs.mask).mean())
    assert min(same) > 0.95, same
    # A quarter of fp32's weights, and not the same masks to the pixel: it is quantised.
    assert (exported / 'key.bin').stat().st_size < 0.5 * 12e6
    assert max(same) < 1


def test_motion_faster_than_in_the_calibration_is_found(exported):
    """int8 would clip displacements at the largest one of the calibration."""
    picture = RenderedStreet(640, 360, seed=0).frame(0)[0]
    before, after = (np.ascontiguousarray(picture[100:228, x:x + 256]) for x in (150, 230))
    masks = []
    for weights in ('light', exported):
        engine = make_engine(weights, 'openvino', 'cpu', 'fp32',
                             input_size=(256, 128) if weights == 'light' else None)
        engine.key(before)
        masks.append(engine.current(after).mask)
    assert (masks[0] == masks[1]).mean() > 0.95  # 0.73 with the search in int8


def test_deferred_key_frames_run_in_int8_too(exported, video):
    segmenter = VideoSegmenter(make_engine(exported, 'openvino', 'cpu', 'fp32'), 2,
                               key_mode='deferred')
    for frame in video[1]:
        segmenter.segment(frame)
    cache = segmenter.engine._caches['']
    if cache.newer is not None:
        cache.newer.result()
    segmenter.close()


def test_only_openvino_runs_it(exported):
    with pytest.raises(RuntimeError, match='in int8, for OpenVINO: choose engine openvino'):
        make_engine(exported, 'onnx', 'cpu')
    assert make_engine(exported, device='cpu').name == 'openvino'


def test_auto_tries_nothing_but_openvino(exported, tmp_path, monkeypatch):
    # On a machine with CUDA, ONNX Runtime came first, and its refusal ended the choice.
    monkeypatch.setattr(engines, 'choose_device', lambda wanted: torch.device('cuda:0'))
    assert make_engine(exported).name == 'openvino'
    assert [choice.engine for choice in engine_choices(exported) if choice.tried] == ['openvino']
    # Of a damaged folder, the cause is reported, not that ONNX Runtime cannot run it.
    folder = tmp_path / 'damaged'
    shutil.copytree(exported, folder)
    (folder / 'current.bin').write_bytes(b'')
    with pytest.raises(CheckpointError, match=r'current\.bin does not match config\.json'):
        make_engine(folder, device='cpu').key(np.zeros((128, 256, 3), np.uint8))


def test_the_size_is_the_videos_own(video, tmp_path):
    assert featshare(['export', str(tmp_path / 'out'), '--weights', 'light', '--int8',
                      str(video[0])]) == 0
    assert ExportedModels(tmp_path / 'out').size == (288, 576)


def test_a_damaged_folder_is_refused(exported, tmp_path):
    folder = tmp_path / 'damaged'
    shutil.copytree(exported, folder)
    (folder / 'current.bin').write_bytes(b'')
    damaged = r'current\.bin does not match config\.json'
    with pytest.raises(CheckpointError, match=damaged):
        fingerprint(folder)
    with pytest.raises(CheckpointError, match=damaged):
        make_engine(folder, 'openvino', 'cpu').key(np.zeros((128, 256, 3), np.uint8))
    (folder / 'current.bin').unlink()
    with pytest.raises(CheckpointError, match=r'holds no current\.bin'):
        make_engine(folder, 'openvino', 'cpu')
    content = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text('[' * 100_000)
    with pytest.raises(CheckpointError, match='RecursionError'):
        make_engine(folder, 'openvino', 'cpu')
    (folder / 'config.json').write_text(json.dumps({**content, 'precision': 'int4'}))
    with pytest.raises(CheckpointError, match='int4'):
        make_engine(folder, 'openvino', 'cpu')


def test_what_cannot_be_calibrated_is_refused(tmp_path, video, capsys):
    (tmp_path / 'one').mkdir()
    shutil.copy(video[0] / '000.png', tmp_path / 'one')
    for source, reason in ((tmp_path / 'one', 'give at least two'),
                           (tmp_path / 'none.mp4', 'does not exist')):
        assert featshare(['export', str(tmp_path / 'out'), '--weights', 'light', '--int8',
                          str(source), '--size', '64x64']) == 1
        assert reason in capsys.readouterr().err
        assert not (tmp_path / 'out').exists()


def test_calibration_frames_are_pairs_from_the_whole_video(tmp_path, monkeypatch):
    for index in range(23):
        cv2.imwrite(str(tmp_path / f'{index:02d}.png'), np.full((8, 8, 3), index, np.uint8))
    monkeypatch.setattr(export_command, 'PAIRS', 3)
    pairs = export_command._pairs(tmp_path, (4, 6))
    assert [[int(frame[0, 0, 0]) for frame in pair] for pair in pairs] == [[0, 1], [7, 9],
                                                                         [14, 17]]
    assert pairs[0][0].shape == (4, 6, 3)
