"""Weights of segmentation_models_pytorch and torchvision into a checkpoint of ours."""
from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from featshare_core.labels import CAMVID, CITYSCAPES, LabelSet
from featshare_core.networks.checkpoint import Config
from featshare_core.networks.eval_transform import FILE, read_eval_transform
from featshare_core.networks.fcn import fcn_network
from featshare_core.networks.normalisation import choose_normalisation, take_buffers
from featshare_core.networks.smp.build import divide, smp_arguments, smp_model
from featshare_core.networks.split import Normalisation, SplitNetwork
from featshare_core.networks.state_file import State, load_state, one_network, read_state

LABELS = {'camvid': CAMVID, 'cityscapes': CITYSCAPES}
FCN = 'fcn_resnet50'
"""torchvision's name of the network."""
TOLERANCE = 1e-4
"""Largest difference from the undivided model, relative to its largest logit."""


def convert(source: Path, labels: LabelSet, input_size: tuple[int, int] | None = None,
            architecture: str | None = None, encoder: str | None = None,
            arguments: Mapping[str, Any] | None = None, shared_levels: int | None = None,
            normalisation: Normalisation | None = None) -> tuple[SplitNetwork, Config]:
    """
    Return the network of others' weights, and its config.

    A model of one logit (sigmoid) becomes one of two classes, the first of which is what it is
    not: its logit is 0, and the softmax of both is the sigmoid.

    ``Config.training`` says where the normalisation comes from (``normalisation``), and what of
    the source is not used (``not_used``, where there is any).

    :param source: a folder of ``save_pretrained``, or a file that ``read_state`` reads.
    :param input_size: (width, height) of the images that it was trained on; None for what the
        ``eval_transform.FILE`` beside the weights says.
    :param architecture: a class of segmentation_models_pytorch, or torchvision's
        ``fcn_resnet50``; a folder says it itself, and its encoder and arguments.
    :param arguments: of the architecture's constructor, where they are not its defaults.
    :param shared_levels: None for 2, or the fewest that the architecture can share.
    :param normalisation: mean and deviation of RGB in 0 to 1; None for the source's own (buffers
        ``mean`` and ``std``, or ``eval_transform.FILE``), else the encoder's ImageNet weights'.
    :raises ValueError, OSError: where the source is no such thing, or does not fit.
    """
    arguments = dict(arguments or {})
    if source.is_dir():
        architecture, encoder, arguments, tensors = read_pretrained(source)
    else:
        tensors = read_state(source)
    state, others = one_network(
        tensors, 'backbone.' if architecture == FCN else 'encoder.', source)
    transform = read_eval_transform(source if source.is_dir() else source.parent)
    input_size = input_size or transform.size
    if input_size is None:
        raise ValueError(f'{source} does not say the size of the images that it was trained on: '
                         f'give --input-size')
    found = take_buffers(state, others)
    if transform.normalisation:
        found[FILE] = transform.normalisation
    (mean, std), where, not_used = choose_normalisation(
        normalisation, found, None if architecture == FCN else encoder)
    training: dict[str, Any] = {'converted_from': source.name, 'normalisation': where}
    if not_used or others:
        training['not_used'] = [*not_used, *sorted(others)]
    options: dict[str, Any] = {}
    if architecture == FCN:
        network, name = _fcn(state, labels, source), 'fcn-resnet50'
    elif not architecture or not encoder:
        raise ValueError(f'{source} holds tensors alone: name its architecture and its encoder')
    else:
        name = 'smp'
        network = _smp(state, labels, architecture, encoder, arguments, shared_levels,
                       input_size, source)
        options = {'architecture': architecture, 'encoder': encoder, **arguments}
    options['shared_levels'] = network.shared_levels
    if network.shared_levels:
        # Without it, features of a network that was trained per frame age within a few frames.
        network.configure(aligned=True)
        options['aligned'] = 1
    return network, Config(name, labels, input_size, options, mean, std, training)


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


def _smp(state: State, labels: LabelSet, architecture: str, encoder: str,
         arguments: Mapping[str, Any], shared_levels: int | None, input_size: tuple[int, int],
         source: Path) -> SplitNetwork:
    state = {name: tensor for name, tensor in state.items()
             if not name.startswith('classification_head.')}
    for name in ('segmentation_head.0.weight', 'segmentation_head.0.bias'):
        if len(labels) == 2 and name in state and len(state[name]) == 1:
            state[name] = torch.cat((torch.zeros_like(state[name]), state[name]))
    _check_classes(state, 'segmentation_head.0.weight', labels, source)
    model = smp_model(len(labels), architecture, encoder, **arguments).eval()
    _load_all(model, state, f'{source} does not fit {architecture} on {encoder} with '
                            f'{len(labels)} classes')
    # A copy, since the network takes over the model's parts. Before the model runs, since what
    # cannot be divided may not run on images of this size either.
    network = divide(deepcopy(model), encoder, 0)
    if shared_levels is None:
        shared_levels = 2 if 2 in network.cuts else network.cuts[:2][-1]
    if shared_levels not in network.cuts:
        raise ValueError(f'{architecture} on {encoder} can share '
                         f'{", ".join(map(str, network.cuts))} levels, not {shared_levels}')
    network.configure(shared_levels=shared_levels)
    multiple = model.encoder.output_stride
    width, height = (max(side // multiple, 1) * multiple for side in input_size)
    image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        try:
            expected = model(image)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ValueError(f'{architecture} on {encoder} does not run on images of '
                             f'{width}x{height}: {error}') from error
        difference = float((network(image) - expected).abs().max() / expected.abs().max())
    if not difference < TOLERANCE:
        raise ValueError(f'{source}: the divided network differs from the whole one by '
                         f'{difference:.1e}: another version of segmentation_models_pytorch?')
    return network


def _fcn(state: State, labels: LabelSet, source: Path) -> SplitNetwork:
    _check_classes(state, 'classifier.4.weight', labels, source)
    network = fcn_network(len(labels))
    _load_all(network, {name.replace('backbone.', 'encoder.', 1): tensor
                        for name, tensor in state.items()
                        if not name.startswith('aux_classifier.')},
              f'{source} is no {FCN} of {len(labels)} classes')
    return network.eval()


def _check_classes(state: State, classifier: str, labels: LabelSet, source: Path) -> None:
    """Refuse a label set of another number of classes than the network has logits."""
    if classifier in state and len(state[classifier]) != len(labels):
        count = len(state[classifier])
        raise ValueError(f'{source} has {count} logit{"s" * (count > 1)}, and the label set has '
                         f'{len(labels)} classes: '
                         + ('one logit needs two, the first of which is the background'
                            if count == 1 else 'name one for each logit'))


def _load_all(module: nn.Module, state: State, refusal: str) -> None:
    """Load a state dict that holds the module's tensors and no others; see ``load_state``."""
    unknown = sorted(state.keys() - module.state_dict().keys())
    if unknown:
        raise ValueError(f'{refusal}: {unknown[0]} is unknown ({len(unknown)} such tensors)')
    load_state(module, state, refusal)
