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
"""
Networks of transformers, as models of segmentation_models_pytorch that compute the same.

transformers itself is not needed: its configurations and the names of its tensors are translated.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
import re
from typing import Any

from featshare_core.labels import label_set, LabelSet
from featshare_core.networks.state_file import State
from featshare_core.networks.weights import CheckpointError, CONFIG_FILE
import torch

Equivalent = tuple[str, str, dict[str, Any], State]
"""Architecture, encoder, arguments and tensors of segmentation_models_pytorch."""
Names = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]
"""Patterns of tensors' names, each with what replaces it."""
Variants = Mapping[tuple[tuple[int, ...], tuple[int, ...]], str]
"""Encoders by their stages' channels and numbers of blocks."""

MIT: Variants = {
    ((32, 64, 160, 256), (2, 2, 2, 2)): 'mit_b0',
    ((64, 128, 320, 512), (2, 2, 2, 2)): 'mit_b1',
    ((64, 128, 320, 512), (3, 4, 6, 3)): 'mit_b2',
    ((64, 128, 320, 512), (3, 4, 18, 3)): 'mit_b3',
    ((64, 128, 320, 512), (3, 8, 27, 3)): 'mit_b4',
    ((64, 128, 320, 512), (3, 6, 40, 3)): 'mit_b5'}
"""Encoders of SegFormer by their stages' channels and numbers of blocks."""
MIT_SETTINGS = {'num_channels': 3, 'num_encoder_blocks': 4, 'sr_ratios': [8, 4, 2, 1],
                'num_attention_heads': [1, 2, 5, 8], 'mlp_ratios': [4, 4, 4, 4],
                'patch_sizes': [7, 3, 3, 3], 'strides': [4, 2, 2, 2], 'hidden_act': 'gelu',
                'reshape_last_stage': True}
"""Settings of SegFormer that segmentation_models_pytorch has fixed."""
MIT_NAMES: Names = (
    (r'^segformer\.encoder\.patch_embeddings\.(\d)\.', lambda m: f'encoder.patch_embed{_1(m)}.'),
    (r'^segformer\.encoder\.block\.(\d)\.', lambda m: f'encoder.block{_1(m)}.'),
    (r'^segformer\.encoder\.layer_norm\.(\d)\.', lambda m: f'encoder.norm{_1(m)}.'),
    (r'^(encoder\.patch_embed\d)\.layer_norm\.', r'\1.norm.'),
    (r'\.layer_norm_(\d)\.', r'.norm\1.'),
    (r'\.attention\.self\.layer_norm\.', '.attn.norm.'),
    (r'\.attention\.self\.query\.', '.attn.q.'),
    (r'\.attention\.self\.(key|value|sr)\.', r'.attn.\1.'),
    (r'\.attention\.output\.dense\.', '.attn.proj.'),
    (r'\.mlp\.dense(\d)\.', r'.mlp.fc\1.'),
    (r'^decode_head\.linear_c\.(\d)\.proj\.',
     lambda m: f'decoder.mlp_stage.{3 - int(m[1])}.linear.'),
    (r'^decode_head\.linear_fuse\.', 'decoder.fuse_stage.0.'),
    (r'^decode_head\.batch_norm\.', 'decoder.fuse_stage.1.'),
    (r'^decode_head\.classifier\.', 'segmentation_head.0.'))

CONVNEXT: Variants = {
    ((96, 192, 384, 768), (3, 3, 9, 3)): 'tu-convnext_tiny',
    ((96, 192, 384, 768), (3, 3, 27, 3)): 'tu-convnext_small',
    ((128, 256, 512, 1024), (3, 3, 27, 3)): 'tu-convnext_base',
    ((192, 384, 768, 1536), (3, 3, 27, 3)): 'tu-convnext_large',
    ((256, 512, 1024, 2048), (3, 3, 27, 3)): 'tu-convnext_xlarge'}
"""Encoders of UPerNet by their stages' channels and numbers of blocks."""
CONVNEXT_SETTINGS = {'num_channels': 3, 'patch_size': 4, 'hidden_act': 'gelu',
                     'out_features': ['stage1', 'stage2', 'stage3', 'stage4']}
"""Settings of ConvNeXt that timm has fixed, and those that UPerNet needs."""
UPERNET_SETTINGS = {'pool_scales': [1, 2, 3, 6]}
"""Settings of UPerNet that segmentation_models_pytorch has fixed."""
UPERNET_NAMES: Names = (
    (r'^backbone\.embeddings\.patch_embeddings\.', 'encoder.model.stem_0.'),
    (r'^backbone\.embeddings\.layernorm\.', 'encoder.model.stem_1.'),
    (r'^backbone\.encoder\.stages\.(\d)\.layers\.', r'encoder.model.stages_\1.blocks.'),
    (r'^backbone\.encoder\.stages\.(\d)\.downsampling_layer\.',
     r'encoder.model.stages_\1.downsample.'),
    (r'\.layer_scale_parameter$', '.gamma'),
    (r'\.dwconv\.', '.conv_dw.'),
    (r'^(encoder\.model\.stages_\d\.blocks\.\d+)\.layernorm\.', r'\1.norm.'),
    (r'\.pwconv(\d)\.', r'.mlp.fc\1.'),
    (r'^backbone\.hidden_states_norms\.stage(\d)\.',
     lambda m: f'decoder.feature_norms.{int(m[1]) - 1}.'),
    (r'^decode_head\.psp_modules\.(\d)\.1\.', r'decoder.psp.blocks.\1.1.'),
    (r'^decode_head\.bottleneck\.', 'decoder.psp.out_conv.'),
    # They count from the finest level; those of segmentation_models_pytorch from the deepest.
    (r'^decode_head\.lateral_convs\.(\d)\.',
     lambda m: f'decoder.fpn_lateral_blocks.{2 - int(m[1])}.conv_norm_relu.'),
    (r'^decode_head\.fpn_convs\.(\d)\.', lambda m: f'decoder.fpn_conv_blocks.{2 - int(m[1])}.'),
    (r'^decode_head\.fpn_bottleneck\.', 'decoder.fusion_block.'),
    (r'^decode_head\.classifier\.', 'segmentation_head.0.'),
    (r'^(decoder\..*)\.conv\.(weight)$', r'\1.0.\2'),
    (r'^(decoder\..*)\.batch_norm\.', r'\1.1.'))


