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
"""`featshare convert`: a checkpoint of what segmentation_models_pytorch or torchvision saved."""
import json
from pathlib import Path
import pickle
import socket
import time

from featshare_core.cli import main
from featshare_core.inference.engines import make_engine
from featshare_core.labels import CAMVID
from featshare_core.networks.checkpoint import CheckpointError, load_checkpoint
from featshare_core.networks.eval_transform import read_eval_transform
from featshare_core.networks.normalisation import (
    check_range,
    choose_normalisation,
    take_buffers,
)
from featshare_core.networks.state_file import one_network, read_state
from featshare_core.networks.weights import TRANSFORM_FILE
import numpy as np
import pytest
from safetensors.torch import save_file
import torch
import yaml

try:
    import segmentation_models_pytorch as smp
    from torchvision.models.segmentation import fcn_resnet50
except (ImportError, RuntimeError) as error:
    pytest.skip(f'segmentation_models_pytorch is not installed, or does not work ({error})',
                allow_module_level=True)

NORMALISED = ['--mean', '0.5', '0.4', '0.3', '--std', '0.3', '0.2', '0.1']
SIZE = ['--input-size', '96x64']
LABELS_OF_TWO = yaml.safe_dump({'classes': [
    {'name': 'ground', 'color': [0, 0, 0]}, {'name': 'obstacle', 'color': [255, 0, 0]}]})
UNET = ['--architecture', 'Unet', '--encoder', 'resnet18']
STATE = {'encoder.conv.weight': torch.ones(9), 'decoder.conv.weight': torch.ones(4)}


@pytest.fixture(autouse=True)
def repeatable(one_thread):
    torch.manual_seed(0)


