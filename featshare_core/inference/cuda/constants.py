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
"""Constant folding: results that depend on weights and sizes alone are computed once."""
from __future__ import annotations

from collections.abc import Callable
import operator
from typing import Any

import torch
from torch import fx, Tensor
from torch.fx.experimental.proxy_tensor import make_fx

UNFILLED = ('empty', 'new_empty', 'empty_like', 'empty_strided')
"""Operations whose result is memory that others write into."""


def fold_constants(function: Callable[..., Any], *inputs: Tensor) -> fx.GraphModule:
    """
    Return a function's operations as a graph, with those that depend on no input folded.

    Their results become constants: kernels merged from weights, coordinates, masks of borders. On
    a GPU each of them would cost as much as any small operation.

    :param function: from tensors to a tensor or a tuple of tensors; it does the same operations
        for all inputs of these sizes.
    :param inputs: example inputs.
    """
    # Traced before dispatch: otherwise one interpolation becomes twenty operations.
    graph = make_fx(lambda *given: function(*given), pre_dispatch=True)(*inputs)
    written = _written(graph.graph)
    known: dict[fx.Node, Any] = {}
    for node in graph.graph.nodes:
        if node.op == 'get_attr':
            known[node] = operator.attrgetter(node.target)(graph)
        elif node.op == 'call_function' and _repeats(node.target) and node not in written \
                and all(source in known for source in node.all_input_nodes):
            known[node] = node.target(*fx.map_arg(node.args, known.__getitem__),
                                      **fx.map_arg(node.kwargs, known.__getitem__))
    for index, (node, value) in enumerate(known.items()):
        if node.op == 'call_function' and isinstance(value, Tensor) \
                and any(user not in known for user in node.users):
            graph.register_buffer(f'constant{index}', value)
            with graph.graph.inserting_before(node):
                node.replace_all_uses_with(graph.graph.get_attr(f'constant{index}'))
    for node in reversed(known):
        if not node.users:
            graph.graph.erase_node(node)
    graph.recompile()
    return graph


def _written(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes whose tensors are written into later, and the sources of these."""
    stack = [node.args[0] for node in graph.nodes
             if getattr(getattr(node.target, '_schema', None), 'is_mutable', False)]
    written: set[fx.Node] = set()
    while stack:
        node = stack.pop()
        if isinstance(node, fx.Node) and node not in written:
            written.add(node)
            stack.extend(node.all_input_nodes)
    return written


def _repeats(target: Any) -> bool:
    """Return whether an operation depends on its arguments alone and does not change them."""
    if target is operator.getitem:
        return True
    schema = getattr(target, '_schema', None)
    return schema is not None and not schema.is_mutable \
        and schema.name.partition('::')[2] not in UNFILLED \
        and torch.Tag.nondeterministic_seeded not in target.tags
