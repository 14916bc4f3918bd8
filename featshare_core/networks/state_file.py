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
"""Reading files of tensors: state dicts that others wrote."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
import pickle
import re
from typing import Any

from featshare_core.text import printable
import torch
from torch import nn, Tensor
from torch.overrides import TorchFunctionMode

State = dict[str, Tensor]


def read_state(path: str | Path) -> State:
    """
    Return the tensors of a file of ``torch.save(state_dict)``, or of a training checkpoint.

    A training checkpoint is a dict with the state dict as one entry, under any name
    (``state_dict``, ``model``, ``model_state_dict``). Its entries ``mean`` and ``std`` are
    returned with the tensors of the state dict.

    :raises ValueError: where it holds anything but tensors and plain values (nothing else is
        unpickled), no state dict, or several.
    :raises OSError: where it cannot be read.
    """
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        # PyTorch's text goes on to advise unpickling.
        reason = str(error).rpartition('WeightsUnpickler error: ')[2].partition('\n')[0]
        raise ValueError(f'{path} is no file of tensors alone, which is all that is read: write '
                         f'it with torch.save(model.state_dict(), ...) '
                         f'({printable(reason, 200)})') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds no state dict')
    if _is_state(content):
        return dict(content)
    states = {name: entry for name, entry in content.items() if _is_state(entry)}
    if len(states) != 1:
        raise ValueError(_several(path, [repr(name) for name in states]) if states
                         else f'{path} holds no state dict')
    (state,) = states.values()
    beside = {name: torch.as_tensor(content[name]) for name in ('mean', 'std')
              if _are_numbers(content.get(name))}
    return {**beside, **state}


def _is_state(entry: object) -> bool:
    return isinstance(entry, Mapping) and bool(entry) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in entry.items())


def _are_numbers(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, (list, tuple)) and all(
        isinstance(number, (int, float)) for number in value))


def one_network(tensors: State, marker: str, path: str | Path) -> tuple[State, State]:
    """
    Return the tensors of the one network in a state dict, and the others.

    Any prefix before the marker (``model.``, ``module.``) is removed.

    :param marker: the name of a module that the network has, and its dot, such as ``encoder.``.
    :param path: of the file, for messages.
    :raises ValueError: where there are several networks, such as a model and the moving average
        of its weights (EMA); the message names their prefixes.
    """
    matches = (re.match(rf'((?:.*?\.)??){re.escape(marker)}', name) for name in tensors)
    prefixes = sorted({match[1] for match in matches if match})
    if len(prefixes) > 1:
        raise ValueError(_several(path, [
            f'{prefix}*' if prefix else f'{marker}*' for prefix in prefixes]))
    prefix = prefixes[0] if prefixes else ''
    state = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()
             if name.startswith(prefix)}
    others = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    # Some averages have names without the modules' dots. What has so many weights is a network.
    if 2 * _weights(others) > _weights(state):
        starts = {f'{name.partition(".")[0]}.*' if '.' in name else name for name in others}
        raise ValueError(_several(path, [f'{prefix}*', *sorted(starts)]))
    return state, others


def _weights(state: State) -> int:
    return sum(tensor.numel() for tensor in state.values())


def _several(path: str | Path, names: list[str]) -> str:
    return (f'{path} holds several networks, {" and ".join(names)}, such as a model and the '
            f'moving average of its weights (EMA): load the one to use, and save it alone with '
            f'torch.save(model.state_dict(), ...)')


def load_state(module: nn.Module, state: State, refusal: str) -> None:
    """
    Load a module's tensors out of a state dict, which may hold others beside them.

    :raises ValueError: as ``check_state``.
    """
    check_state(module, state, refusal)
    wanted = module.state_dict().keys()
    module.load_state_dict({n: t for n, t in state.items() if n in wanted}, strict=False)


def check_state(module: nn.Module, state: State, refusal: str) -> None:
    """
    Refuse a state dict that lacks a module's tensors; it may hold others beside them.

    How many batches the norms have seen need not be in it: old files lack it, nothing reads it.

    :param refusal: what to say first of a state dict that does not fit.
    :raises ValueError: naming the first tensor that is missing or of another shape.
    """
    for name, tensor in module.state_dict().items():
        if name not in state:
            if not name.endswith('num_batches_tracked'):
                raise ValueError(f'{refusal}: {name} is missing')
        elif state[name].shape != tensor.shape:
            raise ValueError(f'{refusal}: {name} has shape {tuple(state[name].shape)}, not '
                             f'{tuple(tensor.shape)}')


@contextmanager
def unallocated() -> Iterator[None]:
    """Give modules that are built meanwhile their shapes, but no memory."""
    with torch.device('meta'), _Unallocated():
        yield


class _Unallocated(TorchFunctionMode):
    """
    Workarounds for building modules on the meta device.

    Encoders read the schedule of their drop paths, which therefore stays on the CPU. Normally
    distributed initial values are left out: there, they would import a compiler for 1.4 s.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.normal_:
            return args[0]
        if func is torch.linspace:
            kwargs = {'device': 'cpu', **kwargs}
        return func(*args, **kwargs)