def converted(capsys, *arguments):
    """Run the command; return (status, what it printed)."""
    status = main(['convert', *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


@torch.inference_mode()
def assert_same(path, model):
    network, config = load_checkpoint(path)
    image = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(network(image), model.eval()(image), rtol=1e-5, atol=1e-5)
    return network, config


def test_a_folder_of_save_pretrained(tmp_path, capsys):
    model = smp.Unet('tu-resnet18', encoder_weights=None, classes=11, encoder_depth=4,
                     decoder_channels=(64, 32, 16, 8), activation='softmax2d',
                     aux_params={'classes': 3})
    model.save_pretrained(tmp_path / 'mine')
    status, said = converted(capsys, tmp_path / 'mine', tmp_path / 'mine.safetensors',
                             '--labels', 'camvid', *SIZE)
    assert status == 0, said
    assert '2 shared levels; it can share 0, 1, 2, 3' in said
    logits = smp.Unet('tu-resnet18', encoder_weights=None, classes=11, encoder_depth=4,
                      decoder_channels=(64, 32, 16, 8))
    logits.load_state_dict({name: tensor for name, tensor in model.state_dict().items()
                            if not name.startswith('classification_head')})
    network, config = assert_same(tmp_path / 'mine.safetensors', logits)
    assert network.shared_levels == 2
    assert config.labels == CAMVID
    assert config.options == {'architecture': 'Unet', 'encoder': 'tu-resnet18', 'encoder_depth': 4,
                              'decoder_channels': [64, 32, 16, 8], 'shared_levels': 2,
                              'aligned': 1}
    # timm knows what its weights were trained with, without a download.
    assert config.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize('wrapped', [False, True])
def test_a_file_of_tensors(tmp_path, capsys, wrapped):
    model = smp.DeepLabV3Plus('resnet18', encoder_weights=None, classes=3,
                              encoder_output_stride=8)
    state = model.state_dict()
    if wrapped:  # as Lightning and DataParallel save it
        state = {'epoch': 3, 'state_dict': {f'model.{n}': t for n, t in state.items()}}
    torch.save(state, tmp_path / 'mine.pth')
    labels = tmp_path / 'labels.yaml'
    labels.write_text(yaml.safe_dump({'classes': [
        {'name': name, 'color': [level, 0, 0]} for level, name in enumerate('abc')]}))
    common = [tmp_path / 'mine.pth', tmp_path / 'mine.safetensors', '--labels', labels, *SIZE,
              *NORMALISED, '--architecture', 'DeepLabV3Plus', '--encoder', 'resnet18',
              '--arguments', '{"encoder_output_stride": 8}']
    status, said = converted(capsys, *common)
    assert status == 0, said
    network, config = assert_same(tmp_path / 'mine.safetensors', model)
    assert (config.mean, config.std) == ((0.5, 0.4, 0.3), (0.3, 0.2, 0.1))
    assert (network.shared_levels, config.labels.names) == (3, ('a', 'b', 'c'))
    status, said = converted(capsys, *common, '--shared-levels', '1', '--overwrite')
    assert (status, 'can share 0, 3 levels, not 1' in said) == (1, True)


@torch.inference_mode()
def test_one_logit_becomes_two_classes(tmp_path, capsys):
    model = smp.FPN('mobilenet_v2', encoder_weights=None, classes=1).eval()
    torch.save(model.state_dict(), tmp_path / 'mine.pth')
    (tmp_path / 'labels.yaml').write_text(LABELS_OF_TWO)
    status, said = converted(capsys, tmp_path / 'mine.pth', tmp_path / 'mine.safetensors',
                             '--labels', tmp_path / 'labels.yaml', *SIZE, *NORMALISED,
                             '--architecture', 'FPN', '--encoder', 'mobilenet_v2')
    assert status == 0, said
    image = torch.randn(1, 3, 64, 96)
    logits = load_checkpoint(tmp_path / 'mine.safetensors')[0](image)
    torch.testing.assert_close(logits.softmax(1)[:, 1:], model(image).sigmoid(), rtol=1e-5,
                               atol=1e-5)


def test_torchvisions_fcn(tmp_path, capsys):
    model = fcn_resnet50(weights=None, weights_backbone=None, num_classes=11, aux_loss=True)
    torch.save(model.state_dict(), tmp_path / 'fcn.pth')
    status, said = converted(capsys, tmp_path / 'fcn.pth', tmp_path / 'fcn.safetensors',
                             '--labels', 'camvid', *SIZE, '--architecture', 'fcn_resnet50')
    assert status == 0, said
    network, config = load_checkpoint(tmp_path / 'fcn.safetensors')
    assert (config.network, network.cuts) == ('fcn-resnet50', (0,))
    with torch.inference_mode():
        image = torch.randn(1, 3, 64, 64)
        expected = model.eval()(image)['out'].argmax(1)
        got = torch.nn.functional.interpolate(network(image), (64, 64), mode='bilinear').argmax(1)
    assert np.mean((got == expected).numpy()) > 0.999


class Bomb:
    exploded = False

    def __reduce__(self):
        return (setattr, (Bomb, 'exploded', True))


def test_what_is_wrong_is_reported(tmp_path, capsys):
    def refused(message, source, *arguments, size=SIZE):
        status, said = converted(capsys, source, tmp_path / 'x.safetensors', '--labels', 'camvid',
                                 *size, *arguments)
        assert status == 1
        assert message in said, said
        assert not (tmp_path / 'x.safetensors').exists()
    unet = [*UNET, *NORMALISED]
    (tmp_path / 'two.yaml').write_text(LABELS_OF_TWO)
    (tmp_path / 'bomb.pth').write_bytes(pickle.dumps(Bomb()))
    refused('no file of tensors alone', tmp_path / 'bomb.pth', *unet)
    assert not Bomb.exploded
    model = smp.Unet('resnet18', encoder_weights=None, classes=11)
    torch.save(model, tmp_path / 'whole.pth')
    refused('torch.save(model.state_dict(), ...)', tmp_path / 'whole.pth', *unet)
    torch.save([1, 2], tmp_path / 'list.pth')
    refused('holds no state dict', tmp_path / 'list.pth', *unet)
    torch.save(model.state_dict(), tmp_path / 'unet.pth')
    refused('give --architecture, --encoder, for example', tmp_path / 'unet.pth')
    for label_set, count in (('cityscapes', 19), (tmp_path / 'two.yaml', 2)):
        refused(f'unet.pth has 11 logits, and the label set has {count} classes',
                tmp_path / 'unet.pth', *unet, '--labels', label_set)
    refused('does not fit FPN on resnet18 with 11 classes: decoder.blocks.0.conv1.0.weight is '
            'unknown (60 such tensors)', tmp_path / 'unet.pth', *unet, '--architecture', 'FPN')
    refused('--arguments is no JSON', tmp_path / 'unet.pth', *unet, '--arguments', '{')
    refused('depth is no option of Unet', tmp_path / 'unet.pth', *unet, '--arguments',
            '{"depth": 3}')
    refused('--mean and --std together', tmp_path / 'unet.pth', *unet[:4], '--mean', 0, 0, 0)
    refused('save_pretrained', tmp_path)
    refused('give --input-size', tmp_path / 'unet.pth', *unet, size=())
    refused('--mean 0.4853 0.4567 0.4063 --std 0.2289 0.2239 0.225', tmp_path / 'unet.pth',
            *unet[:4], '--mean', 123.75, 116.46, 103.6, '--std', 58.37, 57.1, 57.375)
    refused('No such file', tmp_path / 'nothing.pth', *unet)
    smp.Unet('resnet18', encoder_weights=None, classes=11, in_channels=4).save_pretrained(
        tmp_path / 'four')
    refused('takes 4 channels', tmp_path / 'four', *NORMALISED)


def test_all_missing_settings_are_named_in_one_message_with_a_command(tmp_path, capsys):
    (tmp_path / 'names.txt').write_text('a\nb\nc')
    for architecture, missing in ((['--architecture', 'fcn_resnet50'], ''),
                                  (['--architecture', 'Unet'], ', --encoder'),
                                  ([], ', --architecture, --encoder')):
        torch.save({**STATE, 'mean': torch.full((3,), .5), 'std': torch.full((3,), .25)},
                   tmp_path / 'mine.pth')
        status, said = converted(capsys, tmp_path / 'mine.pth', tmp_path / 'x', *architecture)
        assert status == 1
        assert f'give --labels, --input-size{missing}, for example\n    featshare convert ' in said
        example = said.partition('\n    featshare ')[2].split()
        example[example.index('my_labels.yaml')] = str(tmp_path / 'names.txt')
        assert ' '.join(example).endswith(f'--mean {" ".join(["0.5"] * 3)} --std '
                                          f'{" ".join(["0.25"] * 3)}')
        status, said = converted(capsys, *example[1:])
        assert ('give --' in said, 'does not fit' in said or 'is no fcn' in said) == (False, True)


def test_an_example_has_a_normalisation_only_where_it_may_have_to_be_looked_up(tmp_path, capsys):
    torch.save(STATE, tmp_path / 'mine.pth')
    for arguments, given in ((['--architecture', 'Unet', '--encoder', 'tu-tf_efficientnet_lite0'],
                              False), (['--architecture', 'fcn_resnet50'], False),
                             (['--architecture', 'Unet', '--encoder', 'dpn68'], False),
                             (UNET, True)):
        status, said = converted(capsys, tmp_path / 'mine.pth', tmp_path / 'x', *arguments)
        assert status == 1
        assert ('--mean 0.485 0.456 0.406 --std' in said,
                "(--mean and --std are ImageNet's; without" in said) == (given, given), said


def test_an_existing_checkpoint_is_replaced_on_request_alone(tmp_path, capsys):
    (tmp_path / 'mine.safetensors').write_bytes(b'precious')
    for output in ('mine', 'mine.safetensors'):
        status, said = converted(capsys, tmp_path / 'nothing.pth', tmp_path / output)
        assert (status, 'mine.safetensors exists already; --overwrite replaces it' in said) == (
            1, True)
    assert 'No such file' in converted(capsys, tmp_path / 'nothing.pth', tmp_path / 'mine',
                                       '--overwrite')[1]
    assert (tmp_path / 'mine.safetensors').read_bytes() == b'precious'


def prefixed(prefix, state=STATE):
    return {f'{prefix}{name}': tensor for name, tensor in state.items()}


@pytest.mark.parametrize('content', [
    STATE, {'state_dict': prefixed('model.'), 'epoch': 3}, {'model': STATE, 'epoch': 3},
    {'model_state_dict': prefixed('module.'), 'optimizer': {'state': {0: STATE}}},
    {'net': STATE, 'loss': torch.ones(1)}], ids=[
        'state dict', 'state_dict', 'model', 'model_state_dict', 'any name'])
def test_state_dicts_of_training_checkpoints(tmp_path, content):
    torch.save(content, tmp_path / 'mine.pth')
    state, others = one_network(read_state(tmp_path / 'mine.pth'), 'encoder.', 'mine.pth')
    assert (state.keys(), others) == (STATE.keys(), {})


@pytest.mark.parametrize(('content', 'networks'), [
    ({'model': STATE, 'model_ema': STATE, 'epoch': 3}, "'model' and 'model_ema'"),
    ({'state_dict': STATE, 'ema_state_dict': STATE}, "'state_dict' and 'ema_state_dict'"),
    ({'state_dict': {**prefixed('model.'), **prefixed('ema.module.')}},
     'ema.module.* and model.*'),
    ({**STATE, **prefixed('teacher.')}, 'encoder.* and teacher.*'),
    # An average whose names have lost their dots, and another kind of network.
    ({**prefixed('model.'), 'model_ema.encoderconvweight': torch.ones(9)},
     'model.* and model_ema.*'),
    ({**prefixed('model.'), **{f'net.{n}.weight': torch.ones(9) for n in 'ab'}},
     'model.* and net.*')])
def test_several_networks_in_a_file_are_refused(tmp_path, capsys, content, networks):
    """A model and the moving average of its weights: the first one was taken in silence."""
    torch.save(content, tmp_path / 'mine.pth')
    status, said = converted(capsys, tmp_path / 'mine.pth', tmp_path / 'x.safetensors',
                             '--labels', 'camvid', *SIZE, *UNET, *NORMALISED)
    assert status == 1
    assert f'holds several networks, {networks}, such as' in said


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def transform(*steps):
    """Return what albumentations writes of a Compose of (name, arguments)."""
    return {'__version__': '1.4.14', 'transform': {
        '__class_fullname__': 'Compose', 'p': 1.0, 'transforms': [
            {'__class_fullname__': name, 'p': 1.0, **arguments} for name, arguments in steps]}}


NORMALIZE = ('Normalize', {'mean': IMAGENET_MEAN, 'std': IMAGENET_STD, 'max_pixel_value': 255.0,
                           'normalization': 'standard'})


@pytest.mark.parametrize(('steps', 'mean', 'size'), [
    ([], None, None),
    ([('Resize', {'height': 64, 'width': 96}), NORMALIZE], IMAGENET_MEAN, (96, 64)),
    ([('albumentations.augmentations.PadIfNeeded', {'min_height': 320, 'min_width': None}),
      NORMALIZE], IMAGENET_MEAN, None),
    ([('ToFloat', {'max_value': None}), ('Normalize', {
        'mean': IMAGENET_MEAN, 'std': IMAGENET_STD, 'max_pixel_value': 1.0})],
     IMAGENET_MEAN, None),
    ([('Normalize', {'mean': [127.5] * 3, 'std': [51] * 3, 'max_pixel_value': 1.0}),
      ('CenterCrop', {'height': 8, 'width': 9})], (0.5, 0.5, 0.5), (9, 8))])
def test_the_transform_beside_a_model(tmp_path, steps, mean, size):
    (tmp_path / TRANSFORM_FILE).write_text(json.dumps(transform(*steps)))
    found = read_eval_transform(tmp_path)
    assert found.size == size
    assert found.normalisation is mean or found.normalisation[0] == pytest.approx(mean)


@pytest.mark.parametrize(('text', 'message'), [
    ('{', 'JSONDecodeError'), ('[]', 'TypeError'), ('{"transform": 7}', 'TypeError'),
    (json.dumps(transform(('Normalize', {'normalization': 'image', 'mean': 0, 'std': 1}))),
     "normalization 'image'"),
    (json.dumps(transform(('Normalize', {'mean': [0.5], 'std': [0.5]}))), 'ValueError')])
def test_transforms_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / TRANSFORM_FILE).write_text(text)
    with pytest.raises(ValueError, match=rf'{TRANSFORM_FILE} cannot be used \(.*{message}'):
        read_eval_transform(tmp_path)


def test_mean_and_std_of_the_source_are_used_or_named():
    ours, theirs = (IMAGENET_MEAN, IMAGENET_STD), ((0.5,) * 3, (0.5,) * 3)
    state = {'mean': torch.tensor(ours[0]).view(1, 3, 1, 1), 'std': torch.tensor(ours[1]),
             'bn.running_mean': torch.ones(3), 'net.pixel_mean': torch.ones(3),
             'net.pixel_std': torch.ones(3)}
    buffers = take_buffers(state)
    assert buffers == {'the buffers mean and std': ours, 'the buffers net.pixel_mean and '
                       'net.pixel_std': ((1, 1, 1), (1, 1, 1))}
    assert state.keys() == {'bn.running_mean'}
    assert choose_normalisation(None, {'a': ours, 'b': ours}, None) == (ours, 'a', [])
    assert choose_normalisation(theirs, {'a': ours, 'b': theirs}, None) == (
        theirs, '--mean and --std', ['a'])
    with pytest.raises(ValueError, match=r'differ, .*0\.225 \(a\); --mean 0\.5 0\.5 0\.5 --std'):
        choose_normalisation(None, {'a': ours, 'b': theirs}, None)


@pytest.mark.parametrize(('mean', 'std', 'divided'), [
    ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375),
     '--mean 0.485 0.456 0.406 --std 0.229 0.224 0.225'),
    # As Caffe has it: the mean alone is subtracted.
    ((123.675, 116.28, 103.53), (1, 1, 1),
     '--mean 0.485 0.456 0.406 --std 0.003922 0.003922 0.003922'),
    ((0, 0, 0), (255, 255, 255), '--mean 0 0 0 --std 1 1 1'),
    (IMAGENET_MEAN, (58.395, 57.12, 57.375), '--mean 0.485 0.456 0.406 --std 0.229 0.224 0.225'),
    ((123.675, 116.28, 103.53), IMAGENET_STD, '--mean 0.485 0.456 0.406 --std 0.229 0.224 0.225'),
    ((0, 0, 0), (1, 1, 1), None)])
