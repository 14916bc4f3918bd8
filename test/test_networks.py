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
"""The networks: split = unsplit, parameter names, what is refused."""
import ast
from pathlib import Path

from featshare_core.networks.checkpoint import network_options, NETWORKS
from featshare_core.networks.densenet import DenseNet121
from featshare_core.networks.fpn import FPN
from featshare_core.networks.split import Ops
import pytest
import torch
from torch import nn
from torch.nn import functional as F

CLASSES = 11
ROOT = Path(__file__).resolve().parents[1]


def randomized(network):
    """Give batch norms statistics of their own, so that a test sees whether each is applied."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
    return network.eval()


def textbook_densenet(parts, image):
    """DenseNet-121 as its paper draws it: transitions convolve, then pool; blocks concatenate."""
    maps = []
    x = F.max_pool2d(F.relu(parts.norm0(parts.conv0(image))), 3, 2, 1)
    for block in range(1, 5):
        if block > 1:
            transition = getattr(parts, f'transition{block - 1}')
            x = F.avg_pool2d(transition.conv(F.relu(transition.norm(x))), 2)
        seen = [x]
        for layer in getattr(parts, f'denseblock{block}').values():
            y = layer.conv1(F.relu(layer.norm1(torch.cat(seen, 1))))
            seen.append(layer.conv2(F.relu(layer.norm2(y))))
        x = torch.cat(seen, 1)
        maps.append(x)
    maps[3] = parts.norm5(maps[3])
    return maps


def textbook_fpn(network, image):
    """The whole network without a cut: every map upsampled, heads concatenated, then fused."""
    maps = textbook_densenet(network.backbone.features, image)[:network.levels]
    pyramid = [None] * network.levels
    for level in reversed(range(network.levels)):
        pyramid[level] = network.laterals[level](maps[level])
        if level + 1 < network.levels:
            pyramid[level] = pyramid[level] + double(pyramid[level + 1])
    heads = []
    for level, features in enumerate(pyramid):
        head = network.heads[level](features)
        for _ in range(level):
            head = double(head)
        heads.append(head)
    x = F.relu(network.fusion_norm(network.fusion(torch.cat(heads, 1))))
    x = F.relu(network.tail_norm(network.tail(double(x))))
    return network.classifier(x)


def double(features):
    return F.interpolate(features, scale_factor=2, mode='bilinear', align_corners=False)


@pytest.mark.parametrize('shared_levels', [0, 1, 2, 3])
@pytest.mark.parametrize('size', [(64, 96), (128, 64)])
@torch.inference_mode()
def test_split_equals_unsplit(shared_levels, size):
    torch.manual_seed(0)
    network = randomized(FPN(CLASSES, shared_levels)).double()
    image = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = textbook_fpn(network, image)
    low = network.low(image)
    assert len(low) == 4 - shared_levels
    shared = network.high(low)
    torch.testing.assert_close(network.decode(low, shared), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(network(image), expected, rtol=1e-9, atol=1e-9)
    assert expected.shape == (2, CLASSES, size[0] // 2, size[1] // 2)


@torch.inference_mode()
def test_the_truncated_network_equals_its_textbook_form():
    network = randomized(FPN(CLASSES, shared_levels=0, levels=2)).double()
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    low = network.low(image)
    assert network.high(low) == ()
    maps = [network.backbone.stage(0, image)]
    maps.append(network.backbone.stage(1, maps[0]))
    top = network.laterals[1](maps[1])
    heads = [network.heads[0](network.laterals[0](maps[0]) + double(top)),
             double(network.heads[1](top))]
    x = F.relu(network.fusion_norm(network.fusion(torch.cat(heads, 1))))
    expected = network.classifier(F.relu(network.tail_norm(network.tail(double(x)))))
    torch.testing.assert_close(network.decode(low, ()), expected, rtol=1e-9, atol=1e-9)


@torch.inference_mode()
def test_a_current_frame_sees_deep_features_of_the_key_frame_alone():
    network = randomized(FPN(CLASSES, 2))
    key, current, other = torch.randn(3, 1, 3, 64, 64)
    shared = network.high(network.low(key))
    mixed = network.decode(network.low(current), shared)
    assert not torch.allclose(mixed, network(current))
    assert not torch.allclose(mixed, network(key))
    assert not torch.allclose(mixed, network.decode(network.low(current),
                                                    network.high(network.low(other))))


def test_the_weights_do_not_depend_on_the_cut():
    states = [FPN(CLASSES, shared).state_dict() for shared in (0, 1, 2, 3)]
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    assert all(s == shapes[0] for s in shapes)


@pytest.mark.parametrize(('shared', 'levels'), [(4, 4), (-1, 4), (2, 2), (0, 5)])
def test_a_cut_that_does_not_exist_is_refused(shared, levels):
    with pytest.raises(ValueError, match='levels'):
        FPN(CLASSES, shared, levels)


@torch.inference_mode()
def test_features_are_carried_over_by_the_operations_that_are_given():
    network = FPN(CLASSES, 2, backbone='efficientnet-lite0', mending=True).eval()
    network.configure(aligned=True)
    key, current = torch.randn(2, 1, 3, 64, 64)
    low, shared = network.low(current), network.high(network.low(key))
    expected, called = network.decode(low, shared), []

    def noted(name):
        def run(*given):
            called.append(name)
            return getattr(Ops(), name)(*given)
        return run

    network.configure(ops=Ops(*map(noted, Ops._fields)))
    assert torch.equal(network.decode(low, shared), expected)
    assert called == ['displacement', 'warp', 'warp', 'warp', 'mismatch', 'gate']
    assert (network.shared_levels, network.aligned) == (2, True)
    network.configure(ops=Ops(), shared_levels=0)
    assert torch.equal(network.decode(network.low(current), ()), network(current))
    assert len(called) == 6


@pytest.mark.parametrize(('name', 'options'), [
    ('fpn-densenet121', {}), ('fpn-efficientnet-lite0', {'mending': True}),
    ('light-efficientnet-lite0', {'mending': True}), ('fcn-resnet50', {}),
    ('smp', {'architecture': 'Unet', 'encoder': 'resnet18'}),
    ('smp', {'architecture': 'PSPNet', 'encoder': 'resnet18'})])
def test_a_network_names_its_classifier_and_its_mendings(name, options):
    if name.startswith(('fcn', 'smp')):
        pytest.importorskip('torchvision')
    if name == 'smp':
        pytest.importorskip('segmentation_models_pytorch')
    state, other = (NETWORKS[name](classes, **options).state_dict() for classes in (5, 7))
    network = NETWORKS[name](5, **options)
    assert network.classifier_names == {
        key for key, tensor in state.items() if tensor.shape != other[key].shape}
    assert network.mends == ('mending' in options)
    plain = NETWORKS[name](5, **{key: value for key, value in options.items() if key != 'mending'})
    assert network.mending_names == state.keys() - plain.state_dict().keys()
    assert network.mending_names <= dict(network.named_parameters()).keys()
    accepted = network_options(name)
    assert accepted.keys() >= {'shared_levels', *options}
    assert [option for option, required in accepted.items() if required] == (
        ['architecture', 'encoder'] if name == 'smp' else [])


def test_only_networks_know_their_kinds():
    """Outside ``networks/`` nobody sets a network's attributes or asks for its class."""
    kinds = {'FPN', 'FCN', 'SmpNetwork', 'StagedNetwork', 'SplitNetwork', 'Mending'}
    found = []
    for folder in ('featshare_core', 'featshare_ros', 'benchmarks'):
        for path in (ROOT / folder).rglob('*.py'):
            if 'networks' in path.relative_to(ROOT).parts[:2]:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    wrong = node.attr in ('shared_levels', 'aligned', 'ops', 'mends') \
                        and ast.unparse(node.value) != 'self'
                else:
                    wrong = isinstance(node, ast.Call) \
                        and ast.unparse(node.func) in ('isinstance', 'issubclass') \
                        and any(isinstance(name, ast.Name) and name.id in kinds
                                for name in ast.walk(node.args[1]))
                if wrong:
                    found.append(f'{path}:{node.lineno}: {ast.unparse(node)}')
    assert found == []


