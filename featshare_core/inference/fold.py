"""Batch norms that follow a convolution become part of it."""
from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from featshare_core.networks.split import SplitNetwork


def fold_batch_norms(network: SplitNetwork, side: int) -> int:
    """
    Fold, in place, every batch norm into the convolution whose output it alone takes.

    Which ones these are is seen on one image, in what autograd records of it: any network will
    do. Norms that come before their activation and convolution, as in DenseNet, stay.

    :param network: in evaluation mode, in fp32 on the CPU.
    :param side: of that image, in pixels.
    :returns: how many.
    """
    names = {module: name for name, module in network.named_modules()}
    made: dict[Any, nn.Conv2d] = {}
    pairs: list[tuple[Any, nn.Conv2d, nn.BatchNorm2d]] = []

    def after(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            made[output.grad_fn] = module

    def before(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, nn.BatchNorm2d) and inputs[0].grad_fn in made:
            pairs.append((inputs[0].grad_fn, made[inputs[0].grad_fn], module))

    hooks = [module.register_forward_hook(after) for module in names]
    hooks += [module.register_forward_pre_hook(before) for module in names]
    with torch.inference_mode(False), torch.enable_grad():
        logits = network(torch.rand(1, 3, 2 * side, 2 * side, requires_grad=True))
    for hook in hooks:
        hook.remove()
    uses = _uses(logits.grad_fn)
    modules = Counter(module for _, *pair in pairs for module in pair)
    folded = 0
    for node, conv, norm in pairs:
        # What runs twice, or is used beside its norm, has more than one meaning.
        if uses[node] == 1 and modules[conv] == modules[norm] == 1:
            _replace(network, names[conv], fuse_conv_bn_eval(conv, norm))
            _replace(network, names[norm], nn.Identity())
            folded += 1
    return folded


def _uses(node: Any) -> Counter[Any]:
    """Return how often the result of each node of autograd's graph is used."""
    uses: Counter[Any] = Counter()
    stack = [node]
    while stack:
        for source, _ in stack.pop().next_functions:
            if source is not None:
                uses[source] += 1
                if uses[source] == 1:
                    stack.append(source)
    return uses


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition('.')
    setattr(network.get_submodule(parent), own, module)