def test_mean_and_std_of_images_in_0_to_255_are_refused(mean, std, divided):
    if divided is None:
        check_range((mean, std), 'somewhere')
        return
    with pytest.raises(ValueError, match=f'^somewhere: mean .* in 0 to 1: {divided}$'):
        check_range((mean, std), 'somewhere')


def test_the_success_line_states_the_normalisation(tmp_path, capsys):
    """Of a file with buffers, beside a transform; and the output gets its suffix."""
    model = smp.FPN('tu-resnet18', encoder_weights=None, classes=11)
    torch.save({'model': {**prefixed('net.', model.state_dict()), 'mean': torch.full((3,), .5),
                          'std': torch.full((3,), .25), 'n_averaged': torch.tensor(3)}},
               tmp_path / 'mine.pth')
    (tmp_path / TRANSFORM_FILE).write_text(json.dumps(transform(
        ('Resize', {'height': 64, 'width': 96}),
        ('Normalize', {'mean': [.5] * 3, 'std': [.25] * 3, 'max_pixel_value': 255}))))
    status, said = converted(capsys, tmp_path / 'mine.pth', tmp_path / 'mine.v2', '--labels',
                             'camvid', '--architecture', 'FPN', '--encoder', 'tu-resnet18')
    assert status == 0, said
    assert 'mine.v2.safetensors, 2 shared levels' in said
    assert ('normalisation: --mean 0.5 0.5 0.5 --std 0.25 0.25 0.25 (the buffers mean and std); '
            'images of 96x64\nnot used: n_averaged\n') in said
    _, config = assert_same(tmp_path / 'mine.v2.safetensors', model)
    assert (config.mean, config.std, config.input_size) == ((.5,) * 3, (.25,) * 3, (96, 64))


