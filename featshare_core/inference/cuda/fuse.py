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
"""A traced network's convolutions, with what comes before and after each, as one kernel each."""
from __future__ import annotations

from collections.abc import Callable
import math
import operator
from typing import Any

from featshare_core.inference.cuda.kernels import convolution, pooling, sampling
import torch
from torch import fx, Tensor

aten = torch.ops.aten
Node = Any  # fx.Node, whose arguments have too many types to be spelled out
BOUNDS = {aten.relu.default: (0.0, math.inf), aten.relu6.default: (0.0, 6.0)}
MOST_PRODUCTS = 2304  # in a value of a convolution; of more, cuDNN makes more use of the device
HALVES = (torch.bfloat16, torch.float16)


def fuse(graph: fx.GraphModule) -> fx.GraphModule:
    """
    Replace operations on one image's features, in place, by kernels that do several at once.

    A convolution takes in the zeros around its input or the bound below it, its bias, the bounds
    and the sum after it, and writes where its result was to be copied to; a batch norm the sum
    before it and the ReLU after it; an upsampling the sum after it. What is in fp32
    stays as it is.

    :param graph: of ``constants.fold_constants``.
    """
    for find in (_convolution, _pooling, _norm, _upsampling):
        for node in tuple(graph.graph.nodes):
            if _is_half(node):
                find(graph, node)
        graph.graph.eliminate_dead_code(_acts)
    graph.recompile()
    return graph


def _convolution(graph: fx.GraphModule, node: Node) -> None:
    if node.target is not aten.conv2d.default:
        return
    source, weight_node, bias_node, strides, padding, dilations, groups = _arguments(
        node, None, None, None, [1, 1], [0, 0], [1, 1], 1)
    weight, bias = _value(graph, weight_node), _value(graph, bias_node)
    if weight is None or (bias is None and bias_node is not None) or not _is_half(source):
        return
    outputs, inputs, side, other_side = weight.shape
    bias = weight.new_zeros(outputs) if bias is None else bias
    depthwise = 1 < groups == outputs and inputs == 1
    if side != other_side or len({*strides}) > 1 or len({*dilations}) > 1 \
            or not (depthwise or (groups == 1 and inputs > 1)):
        return
    end, bounds = _bounds(node)
    if inputs * side**2 > MOST_PRODUCTS:
        if end is not node or bias_node is not None:
            with graph.graph.inserting_before(node):
                plain = graph.graph.call_function(
                    node.target, (source, weight_node, None, strides, padding, dilations, groups))
            plain.meta['val'] = node.meta['val']
            _replace(graph, end, convolution.finish, plain, None, None, bias.float(),
                     bounds=bounds)
        return
    around = [padding[1], padding[1], padding[0], padding[0]]
    options: dict[str, Any] = {}
    start = node
    if _is_only(source, aten.pad.default) and len(source.args[1]) == 4 \
            and source.args[2:] in ((), ('constant',), ('constant', None), ('constant', 0.0)):
        around = [one + two for one, two in zip(around, source.args[1])]
        start, source = source, source.args[0]
    elif side == 1 and not depthwise and not any(around):
        start, source, options['floor'] = _floor(graph, node)
    if not depthwise:
        end, options['addend'] = _sum(end)
        end, options['result'] = _copied(end)
    if _undisturbed(start, end):
        _replace(graph, end, convolution.convolve_depthwise if depthwise else convolution.convolve,
                 source, convolution.packed(weight), bias, strides[0], tuple(around),
                 dilations[0], bounds, **options)


def _pooling(graph: fx.GraphModule, node: Node) -> None:
    largest = node.target is aten.max_pool2d.default
    if not largest and node.target is not aten.avg_pool2d.default:
        return
    source, sides, strides, padding = _arguments(node, None, None, node.args[1], [0, 0])[:4]
    strides = strides or sides
    # Dilated ones, and windows that lie half outside, are PyTorch's.
    if len({*sides}) > 1 or len({*strides}) > 1 or len({*padding}) > 1 or sides[0] > 4 \
            or node.args[4:] not in ((), ([1, 1],)) or (not largest and padding[0]) \
            or not _is_half(source):
        return
    start, floor = node, None
    if not padding[0]:
        start, source, floor = _floor(graph, node)
    end, result = _copied(node)
    if _undisturbed(start, end):
        _replace(graph, end, pooling.pool, source, sides[0], strides[0], padding[0], largest,
                 floor, result=result)


