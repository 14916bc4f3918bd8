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
"""Pseudo labels: the baseline's argmax, made once and kept on disk."""
import cv2
from featshare_core.data.source import Labelled, Source
from featshare_core.data.store import FrameStore
from featshare_core.labels import CAMVID
from featshare_core.networks.checkpoint import load_checkpoint
from featshare_core.training.pseudo_labels import normalise, PseudoLabels
import numpy as np
import pytest
import torch
from torch.nn import functional as F

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture
def checkpoint(baselines):
    return baselines / 'fpn-efficientnet-lite0.safetensors'


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (64, 96, 3), np.uint8) for _ in range(3)]


def store_of(images, in_memory):
    samples = [Labelled((str(i),), str(i)) for i in range(len(images))]
    source = Source('noise', CAMVID, samples, lambda name: images[int(name)],
                    lambda mask, frame: np.zeros((64, 96), np.uint8))
    store = FrameStore(source, (96, 64))
    if in_memory:
        store.load(0)
    return store


def test_they_are_the_baselines_argmax_and_made_once(checkpoint, images, tmp_path):
    network, config = load_checkpoint(checkpoint, shared_levels=0)
    labels = PseudoLabels(checkpoint, tmp_path)
    cpu = torch.device('cpu')
    assert labels.make(network, config, store_of(images[:2], False), 0, cpu) == 2
    again = PseudoLabels(checkpoint, tmp_path)
    assert again.make(network, config, store_of(images, True), 0, cpu) == 1
    for number, image in enumerate(images):
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            logits = F.interpolate(network(normalise(pixels, config)), (64, 96), mode='bilinear')
        expected = logits.argmax(1)[0].numpy()
        assert (again(image) == expected).mean() > .99, number
        assert (labels(image) == again(image)).all()


def test_another_baseline_has_labels_of_its_own(checkpoint, images, tmp_path):
    other = tmp_path / 'other.safetensors'
    other.write_bytes(checkpoint.read_bytes() + b' ')
    assert PseudoLabels(other, tmp_path).folder != PseudoLabels(checkpoint, tmp_path).folder
    with pytest.raises(ValueError, match=r'pseudo labels .*\.png are missing or damaged'):
        PseudoLabels(other, tmp_path)(images[0])


def test_damaged_labels_are_computed_again(checkpoint, images, tmp_path):
    network, config = load_checkpoint(checkpoint, shared_levels=0)
    labels = PseudoLabels(checkpoint, tmp_path)
    cpu = torch.device('cpu')
    labels.make(network, config, store_of(images[:1], False), 0, cpu)
    (file,) = labels.folder.glob('*.png')
    whole = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    file.write_bytes(file.read_bytes()[:30])
    with pytest.raises(ValueError, match='damaged'):
        labels(images[0])
    # What lies on the disk is not looked through again, once all was labelled.
    assert labels.make(network, config, store_of(images[:1], False), 0, cpu) == 0
    assert labels.make(network, config, store_of(images[:1], True), 0, cpu) == 1
    assert (labels(images[0]) == whole).all()
