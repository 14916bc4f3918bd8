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
"""Models of segmentation_models_pytorch: split = unsplit at every cut, and what is refused."""
import json
import sys

from featshare_core.inference.cuda.fold import fold_batch_norms
from featshare_core.inference.segmenter import VideoSegmenter
from featshare_core.labels import CAMVID
from featshare_core.networks.checkpoint import (
    CheckpointError,
    Config,
    load_checkpoint,
    save_checkpoint,
)
from featshare_core.networks.fcn import fcn_network
from featshare_core.networks.smp.base import ExportablePool
from featshare_core.networks.smp.build import divide, smp_model, smp_network
from featshare_core.networks.smp.decoders import DECODERS
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
import torch
from torch import nn
from torch.nn import functional as F

try:
    import segmentation_models_pytorch  # noqa: F401
except (ImportError, RuntimeError) as error:
    pytest.skip(f'segmentation_models_pytorch is not installed, or does not work ({error})',
                allow_module_level=True)

pytestmark = pytest.mark.usefixtures('one_thread')

CLASSES = 5
FOUR, THREE, TWO = (0, 1, 2, 3, 4), (0, 1, 2, 3), (0, 3)
# (architecture, encoder, arguments, cuts); the transformers and ConvNeXt have no stride 2.
NETWORKS = [
    ('Unet', 'densenet121', {}, FOUR), ('Unet', 'resnet18', {}, FOUR),
    ('Unet', 'mit_b0', {}, THREE),
    ('Unet', 'mobilenet_v2', {'decoder_attention_type': 'scse'}, FOUR),
    ('Unet', 'vgg11_bn', {'decoder_interpolation': 'bilinear'}, FOUR),
    ('Unet', 'tu-convnext_atto', {'decoder_use_norm': False}, THREE),
    ('Unet', 'resnet18', {'encoder_depth': 3, 'decoder_channels': [32, 16, 8]}, (0, 1, 2)),
    ('UnetPlusPlus', 'resnet18', {}, FOUR),
    ('UnetPlusPlus', 'tu-mobilenetv3_small_100', {'decoder_attention_type': 'scse'}, FOUR),
    ('MAnet', 'resnet18', {}, FOUR), ('MAnet', 'mit_b0', {}, THREE),
    ('Linknet', 'mobilenet_v2', {}, FOUR),
    ('FPN', 'densenet121', {}, THREE), ('FPN', 'resnet18', {}, THREE),
    ('FPN', 'mit_b0', {}, THREE),
    ('FPN', 'efficientnet-b0', {'decoder_merge_policy': 'cat'}, THREE),
    ('PSPNet', 'densenet121', {}, (0, 1)), ('PSPNet', 'resnet18', {}, (0, 1)),
    ('PSPNet', 'efficientnet-b0', {}, (0, 1)),
    ('DeepLabV3', 'resnet18', {}, (0, 1)), ('DeepLabV3', 'mobilenet_v2', {}, (0, 1)),
    ('DeepLabV3Plus', 'resnet18', {}, TWO), ('DeepLabV3Plus', 'mobilenet_v2', {}, TWO),
    ('DeepLabV3Plus', 'efficientnet-b0', {'encoder_output_stride': 8}, TWO),
    ('PAN', 'densenet121', {'encoder_depth': 4, 'encoder_output_stride': 32}, (0, 1, 2)),
    ('PAN', 'resnet18', {}, THREE),
    ('PAN', 'efficientnet-b0', {}, THREE),
    ('UPerNet', 'densenet121', {}, THREE), ('UPerNet', 'resnet18', {}, THREE),
    ('UPerNet', 'mit_b0', {'decoder_use_norm': False}, THREE),
    ('Segformer', 'densenet121', {}, FOUR), ('Segformer', 'resnet18', {}, FOUR),
    ('Segformer', 'mit_b0', {}, THREE)]


def randomized(network, image):
    """
    Give batch norms the statistics of an image, and weights and biases of their own.

    So what every layer yields is of a size that counts, and a test sees whether it is there.
    """
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.bias, -0.2, 0.2, generator=generator)
    network.train()(torch.cat((image, image.flip(-1) / 2)))
    return network.eval()


