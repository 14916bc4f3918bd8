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
"""The plot of accuracy against time: its points by hand, and one small run, drawn again."""
import json
from pathlib import Path
import shutil
import sys

import cv2
from featshare_core.cli import main
from featshare_core.evaluation.accuracy import score
from featshare_core.evaluation.pages import results_page
from featshare_core.evaluation.pareto import computing_threads, front, points_of
from featshare_core.evaluation.provenance import write_json
from featshare_core.evaluation.rivals import PerFrame, RepeatMask
from featshare_core.evaluation.tables import pareto_table
from featshare_core.labels import CAMVID
from featshare_core.networks.checkpoint import Config, save_checkpoint
import numpy as np
import pytest
from test_accuracy import counting_video
from test_evaluate import Showing
import torch

RESULTS = Path(__file__).parents[1] / 'docs' / 'results'


def point(time, mean, worst=0.0):
    return {'label': '2', 'interval': 2, 'ms': 10 * time, 'time': time, 'mean': mean,
            'worst': worst}


def test_the_front_by_hand():
    points = [point(1, 75, 75), point(.5, 74, 70), point(.5, 73, 72), point(.6, 74, 71),
              point(.3, 60, 72)]
    assert front(points, 'mean') == [points[4], points[1], points[0]]
    assert front(points, 'worst') == [points[4], points[0]]


def test_points_by_hand():
    class Ticking:
        """Takes a second a look at the clock, so a frame takes one; at lag 1 it takes three."""

        seconds = 0.0

        def __call__(self):
            self.seconds += 1
            return self.seconds

    clock = Ticking()

    class Slow(RepeatMask):
        def current(self, frame, stream='', confidence=False):
            clock.seconds += 2
            return super().current(frame, stream, confidence)

    engines = {'per frame': PerFrame(Showing()), 'repeated': Slow(Showing())}
    scores = score(engines, counting_video(6, 6), 3, clock=clock, reach={'per frame': 1})
    assert [len(times) for times in scores['per frame'].milliseconds] == [6]
    assert engines['per frame'].engine.keys == 6  # each frame once, not at every lag
    assert scores['per frame'].frames == scores['repeated'].frames == 4
    assert points_of(scores['per frame'], '64x32', (1,), 1000.0) == [
        {'label': '64x32', 'interval': 1, 'ms': 1000, 'time': 1, 'mean': 100, 'worst': 100,
         'things': None}]
    assert points_of(scores['repeated'], '', (2, 3), 2000.0) == [
        {'label': '2', 'interval': 2, 'ms': 2000, 'time': 1, 'mean': 50, 'worst': 0,
         'things': None},
        {'label': '3', 'interval': 3, 'ms': pytest.approx(7000 / 3),
         'time': pytest.approx(7 / 6), 'mean': pytest.approx(100 / 3), 'worst': 0,
         'things': None}]


def test_threads_are_restored():
    before = torch.get_num_threads(), cv2.getNumThreads()
    with pytest.raises(ValueError, match='once'), computing_threads(1):
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)
        raise ValueError('once')
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before


@pytest.fixture
def street(tmp_path):
    """A tiny CamVid: seven frames of a video, all labelled."""
    rng = np.random.default_rng(0)
    for folder in ('val', 'valannot'):
        (tmp_path / 'camvid' / folder).mkdir(parents=True)
    for index in range(7):
        name = f'clip_{index:05d}.png'
        cv2.imwrite(str(tmp_path / 'camvid' / 'val' / name),
                    rng.integers(0, 256, (96, 128, 3), np.uint8))
        mask = np.repeat(np.arange(12, dtype=np.uint8), 8)[None].repeat(128, 0).T  # 96x128
        cv2.imwrite(str(tmp_path / 'camvid' / 'valannot' / name), mask)
    return tmp_path / 'camvid'


