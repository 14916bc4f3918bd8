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
"""A network on an encoder of stages, cut between two of them; how such stages are found."""
from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from operator import methodcaller
from typing import Any

from featshare_core.networks.split import LANDMARK_CHANNELS, SplitNetwork, Tensors
import torch
from torch import fx, nn, Tensor
from torch.nn import functional as F

Features = Mapping[int, Tensor]
"""Feature maps by the number of the stage that they come from; stage 1 takes the image."""

Step = tuple[str | Callable[[Tensor], Tensor], tuple[Any, ...]]
"""A module's path in the encoder, or a function, and its arguments after the features."""


class StagedNetwork(SplitNetwork):
    """
    An encoder of stages, each of which takes the features of the one before, and a decoder.

    A subclass says which stages its decoder reads (``used``) and divides the decoder's work:
    ``deep`` does what depends on deep features alone, on key frames; ``merge`` does the rest.
    ``deep`` may look at shallow features for their size, never for what is in them.

    :param stages: of the encoder; see ``trace``. One without steps has no features.
    :param used: the numbers of the stages that the decoder reads, ascending.
    :raises ValueError: where ``shared_levels`` is none of ``cuts``, which it names.
    """

    def __init__(self, encoder: nn.Module, stages: Sequence[Sequence[Step]],
                 used: Sequence[int], shared_levels: int) -> None:
        super().__init__()
        self.encoder = encoder
        # Another name for the encoder, not a second registration of its parameters.
        self.__dict__['backbone'] = encoder
        self.stages = stages
        self.used = tuple(used)
        self.levels = len(stages)
        self.configure(shared_levels=shared_levels)

    @property
    def cuts(self) -> tuple[int, ...]:
        """
        Return the values that ``shared_levels`` may take.

        A cut lies right behind a stage that the decoder reads: without one, nothing of a current
        frame would reach its mask; behind a later one, stages would run for nothing.
        """
        return 0, *(self.levels - stage for stage in reversed(self.used) if stage < self.levels)

    @property
    def shallow(self) -> int:
        """Return the last stage that runs on every frame."""
        return self.levels - self.shared_levels

    @abstractmethod
    def deep(self, features: Features) -> Tensors:
        """Return what the decoder makes of the features of the stages after ``shallow``."""

    @abstractmethod
    def merge(self, low: Features, shared: Tensors) -> Tensor:
        """Return logits from the shallow features and ``deep``'s tensors, () where none is."""

    def low(self, image: Tensor) -> Tensors:
        """Return the features of the shallow stages that the decoder reads, finest first."""
        return tuple(self._run(1, self.shallow, image).values())

    def _high(self, low: Tensors) -> Tensors:
        """Return ``deep``'s tensors, ``()`` where nothing is shared."""
        if not self.shared_levels:
            return ()
        return self.deep({**self._by_stage(low),
                          **self._run(self.shallow + 1, self.levels, low[-1])})

    def _decode(self, low: Tensors, shared: Tensors) -> Tensor:
        """Return the logits."""
        return self.merge(self._by_stage(low), shared)

    def _landmarks(self, low: Tensors) -> Tensors:
        features = self._by_stage(low)
        # Stage n has stride 2^n: the third, or the one nearest to it.
        stage = min(features, key=lambda number: abs(number - 3))
        landmarks = features[stage][:, :LANDMARK_CHANNELS]
        return F.avg_pool2d(landmarks, 2 ** (3 - stage)) if stage < 3 else landmarks,

    def _by_stage(self, low: Tensors) -> Features:
        return dict(zip(self.used, low))

    def _run(self, first: int, last: int, features: Tensor) -> Features:
        """Return the features of stages ``first`` to ``last`` that the decoder reads."""
        found = {}
        for stage in range(first, last + 1):
            for target, arguments in self.stages[stage - 1]:
                step = self.encoder.get_submodule(target) if isinstance(target, str) else target
                features = step(features, *arguments)
            if stage in self.used:
                found[stage] = features
        return found


def size_at(features: Features, stage: int) -> tuple[int, int]:
    """Return (height, width) at a stage's stride; 0 is the image's own."""
    finer = [number for number in features if number <= stage]
    nearest = max(finer) if finer else min(features)
    height, width = features[nearest].shape[-2:]
    if finer:
        return height >> (stage - nearest), width >> (stage - nearest)
    return height << (nearest - stage), width << (nearest - stage)


class _BodyTracer(fx.Tracer):
    """Records what a module's own ``forward`` calls, and does not look into that."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def trace(module: nn.Module, prefix: str = '') -> list[list[Step] | None]:
    """
    Return, for each feature map in the list or dict that ``module`` returns, the steps to it.

    They start from the map before, the first ones from the module's argument. None stands for a
    map that is the argument itself, or that is made of nothing (some encoders fill a gap so).
    The module's ``forward`` is followed symbolically; nothing is computed.

    :param prefix: of the paths of modules in the steps.
    :raises ValueError: where a map is not made from the one before by one step after another.
    """
    try:
        graph = _BodyTracer().trace(module)
    except Exception as error:  # whatever a forward does with what is no tensor
        raise ValueError(f'it cannot be followed ({str(error).partition(".")[0]})') from error
    nodes = list(graph.nodes)
    returned = nodes[-1].args[0]
    before = next(node for node in nodes if node.op == 'placeholder')
    found: list[list[Step] | None] = []
    node: Any
    for feature in returned.values() if isinstance(returned, dict) else returned:
        if not isinstance(feature, fx.Node):
            raise ValueError('it returns more than feature maps')
        if feature is before or feature.target is torch.empty:
            found.append(None)
            continue
        steps: list[Step] = []
        node = feature
        while node is not before:
            if node.op not in ('call_module', 'call_method') or node.kwargs \
                    or node.all_input_nodes != [node.args[0]]:
                raise ValueError(f'{node.name} takes more than the stage before')
            steps.insert(0, (prefix + node.target, node.args[1:]) if node.op == 'call_module'
                         else (methodcaller(node.target, *node.args[1:]), ()))
            node = node.args[0]
        found.append(steps)
        before = feature
    return found


def drop_unused(module: nn.Module, used: set[str], path: str = '') -> None:
    """Replace the modules below ``module`` that no path of ``used`` leads to by nothing."""
    for name, child in module.named_children():
        here = f'{path}{name}'
        if here in used:
            continue
        if any(target.startswith(f'{here}.') for target in used):
            drop_unused(child, used, f'{here}.')
        else:
            setattr(module, name, nn.Identity())
