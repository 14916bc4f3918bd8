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
"""Every term of the loss against values computed by hand."""
import math

from featshare_core.labels import UNLABELLED
from featshare_core.training import loss
from featshare_core.training.schedule import factor
import pytest
import torch


def logits_of(*pixels):
    """One row of pixels, given their class probabilities: 1xCx1xW."""
    return torch.tensor(pixels).log().T[None, :, None]


def test_alpha_falls_with_the_distance():
    alpha = loss.inverse_alpha(torch.tensor([0, 1, 4, 15]))
    torch.testing.assert_close(alpha, torch.tensor([1, 1 / 2, 1 / 5, 1 / 16]))


def test_nll_is_the_mean_over_the_labelled_pixels_of_each_sample():
    logits = logits_of([.5, .25, .25], [.1, .8, .1], [.2, .2, .6])
    labels = torch.tensor([[[0, 1, UNLABELLED]]])
    expected = -(math.log(.5) + math.log(.8)) / 2
    unlabelled = torch.full_like(labels, UNLABELLED)
    values = loss.nll(logits.repeat(2, 1, 1, 1), torch.cat((labels, unlabelled)))
    torch.testing.assert_close(values, torch.tensor([expected, 0.]))


def test_nll_weighs_classes():
    logits = logits_of([.5, .5], [.25, .75])
    value = loss.nll(logits, torch.tensor([[[0, 1]]]), torch.tensor([3., 1.]))
    torch.testing.assert_close(
        value, torch.tensor([-(3 * math.log(.5) + math.log(.75)) / 4]))


@pytest.mark.parametrize(('norm', 'expected'), [('l1', 1.5 + 4.), ('l2', 2.5 + 16.)])
def test_feature_match_is_a_mean_over_each_map_summed_over_maps(norm, expected):
    small, large = torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 2, 2)
    key = [torch.tensor([1., -2.]).view(1, 2, 1, 1), large + 4]
    torch.testing.assert_close(loss.feature_match([small, large], key, norm),
                               torch.tensor([expected]))


def test_feature_match_can_be_confined_to_where_classes_agree():
    current, key = torch.zeros(2, 2, 1, 2), torch.tensor([[1., 10.], [3., 10.]]).view(1, 2, 1, 2)
    # At twice the maps' size; the second sample agrees nowhere.
    agreement = torch.tensor([[True, True, False, False], [False] * 4])
    agreement = agreement.view(2, 1, 4).expand(2, 2, 4)
    value = loss.feature_match([current], [key.expand(2, -1, -1, -1)], 'l1', agreement)
    torch.testing.assert_close(value, torch.tensor([(1 + 3) / 2, 0.]))


def test_distillation_is_the_divergence_from_the_teacher():
    teacher = logits_of([.5, .5], [.9, .1])
    student = logits_of([.25, .75], [.9, .1])
    expected = (.5 * math.log(.5 / .25) + .5 * math.log(.5 / .75)) / 2
    torch.testing.assert_close(loss.distillation(student + 7, teacher - 3),
                               torch.tensor([expected]), atol=1e-6, rtol=1e-5)


def test_the_total_weighs_the_terms_by_distance():
    current, key = torch.tensor([1., 2.]), torch.tensor([3., 4.])
    key_on_current, match = torch.tensor([5., 6.]), torch.tensor([7., 8.])
    distilled = torch.tensor([9., 10.])
    alpha = loss.inverse_alpha(torch.tensor([1, 3]))
    value = loss.total_loss(current, key, key_on_current, match, distilled, alpha, .01, .5)
    first = .5 * 1 + .5 * (3 + 5) + .01 * 7 + .5 * 9
    second = .25 * 2 + .75 * (4 + 6) + .01 * 8 + .5 * 10
    torch.testing.assert_close(value, torch.tensor((first + second) / 2))


def test_learning_rates():
    # 100 epochs of 10 steps: updates at epochs 30, 60 and 90.
    exponential = [factor('exponential', step, 1000, 10) for step in (0, 299, 300, 600, 900)]
    assert exponential == pytest.approx([1, 1, math.exp(-.1), math.exp(-.3), math.exp(-.6)])
    assert factor('constant', 999, 1000, 10) == 1
    cycle = [factor('one-cycle', step, 1000, 10) for step in (0, 75, 150, 575, 1000)]
    assert cycle == pytest.approx([.04, .52, 1, .5, 0])
