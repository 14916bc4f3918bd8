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
"""Batch norms are folded into the convolutions before or after them."""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from featshare_core.networks.split import SplitNetwork
import torch
from torch import nn, Tensor
from torch.nn.utils.fusion import fuse_conv_bn_eval

FARTHEST = 1e4
"""Largest bound of a channel; no feature exceeds it, and fp16 can represent it."""
SIDE = 256
"""Least side of the image that a network is traced on, in pixels; smp's PAN needs 128."""
SAME = 1e-2
"""Largest mean difference of the logits, as a share of their mean absolute value."""


class FoldError(RuntimeError):
    """Folding would change a network's logits; the network is unchanged."""


class Clamp(nn.Module):
    """
    Bounds of each channel: what remains of a norm and its ReLU after folding.

    :param low, high: the bounds of C channels.
    """

    low: Tensor
    high: Tensor | None

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.register_buffer('low', low.view(-1, 1, 1))
        # Most networks learn no negative scale: then there is no upper bound.
        self.register_buffer('high', high.view(-1, 1, 1) if high.isfinite().any() else None)

    def forward(self, features: Tensor) -> Tensor:
        """Return NxCxhxw features, clamped to the bounds."""
        if self.high is None:
            return torch.maximum(features, self.low)
        return torch.clamp(features, self.low, self.high)


