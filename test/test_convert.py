"""`featshare convert`: a checkpoint of what segmentation_models_pytorch or torchvision saved."""
import pickle

import numpy as np
import pytest
import torch
import yaml

from featshare_core.cli import main
from featshare_core.labels import CAMVID
from featshare_core.networks.checkpoint import load_checkpoint

try:
    import segmentation_models_pytorch as smp
    from torchvision.models.segmentation import fcn_resnet50
except (ImportError, RuntimeError) as error:
    pytest.skip(f'segmentation_models_pytorch is not installed, or does not work ({error})',
                allow_module_level=True)

NORMALISED = ['--mean', '0.5', '0.4', '0.3', '--std', '0.3', '0.2', '0.1']
SIZE = ['--input-size', '96x64']


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
    status, said = converted(capsys, *common, '--shared-levels', '1')
    assert (status, 'can share 0, 3 levels, not 1' in said) == (1, True)


@torch.inference_mode()
def test_one_logit_becomes_two_classes(tmp_path, capsys):
    model = smp.FPN('mobilenet_v2', encoder_weights=None, classes=1).eval()
    torch.save(model.state_dict(), tmp_path / 'mine.pth')
    (tmp_path / 'labels.yaml').write_text(yaml.safe_dump({'classes': [
        {'name': 'ground', 'color': [0, 0, 0]}, {'name': 'obstacle', 'color': [255, 0, 0]}]}))
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
    def refused(message, source, *arguments):
        status, said = converted(capsys, source, tmp_path / 'x.safetensors', '--labels', 'camvid',
                                 *SIZE, *arguments)
        assert status == 1
        assert message in said, said
        assert not (tmp_path / 'x.safetensors').exists()
    unet = ['--architecture', 'Unet', '--encoder', 'resnet18', *NORMALISED]
    (tmp_path / 'bomb.pth').write_bytes(pickle.dumps(Bomb()))
    refused('no file of tensors alone', tmp_path / 'bomb.pth', *unet)
    assert not Bomb.exploded
    model = smp.Unet('resnet18', encoder_weights=None, classes=11)
    torch.save(model, tmp_path / 'whole.pth')
    refused('torch.save(model.state_dict(), ...)', tmp_path / 'whole.pth', *unet)
    torch.save([1, 2], tmp_path / 'list.pth')
    refused('holds no state dict', tmp_path / 'list.pth', *unet)
    torch.save(model.state_dict(), tmp_path / 'unet.pth')
    refused('name its architecture and its encoder', tmp_path / 'unet.pth')
    refused('does not fit Unet on resnet18 with 19 classes', tmp_path / 'unet.pth', *unet,
            '--labels', 'cityscapes')
    refused('does not fit FPN', tmp_path / 'unet.pth', *unet, '--architecture', 'FPN')
    refused('--arguments is no JSON', tmp_path / 'unet.pth', *unet, '--arguments', '{')
    refused('depth is no option of Unet', tmp_path / 'unet.pth', *unet, '--arguments',
            '{"depth": 3}')
    refused('--mean and --std together', tmp_path / 'unet.pth', *unet[:4], '--mean', 0, 0, 0)
    refused('save_pretrained', tmp_path)
    refused('No such file', tmp_path / 'nothing.pth', *unet)
    smp.Unet('resnet18', encoder_weights=None, classes=11, in_channels=4).save_pretrained(
        tmp_path / 'four')
    refused('takes 4 channels', tmp_path / 'four', *NORMALISED)