def _norm(graph: fx.GraphModule, node: Node) -> None:
    if node.target is not aten.batch_norm.default:
        return
    source, *parameters = node.args[:5]
    weight, bias, mean, variance = (_value(graph, parameter) for parameter in parameters)
    if weight is None or bias is None or mean is None or variance is None or node.args[5]:
        return
    scale = weight.float() / (variance.float() + node.args[7]).sqrt()
    added = None
    if _is_only(source, aten.add.Tensor) and _same_shape(*source.args) and not source.kwargs:
        source, added = source.args
    end, bounds = _bounds(node)
    _replace(graph, end, convolution.finish, source, added, scale,
             bias.float() - mean.float() * scale, bounds=bounds)


def _upsampling(graph: fx.GraphModule, node: Node) -> None:
    if node.target is not aten.upsample_bilinear2d.vec or node.args[2]:
        return
    end, added = _sum(node)
    _replace(graph, end, sampling.upsample, node.args[0], tuple(node.meta['val'].shape[2:]), added)


def _arguments(node: Node, *defaults: Any) -> tuple[Any, ...]:
    """Return a node's arguments, those with defaults included."""
    return (*node.args, *defaults[len(node.args):])


def _floor(graph: fx.GraphModule, node: Node) -> tuple[Node, Node, Tensor | None]:
    """Return where a node's input is bounded below, what is bounded there, and the C bounds."""
    source = node.args[0]
    if _is_only(source, aten.maximum.default) and _is_half(source.args[0]):
        floor = _value(graph, source.args[1])
        if floor is not None and floor.shape == (source.meta['val'].shape[1], 1, 1):
            return source, source.args[0], floor.flatten()
    return node, source, None


def _copied(node: Node) -> tuple[Node, Node | None]:
    """Return the node of the copy that is all that a node's result is for, and where to."""
    copy = _only_user(node)
    if copy is None or copy.target is not aten.copy_.default or copy.users \
            or copy.args[1] is not node or not _is_half(copy.args[0]):
        return node, None
    return copy, copy.args[0]


def _undisturbed(start: Node, end: Node) -> bool:
    """Return whether one may read at ``end`` what was read at ``start``: nothing is written."""
    while start is not end:
        if _acts(start):
            return False
        start = start.next
    return True


def _bounds(node: Node) -> tuple[Node, tuple[float, float]]:
    """Return the node of the bounds that a node's result is brought into, itself if none."""
    user = _only_user(node)
    if user is None or user.target not in BOUNDS:
        return node, convolution.UNBOUNDED
    return user, BOUNDS[user.target]


def _sum(node: Node) -> tuple[Node, Node | None]:
    """Return the node of the sum that a node's result goes into, and what is added."""
    user = _only_user(node)
    if user is None or user.target is not aten.add.Tensor or user.kwargs \
            or not _same_shape(*user.args):
        return node, None
    return user, user.args[1] if user.args[0] is node else user.args[0]


def _only_user(node: Node) -> Node | None:
    users = tuple(node.users)
    return users[0] if len(users) == 1 else None


def _is_only(node: Node, target: Any) -> bool:
    """Return whether a node is of that target and has one user."""
    return isinstance(node, fx.Node) and node.target is target and len(node.users) == 1


def _same_shape(one: Any, other: Any) -> bool:
    return _is_half(one) and _is_half(other) and one is not other \
        and one.meta['val'].shape == other.meta['val'].shape \
        and one.meta['val'].dtype == other.meta['val'].dtype


def _is_half(node: Node) -> bool:
    """Return whether a node is one image's features, in 16 bits."""
    value = node.meta.get('val') if isinstance(node, fx.Node) else None
    return isinstance(value, Tensor) and value.dtype in HALVES and value.ndim == 4 \
        and value.shape[0] == 1


def _value(graph: fx.GraphModule, node: Node) -> Tensor | None:
    """Return a constant's value."""
    if not isinstance(node, fx.Node) or node.op != 'get_attr':
        return None
    value: Tensor = operator.attrgetter(str(node.target))(graph)
    return value


def _acts(node: Node) -> bool:
    """Return whether a node is there for more than its result."""
    schema = getattr(node.target, '_schema', None)
    return node.op in ('placeholder', 'output') or node.kwargs.get('result') is not None \
        or (schema is not None and schema.is_mutable)


def _replace(graph: fx.GraphModule, end: Node, function: Callable[..., Tensor], *given: Any,
             **options: Any) -> None:
    """Let a function's result be what a node's was; tensors given become constants."""
    def kept(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        name = f'fused{len(graph.graph.nodes)}_{len(graph._buffers)}'
        graph.register_buffer(name, value)
        return graph.graph.get_attr(name)
    with graph.graph.inserting_before(end):
        by = graph.graph.call_function(
            function, tuple(kept(value) for value in given),
            {name: kept(value) for name, value in options.items()})
    by.meta['val'] = end.meta['val']
    end.replace_all_uses_with(by)
    graph.graph.erase_node(end)
