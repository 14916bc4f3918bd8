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
"""The mean and deviation that a converted network's images are normalised with."""
from __future__ import annotations

from collections.abc import Mapping

from featshare_core.networks.smp.encoders import encoder_normalisation
from featshare_core.networks.split import IMAGENET, Normalisation
from featshare_core.networks.state_file import State

OTHERS = ('inception', 'xception', 'dpn')
"""Beginnings of the names of encoders whose weights have another mean than ImageNet's."""


def choose_normalisation(given: Normalisation | None, found: Mapping[str, Normalisation],
                         encoder: str | None) -> tuple[Normalisation, str, list[str]]:
    """
    Return mean and deviation of RGB in 0 to 1, where they come from, and what is not used.

    :param given: the user's values; None: those in ``found``, else those of the encoder's
        ImageNet weights.
    :param found: in the network's files, by where it was found.
    :param encoder: of segmentation_models_pytorch; None for torchvision's.
    :raises ValueError: where they are of RGB in 0 to 255, contradict each other, or cannot be
        looked up.
    """
    if given:
        check_range(given, '--mean and --std')
        return given, '--mean and --std', [where for where, values in found.items()
                                           if not _equal(values, given)]
    for where, values in found.items():
        check_range(values, where)
    if found:
        where, chosen = next(iter(found.items()))
        if not all(_equal(values, chosen) for values in found.values()):
            raise ValueError('the values of mean and std differ, choose one pair: ' + '; '.join(
                f'{as_options(values)} ({name})' for name, values in found.items()))
        return chosen, where, []
    if encoder is None:
        return IMAGENET, "torchvision's ImageNet weights", []
    return encoder_normalisation(encoder), f'the ImageNet weights of {encoder}', []


def assumed_normalisation(encoder: str | None, weights: str | None) -> Normalisation:
    """
    Return ImageNet's mean and deviation, which most encoders' weights are trained with.

    :param weights: the name of the weights that the encoder was trained from; None if unknown.
    :raises ValueError: where the encoder's, or the weights', are known to be others.
    """
    if (encoder and encoder.startswith(OTHERS)) or weights == 'advprop':
        raise ValueError(f'its images are not normalised as ImageNet is, since its encoder is '
                         f'{encoder}: convert it with `featshare convert`, and give --mean and '
                         f'--std')
    return IMAGENET


def take_buffers(*states: State) -> dict[str, Normalisation]:
    """Remove pairs of buffers ``mean`` and ``std`` of three channels from states; return them."""
    found: dict[str, Normalisation] = {}
    for state in states:
        for name in [name for name in state if name.endswith('mean')]:
            partner = f'{name[:-4]}std'
            if partner in state and state[name].numel() == state[partner].numel() == 3:
                mean, std = ((float(f'{red:.7g}'), float(f'{green:.7g}'), float(f'{blue:.7g}'))
                             for red, green, blue in (state.pop(part).flatten().tolist()
                                                      for part in (name, partner)))
                found[f'the buffers {name} and {partner}'] = mean, std
    return found


def check_range(normalisation: Normalisation, where: str) -> None:
    """
    Refuse mean and deviation of RGB in 0 to 255; the message has the divided values.

    :param where: where the values come from, for the message.
    """
    mean, std = normalisation
    if not (max(mean) > 1 or max(std) > 1):
        return
    divided = (_divided(mean) if max(mean) > 1 else mean,
               # A std of 1 beside such a mean is of 0 to 255 too.
               _divided(std) if max(std) >= 1 else std)
    raise ValueError(f'{where}: mean {_numbers(mean)} and std {_numbers(std)} are of images in 0 '
                     f'to 255; give those of images in 0 to 1: {as_options(divided)}')


def as_text(normalisation: Normalisation) -> str:
    """Return mean and deviation, for display."""
    mean, std = normalisation
    return f'mean {_numbers(mean)}, std {_numbers(std)}'


def as_options(normalisation: Normalisation) -> str:
    """Return mean and deviation as the options of ``featshare convert``."""
    mean, std = normalisation
    return f'--mean {_numbers(mean)} --std {_numbers(std)}'


def _divided(values: tuple[float, float, float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red / 255, green / 255, blue / 255


def _numbers(values: tuple[float, float, float]) -> str:
    return ' '.join(f'{value:.4g}' for value in values)


def _equal(one: Normalisation, other: Normalisation) -> bool:
    return all(abs(a - b) < 1e-3 for ours, theirs in zip(one, other)
               for a, b in zip(ours, theirs))
