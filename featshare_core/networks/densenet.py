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
"""DenseNet-121 (Huang et al., arXiv 1608.06993) as four stages, for use as a backbone."""
from __future__ import annotations

from pathlib import Path
import re

from featshare_core.networks.state_file import load_state, read_state
import torch
from torch import nn, Tensor
from torch.nn import functional as F

GROWTH = 32
"""Channels that a dense layer adds."""
BOTTLENECK = 4 * GROWTH
"""Channels between the two convolutions of a dense layer."""
STEM_CHANNELS = 64
"""Channels of the first convolution."""
BLOCK_LAYERS = (6, 12, 24, 16)
"""Number of dense layers of each block."""


class NormReLU(nn.BatchNorm2d):
    """A batch norm and its activation, as one module: engines replace them together."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        """Return NxCxhxw features normalised and activated."""
        return self.act(super().forward(features))


class DenseLayer(nn.Module):
    """One pre-activated 1x1, 3x3 bottleneck that yields 32 new channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = NormReLU(channels)
        self.conv1 = nn.Conv2d(channels, BOTTLENECK, 1, bias=False)
        self.norm2 = NormReLU(BOTTLENECK)
        self.conv2 = nn.Conv2d(BOTTLENECK, GROWTH, 3, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return the Nx32xhxw channels that this layer adds to the block's features."""
        return self.conv2(self.norm2(self.conv1(self.norm1(features))))


class DenseBlock(nn.ModuleDict):
    """Layers that each see the features of all layers before them."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__({f'denselayer{i + 1}': DenseLayer(channels + i * GROWTH)
                          for i in range(layers)})

    def forward(self, features: Tensor) -> Tensor:
        """Return the input's channels followed by those of every layer."""
        for layer in self.values():
            features = torch.cat((features, layer(features)), 1)
        return features


class Transition(nn.Module):
    """Halves channels and resolution between two blocks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = NormReLU(channels)
        self.conv = nn.Conv2d(channels, channels // 2, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Pool before the 1x1 convolution: both are linear, so this is exact, for a quarter."""
        return self.conv(F.avg_pool2d(self.norm(features), 2))


class DenseNet121(nn.Module):
    """
    DenseNet-121 without its classifier.

    ``stages[i]`` maps the features of stage ``i - 1`` (the image for 0) to those at stride
    4, 8, 16, 32 with ``channels[i]`` channels. ``levels`` leaves the deepest stages away.
    The parameters are named as torchvision names them.
    """

    channels = (256, 512, 1024, 1024)
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(self, levels: int = 4) -> None:
        super().__init__()
        if not 1 <= levels <= len(BLOCK_LAYERS):
            raise ValueError(f'DenseNet-121 has 1 to 4 levels, not {levels}')
        self.features = nn.Module()
        self.features.conv0 = nn.Conv2d(3, STEM_CHANNELS, 7, stride=2, padding=3, bias=False)
        self.features.norm0 = nn.BatchNorm2d(STEM_CHANNELS)
        channels = STEM_CHANNELS
        for level in range(1, levels + 1):
            if level > 1:
                self.features.add_module(f'transition{level - 1}', Transition(channels))
                channels //= 2
            layers = BLOCK_LAYERS[level - 1]
            self.features.add_module(f'denseblock{level}', DenseBlock(channels, layers))
            channels += layers * GROWTH
        if levels == len(BLOCK_LAYERS):
            self.features.norm5 = nn.BatchNorm2d(channels)
        self.levels = levels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def stage(self, index: int, features: Tensor) -> Tensor:
        """Return the features of level ``index`` (0 to 3) from those of the level before."""
        parts = self.features
        if index == 0:
            features = parts.get_submodule('norm0')(parts.get_submodule('conv0')(features))
            features = F.max_pool2d(F.relu(features), 3, 2, 1)
        else:
            features = parts.get_submodule(f'transition{index}')(features)
        features = parts.get_submodule(f'denseblock{index + 1}')(features)
        return parts.get_submodule('norm5')(features) if index == 3 else features

    @staticmethod
    def imagenet_file() -> Path:
        """
        Return torchvision's file in torch.hub's cache, where torchvision downloads it to.

        :raises ValueError: where it is not there.
        """
        folder = Path(torch.hub.get_dir()) / 'checkpoints'
        files = sorted(folder.glob('densenet121-*.pth'))
        if not files:
            raise ValueError(f"{folder} holds no densenet121-*.pth; get torchvision's file and "
                             f'give its path')
        return files[0]

    def load_imagenet_weights(self, path: str | Path) -> None:
        """
        Load a torchvision DenseNet-121 state dict; its classifier is left out.

        Its first releases named the layers ``norm.1``, ``conv.1``: these load too.

        :raises ValueError: where the file holds other tensors than DenseNet-121's.
        """
        state = {re.sub(r'(denselayer\d+\.(?:norm|conv))\.([12])\.', r'\1\2.', name): tensor
                 for name, tensor in read_state(path).items()}
        load_state(self, state, f'{path} is no DenseNet-121 checkpoint')
