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
"""MaskMaker: masks of few classes at a time are those of all logits upsampled."""
import tracemalloc

from featshare_core.inference.cpu.masks import KEPT_MASKS, MaskMaker
import numpy as np
import pytest
import torch
from torch.nn import functional as F


@pytest.mark.parametrize(('size', 'threads'), [
    ((17, 23), 1), ((64, 64), 4), ((333, 501), 4), ((720, 1280), 1), ((720, 1280), 2),
    ((720, 1280), 4)])
def test_the_mask_maker_upsamples_before_it_decides(size, threads, monkeypatch):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: threads)
    logits = torch.randn(1, 13, 16, 24, generator=torch.Generator().manual_seed(3))
    expected = F.interpolate(logits, size, mode='bilinear').softmax(1).max(1)
    maker = MaskMaker()
    for _ in range(2):
        maker.make(logits[0, :9].numpy(), (600, 1000))  # another camera's
        mask, confidence = maker.make(logits[0].numpy(), size, confidence=True)
        assert (mask == expected.indices[0].numpy()).mean() > 0.999
        assert np.abs(confidence.astype(int) - (255 * expected.values[0].numpy())).max() < 1


@pytest.mark.parametrize('size', [(720, 1280), (375, 1241), (101, 103), (1080, 1920)])
@pytest.mark.parametrize('threads', [1, 2])
def test_a_class_that_wins_here_and_there_is_found_everywhere(size, threads, monkeypatch):
    """Each class is upsampled where it can win alone: at borders, between logits, nowhere."""
    monkeypatch.setattr(torch, 'get_num_threads', lambda: threads)
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 0.1, (8, 20, 34)).astype(np.float32)
    logits[0] += 5
    logits[2, 4:9, 30:] += 10
    logits[3, 19, 0] += 9
    # Second best at two neighbours, and best in the middle between them.
    logits[4, 12, 10], logits[5, 12, 11], logits[6, 12, 10:12] = 12, 12, 11.5
    logits[7, 0, :] += 7
    expected = F.interpolate(torch.from_numpy(logits)[None], size, mode='bilinear')[0].argmax(0)
    assert set(expected.unique().tolist()) == {0, 2, 3, 4, 5, 6, 7}
    maker = MaskMaker()
    for _ in range(2):
        mask, confidence = maker.make(logits, size)
        assert confidence is None
        assert (mask != expected.numpy()).mean() < 1e-4
        assert (np.bincount(mask.ravel(), minlength=8) > 0).tolist() == [1, 0, 1, 1, 1, 1, 1, 1]
        maker.make(logits[:6, :10], (200, 300))  # another camera's
        maker.make(np.repeat(logits[:2], 2, 1), (400, 600))
    assert (MaskMaker().make(np.full_like(logits, np.nan), size)[0] == 0).all()


def test_the_memory_for_one_large_mask_is_freed_after_a_while(monkeypatch):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 2)
    logits = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    maker = MaskMaker()
    tracemalloc.start()
    try:
        expected = maker.make(logits, (48, 64))[0]
        before = tracemalloc.get_traced_memory()[0]
        maker.make(logits, (2000, 2000))
        assert tracemalloc.get_traced_memory()[0] - before > 40_000_000
        for _ in range(KEPT_MASKS):
            np.testing.assert_array_equal(maker.make(logits, (48, 64))[0], expected)
        assert tracemalloc.get_traced_memory()[0] - before < 1_000_000
        # Cameras that take turns keep theirs.
        maker.make(logits, (100, 100))
        for _ in range(2 * KEPT_MASKS):
            maker.make(logits, (48, 64))
            kept = maker._heats[0]
            maker.make(logits, (100, 100))
            assert maker._heats[0] is kept
    finally:
        tracemalloc.stop()
