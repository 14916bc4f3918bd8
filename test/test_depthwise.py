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
"""Depthwise convolutions learn in bf16 on a CPU what they learn in fp32."""
import copy

from featshare_core.training.depthwise import fix_depthwise_gradients
import pytest
import torch
from torch import nn


def learn(network, image, bf16):
    """Return the result, and the gradients of the image and of the weights."""
    network, image = copy.deepcopy(network), image.clone().requires_grad_()
    with torch.autocast('cpu', torch.bfloat16, enabled=bf16):
        result = network(image)
    result.float().square().sum().backward()
    return result, [image.grad, *(p.grad for p in network.parameters())]


@pytest.mark.parametrize('options', [
    {}, {'stride': 2}, {'dilation': 4, 'padding': 8}, {'bias': False, 'kernel_size': 3}])
def test_gradients_are_those_of_fp32(options):
    torch.manual_seed(0)
    options = {'kernel_size': 5, 'padding': 2, **options}
    network = nn.Sequential(nn.Conv2d(3, 64, 1), nn.Conv2d(64, 64, groups=64, **options))
    # As training lays them out: in bf16, oneDNN goes wrong only there.
    network.to(memory_format=torch.channels_last)
    image = torch.randn(2, 3, 33, 40).contiguous(memory_format=torch.channels_last)
    expected, gradients = learn(network, image, bf16=False)
    fixed = copy.deepcopy(network)
    fix_depthwise_gradients(fixed)
    assert list(fixed.state_dict()) == list(network.state_dict())
    result, found = learn(fixed, image, bf16=True)
    assert result.dtype == torch.bfloat16
    for value, truth in zip([result, *found], [expected, *gradients]):
        error = (value.float() - truth).norm() / truth.norm()
        assert error < 0.02
    # Without autocast nothing is rounded.
    _, found = learn(fixed, image, bf16=False)
    for value, truth in zip(found, gradients):
        torch.testing.assert_close(value, truth, rtol=1e-4, atol=1e-4)


def test_other_convolutions_are_left_alone():
    plain, grouped = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, groups=2)
    padded = nn.Conv2d(8, 8, 3, groups=8, padding='same')
    fix_depthwise_gradients(nn.Sequential(plain, grouped, padded))
    for module in (plain, grouped, padded):
        assert '_conv_forward' not in vars(module)
