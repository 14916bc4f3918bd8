"""Reading files of tensors: state dicts that others wrote."""
from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

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
