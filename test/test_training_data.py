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
"""A user's own data in training, and what a run says and keeps."""
import csv
import logging

import cv2
import numpy as np
import pytest

pytest.importorskip('lightning', reason='training needs the package lightning')

from featshare_core.networks.checkpoint import load_checkpoint
from featshare_core.training.config import load_config
from featshare_core.training.data import classes_without_labels, open_store
from featshare_core.training.module import Learner
from trainings import SMALL, train_file, write

pytestmark = pytest.mark.usefixtures('one_thread', 'streets_rendered_once')

LITE = {**SMALL, 'network': 'fpn-efficientnet-lite0', 'shared_levels': 0}


@pytest.fixture
def binary(tmp_path):
    """A data set of two classes, with masks of 0 and 255."""
    (tmp_path / 'labels.yaml').write_text(
        'classes:\n- {name: floor, color: [0, 0, 0]}\n- {name: lane, color: [1, 1, 1]}\n')
    (tmp_path / 'mapping.yaml').write_text('255: lane\n0: floor\n')
    for split in ('train', 'val'):
        for kind in ('frames', 'masks'):
            (tmp_path / split / kind / 'v').mkdir(parents=True)
            for index in range(2):
                picture = np.zeros((32, 32), np.uint8)
                picture[:, :16] = 255
                cv2.imwrite(str(tmp_path / split / kind / 'v' / f'{index}.png'), picture)
    data = {'kind': 'folder', 'root': '.'}
    return write(tmp_path / 'a.yaml', {
        **LITE, 'size': [32, 32], 'crop': [32, 32], 'train': [{**data, 'split': 'train'}],
        'val': {**data, 'split': 'val'}})


def stores(config, folder):
    return [open_store(entry, folder, config.size, 1) for entry in (*config.train, config.val)]


def test_a_class_without_a_pixel_is_not_learned_in_silence(binary, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('featshare_core.progress.INTERVAL', 0)
    config = load_config([binary], {})
    train, val = stores(config, tmp_path)
    assert f'reading {tmp_path.name} train: 2 of 2 frames, ' in capsys.readouterr().err
    with pytest.raises(ValueError, match=r'train \(.*no pixel is labelled lane. Its masks hold '
                       r'only 0 and 255, as .*allow_absent_classes: true accepts it'):
        classes_without_labels(config, [train], val)
    allowed = load_config([binary], {}, ['allow_absent_classes=true'])
    assert classes_without_labels(allowed, [train], val) == {'train': ['lane'], 'val': ['lane']}
    # What the mapping says is learned, in the order of labels.yaml.
    entry = '{kind: folder, root: ., mapping: mapping.yaml, '
    mapped = load_config([binary], {}, [f'train=[{entry} split: train}}]',
                                        f'val={entry} split: val}}'])
    train, val = stores(mapped, tmp_path)
    assert classes_without_labels(mapped, [train], val) == {'train': [], 'val': []}
    assert train.source.labels.names == ('floor', 'lane')
    assert train.mask(train.source.samples[0])[0, [0, 31]].tolist() == [1, 0]
    # Missing in val alone is an error too.
    with pytest.raises(ValueError, match=r'^val \(.*no pixel is labelled lane'):
        classes_without_labels(config, [train], stores(config, tmp_path)[1])
    with pytest.raises(ValueError, match='mapping is for the kind folder, not for camvid'):
        load_config([binary], {}, ['val={kind: camvid, mapping: a.yaml}'])
    (tmp_path / 'mapping.yaml').write_text('0: floor\n255: line\n')
    with pytest.raises(ValueError, match=r'mapping\.yaml: 255: line: no such class; there are'):
        stores(mapped, tmp_path)


class Collected(logging.Handler):
    """Keeps the messages of loggers."""

    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


def test_a_run_says_and_keeps_what_it_does(tmp_path, capfd, monkeypatch):
    collected = Collected()
    for part in ('pytorch', 'fabric'):
        monkeypatch.setattr(logging.getLogger(f'lightning.{part}.utilities.rank_zero'), 'handlers',
                            [collected])
    monkeypatch.setattr('featshare_core.progress.INTERVAL', 0)
    monkeypatch.setattr('featshare_core.progress.SLOW', 1)
    monkeypatch.setattr('lightning.Trainer.save_checkpoint', lambda *_, **__: None)

    def fail(*_):
        raise RuntimeError('the scores failed')

    monkeypatch.setattr(Learner, 'validation_step', fail)
    path = write(tmp_path / 'a.yaml', {**LITE, 'steps_per_epoch': 3})
    with pytest.raises(RuntimeError, match='the scores failed'):
        train_file(path, tmp_path / 'run')
    # Weights are there before the scores.
    assert load_checkpoint(tmp_path / 'run' / 'final.safetensors')[1].scores == {}
    said = capfd.readouterr()
    assert 'the backbone starts from random weights: --backbone-weights names better' in said.err
    assert 'training: starting at step 0 of 3\n' in said.err
    assert 'training: 3 of 3 steps, ' in said.err
    assert ' a second, 0:00:0' in said.err
    assert 'GPU available' in ''.join(collected.messages)
    assert 'Tip' not in ''.join(collected.messages)
    with (tmp_path / 'run' / 'metrics-0' / 'metrics.csv').open() as lines:
        rows = [row for row in csv.DictReader(lines) if row.get('step/loss')]
    assert [int(row['step']) for row in rows] == [0, 1, 2]
    assert all(float(row['step/loss']) > 0 and float(row['step/lr']) > 0 for row in rows)


def test_a_missing_extended_file_is_named_with_the_file_that_extends_it(tmp_path):
    path = write(tmp_path / 'rel.yaml', {'extends': 'train/baseline.yaml'})
    with pytest.raises(FileNotFoundError, match=(
            rf'^{path} extends train/baseline.yaml, which does not exist \(looked for '
            rf'{tmp_path}/train/baseline.yaml\)$')):
        load_config([path], {})
    with pytest.raises(ValueError, match='extends: 3 is no file name'):
        load_config([write(tmp_path / 'number.yaml', {'extends': 3})], {})