def frames(architecture):
    """Return two frames that are not square; PAN pools stride 16 three times more."""
    size = (128, 160) if architecture == 'PAN' else (64, 96)
    return torch.randn(2, 1, 3, *size, dtype=torch.float64)


@pytest.mark.parametrize(('architecture', 'encoder', 'arguments', 'cuts'), NETWORKS)
@torch.inference_mode()
def test_split_equals_unsplit(architecture, encoder, arguments, cuts):
    torch.manual_seed(0)
    frame, other = frames(architecture)
    model = randomized(smp_model(CLASSES, architecture, encoder, **arguments).double(), frame)
    expected, alone = model(frame), model(other)
    network = divide(model, encoder, 0)
    assert network.cuts == cuts
    for cut in cuts:
        network.configure(shared_levels=cut)
        shared = network.high(network.low(frame))
        assert bool(shared) == bool(cut)
        mixed = network.decode(network.low(other), shared)
        # With low features computed again, after another frame: nothing is changed in place.
        torch.testing.assert_close(network.decode(network.low(frame), shared), expected,
                                   rtol=1e-9, atol=1e-9)
        assert not torch.equal(mixed, expected)
        if cut:
            assert (mixed - alone).abs().max() > 1e-3 * alone.abs().max()
        network.configure(aligned=True)
        low = network.low(frame)
        shared = network.high(low)
        torch.testing.assert_close(network.decode_key(low, shared), expected, rtol=1e-9, atol=1e-9)
        follows = network.decode(network.low(other), shared)
        assert follows.shape == mixed.shape
        assert follows.isfinite().all()
        assert torch.equal(follows, mixed) == (not cut)
        network.configure(aligned=False)


@pytest.mark.parametrize(('architecture', 'encoder', 'count'), [
    ('Unet', 'densenet121', 68), ('UnetPlusPlus', 'resnet18', 41), ('Linknet', 'mobilenet_v2', 62),
    ('FPN', 'vgg11_bn', 8), ('PAN', 'efficientnet-b0', 62), ('DeepLabV3Plus', 'resnet18', 28),
    ('PSPNet', 'tu-resnet18', 13), ('Segformer', 'mit_b0', 0),
    # timm's norms are their activations too.
    ('FPN', 'tu-tf_efficientnet_lite0', 48), ('Unet', 'tu-densenet121', 129),
    ('UPerNet', 'tu-mobilenetv3_small_100', 45)])
@torch.no_grad()
def test_folding_leaves_the_network_what_it_is(architecture, encoder, count):
    torch.manual_seed(0)
    frame, other = frames(architecture).float()
    network = divide(randomized(smp_model(CLASSES, architecture, encoder), frame), encoder, 0)
    network.configure(shared_levels=network.cuts[1])
    modes = []
    for folds in (False, True):
        if folds:
            assert fold_batch_norms(network) == count
        low, follows = network.low(frame), network.low(other)
        shared = network.high(low)
        modes.append((network.decode_key(low, shared), network.decode(follows, shared)))
    for expected, found in zip(*modes):
        torch.testing.assert_close(found, expected, rtol=1e-3,
                                   atol=1e-3 * float(expected.abs().max()))


def test_the_three_encoders_of_each_architecture_are_covered():
    for architecture in ('Unet', 'FPN', 'PSPNet', 'DeepLabV3Plus', 'PAN', 'UPerNet', 'Segformer'):
        assert len({encoder for name, encoder, *_ in NETWORKS if name == architecture}) >= 3
    assert {name for name, *_ in NETWORKS} == set(DECODERS)


@pytest.mark.parametrize(('architecture', 'encoder', 'cut', 'cuts'), [
    ('Unet', 'resnet18', 5, '0, 1, 2, 3, 4'), ('Unet', 'mit_b0', 4, '0, 1, 2, 3'),
    ('FPN', 'resnet18', 4, '0, 1, 2, 3'), ('DeepLabV3Plus', 'resnet18', 2, '0, 3'),
    ('PSPNet', 'resnet18', 2, '0, 1'), ('PAN', 'mobilenet_v2', -1, '0, 1, 2, 3')])
