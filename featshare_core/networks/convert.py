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
"""Weights of other packages into a checkpoint of ours."""
from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from featshare_core.labels import label_set, LabelSet
from featshare_core.networks.checkpoint import Config
from featshare_core.networks.eval_transform import read_eval_transform
from featshare_core.networks.fcn import fcn_network
from featshare_core.networks.folders import Pretrained, read_folder
from featshare_core.networks.normalisation import (
    as_options,
    as_text,
    assumed_normalisation,
    choose_normalisation,
    OTHERS,
    take_buffers,
)
from featshare_core.networks.smp.build import divide, smp_model
from featshare_core.networks.split import IMAGENET, Normalisation, SplitNetwork
from featshare_core.networks.state_file import (
    check_state,
    load_state,
    one_network,
    read_state,
    State,
    unallocated,
)
from featshare_core.networks.weights import foreign_kind
import torch
from torch import nn

FCN = 'fcn_resnet50'
"""torchvision's name of the network."""
ASSUMED_SIZE = 512, 512
"""Width and height of the images that a network was trained on, where nothing says them."""
CHECKED_SIDE = 1024
"""Largest side of the image on which the divided network is compared, in pixels."""
TOLERANCE = 1e-4
"""Largest difference from the undivided model, relative to its largest logit."""


def convert(source: Path, labels: LabelSet | None = None,
            input_size: tuple[int, int] | None = None, architecture: str | None = None,
            encoder: str | None = None, arguments: Mapping[str, Any] | None = None,
            shared_levels: int | None = None, normalisation: Normalisation | None = None,
            assume: bool = False) -> tuple[SplitNetwork, Config]:
    """
    Return the network of others' weights, and its config.

    A model of one logit (sigmoid) becomes one of two classes, the first of which is what it is
    not: its logit is 0, and the softmax of both is the sigmoid.

    ``Config.training`` says where the normalisation comes from (``normalisation``), what of
    the source is not used (``not_used``), what was assumed (``assumed``), where there is any, and
    the package that wrote a folder (``package``, see ``foreign_kind``).

    :param source: a folder of ``save_pretrained``, or a file that ``read_state`` reads.
    :param labels: None for the classes that the folder names.
    :param input_size: (width, height) of the images that it was trained on; None for what the
        file beside the weights says (``eval_transform``).
    :param architecture: a class of segmentation_models_pytorch, or torchvision's
        ``fcn_resnet50``; a folder says it itself, and its encoder and arguments.
    :param arguments: of the architecture's constructor, where they are not its defaults.
    :param shared_levels: None for 2, or the fewest that the architecture can share.
    :param normalisation: mean and deviation of RGB in 0 to 1; None for the source's own (buffers
        ``mean`` and ``std``, or ``eval_transform``), else the encoder's ImageNet weights'.
    :param assume: take numbered classes, ``ASSUMED_SIZE`` and ImageNet's mean and deviation,
        without looking anything up, where neither the arguments nor the source say them.
    :raises ValueError, OSError: where the source is no such thing, or does not fit.
    """
    if source.is_dir():
        found = read_folder(source)
        architecture, encoder = found.architecture, found.encoder
    else:
        architecture = FCN if architecture == 'fcn-resnet50' else architecture  # our own name
        found = Pretrained(architecture, encoder, dict(arguments or {}), read_state(source),
                           transform=read_eval_transform(source.parent))
    state, others = one_network(
        found.state, 'backbone.' if architecture == FCN else 'encoder.', source)
    normalisations = take_buffers(state, others)
    if found.transform.normalisation:
        normalisations[found.transform_file] = found.transform.normalisation
    assumed: list[str] = []
    not_used = ['the class names of the folder'] if labels and found.labels and \
        labels.names != found.labels.names else []
    labels, input_size = labels or found.labels, input_size or found.transform.size
    known = normalisation or next(iter(normalisations.values()), None)
    architecture, encoder = architecture or '', encoder or ''
    if not assume:
        _check_complete(source, found, labels, input_size, architecture, encoder, known)
    if labels is None:
        if found.label_problem:
            raise ValueError(f'{found.label_problem}; `featshare convert --labels` names them')
        labels = _numbered(state, source)
        assumed.append(f'the classes are called {labels.names[0]}, ..., {labels.names[-1]}')
    if input_size is None:
        input_size = ASSUMED_SIZE
        assumed.append('it was trained on images of {}x{}'.format(*input_size))
    if assume and not normalisations and not encoder.startswith('tu-'):
        normalisations['assumed'] = assumed_normalisation(encoder, found.encoder_weights)
        assumed.append(f'its images are normalised with {as_text(normalisations["assumed"])}')
    (mean, std), where, other_values = choose_normalisation(
        normalisation, normalisations, None if architecture == FCN else encoder)
    training: dict[str, Any] = {'converted_from': source.name, 'normalisation': where}
    not_used += [*other_values, *sorted(others)]
    if source.is_dir():
        training['package'] = foreign_kind(source)
    if not_used:
        training['not_used'] = not_used
    if assumed:
        training['assumed'] = assumed
    options: dict[str, Any] = {}
    if architecture == FCN:
        network, name = _fcn(state, labels, source), 'fcn-resnet50'
    else:
        name = 'smp'
        network = _smp(state, labels, architecture, encoder, found.arguments, shared_levels,
                       input_size, source)
        options = {'architecture': architecture, 'encoder': encoder, **found.arguments}
    options['shared_levels'] = network.shared_levels
    if network.shared_levels:
        # Without it, features of a network that was trained per frame age within a few frames.
        network.configure(aligned=True)
        options['aligned'] = 1
    return network, Config(name, labels, input_size, options, mean, std, training,
                           licence=found.licence)


