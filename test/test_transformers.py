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
"""Networks of transformers, whose tensors are translated; the package itself is not needed."""
import json

from featshare_core.cli import main
from featshare_core.labels import CITYSCAPES
from featshare_core.networks import transformers
from featshare_core.networks.checkpoint import CheckpointError, load_checkpoint
from featshare_core.networks.convert import convert
from featshare_core.networks.eval_transform import read_preprocessor
from featshare_core.networks.folders import read_folder
from featshare_core.networks.weights import PREPROCESSOR
import pytest
from safetensors.torch import save_file
import torch
from torch.nn import functional as F

try:
    import segmentation_models_pytorch  # noqa: F401
except (ImportError, RuntimeError) as error:
    pytest.skip(f'segmentation_models_pytorch is not installed, or does not work ({error})',
                allow_module_level=True)

CHANNELS, RATIOS, HEADS, WIDE = (32, 64, 160, 256), (8, 4, 2, 1), (1, 2, 5, 8), 24
SEGFORMER = {'model_type': 'segformer', 'architectures': ['SegformerForSemanticSegmentation'],
             'hidden_sizes': list(CHANNELS), 'depths': [2, 2, 2, 2], 'decoder_hidden_size': WIDE,
             'id2label': {str(index): name for index, name in enumerate(CITYSCAPES.names)}}
CONVNEXT = (24, 32, 48, 64), (1, 2, 4, 2)
UPERNET = {'model_type': 'upernet', 'architectures': ['UperNetForSemanticSegmentation'],
           'hidden_size': 8, 'id2label': {'0': 'floor', '1': 'wall', '2': 'door'},
           'backbone_config': {'model_type': 'convnext', 'hidden_sizes': list(CONVNEXT[0]),
                               'depths': list(CONVNEXT[1])}}