def test_an_illegal_cut_is_refused_with_the_legal_ones(architecture, encoder, cut, cuts):
    with pytest.raises(ValueError, match=f'shared_levels is one of {cuts} in this network, '
                                         f'not {cut}'):
        smp_network(CLASSES, architecture, encoder, cut)


@pytest.mark.parametrize(('arguments', 'message'), [
    (('Nosuch', 'resnet18'), 'none of Unet, UnetPlusPlus'),
    (('Unet', 'nosuch'), "'nosuch' is none of .*resnet18"),
    (('Unet', 'dpn68'), 'dpn68 cannot be cut into stages.* resnet, .* can'),
    (('Unet', 'tu-hrnet_w18_small'), 'cannot be cut into stages'),
    (('DPT', 'tu-vit_tiny_patch16_224'), 'cannot be cut into stages'),
    (('Unet', 'tu-nosuch'), "timm has no model 'nosuch'"),
    # These would be fetched, or read from wherever the name says.
    (('Unet', 'tu-hf-hub:someone/something'), 'timm has no model'),
    (('Unet', 'tu-local-dir:/somewhere'), 'timm has no model'),
    (('DeepLabV3Plus', 'densenet121'), 'DenseNet encoders do not support dilated mode'),
    (('FPN', 'resnet18', 0, 3), 'four stages')])
def test_what_cannot_be_built_is_refused(arguments, message):
    architecture, encoder, *depth = arguments
    with pytest.raises(ValueError, match=message):
        smp_network(CLASSES, architecture, encoder, **({'encoder_depth': 3} if depth else {}))


@pytest.mark.parametrize('name', ['encoder_weights', 'in_channels', 'aux_params', 'pretrained'])
def test_arguments_of_our_own_are_refused(name):
    with pytest.raises(ValueError, match=f'{name} is no option of Unet; it has encoder_depth'):
        smp_network(CLASSES, 'Unet', 'resnet18', **{name: 'imagenet'})


def test_the_parameters_are_those_of_the_package():
    whole = smp_model(CLASSES, 'Unet', 'resnet18').state_dict()
    for cut in (0, 2, 4):
        ours = smp_network(CLASSES, 'Unet', 'resnet18', cut).state_dict()
        assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in whole.items()}
    # PSPNet takes three of five stages; the others are neither kept nor saved.
    names = smp_network(CLASSES, 'PSPNet', 'resnet18').state_dict()
    assert any(name.startswith('encoder.layer2.') for name in names)
    assert not any(name.startswith('encoder.layer3.') for name in names)


