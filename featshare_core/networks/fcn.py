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
"""FCN (Long et al., arXiv 1411.4038) as torchvision has it, on a dilated ResNet-50."""
from __future__ import annotations

from typing import Any

from featshare_core.networks.split import Tensors
from featshare_core.networks.stages import Features, StagedNetwork, trace
from torch import Tensor


class FCN(StagedNetwork):
    """
    torchvision's ``fcn_resnet50``; its parameters keep their names but for ``backbone``.

    Its head reads the deepest stage alone, and adds no context to it: there is nothing that a
    current frame could take from a key frame and still be segmented itself. So it has no cut
    but 0, and serves as a per-frame network.
    """

    input_multiple = 8
    classifier_path = 'classifier.4'

    def __init__(self, model: Any, shared_levels: int) -> None:
        steps = trace(model.backbone)[-1] or []
        super().__init__(model.backbone, [steps], (1,), shared_levels)
        self.classifier = model.classifier

    def deep(self, features: Features) -> Tensors:
        """Not used: nothing is shared."""
        raise NotImplementedError

    def merge(self, low: Features, shared: Tensors) -> Tensor:
        """Return NxCx(H/8)x(W/8) logits."""
        return self.classifier(low[1])


def fcn_network(classes: int, shared_levels: int = 0) -> FCN:
    """
    Return the network with fresh weights; nothing is downloaded.

    :raises ValueError: where torchvision is missing or does not work, or for another cut than 0.
    """
    try:
        from torchvision.models.segmentation import fcn_resnet50
    except (ImportError, RuntimeError) as error:
        raise ValueError(f'this network needs torchvision ({error}): install the one that belongs '
                         f'to your PyTorch') from error
    return FCN(fcn_resnet50(weights=None, weights_backbone=None, num_classes=classes),
               shared_levels)