def test_densenet_has_torchvisions_parameters():
    state = DenseNet121().state_dict()
    # torchvision's densenet121: 7978856 parameters, of which the classifier 1025000.
    assert sum(p.numel() for p in DenseNet121().parameters()) == 7_978_856 - 1_025_000
    for name, shape in (('features.conv0.weight', (64, 3, 7, 7)),
                        ('features.denseblock1.denselayer6.norm1.weight', (224,)),
                        ('features.denseblock3.denselayer24.conv2.weight', (32, 128, 3, 3)),
                        ('features.transition3.conv.weight', (512, 1024, 1, 1)),
                        ('features.norm5.running_var', (1024,))):
        assert state[name].shape == shape


@pytest.mark.parametrize('dotted', [False, True])
def test_imagenet_weights_load(tmp_path, dotted):
    source, target = DenseNet121(), DenseNet121()
    state = {**source.state_dict(), 'classifier.weight': torch.zeros(1000, 1024),
             'classifier.bias': torch.zeros(1000)}
    if dotted:
        for kind in ('norm', 'conv'):
            for number in '12':
                state = {(name.replace(f'.{kind}{number}.', f'.{kind}.{number}.')
                          if 'denselayer' in name else name): tensor
                         for name, tensor in state.items()}
        # The first releases were saved before batch norms counted their batches.
        state = {n: t for n, t in state.items() if not n.endswith('num_batches_tracked')}
        assert 'features.denseblock1.denselayer1.norm.1.weight' in state
    torch.save(state, tmp_path / 'imagenet.pth')
    target.load_imagenet_weights(tmp_path / 'imagenet.pth')
    for name, tensor in source.named_parameters():
        assert torch.equal(dict(target.named_parameters())[name], tensor), name


def test_imagenet_weights_of_another_network_are_refused(tmp_path):
    torch.save({'layer1.weight': torch.zeros(3)}, tmp_path / 'resnet.pth')
    with pytest.raises(ValueError, match=r'resnet.pth is no DenseNet-121 checkpoint'):
        DenseNet121().load_imagenet_weights(tmp_path / 'resnet.pth')
    state = DenseNet121().state_dict()
    state['features.conv0.weight'] = torch.zeros(64, 1, 7, 7)
    torch.save(state, tmp_path / 'grey.pth')
    with pytest.raises(ValueError, match=r'features.conv0.weight has shape'):
        DenseNet121().load_imagenet_weights(tmp_path / 'grey.pth')
