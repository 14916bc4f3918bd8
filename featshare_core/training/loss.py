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
"""
The loss, term by term (thesis, ch. 4; where the thesis misprints a formula, our reading is named).

Every term is one number per sample, so that each sample's distance weighs its own terms, and so
that the mean over processes of the means over their samples is the mean over all.
"""
from __future__ import annotations

from collections.abc import Sequence

from featshare_core.labels import UNLABELLED
import torch
from torch import Tensor
from torch.nn import functional as F


def inverse_alpha(distance: Tensor) -> Tensor:
    """Return the current frames' weights, alpha(d) = 1 / (d + 1), for N distances in frames."""
    return 1 / (distance + 1.0)


def nll(logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """
    Return NLL(P, y) = - sum_p w(y_p) log P_p(y_p) / sum_p w(y_p) over the labelled pixels p.

    The thesis prints the logarithm of a sum over classes and pixels; we read a mean over pixels
    of the true class's negative log-likelihood, P being the softmax over the classes.

    :param logits: NxCxHxW; ``labels``: NxHxW int64, 0 to C - 1 or ``UNLABELLED``.
    :param class_weights: w, C of them; 1 for each class where None.
    :returns: N values; 0 for a sample without a labelled pixel.
    """
    # NxHxW, 0 where there is no label.
    losses = F.cross_entropy(logits, labels, class_weights, ignore_index=UNLABELLED,
                             reduction='none')
    labelled = labels != UNLABELLED
    weights = labelled.to(losses.dtype)
    if class_weights is not None:
        weights = weights * class_weights[labels.where(labelled, torch.zeros_like(labels))]
    return losses.sum((1, 2)) / weights.sum((1, 2)).clamp(min=1e-6)


def feature_match(current: Sequence[Tensor], key: Sequence[Tensor], norm: str,
                  agreement: Tensor | None = None) -> Tensor:
    """
    Return sum_k mean |w_k(I_c) - w_k(I_k)|^n over the K shared maps w_k, n = 1 (L1) or 2 (L2).

    The thesis prints a sum over a map's elements, which would drown the other terms; we read a
    mean. The maps are those that ``SplitNetwork.high`` returns, which S^prop carries; of our FPN
    one, the deep levels' part of the fusion.

    :param current, key: K maps NxC_kxh_kxw_k each, of the current and of the key frame.
    :param norm: ``l1`` or ``l2``.
    :param agreement: NxHxW bool; only positions whose nearest pixel is true count, as in DCFM
        (arXiv 2403.02689), which matches features where both frames' classes agree.
    :returns: N values.
    """
    total = torch.zeros((), device=current[0].device)
    for ours, theirs in zip(current, key):
        difference = ours.float() - theirs.float()  # NxC_kxh_kxw_k
        difference = difference.abs() if norm == 'l1' else difference.square()
        if agreement is None:
            total = total + difference.mean((1, 2, 3))
        else:
            # Nx1xh_kxw_k, 1 where the classes agree.
            counts = F.interpolate(agreement[:, None].float(), difference.shape[-2:])
            matched = (difference.mean(1, keepdim=True) * counts).sum((1, 2, 3))
            total = total + matched / counts.sum((1, 2, 3)).clamp(min=1)
    return total


def distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """
    Return KL(T || P) = mean_p sum_c T_p(c) (log T_p(c) - log P_p(c)) over the pixels p.

    :param logits: NxCxHxW; P their softmax. With shared features, those of the current frame.
    :param teacher: NxCxHxW of the frozen teacher on the same frame; T their softmax.
    :returns: N values.
    """
    log_p, log_t = logits.log_softmax(1), teacher.log_softmax(1)  # NxCxHxW
    return (log_t.exp() * (log_t - log_p)).sum(1).mean((1, 2))


def total_loss(current: Tensor, key: Tensor, key_on_current: Tensor, match: Tensor,
               distilled: Tensor, alpha: Tensor, match_weight: float,
               distillation_weight: float) -> Tensor:
    """
    Return L_total, the mean over the batch of all terms, each of N values.

    L = alpha NLL(P^c(I_c), y_c) + (1 - alpha) [NLL(P^k(I_k), pseudo(I_k)) + NLL(P^k(I_c), y_c)]
        + lambda sum_k |w_k(I_c) - w_k(I_k)| + delta KL(T(I_c) || P^c(I_c))

    The last term is ours (delta = 0 in the thesis). The thesis sums over the batch; a mean makes
    the learning rate independent of the batch.

    :param current: NLL(P^c(I_c), y_c), the current frame with the key frame's features.
    :param key: NLL(P^k(I_k), pseudo(I_k)), the key frame against the baseline's classes.
    :param key_on_current: NLL(P^k(I_c), y_c), the current frame on its own.
    :param match: sum_k |w_k(I_c) - w_k(I_k)|, see ``feature_match``.
    :param distilled: KL(T(I_c) || P^c(I_c)), see ``distillation``.
    :param alpha: the current frame's weight, 0 to 1.
    :param match_weight, distillation_weight: lambda and delta.
    """
    terms = alpha * current + (1 - alpha) * (key + key_on_current)
    return (terms + match_weight * match + distillation_weight * distilled).mean()