def fold_batch_norms(network: SplitNetwork) -> int:
    """
    Fold, in place, every batch norm that is applied to one convolution's output or input only.

    A norm after a convolution is folded into its weights and bias, and so is one before a 1x1
    convolution. With a ReLU between the latter, as in DenseNet, ``relu(s x + t) =
    s max(x, -t/s) + t`` for s > 0: a bound per channel remains, and the linear part is folded into
    the convolution, also through an average pool. All this is exact.

    The norms are found in the graph that autograd records of one image as a key frame and as a
    current frame, and so in any network.

    :param network: in evaluation mode, in fp32 on the CPU.
    :returns: the number of norms folded.
    :raises FoldError: where the logits would change.
    """
    side = -(-SIDE // network.input_multiple) * network.input_multiple
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    names = {module: name for name, module in network.named_modules()}
    trace = _Trace(network, image)
    norms: dict[nn.Module, nn.Module] = {}
    convs: dict[nn.Module, nn.Conv2d] = {}
    after = trace.pairs(_norms_after)
    folded = {norm for norm, _ in after}
    before = [pair for pair in trace.pairs(_norms_before) if pair[0] not in folded]
    for norm, conv in before:
        norms[norm], *linear = _divided(norm)
        convs[conv] = _taken_in(conv, *linear)
    for norm, conv in after:
        norms[norm] = _activation(norm) or nn.Identity()
        convs[conv] = fuse_conv_bn_eval(convs.get(conv, conv), norm)
    for module, by in (*norms.items(), *convs.items()):
        _replace(network, names[module], by)
    with torch.inference_mode():
        same = all((found - logits).abs().mean() <= SAME * logits.abs().mean()
                   for found, logits in zip(_logits(network, image), trace.logits))
    if not same:
        for module in (*norms, *convs):
            _replace(network, names[module], module)
        raise FoldError('batch norms are not folded: this network would give other logits')
    return len(before) + len(after)


def _logits(network: SplitNetwork, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return an image's logits as a key frame, and as the current frame after it."""
    low = network.low(image)
    shared = network.high(low)
    return network.decode_key(low, shared), network.decode(low, shared)


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition('.')
    setattr(network.get_submodule(parent), own, module)


def _activation(norm: nn.BatchNorm2d) -> nn.Module | None:
    """Return the activation inside a norm, which ``NormReLU`` and timm's BatchNormAct2d have."""
    activation: nn.Module | None = getattr(norm, 'act', None)
    return activation


def _divided(norm: nn.BatchNorm2d) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a module and C scales and shifts that, applied to its output, equal the norm."""
    assert norm.running_mean is not None and norm.running_var is not None
    with torch.no_grad():
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * scale
        if _activation(norm) is None:
            return nn.Identity(), scale, shift
        low = high = -shift / scale
        never = (scale == 0) & (shift < 0) | (scale > 0) & (low > FARTHEST) \
            | (scale < 0) & (high < -FARTHEST)
        # A bound that no feature reaches is removed: fp16 might not represent it.
        low = low.masked_fill(never | ~(scale > 0) | (low < -FARTHEST), -torch.inf)
        high = high.masked_fill(never | ~(scale < 0) | (high > FARTHEST), torch.inf)
        return Clamp(low, high), scale.masked_fill(never, 0), shift.masked_fill(never, 0)


def _taken_in(conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> nn.Conv2d:
    """Return a 1x1 convolution that includes the scaling and shifting of its input."""
    rows, columns = conv.stride
    taken_in = nn.Conv2d(conv.in_channels, conv.out_channels, 1, (rows, columns))
    assert taken_in.bias is not None
    with torch.no_grad():
        taken_in.weight.copy_(conv.weight * scale.view(-1, 1, 1))
        taken_in.bias.copy_(conv.weight[:, :, 0, 0] @ shift)
        if conv.bias is not None:
            taken_in.bias.add_(conv.bias)
    return taken_in.eval()


class _Trace:
    """
    The graph that autograd records of one image as a key frame, and as the current frame after it.

    ``runs`` counts how often each module runs, ``uses`` how often the result of each node of
    autograd's graph is used. ``took`` lists each module that ran with the node of its input,
    ``gave`` maps a node to the module that it is the result of.
    """

    def __init__(self, network: SplitNetwork, image: Tensor) -> None:
        self.runs: Counter[nn.Module] = Counter()
        self.uses: Counter[Any] = Counter()
        self.took: list[tuple[nn.Module, Any]] = []
        self.gave: dict[Any, nn.Module] = {}
        hooks = [module.register_forward_hook(self._ran) for module in network.modules()
                 if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))]
        with torch.inference_mode(False), torch.enable_grad():
            self.logits = _logits(network, image.clone().requires_grad_())
        for hook in hooks:
            hook.remove()
        stack: list[Any] = [logits.grad_fn for logits in self.logits]
        while stack:
            for source, _ in stack.pop().next_functions:
                if source is not None:
                    self.uses[source] += 1
                    if self.uses[source] == 1:
                        stack.append(source)

    def _ran(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.runs[module] += 1
        self.took.append((module, inputs[0].grad_fn))
        self.gave[output.grad_fn] = module

    def pairs(self, find: _Find) -> list[tuple[nn.BatchNorm2d, nn.Conv2d]]:
        """Return the norms and convolutions that are applied in these pairs only."""
        # A result that is also used elsewhere must not change.
        found = Counter((norm, conv) for between, norm, conv in find(self)
                        if all(self.uses[node] == 1 for node in between))
        return [(norm, conv) for (norm, conv), times in found.items()
                if times == self.runs[norm] == self.runs[conv]]


_Found = Iterator[tuple[list[Any], nn.BatchNorm2d, nn.Conv2d]]
_Find = Callable[[_Trace], _Found]


def _norms_after(trace: _Trace) -> _Found:
    """Yield the nodes between, the norm, and the convolution before it."""
    for norm, node in trace.took:
        conv = trace.gave.get(node)
        # Of subclasses that do more than normalise, only an activation can be kept.
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) \
                and (type(norm) is nn.BatchNorm2d or _activation(norm)):
            yield [node], norm, conv


def _norms_before(trace: _Trace) -> _Found:
    """Yield the nodes between, the norm (with its ReLU), and the 1x1 convolution after it."""
    for conv, node in trace.took:
        if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (1, 1) \
                or conv.padding != (0, 0) or conv.groups != 1:
            continue
        between = [node]
        if type(node).__name__ == 'AvgPool2DBackward0' and set(node._saved_padding) == {0} \
                and not node._saved_ceil_mode:
            between.append(node.next_functions[0][0])
        norm = trace.gave.get(between[-1])
        if isinstance(norm, nn.BatchNorm2d) and norm.affine and norm.track_running_stats \
                and (type(norm) is nn.BatchNorm2d or isinstance(_activation(norm), nn.ReLU)):
            yield between, norm, conv