@torch.inference_mode()
def test_an_unknown_decoder_is_not_divided(monkeypatch):
    for name in ('Unet', 'UPerNet'):
        monkeypatch.delitem(DECODERS, name)
        frame, _ = frames(name)
        model = randomized(smp_model(CLASSES, name, 'mit_b0').double(), frame)
        expected = model(frame)
        network = divide(model, 'mit_b0', 2)
        low = network.low(frame)
        shared = network.high(low)
        assert len(shared) == 2
        torch.testing.assert_close(network.decode(low, shared), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('size', [1, 3, (2, 6)])
def test_pooling_that_can_be_exported(monkeypatch, size):
    features = torch.randn(2, 3, 7, 10, dtype=torch.float64)
    pool = ExportablePool(size)
    expected = F.adaptive_avg_pool2d(features, size)
    assert torch.equal(pool(features), expected)
    monkeypatch.setattr(torch.onnx, 'is_in_onnx_export', lambda: True)
    torch.testing.assert_close(pool(features), expected, rtol=1e-6, atol=1e-6)


def test_without_the_package_the_error_names_it(monkeypatch, random_checkpoint, tmp_path):
    monkeypatch.setitem(sys.modules, 'segmentation_models_pytorch', None)
    with pytest.raises(ValueError, match=r'pip install .segmentation-models-pytorch'):
        smp_network(CLASSES, 'Unet', 'resnet18')
    load_checkpoint(random_checkpoint)  # other networks do without


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A U-Net with random weights."""
    torch.manual_seed(0)
    options = {'architecture': 'Unet', 'encoder': 'resnet18', 'shared_levels': 2,
               'decoder_channels': [64, 32, 16, 16, 8]}
    network = randomized(smp_network(len(CAMVID), **options), torch.randn(1, 3, 64, 96))
    path = tmp_path_factory.mktemp('smp') / 'unet.safetensors'
    save_checkpoint(path, network, Config('smp', CAMVID, (96, 64), options))
    return path


def test_a_checkpoint_comes_back_and_is_cut_when_loaded(checkpoint):
    network, config = load_checkpoint(checkpoint)
    assert config.options['decoder_channels'] == [64, 32, 16, 16, 8]
    assert (network.shared_levels, network.training) == (2, False)
    for cut in (0, 1, 4):
        assert load_checkpoint(checkpoint, cut)[0].shared_levels == cut
    with pytest.raises(CheckpointError, match=r'is one of 0, .* not 5 \(unet.safetensors\)'):
        load_checkpoint(checkpoint, 5)


@pytest.mark.parametrize('options', [
    {'encoder_weights': 'imagenet'}, {'encoder': 'tu-hf-hub:a/b'}, {'shared_levels': 2.0},
    {'decoder_channels': 'wide'}, {'architecture': ['Unet']}, {'encoder': 7}, {'encoder': None},
    {'decoder_channels': [1, 2]}, {'checkpoint_path': '/tmp/x'}])
def test_a_damaged_header_is_refused(tmp_path, checkpoint, options):
    with safe_open(checkpoint, 'pt') as file:
        fields = json.loads(file.metadata()['featshare'])
    fields['options'].update(options)
    save_file(load_file(checkpoint), tmp_path / 'x.safetensors',
              {'featshare': json.dumps(fields)})
    with pytest.raises(CheckpointError, match=r'x.safetensors'):
        load_checkpoint(tmp_path / 'x.safetensors')


def test_it_segments_video(checkpoint):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 64, 96, 3), np.uint8)
    segmenter = VideoSegmenter.from_checkpoint(checkpoint, 3, 'cpu', 'fp32', engine='torch')
    segmenter.warm_up()
    results = [segmenter.segment(frame) for frame in (frames[0], frames[0], *frames[1:])]
    assert [result.is_key for result in results] == [True, False, False, True, False]
    # The key frame again, as a current frame, gets the key frame's mask.
    np.testing.assert_array_equal(results[0].mask, results[1].mask)
    alone = VideoSegmenter.from_checkpoint(checkpoint, 1, 'cpu', 'fp32', engine='torch')
    np.testing.assert_array_equal(results[3].mask, alone.segment(frames[2]).mask)
    assert (results[2].mask != alone.segment(frames[1]).mask).any()
    with torch.inference_mode():
        network, config = load_checkpoint(checkpoint)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (config.mean, config.std))
        image = (torch.from_numpy(frames[2]).permute(2, 0, 1) / 255 - mean) / std
        expected = network(image[None].float()).argmax(1)[0]
    assert (results[3].mask == expected.numpy()).mean() > 0.999


@torch.inference_mode()
def test_torchvisions_fcn_equals_its_own_forward():
    from torchvision.models.segmentation import fcn_resnet50
    frame = torch.randn(1, 3, 64, 96)
    model = fcn_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES).eval()
    network = fcn_network(CLASSES).eval()
    network.load_state_dict({name.replace('backbone.', 'encoder.'): tensor
                             for name, tensor in model.state_dict().items()})
    expected = model(frame)['out']
    low = network.low(frame)
    got = F.interpolate(network.decode(low, network.high(low)), (64, 96), mode='bilinear')
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match='shared_levels is one of 0 in this network, not 1'):
        fcn_network(CLASSES, 1)