def test_one_run_is_measured_and_drawn_again(tmp_path, street, monkeypatch, one_thread, capsys):
    # Exporting to the other engines takes most of the time.
    for package in ('openvino', 'onnx', 'onnxruntime'):
        monkeypatch.setitem(sys.modules, package, None)
    weights = []
    for name, levels in (('mine', 2), ('light', 1)):
        torch.manual_seed(levels)
        config = Config('fpn-efficientnet-lite0', CAMVID, (96, 128), {'shared_levels': levels})
        weights.append(str(tmp_path / f'{name}.safetensors'))
        save_checkpoint(weights[-1], config.build(), config)
    file = tmp_path / 'results' / 'pareto.json'
    options = ['--weights', *weights, '--data', 'camvid', '--root', str(street), '--device', 'cpu',
               '--precision', 'fp32', '--frames', '1']
    assert main(['pareto', str(file), *options]) == 0
    result = json.loads(file.read_text())
    assert str(tmp_path) not in file.read_text()
    assert (result['clock'], result['threads'], result['frames']) == ('cpu', 1, 1)
    points = {method['name']: method['points'] for method in result['methods']}
    for name in ('mine', 'light'):
        name = f'{name}.safetensors'
        # Sides are multiples of 32, so that some of the six sizes are one.
        assert [p['label'] for p in points[f'{name}, per frame']] == ['128x96', '96x96', '96x64']
        for cut in ('1 level', '2 levels', '3 levels'):
            # The video is too short for interval 10.
            assert [p['interval'] for p in points[f'{name}, {cut}']] == [2, 3, 4, 5]
        for rival in ('the mask repeated', 'undivided, moved frames', 'Clockwork, untrained'):
            assert [p['interval'] for p in points[f'{name}, {rival}']] == [2, 3, 4, 5]
        assert 0 <= points[f'{name}, 2 levels'][0]['things'] <= 100
    first = points['mine.safetensors, per frame'][0]
    assert first['time'] == 1 and first['ms'] == result['per_frame_ms']
    repeated = points['mine.safetensors, the mask repeated']
    assert repeated[3]['time'] < 0.5
    assert repeated[0]['worst'] >= repeated[3]['worst']

    said = capsys.readouterr().out
    picture = file.with_suffix('.png')
    drawn = picture.read_bytes()
    assert cv2.imread(str(picture)).std() > 1
    picture.unlink()
    assert main(['pareto', str(file)]) == 0
    assert picture.read_bytes() == drawn
    assert capsys.readouterr().out == said
    assert pareto_table(result) in said and '| mine.safetensors, per frame | 128x96 | 1.00' in said


def test_the_report_shows_it(tmp_path):
    shutil.copytree(RESULTS, tmp_path / 'results')
    report = tmp_path / 'results' / 'camvid-val' / 'report.json'
    report.with_name('pareto.json').unlink(missing_ok=True)
    assert '## Accuracy against time' not in results_page(report)
    write_json(report.with_name('pareto.json'), {
        'command': 'featshare pareto pareto.json', 'machine': 'a robot', 'versions': {},
        'commit': None, 'frames': 87, 'methods': [
            {'name': 'default, 2 levels', 'kind': 'sharing', 'weights': 'default',
             'points': [point(.5, 75.2, 74.7)]},
            {'name': 'default, per frame', 'kind': 'per frame', 'weights': 'default',
             'points': [point(1, 75.2, 75.2)]}]})
    page = results_page(report)
    assert '![mIoU against time](camvid-val/pareto.png)' in page
    assert '| default, 2 levels | 2 | 0.50 | 5.0 | **75.2** | **74.7** |' in page
    assert '| default, per frame | 2 | 1.00 | 10.0 | 75.2 | **75.2** |' in page
    # Within half of the time there is no per-frame point, and within 0.4 none at all.
    assert ('| at most 0.5 | mIoU %, worst lag | – | 74.7 `default`, 2 levels, interval 2 '
            '| – |') in page
    assert '| at most 0.4 | mIoU %, worst lag | – | – | – |' in page


def test_what_cannot_be_drawn_is_said(tmp_path, capsys):
    (tmp_path / 'other.json').write_text('{"command": "x"}')
    assert main(['pareto', str(tmp_path / 'other.json')]) == 1
    assert 'other.json is no result of featshare pareto' in capsys.readouterr().err
    assert main(['pareto', str(tmp_path / 'none.json'), '--data', 'camvid']) == 1
    assert '--data camvid needs --root FOLDER' in capsys.readouterr().err
    assert main(['pareto', str(tmp_path / 'none.json'), '--data', 'camvid', '--root', 'x',
                 '--weights', '/a/final.safetensors', '/b/final.safetensors']) == 1
    assert 'give each checkpoint another name' in capsys.readouterr().err
