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
"""Small training runs, for the tests of training."""
import csv
from pathlib import Path

from featshare_core.training.config import load_config
from featshare_core.training.run import train
import yaml

SMALL = {
    'size': [64, 64], 'crop': [64, 64], 'batch': 2, 'epochs': 1, 'steps_per_epoch': 2,
    'train': [{'kind': 'street', 'seeds': [1, 1], 'length': 16}],
    'val': {'kind': 'street', 'seeds': [2, 2], 'length': 2}, 'interval': 2}
# A sharing run with everything random that a run has, on the smaller network. No longer than its
# distances: processes of their own render it again.
SHARING = {
    **SMALL, 'train': [{'kind': 'street', 'seeds': [1, 1], 'length': 6}],
    'network': 'fpn-efficientnet-lite0', 'shared_levels': [1, 2], 'distances': [0, 4],
    'augmentation': {'rotation': 10, 'scale': [.7, 1.8], 'flip': True, 'colour': True},
    'loss': {'alpha': 'inverse', 'distillation_weight': 1.0, 'class_weights': True},
    'optimizer': 'adamw', 'lr': 1e-3, 'schedule': 'one-cycle', 'gradient_clip': 5.0}


def write(path, content):
    path.write_text(yaml.safe_dump(content))
    return path


def train_file(path, output, changes=None):
    return train(load_config([path], changes or {}), output, Path(), 'cpu', progress=False,
                 precision='fp32')


def losses(output):
    """Return the rows of a run's log that hold losses."""
    rows = []
    for file in sorted(output.glob('metrics-*/metrics.csv')):
        with file.open() as lines:
            rows += [{n: float(v) for n, v in row.items() if n.startswith('train/')}
                     for row in csv.DictReader(lines) if row.get('train/loss')]
    return rows


def per_frame(baselines, **changes):
    """Return a run of one step that starts from the smaller network's random baseline."""
    return {**SMALL, 'network': 'fpn-efficientnet-lite0', 'shared_levels': 0, 'steps_per_epoch': 1,
            'baseline': str(baselines / 'fpn-efficientnet-lite0.safetensors'),
            'frozen_norms': 'all', **changes}
