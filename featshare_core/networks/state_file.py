"""Reading files of tensors: state dicts that others wrote."""
from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


def read_state(path: str | Path) -> State:
    """
    Return the tensors of a file of ``torch.save(state_dict)``, or of Lightning's checkpoint.

    :raises ValueError: where it holds anything but tensors: nothing else is unpickled.
    :raises OSError: where it cannot be read.
    """
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f'{path} is no file of tensors alone, which is all that is read: write '
                         f'it with torch.save(model.state_dict(), ...) ({error})') from error
    if isinstance(content, dict) and isinstance(content.get('state_dict'), dict):
        content = content['state_dict']
    if not isinstance(content, dict) or not content \
            or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ValueError(f'{path} holds no state dict')
    return content


def load_state(module: nn.Module, state: State, refusal: str) -> None:
    """
    Load a module's tensors out of a state dict, which may hold others beside them.

    How many batches the norms have seen need not be in it: old files lack it, nothing reads it.

    :param refusal: what to say first of a state dict that does not fit.
    :raises ValueError: naming the first tensor that is missing or of another shape.
    """
    wanted = module.state_dict()
    for name, tensor in wanted.items():
        if name not in state:
            if not name.endswith('num_batches_tracked'):
                raise ValueError(f'{refusal}: {name} is missing')
        elif state[name].shape != tensor.shape:
            raise ValueError(f'{refusal}: {name} has shape {tuple(state[name].shape)}, not '
                             f'{tuple(tensor.shape)}')
    module.load_state_dict({n: t for n, t in state.items() if n in wanted}, strict=False)