def _check_complete(source: Path, found: Pretrained, labels: LabelSet | None,
                    input_size: tuple[int, int] | None, architecture: str, encoder: str,
                    normalisation: Normalisation | None) -> None:
    """
    Refuse to convert with settings missing.

    The message names all of them, and has a complete command as an example. Mean and deviation
    are in the example only where they are known, or may need the network to be looked up.

    :param labels, input_size, architecture, encoder, normalisation: what is known; None or ''
        where it is not.
    """
    missing = [option for option, value in (
        ('--labels', labels), ('--input-size', input_size), ('--architecture', architecture),
        ('--encoder', encoder or architecture == FCN)) if not value]
    if not missing:
        return
    converted = source.stem + '-converted' * (source.suffix == '.safetensors')
    example = [f'featshare convert {source} {converted}.safetensors']
    if not found.labels:
        example.append('--labels my_labels.yaml')
    example.append('--input-size {}x{}'.format(*(input_size or (640, 480))))
    if not source.is_dir():
        example.append(f'--architecture {architecture or "Unet"}')
    if not source.is_dir() and architecture != FCN:
        example.append(f'--encoder {encoder or "resnet34"}')
    remark = ''
    if normalisation:
        example.append(as_options(normalisation))
    elif architecture != FCN and not encoder.startswith(('tu-', *OTHERS)):
        example.append(as_options(IMAGENET))
        remark = ("\n(--mean and --std are ImageNet's; without these options, those of the "
                  "encoder's weights are looked up online)")
    reason = f' ({found.label_problem})' if found.label_problem and not labels else ''
    raise ValueError(f'{source} does not contain all settings{reason}: give '
                     f'{", ".join(missing)}, for example\n    {" ".join(example)}{remark}')


def _numbered(state: State, source: Path) -> LabelSet:
    """Return a label set of as many classes as there are logits; of two for a single one."""
    weight = state.get('segmentation_head.0.weight')
    if weight is None:
        raise ValueError(f'{source}: segmentation_head.0.weight is missing')
    return label_set(['background', 'foreground'] if len(weight) == 1 else
                     [f'class {index}' for index in range(len(weight))])


def _smp(state: State, labels: LabelSet, architecture: str, encoder: str,
         arguments: Mapping[str, Any], shared_levels: int | None, input_size: tuple[int, int],
         source: Path) -> SplitNetwork:
    state = {name: tensor for name, tensor in state.items()
             if not name.startswith('classification_head.')}
    for name in ('segmentation_head.0.weight', 'segmentation_head.0.bias'):
        if len(labels) == 2 and name in state and len(state[name]) == 1:
            state[name] = torch.cat((torch.zeros_like(state[name]), state[name]))
    _check_classes(state, 'segmentation_head.0.weight', labels, source)
    refusal = f'{source} does not fit {architecture} on {encoder} with {len(labels)} classes'
    with unallocated():  # a small file can name a huge network
        _check_all(smp_model(len(labels), architecture, encoder, **arguments), state, refusal)
    model = smp_model(len(labels), architecture, encoder, **arguments).eval()
    load_state(model, state, refusal)
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
    width, height = (max(min(side, CHECKED_SIDE) // multiple, 1) * multiple
                     for side in input_size)
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
    state = {name.replace('backbone.', 'encoder.', 1): tensor for name, tensor in state.items()
             if not name.startswith('aux_classifier.')}
    refusal = f'{source} is no {FCN} of {len(labels)} classes'
    _check_all(network, state, refusal)
    load_state(network, state, refusal)
    return network.eval()


def _check_classes(state: State, classifier: str, labels: LabelSet, source: Path) -> None:
    """Refuse a label set of another number of classes than the network has logits."""
    if classifier in state and len(state[classifier]) != len(labels):
        count = len(state[classifier])
        raise ValueError(f'{source} has {count} logit{"s" * (count > 1)}, and the label set has '
                         f'{len(labels)} classes: '
                         + ('one logit needs two, the first of which is the background'
                            if count == 1 else 'name one for each logit'))


def _check_all(module: nn.Module, state: State, refusal: str) -> None:
    """Refuse a state dict that holds others than the module's tensors; see ``check_state``."""
    unknown = sorted(state.keys() - module.state_dict().keys())
    if unknown:
        raise ValueError(f'{refusal}: {unknown[0]} is unknown ({len(unknown)} such tensors)')
    check_state(module, state, refusal)