def test_what_cannot_be_divided_is_refused_before_the_model_runs(tmp_path, capsys):
    """A plain vision transformer runs on images of one size alone."""
    encoder = 'tu-vit_tiny_patch16_224'
    model = smp.DPT(encoder, encoder_weights=None, classes=11,
                    decoder_intermediate_channels=(8, 8, 8, 8), decoder_fusion_channels=8)
    model.save_pretrained(tmp_path / 'dpt')
    status, said = converted(capsys, tmp_path / 'dpt', tmp_path / 'x.safetensors', '--labels',
                             'camvid', *SIZE, *NORMALISED)
    assert status == 1
    assert f'encoder {encoder} cannot be cut into stages' in said


def test_without_network_the_way_out_is_said_at_once(tmp_path, capsys, monkeypatch):
    """The package's own look-up repeats its request for 90 seconds."""
    from huggingface_hub import constants
    with socket.socket() as unused:  # bound but not listening: connections are refused
        unused.bind(('127.0.0.1', 0))
        monkeypatch.setattr(constants, 'ENDPOINT', f'http://127.0.0.1:{unused.getsockname()[1]}')
        monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE',
                            constants.ENDPOINT + '/{repo_id}/resolve/{revision}/{filename}')
        monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'empty'))
        torch.save(STATE, tmp_path / 'mine.pth')
        start = time.monotonic()
        status, said = converted(capsys, tmp_path / 'mine.pth', tmp_path / 'x.safetensors',
                                 '--labels', 'camvid', *SIZE, *UNET)
    assert (status, time.monotonic() - start < 10) == (1, True)
    assert 'cannot be downloaded: ' in said
    assert "give them; ImageNet's are --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225" in said


@pytest.mark.parametrize('weights', [
    'folder', 'folder/', 'smp/', 'other.safetensors', 'other.pth'])
def test_weights_that_need_converting_say_so(tmp_path, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'smp').mkdir()
    Path('smp/config.json').write_text('{"_model_class": "Unet"}')
    save_file(STATE, 'other.safetensors')
    torch.save(STATE, 'other.pth')
    with pytest.raises(CheckpointError, match='`featshare convert` makes a checkpoint'):
        make_engine(weights, device='cpu')
