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
"""Any segmentation_models_pytorch model as a SplitNetwork, cut behind an encoder's stage."""
from __future__ import annotations

from collections.abc import Sequence
import inspect
from operator import methodcaller
from typing import Any

from featshare_core.networks.smp.base import SmpNetwork
from featshare_core.networks.smp.decoders import DECODERS, Undivided
from featshare_core.networks.smp.encoders import check_encoder, import_smp
from featshare_core.networks.stages import drop_unused, Step, trace

NOT_OURS = ('self', 'kwargs', 'encoder_name', 'encoder_weights', 'in_channels', 'classes',
            'activation', 'aux_params')
"""Arguments of the package's constructors that are set here or do not concern the logits."""


def smp_network(classes: int, architecture: str, encoder: str, shared_levels: int = 0,
                **arguments: Any) -> SmpNetwork:
    """
    Return a network with fresh weights; nothing is downloaded.

    :param architecture: the name of one of the package's classes, such as ``Unet``.
    :param encoder: such as ``resnet34``, or ``tu-`` and the name of a timm model.
    :param shared_levels: the encoder's stages that are cached, counted from the deepest; which
        ones an architecture can share, ``cuts`` says. PSPNet and DeepLabV3 read the deepest
        stage alone: their 1 stands for the context that their decoder adds to it.
    :param arguments: of the architecture's constructor, such as ``encoder_depth``.
    :raises ValueError: where the package is missing, or for what it or we cannot build.
    """
    return divide(smp_model(classes, architecture, encoder, **arguments), encoder, shared_levels)


def smp_model(classes: int, architecture: str, encoder: str, **arguments: Any) -> Any:
    """
    Return the package's own model with fresh weights; nothing is downloaded.

    :raises ValueError: where the package is missing, or cannot build it.
    """
    kind = smp_architecture(architecture)
    check_encoder(encoder)
    accepted = smp_arguments(architecture)
    for name in arguments:
        if name not in accepted:
            raise ValueError(f'{name} is no option of {architecture}; it has '
                             f'{", ".join(accepted)}')
    try:
        return kind(encoder_name=encoder, encoder_weights=None, classes=classes, **arguments)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f'{architecture} on {encoder} cannot be built: {error}') from error


def smp_architecture(name: str) -> Any:
    """Return the package's class of that name; raise ValueError where it has none."""
    known = {kind.__name__: kind for kind in import_smp().MODEL_ARCHITECTURES_MAPPING.values()}
    if name not in known:
        raise ValueError(f'architecture {name!r} is none of {", ".join(known)}')
    return known[name]


def smp_arguments(architecture: str) -> dict[str, Any]:
    """Return what an architecture's constructor takes beside ``NOT_OURS``, with its defaults."""
    parameters = inspect.signature(smp_architecture(architecture).__init__).parameters
    return {name: parameter.default for name, parameter in parameters.items()
            if name not in NOT_OURS}


def divide(model: Any, encoder: str, shared_levels: int) -> SmpNetwork:
    """
    Return the package's model as a SplitNetwork, which takes over its parts.

    :param encoder: its name.
    :raises ValueError: where its encoder has no stages, or it cannot be cut there.
    """
    try:
        stages = encoder_stages(model.encoder)
    except ValueError as error:
        raise ValueError(
            f'encoder {encoder} cannot be cut into stages: {error}; those of the families resnet, '
            f'resnext, se_resnet, densenet, efficientnet, mobilenet, mobileone, mit_b, vgg and '
            f"xception can, and timm's convolutional ones (tu-...)") from error
    drop_unused(model.encoder, {target for steps in stages for target, _ in steps
                                if isinstance(target, str)})
    architecture = type(model).__name__
    try:
        return DECODERS.get(architecture, Undivided)(model, encoder, stages, shared_levels)
    except ValueError as error:
        raise ValueError(f'{architecture} on {encoder}: {error}') from error


def encoder_stages(encoder: Any) -> list[Sequence[Step]]:
    """
    Return the steps of each stage of an encoder, none for a gap that it fills.

    :raises ValueError: where it does not run stage after stage.
    """
    if not isinstance(encoder, import_smp().encoders.TimmUniversalEncoder):
        if not hasattr(encoder, 'out_channels'):
            raise ValueError('it is a transformer without stages')
        # The first map is the image; VGG's is of its first convolutions.
        first, *rest = trace(encoder)
        return [[*(first or []), *(rest[0] or [])], *(steps or [] for steps in rest[1:])]
    stages: list[Sequence[Step]] = [steps or [] for steps in trace(encoder.model, 'model.')]
    if encoder._is_channel_last:
        outward: list[Step] = [(methodcaller('permute', 0, 3, 1, 2), ()),
                               (methodcaller('contiguous'), ())]
        inward: list[Step] = [(methodcaller('permute', 0, 2, 3, 1), ())]
        stages = [[*(inward if number else ()), *steps, *outward]
                  for number, steps in enumerate(stages)]
    if encoder._is_vgg_style:
        stages[:2] = [[*stages[0], *stages[1]]]
    return [[], *stages] if encoder._is_transformer_style else stages
