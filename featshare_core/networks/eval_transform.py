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
"""What the files beside a model say of the images that it was trained on."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

from featshare_core.networks.split import Normalisation
from featshare_core.networks.weights import PREPROCESSOR, read_json, TRANSFORM_FILE

SIZED = ('Resize', 'CenterCrop', 'PadIfNeeded')
"""Transforms after which an image has, or has at least, the height and width that they name."""


@dataclass(frozen=True)
class EvalTransform:
    """
    How images are prepared for a model.

    :param normalisation: mean and deviation of RGB in 0 to 1; None where it has none.
    :param size: (width, height) in pixels; None where it has none.
    """

    normalisation: Normalisation | None = None
    size: tuple[int, int] | None = None


def read_eval_transform(folder: Path) -> EvalTransform:
    """
    Return what the folder's ``TRANSFORM_FILE`` says; nothing, where there is no such file.

    :raises ValueError: where it cannot be read, or normalises each image by its own values.
    """
    path = folder / TRANSFORM_FILE
    if not path.is_file():
        return EvalTransform()
    found = EvalTransform()
    largest = 255.0  # what a white pixel is at this step
    try:
        for kind, step in _steps(json.loads(path.read_text())['transform']):
            if kind == 'ToFloat':
                largest /= float(step.get('max_value') or 255)
            elif kind == 'Normalize':
                found = EvalTransform(_normalisation(step, largest), found.size)
            elif kind in SIZED:
                width, height = (step.get(side) or step.get(f'min_{side}')
                                 for side in ('width', 'height'))
                if width and height:
                    found = EvalTransform(found.normalisation, (int(width), int(height)))
    except (OSError, LookupError, TypeError, AttributeError, ValueError, OverflowError,
            RecursionError) as error:
        raise ValueError(f'{path} cannot be used ({error!r}): correct it, or rename it and give '
                         f'--mean, --std and --input-size') from error
    return found


def _steps(transform: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the name and the arguments of each transform, those within others in their place."""
    yield str(transform['__class_fullname__']).rpartition('.')[2], transform
    for step in transform.get('transforms') or ():
        yield from _steps(step)


def _normalisation(step: Mapping[str, Any], largest: float) -> Normalisation:
    """
    Return mean and deviation for images in 0 to 1.

    The step gives them as fractions of ``max_pixel_value``.

    :param largest: value of a white pixel before the step.
    """
    how = step.get('normalization', 'standard')
    if how != 'standard':
        raise ValueError(f'normalization {how!r}: only fixed values of mean and std can be used')
    scale = float(step.get('max_pixel_value') or 1) / largest
    red, green, blue = (float(value) * scale for value in step['mean'])
    mean = red, green, blue
    red, green, blue = (float(value) * scale for value in step['std'])
    return mean, (red, green, blue)


def read_preprocessor(folder: Path) -> EvalTransform:
    """
    Return what the folder's ``PREPROCESSOR`` says; nothing, where there is no such file.

    :raises ValueError: where it cannot be read, or changes images in another way than by their
        size, their range and their normalisation.
    """
    path = folder / PREPROCESSOR
    if not path.is_file():
        return EvalTransform()
    try:
        content = read_json(path)
        if content.get('do_flip_channel_order') or content.get('do_color_quantize'):
            raise ValueError('the network takes BGR, or quantised colours, not RGB')
        # A white pixel of 255 becomes this before it is normalised.
        white = 255 * float(content.get('rescale_factor') or 1 / 255) \
            if content.get('do_rescale', True) else 255.0
        mean, std = ((float(red) / white, float(green) / white, float(blue) / white)
                     for red, green, blue in (
                         content[name] if content.get('do_normalize', True) else (value,) * 3
                         for name, value in (('image_mean', 0), ('image_std', 1))))
        return EvalTransform((mean, std), _size(content.get('size'))
                             if content.get('do_resize', True) else None)
    except (LookupError, TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise ValueError(f'{path} cannot be used ({error!r}): correct it, or rename it and give '
                         f'--mean, --std and --input-size') from error


def _size(given: Any) -> tuple[int, int] | None:
    """Return (width, height) of the forms that transformers knows: a side, or a mapping."""
    if isinstance(given, Mapping):
        side = given.get('shortest_edge')
        given = (given['width'], given['height']) if side is None else side
    width, height = given if isinstance(given, tuple) else (given, given)
    return None if given is None else (int(width), int(height))
