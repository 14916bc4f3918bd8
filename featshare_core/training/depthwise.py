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
"""Gradients of depthwise convolutions on a CPU, where bf16 ones are slow or wrong."""
from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn, Tensor
from torch.nn import functional as F


def fix_depthwise_gradients(network: nn.Module) -> None:
    """
    Compute the gradients of a network's depthwise convolutions in fp32, for training on a CPU.

    In bf16, oneDNN (of torch 2.13, on a Xeon with AMX) takes three to six times as long for 5x5
    kernels and for stride 2, and the gradients of dilated kernels are wrong on large maps (on
    24x32 cells, not on 18x24). The forward pass stays in bf16, where it is fast.

    :param network: changed in place; its parameters and outputs stay the same.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1 \
                and module.padding_mode == 'zeros' and isinstance(module.padding, tuple):
            # A submodule instead would change the names of the weights.
            module._conv_forward = partial(_convolved, module)  # type: ignore[method-assign]


def _convolved(conv: nn.Conv2d, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = _Convolution.apply(features, weight, bias, conv)  # type: ignore
    return result


class _Convolution(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None,
                conv: nn.Conv2d) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.conv = conv
        # Autocast is still on here, and casts.
        return F.conv2d(features, weight, bias, conv.stride, conv.padding, conv.dilation,
                        conv.groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        conv, wanted = ctx.conv, list(ctx.needs_input_grad[:3])
        for_features, for_weight, for_bias = torch.ops.aten.convolution_backward(
            _plain(gradients[0]), _plain(features), weight.float(), [conv.out_channels],
            conv.stride, conv.padding, conv.dilation, False, [0, 0], conv.groups, wanted)
        if for_features is not None:
            for_features = for_features.to(features.dtype)
        return for_features, for_weight, for_bias, None


def _plain(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32, memory_format=torch.channels_last)
