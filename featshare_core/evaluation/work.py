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
"""How much work a key frame and a current frame are, counted: multiply-adds and bytes moved."""
from __future__ import annotations

from dataclasses import replace
from typing import Any

from featshare_core.networks.checkpoint import Config
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


class Traffic(TorchDispatchMode):
    """
    Sums the bytes that each operation reads and writes: weights, and activations.

    What an eager run moves at least; views move nothing.
    """

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self._weights = weights
        self.weights = self.activations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        """Run an operation and add what it moved."""
        result = func(*args, **(kwargs or {}))
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        storages = {tensor.untyped_storage()._cdata for tensor in inputs}
        if all(tensor.untyped_storage()._cdata in storages for tensor in outputs):
            return result
        for tensor in inputs + outputs:
            size = tensor.numel() * tensor.element_size()
            if tensor.untyped_storage()._cdata in self._weights:
                self.weights += size
            else:
                self.activations += size
        return result


def count_work(config: Config, size: tuple[int, int]) -> dict[str, dict[str, float]]:
    """
    Return the work of a key and of a current frame, and of one without a cut, doing none of it.

    :param size: (width, height) of the network's input; any, for it is rounded to multiples.
    :returns: for ``key``, ``current`` and ``whole``: ``gmacs`` (10^9 multiply-adds of
        convolutions), ``weight_mb`` and ``activation_mb`` (10^6 bytes read and written, in
        fp32); and, as ``current_over_key``, the ratios of the first and of the bytes' sum.
    """
    # Built on the CPU: constructors may read values (timm's stochastic depth does), and tensors on
    # the meta device have none.
    network = config.build().eval().to('meta')
    whole = replace(config, options={**config.options, 'shared_levels': 0}).build().eval()
    whole.to('meta')
    width, height = rounded_size(size, network.input_multiple)
    image = torch.empty(1, 3, height, width, device='meta')
    weights = {tensor.untyped_storage()._cdata for one in (network, whole)
               for tensor in one.state_dict().values()}
    with torch.no_grad():
        low = network.low(image)
        shared = network.high(low)

        def key() -> None:
            low = network.low(image)
            network.decode_key(low, network.high(low))

        def current() -> None:
            network.decode(network.low(image), shared)

        found: dict[str, dict[str, float]] = {}
        for name, run in (('key', key), ('current', current), ('whole', lambda: whole(image))):
            with FlopCounterMode(display=False) as flops:
                run()
            with Traffic(weights) as traffic:
                run()
            counted = flops.get_flop_counts()['Global']
            found[name] = {'gmacs': counted[torch.ops.aten.convolution] / 2e9,
                           'weight_mb': traffic.weights / 1e6,
                           'activation_mb': traffic.activations / 1e6}
    one, other = found['current'], found['key']
    found['current_over_key'] = {
        'gmacs': one['gmacs'] / other['gmacs'],
        'bytes': (one['weight_mb'] + one['activation_mb'])
        / (other['weight_mb'] + other['activation_mb'])}
    return found


def rounded_size(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Return (width, height) as the nearest multiples that a network takes."""
    width, height = (max(1, round(side / multiple)) * multiple for side in size)
    return width, height
