"""Any segmentation_models_pytorch model as a SplitNetwork, cut behind an encoder's stage."""
from __future__ import annotations

import inspect
from collections.abc import Sequence
from operator import methodcaller
from pathlib import Path
from typing import Any

from featshare_core.networks.smp.base import SmpNetwork
from featshare_core.networks.smp.decoders import DECODERS, Undivided
from featshare_core.networks.stages import Step, drop_unused, trace
from featshare_core.networks.state_file import load_state, read_state

Normalisation = tuple[tuple[float, float, float], tuple[float, float, float]]

# What is decided here, or has no place in a network that yields logits.
NOT_OURS = ('self', 'kwargs', 'encoder_name', 'encoder_weights', 'in_channels', 'classes',
            'activation', 'aux_params')


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
    _check_encoder(encoder)
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

    :param encoder: its name, for messages.
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
        return DECODERS.get(architecture, Undivided)(model, stages, shared_levels)
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


def load_encoder_weights(network: SmpNetwork, encoder: str, weights: str) -> None:
    """
    Give the encoder pretrained weights; the package downloads them where they are not cached.

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
            state = import_smp().encoders.get_encoder(encoder, weights=weights).state_dict()
        except (KeyError, OSError, RuntimeError, ValueError) as error:
            raise ValueError(f'the weights {weights!r} of {encoder} cannot be had: '
                             f'{error}') from error
    load_state(network.encoder, state, f'{weights} are no weights of {encoder}')


def encoder_normalisation(encoder: str, weights: str = 'imagenet') -> Normalisation:
    """
    Return mean and deviation that the encoder's pretrained weights were trained with.

    :param weights: their name, or a file, which is taken to be ImageNet's.

    For the package's own encoders it reads a small file, which it downloads when it has none.

    :raises ValueError: where that fails, or where images are not taken as RGB of 0 to 1.
    """
    smp = import_smp()
    _check_encoder(encoder)
    try:
        found = smp.encoders.get_preprocessing_params(
            encoder, 'imagenet' if Path(weights).is_file() else weights)
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        raise ValueError(f'mean and std of {encoder} cannot be looked up ({error}): give them '
                         f'yourself') from error
    if found['input_space'] != 'RGB' or list(found['input_range']) != [0, 1]:
        raise ValueError(f'{encoder} takes {found["input_space"]} of {found["input_range"]}, not '
                         f'RGB of 0 to 1')
    return tuple(found['mean']), tuple(found['std'])


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


def _check_encoder(encoder: str) -> None:
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
