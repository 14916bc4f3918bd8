"""Weights of segmentation_models_pytorch and torchvision into a checkpoint of ours."""
from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from featshare_core.labels import CAMVID, CITYSCAPES, LabelSet
from featshare_core.networks.checkpoint import Config
from featshare_core.networks.fcn import fcn_network
from featshare_core.networks.smp.build import divide, smp_arguments, smp_model
from featshare_core.networks.smp.encoders import encoder_normalisation
from featshare_core.networks.split import IMAGENET, SplitNetwork
from featshare_core.networks.state_file import State, read_state

LABELS = {'camvid': CAMVID, 'cityscapes': CITYSCAPES}
FCN = 'fcn_resnet50'
"""torchvision's name of the network."""
TOLERANCE = 1e-4
"""Largest difference from the undivided model, relative to its largest logit."""


def convert(source: Path, labels: LabelSet, input_size: tuple[int, int],
            architecture: str | None = None, encoder: str | None = None,
            arguments: Mapping[str, Any] | None = None, shared_levels: int | None = None,
            normalisation: Any = None) -> tuple[SplitNetwork, Config]:
    """
    Return the network of others' weights, and its config.

    A model of one logit (sigmoid) becomes one of two classes, the first of which is what it is
    not: its logit is 0, and the softmax of both is the sigmoid.

    :param source: a folder of ``save_pretrained``, or a file of ``torch.save(state_dict)``.
    :param input_size: (width, height) of the images that it was trained on.
    :param architecture: a class of segmentation_models_pytorch, or torchvision's
        ``fcn_resnet50``; a folder says it itself, and its encoder and arguments.
    :param arguments: of the architecture's constructor, where they are not its defaults.
    :param shared_levels: None for 2, or the fewest that the architecture can share.
    :param normalisation: mean and deviation; None for those of the encoder's ImageNet weights.
    :raises ValueError, OSError: where the source is no such thing, or does not fit.
    """
    arguments = dict(arguments or {})
    if source.is_dir():
        architecture, encoder, arguments, state = read_pretrained(source)
    else:
        state = read_weights(source)
    options: dict[str, Any] = {}
    if architecture == FCN:
        network, name = _fcn(state, len(labels), source), 'fcn-resnet50'
        normalisation = normalisation or IMAGENET
    elif not architecture or not encoder:
        raise ValueError(f'{source} holds tensors alone: name its architecture and its encoder')
    else:
        name, normalisation = 'smp', normalisation or encoder_normalisation(encoder)
        network = _smp(state, len(labels), architecture, encoder, arguments, shared_levels,
                       input_size, source)
        options = {'architecture': architecture, 'encoder': encoder, **arguments}
    mean, std = (tuple(values) for values in normalisation)
    options['shared_levels'] = network.shared_levels
    if network.shared_levels:
        # Without it, features of a network that was trained per frame age within a few frames.
        network.configure(aligned=True)
        options['aligned'] = 1
    return network, Config(name, labels, input_size, options, mean, std,
                           {'converted_from': source.name})


def read_pretrained(folder: Path) -> tuple[str, str, dict[str, Any], State]:
    """
    Return architecture, encoder, arguments and tensors of a folder of ``save_pretrained``.

    :raises ValueError: where it is none, or of a model that takes no RGB images.
    """
    path = folder / 'config.json'
    try:
        config = json.loads(path.read_text())
        architecture, encoder = str(config['_model_class']), str(config['encoder_name'])
        state = load_file(folder / 'model.safetensors')
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ValueError(f"{folder} is no folder that segmentation_models_pytorch's "
                         f'save_pretrained wrote ({error!r})') from error
    if config.get('in_channels', 3) != 3:
        raise ValueError(f'{path}: the model takes {config["in_channels"]} channels, not RGB')
    arguments = {name: config[name] for name, default in smp_arguments(architecture).items()
                 if name in config and config[name] != json.loads(json.dumps(default))}
    return architecture, encoder, arguments, state


def read_weights(path: Path) -> State:
    """
    Return the tensors of a file; whatever stands before ``encoder.`` in names is taken off.

    :raises ValueError, OSError: where it holds anything but tensors, or cannot be read.
    """
    content = read_state(path)
    prefix = next((name.partition('encoder.')[0] for name in content if 'encoder.' in name), '')
    return {name.removeprefix(prefix): tensor for name, tensor in content.items()
            if name.startswith(prefix)}


def _smp(state: State, classes: int, architecture: str, encoder: str,
         arguments: Mapping[str, Any], shared_levels: int | None, input_size: tuple[int, int],
         source: Path) -> SplitNetwork:
    state = {name: tensor for name, tensor in state.items()
             if not name.startswith('classification_head.')}
    for name in ('segmentation_head.0.weight', 'segmentation_head.0.bias'):
        if classes == 2 and name in state and len(state[name]) == 1:
            state[name] = torch.cat((torch.zeros_like(state[name]), state[name]))
    model = smp_model(classes, architecture, encoder, **arguments).eval()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f'{source} does not fit {architecture} on {encoder} with {classes} '
                         f'classes: {error}') from error
    multiple = model.encoder.output_stride
    width, height = (max(side // multiple, 1) * multiple for side in input_size)
    image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(image)
        network = divide(model, encoder, 0)
        if shared_levels is None:
            shared_levels = 2 if 2 in network.cuts else network.cuts[:2][-1]
        if shared_levels not in network.cuts:
            raise ValueError(f'{architecture} on {encoder} can share '
                             f'{", ".join(map(str, network.cuts))} levels, not {shared_levels}')
        network.configure(shared_levels=shared_levels)
        difference = float((network(image) - expected).abs().max() / expected.abs().max())
    if not difference < TOLERANCE:
        raise ValueError(f'{source}: the divided network differs from the whole one by '
                         f'{difference:.1e}: another version of segmentation_models_pytorch?')
    return network


def _fcn(state: State, classes: int, source: Path) -> SplitNetwork:
    network = fcn_network(classes)
    try:
        network.load_state_dict({name.replace('backbone.', 'encoder.', 1): tensor
                                 for name, tensor in state.items()
                                 if not name.startswith('aux_classifier.')})
    except RuntimeError as error:
        raise ValueError(f'{source} is no {FCN} of {classes} classes: {error}') from error
    return network.eval()
