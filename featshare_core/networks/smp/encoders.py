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
"""Encoders of segmentation_models_pytorch: names, pretrained weights, normalisation."""
from __future__ import annotations

from pathlib import Path
from typing import Any

from featshare_core.networks.split import IMAGENET, Normalisation
from featshare_core.networks.state_file import load_state, read_state
from torch import nn

HUB_TIMEOUT_S = 5.0
"""Longest wait for an answer of the hub, in seconds."""


def load_encoder_weights(module: nn.Module, encoder: str, weights: str) -> None:
    """
    Load pretrained weights into an encoder; the package downloads those that are not cached.

    :param module: the encoder.
    :param encoder: its name, such as ``resnet34`` or ``tu-resnet18``.
    :param weights: ``imagenet``, or another name that the package has for this encoder; or a file
        of the encoder's state dict, the package's own or, for ``tu-...``, timm's.
    :raises ValueError: where there are none of that name, they cannot be downloaded, or the file
        is another encoder's.
    """
    if Path(weights).is_file():
        # timm's own names lack what stands before them in the package's encoder.
        state = {f'model.{name}' if encoder.startswith('tu-') and not name.startswith('model.')
                 else name: tensor for name, tensor in read_state(weights).items()}
    else:
        try:
            _ask_hub(encoder, weights, 'model.safetensors')
            state = import_smp().encoders.get_encoder(encoder, weights=weights).state_dict()
        except (KeyError, OSError, RuntimeError, ValueError) as error:
            raise ValueError(f'the weights {weights!r} of {encoder} cannot be had: '
                             f'{error}') from error
    load_state(module, state, f'{weights} are no weights of {encoder}')


def encoder_normalisation(encoder: str, weights: str = 'imagenet') -> Normalisation:
    """
    Return mean and deviation that the encoder's pretrained weights were trained with.

    :param weights: their name, or a file, which is taken to be ImageNet's.

    For the package's own encoders it reads a small file, which it downloads when it has none.

    :raises ValueError: where that fails, or where images are not taken as RGB of 0 to 1.
    """
    smp = import_smp()
    check_encoder(encoder)
    name = 'imagenet' if Path(weights).is_file() else weights
    try:
        _ask_hub(encoder, name, 'config.json')
        found = smp.encoders.get_preprocessing_params(encoder, name)
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        mean, std = (' '.join(map(str, values)) for values in IMAGENET)
        raise ValueError(f'mean and std of {encoder} cannot be looked up ({error}): give them; '
                         f"ImageNet's are --mean {mean} --std {std}") from error
    if found['input_space'] != 'RGB' or list(found['input_range']) != [0, 1]:
        raise ValueError(f'{encoder} takes {found["input_space"]} of {found["input_range"]}, not '
                         f'RGB of 0 to 1')
    return tuple(found['mean']), tuple(found['std'])


def _ask_hub(encoder: str, weights: str, file: str) -> None:
    """
    Ask once for a file that the package would download; it would repeat that for 90 seconds.

    :raises OSError: where the hub does not answer and the file is not in its cache.
    """
    known = import_smp().encoders.encoders.get(encoder, {}).get('pretrained_settings', {})
    if weights not in known:
        return  # timm's, or no such weights: the package says so
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    repository, revision = known[weights]['repo_id'], known[weights]['revision']
    if isinstance(try_to_load_from_cache(repository, file, revision=revision), str):
        return
    try:
        get_hf_file_metadata(hf_hub_url(repository, file, revision=revision),
                             timeout=HUB_TIMEOUT_S)
    except Exception as error:  # of any type: that of the HTTP library
        reason = str(error).partition('\n')[0] or type(error).__name__
        raise OSError(f'{repository} cannot be downloaded: {reason}') from error


def import_smp() -> Any:
    """
    Return the package segmentation_models_pytorch.

    :raises ValueError: where it, or what it needs, is not installed or does not work.
    """
    try:
        import segmentation_models_pytorch
    except (ImportError, RuntimeError) as error:
        raise ValueError(f'this network needs segmentation_models_pytorch and what that needs '
                         f"({error}): pip install 'segmentation-models-pytorch>=0.6,<0.7', with "
                         f'the torchvision that belongs to your PyTorch') from error
    return segmentation_models_pytorch


def check_encoder(encoder: str) -> None:
    """Refuse names that would make timm fetch, or read, files of somebody's choice."""
    known = import_smp().encoders.get_encoder_names()
    if isinstance(encoder, str) and encoder.startswith('tu-'):
        import timm
        if timm.is_model(encoder[3:]):
            return
        raise ValueError(f'encoder {encoder!r}: timm has no model {encoder[3:]!r}')
    if encoder not in known:
        raise ValueError(f"encoder {encoder!r} is none of segmentation_models_pytorch's "
                         f'({", ".join(known)}), nor tu- and the name of a timm model')