def smp_equivalent(folder: Path, config: Mapping[str, Any], state: State) -> Equivalent:
    """
    Return the model of segmentation_models_pytorch that computes what a folder's network does.

    Its logits have stride 4, as transformers' have.

    :param config: of the folder.
    :param state: transformers' tensors.
    :raises CheckpointError: where there is none; the message names the family.
    """
    family = config.get('model_type')
    if not isinstance(family, str) or family not in FAMILIES:
        raise CheckpointError(f'{folder} holds a network of the family {family!r} of '
                              f'transformers, which cannot be divided into a shallow and a deep '
                              f'half: only {" and ".join(FAMILIES)} can')
    kinds = config.get('architectures')
    if kinds and not str(kinds).endswith("ForSemanticSegmentation']"):
        raise CheckpointError(f'{folder} holds {kinds!s:.99}, which does not segment')
    return FAMILIES[family](folder / CONFIG_FILE, config, state)


def class_names(folder: Path, config: Mapping[str, Any]) -> LabelSet:
    """
    Return the classes that a folder's configuration names (``id2label``).

    :raises CheckpointError: where it names none, or not one for each id from 0 on.
    """
    path, names = folder / CONFIG_FILE, config.get('id2label')
    if names is None:
        raise CheckpointError(f'{path} names no classes (id2label is missing)')
    ids = [str(index) for index in range(len(names))] if isinstance(names, Mapping) else []
    if not isinstance(names, Mapping) or sorted(names) != sorted(ids):
        raise CheckpointError(f'{path}: id2label is no mapping from the ids 0, 1, ... to names')
    try:
        return label_set([names[index] for index in ids])
    except ValueError as error:
        raise CheckpointError(f'{path}: id2label: {error}') from error


def _segformer(path: Path, config: Mapping[str, Any], state: State) -> Equivalent:
    _check(path, config, MIT_SETTINGS)
    encoder = _variant(path, config, MIT)
    translated = _translate(state, MIT_NAMES)
    for name in [name for name in translated if '.attn.key.' in name]:
        value = name.replace('.key.', '.value.')
        if value in translated:
            translated[name.replace('.key.', '.kv.')] = torch.cat(
                (translated.pop(name), translated.pop(value)))
    return 'Segformer', encoder, {
        'decoder_segmentation_channels': config.get('decoder_hidden_size', 256),
        'upsampling': 1}, translated


def _upernet(path: Path, config: Mapping[str, Any], state: State) -> Equivalent:
    _check(path, config, UPERNET_SETTINGS)
    backbone = config.get('backbone_config')
    kind = backbone.get('model_type') if isinstance(backbone, Mapping) else None
    if not isinstance(backbone, Mapping) or kind != 'convnext':
        raise CheckpointError(f'{path}: a UPerNet on {kind!r} cannot be divided: only one on '
                              f"'convnext' can")
    _check(path, backbone, CONVNEXT_SETTINGS)
    translated = _translate({name: tensor for name, tensor in state.items()
                             if not name.startswith('auxiliary_head.')}, UPERNET_NAMES)
    return 'UPerNet', _variant(path, backbone, CONVNEXT), {
        'decoder_channels': config.get('hidden_size', 512), 'upsampling': 1}, translated


def _check(path: Path, config: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    for name, value in fixed.items():
        if config.get(name, value) != value:
            raise CheckpointError(f'{path}: {name} is {config[name]!r}, and only {value!r} can be '
                                  f'used')


def _variant(path: Path, config: Mapping[str, Any],
             known: Variants) -> str:
    # What a configuration does not say has the default, the first of those known.
    channels, depths = (config.get(name) or list(default) for name, default in zip(
        ('hidden_sizes', 'depths'), next(iter(known))))
    for (its_channels, its_depths), encoder in known.items():
        if (list(its_channels), list(its_depths)) == (channels, depths):
            return encoder
    raise CheckpointError(f'{path}: hidden_sizes {channels!r} and depths {depths!r} are those of '
                          f'none of {", ".join(known.values())}')


def _translate(state: State, names: Names) -> State:
    translated = {}
    for name, tensor in state.items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        translated[name] = tensor
    return translated


def _1(match: re.Match[str]) -> int:
    """Return the matched index, which counts from 0, as one that counts from 1."""
    return int(match[1]) + 1


FAMILIES: Mapping[str, Callable[[Path, Mapping[str, Any], State], Equivalent]] = {
    'segformer': _segformer, 'upernet': _upernet}
"""How a folder's network is translated, by its family."""