@pytest.fixture(autouse=True)
def repeatable(one_thread, tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def random_state(shapes):
    """Return tensors of these shapes; the values of a norm are near 1 and 0."""
    return {name: 1 + 0.1 * torch.rand(shape) if name.endswith('running_var') or (
        len(shape) == 1 and name.endswith('weight')) else
        torch.randn(shape) / max(1, shape[-1] if len(shape) == 2 else 9) ** 0.5 * 0.7
        for name, shape in shapes.items()}


def layer(name, *shape, bias=True):
    """Return the shapes of a layer's parameters."""
    return {f'{name}.weight': shape, **({f'{name}.bias': shape[:1]} if bias else {})}


def norm(name, channels):
    return {**layer(name, channels), f'{name}.running_mean': (channels,),
            f'{name}.running_var': (channels,)}


def segformer_shapes():
    """Return the shapes of the tensors that transformers writes of SEGFORMER."""
    shapes, before = {}, 3
    for stage, (c, ratio) in enumerate(zip(CHANNELS, RATIOS)):
        kernel = 3 if stage else 7
        encoder = 'segformer.encoder.'
        shapes |= layer(f'{encoder}patch_embeddings.{stage}.proj', c, before, kernel, kernel)
        shapes |= layer(f'{encoder}patch_embeddings.{stage}.layer_norm', c)
        shapes |= layer(f'{encoder}layer_norm.{stage}', c)
        shapes |= layer(f'decode_head.linear_c.{stage}.proj', WIDE, c)
        for index in range(2):
            block = f'{encoder}block.{stage}.{index}.'
            for name in ('query', 'key', 'value'):
                shapes |= layer(f'{block}attention.self.{name}', c, c)
            if ratio > 1:
                shapes |= layer(f'{block}attention.self.sr', c, c, ratio, ratio)
                shapes |= layer(f'{block}attention.self.layer_norm', c)
            shapes |= layer(f'{block}attention.output.dense', c, c)
            shapes |= layer(f'{block}layer_norm_1', c) | layer(f'{block}layer_norm_2', c)
            shapes |= layer(f'{block}mlp.dense1', 4 * c, c) | layer(f'{block}mlp.dense2', c, 4 * c)
            shapes |= layer(f'{block}mlp.dwconv.dwconv', 4 * c, 1, 3, 3)
        before = c
    shapes |= layer('decode_head.linear_fuse', WIDE, 4 * WIDE, 1, 1, bias=False)
    shapes |= norm('decode_head.batch_norm', WIDE)
    return shapes | layer('decode_head.classifier', len(CITYSCAPES), WIDE, 1, 1)


def segformer(state, x):
    """Return the logits of SegFormer (Xie et al. 2021, section 3), from transformers' tensors."""
    def of(name):
        return state[f'{name}.weight'], state.get(f'{name}.bias')

    def normed(name, x):
        return F.layer_norm(x, x.shape[-1:], *of(name))

    def grid(x):  # NxLxC to NxCxhxw, of the stage at hand
        return x.transpose(1, 2).unflatten(2, size)

    def tokens(x):
        return x.flatten(2).transpose(1, 2)

    maps = []
    for stage in range(4):
        encoder = 'segformer.encoder.'
        x = F.conv2d(x, *of(f'{encoder}patch_embeddings.{stage}.proj'), 2 if stage else 4,
                     1 if stage else 3)
        size = x.shape[-2:]
        x = normed(f'{encoder}patch_embeddings.{stage}.layer_norm', tokens(x))
        for index in range(2):
            block = f'{encoder}block.{stage}.{index}.'
            attention = f'{block}attention.self.'
            y = few = normed(f'{block}layer_norm_1', x)
            if RATIOS[stage] > 1:
                few = tokens(F.conv2d(grid(y), *of(f'{attention}sr'), RATIOS[stage]))
                few = normed(f'{attention}layer_norm', few)
            query, key, value = (
                F.linear(t, *of(attention + name)).unflatten(2, (HEADS[stage], -1)).transpose(1, 2)
                for name, t in (('query', y), ('key', few), ('value', few)))
            y = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
            x = x + F.linear(y, *of(f'{block}attention.output.dense'))
            y = F.linear(normed(f'{block}layer_norm_2', x), *of(f'{block}mlp.dense1'))
            y = tokens(F.conv2d(grid(y), *of(f'{block}mlp.dwconv.dwconv'), padding=1,
                                groups=y.shape[2]))
            x = x + F.linear(F.gelu(y), *of(f'{block}mlp.dense2'))
        x = grid(normed(f'{encoder}layer_norm.{stage}', x))
        mapped = tokens(x) @ state[f'decode_head.linear_c.{stage}.proj.weight'].T
        maps.insert(0, F.interpolate(
            grid(mapped + state[f'decode_head.linear_c.{stage}.proj.bias']),
            maps[-1].shape[-2:] if maps else size, mode='bilinear'))
    fused = F.conv2d(torch.cat(maps, 1), *of('decode_head.linear_fuse'))
    batch_norm = 'decode_head.batch_norm'
    fused = F.batch_norm(fused, state[f'{batch_norm}.running_mean'],
                         state[f'{batch_norm}.running_var'], *of(batch_norm))
    return F.conv2d(fused.relu(), *of('decode_head.classifier'))


def upernet_shapes():
    """Return the shapes of the tensors that transformers writes of UPERNET."""
    shapes, before, deep = {}, 3, CONVNEXT[0][-1]
    wide = UPERNET['hidden_size']
    shapes |= layer('backbone.embeddings.patch_embeddings', CONVNEXT[0][0], 3, 4, 4)
    shapes |= layer('backbone.embeddings.layernorm', CONVNEXT[0][0])
    for stage, (c, depth) in enumerate(zip(*CONVNEXT)):
        path = f'backbone.encoder.stages.{stage}.'
        if stage:
            shapes |= layer(f'{path}downsampling_layer.0', before)
            shapes |= layer(f'{path}downsampling_layer.1', c, before, 2, 2)
        for index in range(depth):
            block = f'{path}layers.{index}.'
            shapes |= layer(f'{block}dwconv', c, 1, 7, 7) | layer(f'{block}layernorm', c)
            shapes |= layer(f'{block}pwconv1', 4 * c, c) | layer(f'{block}pwconv2', c, 4 * c)
            shapes[f'{block}layer_scale_parameter'] = c,
        shapes |= layer(f'backbone.hidden_states_norms.stage{stage + 1}', c)
        before = c

    def module(name, outputs, inputs, kernel):
        name = f'decode_head.{name}'
        return layer(f'{name}.conv', outputs, inputs, kernel, kernel, bias=False) | norm(
            f'{name}.batch_norm', outputs)
    for index in range(4):
        shapes |= module(f'psp_modules.{index}.1', wide, deep, 1)
    shapes |= module('bottleneck', wide, deep + 4 * wide, 3)
    for index in range(3):
        shapes |= module(f'lateral_convs.{index}', wide, CONVNEXT[0][index], 1)
        shapes |= module(f'fpn_convs.{index}', wide, wide, 3)
    shapes |= module('fpn_bottleneck', wide, 4 * wide, 3)
    shapes |= layer('auxiliary_head.classifier', 3, 8, 1, 1)
    return shapes | layer('decode_head.classifier', 3, wide, 1, 1)


def written(folder, config, state):
    """Write what save_pretrained writes."""
    folder.mkdir()
    (folder / 'config.json').write_text(json.dumps(config))
    (folder / PREPROCESSOR).write_text(json.dumps({
        'image_mean': [0.5, 0.4, 0.3], 'image_std': [0.2, 0.3, 0.4], 'size': {
            'height': 64, 'width': 96}}))
    save_file(state, folder / 'model.safetensors')
    return folder


@torch.inference_mode()
def test_segformer(tmp_path):
    state = random_state(segformer_shapes())
    network, config = load_checkpoint(written(tmp_path / 'b0', SEGFORMER, state))
    image = torch.randn(1, 3, 64, 96)
    expected, got = segformer(state, image), network(image)
    assert got.shape == expected.shape == (1, 19, 16, 24)
    # Norms of transformers add 1e-5 to the variance, those of the original weights 1e-6.
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
    assert expected.std() > 0.1
    assert config.labels == CITYSCAPES
    assert (config.mean, config.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert (config.input_size, network.cuts) == ((96, 64), (0, 1, 2, 3))
    assert config.options['encoder'] == 'mit_b0'
    assert config.training['normalisation'] == PREPROCESSOR
    assert 'assumed' not in config.training


def test_convert_takes_it_and_says_what_it_does_not_use(tmp_path, capsys):
    folder = written(tmp_path / 'b0', SEGFORMER, random_state(segformer_shapes()))
    (tmp_path / 'names.txt').write_text('\n'.join(map(str, range(19))))
    assert main(['convert', str(folder), str(tmp_path / 'x')]) == 0
    said = capsys.readouterr().out
    assert f'--mean 0.5 0.4 0.3 --std 0.2 0.3 0.4 ({PREPROCESSOR}); images of 96x64' in said
    assert 'not used' not in said
    assert load_checkpoint(tmp_path / 'x.safetensors')[1].labels == CITYSCAPES
    assert main(['convert', str(folder), str(tmp_path / 'x'), '--labels',
                 str(tmp_path / 'names.txt'), '--overwrite']) == 0
    assert 'not used: the class names of the folder\n' in capsys.readouterr().out


def test_upernet(tmp_path, monkeypatch):
    """Every tensor finds its place; timm's smallest ConvNeXt stands for the known ones."""
    monkeypatch.setattr(transformers, 'CONVNEXT', {CONVNEXT: 'tu-test_convnext'})
    folder = written(tmp_path / 'upernet', UPERNET, random_state(upernet_shapes()))
    network, config = convert(folder)
    assert config.options['architecture'] == 'UPerNet'
    assert config.labels.names == ('floor', 'wall', 'door')
    with torch.inference_mode():
        assert network(torch.randn(1, 3, 64, 96)).shape == (1, 3, 16, 24)


@pytest.mark.parametrize(('changes', 'message'), [
    ({'model_type': 'dpt'}, r"b0 holds a network of the family 'dpt' of transformers, which "
                            r'cannot be divided .* only segformer and upernet can'),
    ({'model_type': 'beit'}, "family 'beit'"), ({'model_type': ['x']}, r"family \['x'\]"),
    ({'architectures': ['SegformerForImageClassification']}, "Classification'., which does not"),
    ({'architectures': 3}, 'holds 3, which does not segment'),
    ({'sr_ratios': [8, 4, 2, 2]}, r'sr_ratios is \[8, 4, 2, 2\], and only \[8, 4, 2, 1\] can'),
    ({'hidden_sizes': [3, 3, 3, 3]}, r'those of none of mit_b0, .* mit_b5'),
    ({'hidden_sizes': [64, 128, 320, 512]}, r'patch_embed1\.proj\.weight has shape .32, 3, 7, 7'),
    ({'decoder_hidden_size': 1 << 20}, r'decoder\.mlp_stage.* has shape .24, 256., not'),
    ({'id2label': {'0': 'a', '2': 'b'}}, 'no mapping from the ids'),
    ({'id2label': None}, 'names no classes'),
    ({'id2label': {'0': 'a', '1': 'a'}}, 'id2label: a class name occurs twice'),
    ({'id2label': {'0': 'a', '1': 'b'}}, 'has 19 logits, and the label set has 2 classes'),
    ({'model_type': 'upernet', 'backbone_config': {'model_type': 'swin'}}, "UPerNet on 'swin'"),
    ({'model_type': 'upernet', 'backbone_config': 3}, 'UPerNet on None')])
def test_what_is_refused(tmp_path, changes, message):
    folder = written(tmp_path / 'b0', {**SEGFORMER, **changes},
                     {name: torch.zeros(shape) for name, shape in segformer_shapes().items()})
    with pytest.raises(CheckpointError, match=f'^b0 cannot be converted: .*{message}'):
        load_checkpoint(folder)


def test_names_that_cannot_be_used_leave_the_choice_to_the_user(tmp_path):
    for name, names in (('none', None), ('twice', dict.fromkeys(map(str, range(19)), 'thing'))):
        folder = written(tmp_path / name, {**SEGFORMER, 'id2label': names},
                         {name: torch.zeros(shape) for name, shape in segformer_shapes().items()})
        found = read_folder(folder)
        assert found.labels is None
        assert 'id2label' in found.label_problem
        # With labels the conversion goes on: to the comparison, in which zeros fail.
        with pytest.raises(ValueError, match='the divided network differs'):
            convert(folder, CITYSCAPES, assume=True)


@pytest.mark.parametrize(('content', 'mean', 'size'), [
    ({'image_mean': [0.5] * 3, 'image_std': [0.25] * 3, 'size': 512}, 0.5, (512, 512)),
    ({'image_mean': [127.5] * 3, 'image_std': [63.75] * 3, 'do_rescale': False}, 0.5, None),
    ({'image_mean': [0] * 3, 'image_std': [0.5] * 3, 'rescale_factor': 1 / 127.5,
      'size': {'shortest_edge': 640}}, 0, (640, 640)),
    ({'do_normalize': False, 'rescale_factor': 1 / 255, 'do_resize': False, 'size': 3}, 0, None)])
def test_how_images_are_prepared(tmp_path, content, mean, size):
    (tmp_path / PREPROCESSOR).write_text(json.dumps(content))
    found = read_preprocessor(tmp_path)
    assert found.size == size
    assert found.normalisation[0] == pytest.approx((mean,) * 3)
    assert found.normalisation[1] == pytest.approx((0.25 if mean or size else 1,) * 3)


@pytest.mark.parametrize('content', [
    {}, {'image_mean': 0.5, 'image_std': [1] * 3}, {'do_flip_channel_order': True},
    {'image_mean': [0] * 3, 'image_std': [1] * 3, 'size': [1e999, 1]},
    {'image_mean': [0] * 3, 'image_std': [1] * 3, 'size': {'width': 1e999, 'height': 1}},
    {'image_mean': [0] * 3, 'image_std': [1] * 3, 'size': {'longest_edge': 1}},
    {'image_mean': [0] * 3, 'image_std': [1] * 3, 'rescale_factor': 'x'}, [1]])
def test_preparations_that_cannot_be_used(tmp_path, content):
    (tmp_path / PREPROCESSOR).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=PREPROCESSOR):
        read_preprocessor(tmp_path)
