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
"""What weights may name: folders of save_pretrained, and repositories of a model hub."""
import hashlib
import http.server
import json
import os
from pathlib import Path
import pickle
import re
import subprocess
import sys
import threading

from featshare_core.cli import main
from featshare_core.inference.segmenter import VideoSegmenter
from featshare_core.labels import OKABE_ITO
from featshare_core.networks import conversions
from featshare_core.networks.checkpoint import CheckpointError, load_checkpoint
from featshare_core.networks.folders import read_licence
from featshare_core.networks.weights import (
    absolute_weights,
    find_weights,
    hub_name,
    is_exported,
)
import numpy as np
import pytest
from safetensors.torch import save_file
import torch

try:
    from huggingface_hub import constants
    import segmentation_models_pytorch as smp
except (ImportError, RuntimeError) as error:
    pytest.skip(f'segmentation_models_pytorch is not installed, or does not work ({error})',
                allow_module_level=True)

SHA = 'c0ffee' * 6 + 'c0de'
TRANSFORM = {'__version__': '2.0.8', 'transform': {
    '__class_fullname__': 'Compose', 'transforms': [
        {'__class_fullname__': 'Resize', 'height': 64, 'width': 96},
        {'__class_fullname__': 'Normalize', 'mean': [0.5] * 3, 'std': [0.25] * 3,
         'max_pixel_value': 255.0, 'normalization': 'standard'}]}}


@pytest.fixture(autouse=True)
def repeatable(one_thread, tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return smp.FPN('tu-test_resnet', encoder_weights=None, classes=3, decoder_pyramid_channels=16,
                   decoder_segmentation_channels=32).eval()


@pytest.fixture
def folder(tmp_path, model):
    """What save_pretrained writes, of a model and of its transform."""
    model.save_pretrained(tmp_path / 'mine')
    (tmp_path / 'mine' / 'albumentations_config_eval.json').write_text(json.dumps(TRANSFORM))
    return tmp_path / 'mine'


def cached_repository(cache, folder, name, revision='main'):
    """Lay a folder out as huggingface_hub's cache has a repository."""
    repository = cache / f'models--{name.replace("/", "--")}'
    for path in sorted(folder.iterdir()):
        blob = repository / 'blobs' / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(path.read_bytes())
        link = repository / 'snapshots' / SHA / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path('..', '..', 'blobs', blob.name))
    (repository / 'refs').mkdir(exist_ok=True)
    (repository / 'refs' / revision).write_text(SHA)


@torch.inference_mode()
def assert_same(weights, model):
    network, config = load_checkpoint(weights)
    image = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(network(image), model(image), rtol=1e-4, atol=1e-4)
    assert network.shared_levels == 2
    assert config.options['aligned'] == 1
    return config


def test_a_folder_of_smp(folder, model, monkeypatch, caplog):
    config = assert_same(folder, model)
    assert config.labels.names == ('class 0', 'class 1', 'class 2')
    assert config.labels.colors == OKABE_ITO[:3]
    assert (config.mean, config.std, config.input_size) == ((0.5,) * 3, (0.25,) * 3, (96, 64))
    assert config.licence == 'mit'  # save_pretrained writes a model card
    assert config.training['converted_from'] == 'mine'
    assert 'mine does not give all settings, so this is assumed: the classes are called class 0' \
        in caplog.text
    assert '. `featshare convert` takes explicit settings' in caplog.text
    monkeypatch.setattr(conversions, 'convert', None)  # once is enough
    with VideoSegmenter.from_checkpoint(folder, engine='torch', device='cpu') as segmenter:
        assert segmenter.engine.licence == 'mit'
        assert segmenter.segment(np.zeros((64, 96, 3), np.uint8)).mask.shape == (64, 96)
    assert_same(f'{folder}/', model)
    monkeypatch.chdir(folder.parent)
    assert find_weights('mine') == find_weights(folder)
    assert absolute_weights('mine') == str(folder)
    assert not is_exported('mine')


def test_what_a_folder_does_not_say_is_assumed_and_named(folder, model, caplog):
    (folder / 'albumentations_config_eval.json').unlink()
    (folder / 'README.md').unlink()
    config = assert_same(folder, model)
    assert (config.input_size, config.licence) == ((512, 512), 'unknown')
    assert len(config.training['assumed']) == 2  # timm knows the mean of its encoder's weights
    assert len(caplog.messages) == 1
    assert 'it was trained on images of 512x512. ' in caplog.text


@pytest.mark.parametrize(('changes', 'message'), [
    ({'dynamic_img_size': True}, 'dynamic_img_size cannot be used: FPN takes encoder_depth'),
    ({'encoder_name': 'tu-test_convnext'}, 'does not fit FPN on tu-test_convnext'),
    ({'encoder_name': 3}, 'names no encoder'), ({'in_channels': 4}, 'takes 4 channels'),
    ({'decoder_pyramid_channels': 1 << 30}, r'decoder\.p5\.weight has shape .16, 96, 1, 1., not'),
    ({'_model_class': 'Nosuch'}, "architecture 'Nosuch' is none of")])
def test_a_folder_that_does_not_fit_is_refused(folder, changes, message):
    path = folder / 'config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=f'^mine cannot be converted: .*{message}'):
        load_checkpoint(folder)
    assert not list(folder.parent.glob('cache/featshare/weights/*'))


class Bomb:
    exploded = False

    def __reduce__(self):
        return (setattr, (Bomb, 'exploded', True))


def test_nothing_is_unpickled(folder):
    (folder / 'model.safetensors').unlink()
    for name in ('pytorch_model.bin', 'model.safetensors'):
        (folder / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(CheckpointError, match=r'no model.safetensors that can be read'):
            load_checkpoint(folder)
    assert not Bomb.exploded


@pytest.mark.parametrize(('text', 'licence'), [
    ('---\nlicense: mit\n---\n', 'mit'), ('\n---\ntags:\n- a\nlicense: "cc-by-4.0" \n---\n# A',
                                         'cc-by-4.0'),
    ('---\nlicense: other\nlicense_name: nvidia-source-code\n---\n', 'other (nvidia-source-code)'),
    ('---\nlicense:\n- mit\n- apache-2.0\ntags: []\n---\n', 'mit, apache-2.0'),
    ('---\nlicense: [mit, bsd]\n---\n', 'mit, bsd'), ('---\r\nlicense: mit\r\n---\r\n', 'mit'),
    ('---\ntags: []\n---\nlicense: mit\n', 'unknown'), ('license: mit\n', 'unknown'),
    ('---\nlicense:\n---\n', 'unknown'), ('', 'unknown'),
    ('---\nlicense: \x1b[31mx\n---', '\\x1b[31mx'),
    ('---\nlicense: ' + 'x' * 9999 + '\n---', 'x' * 179 + '... (9999 characters)'),
    (None, 'unknown')])
def test_the_licence_of_a_model_card(tmp_path, text, licence):
    if text is not None:
        (tmp_path / 'README.md').write_text(text)
    assert read_licence(tmp_path) == licence


@pytest.mark.parametrize(('text', 'name'), [
    ('org/name', ('org/name', None)), ('org/name-1.0', ('org/name-1.0', None)),
    ('org/name@refs/pr/1', ('org/name', 'refs/pr/1')), ('org/name@v1', ('org/name', 'v1')),
    ('name', None), ('/org/name', None), ('./org', None), ('org/..', None), ('a/b/c', None),
    ('runs/final.safetensors', None), ('org/name@', None), ('~/name', None)])
def test_names_of_a_hub(tmp_path, monkeypatch, text, name):
    monkeypatch.chdir(tmp_path)
    assert hub_name(text) == name
    if name:
        assert absolute_weights(text) == text
        Path(text).mkdir(parents=True)  # a path that exists goes first
        assert hub_name(text) is None


def test_a_name_that_was_not_pulled_is_refused_with_the_command(tmp_path):
    for name in ('org/tiny', 'org/tiny@v2'):
        with pytest.raises(CheckpointError, match=f'no file or folder {name}, .*: '
                                                  f'featshare pull {name}$'):
            load_checkpoint(name)


def test_a_pulled_name_is_found_in_the_cache(tmp_path, folder, model, capsys, monkeypatch):
    """As it was pulled on another day: nothing is asked of a network."""
    monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:1')
    cached_repository(tmp_path / 'hub', folder, 'org/tiny', 'v1')
    config = assert_same('org/tiny@v1', model)
    assert config.training['converted_from'] == f'org/tiny@{SHA}'
    assert assert_same(f'org/tiny@{SHA}', model) == config
    with pytest.raises(CheckpointError, match=r'featshare pull org/tiny$'):
        load_checkpoint('org/tiny')  # another revision
    assert main(['show', 'org/tiny@v1']) == 0
    said = capsys.readouterr().out
    digits = hashlib.sha256(find_weights('org/tiny@v1').read_bytes()).hexdigest()
    for line in (f'converted from org/tiny@{SHA}',
                 'network        smp FPN tu-test_resnet, 2 shared levels, aligned',
                 'cut            it can share 0, 1, 2, 3 levels',
                 'classes        3: class 0, class 1, class 2', 'size           96x64',
                 'normalisation  mean 0.5 0.5 0.5, std 0.25 0.25 0.25',
                 'licence        mit, which segmentation_models_pytorch writes into every model '
                 'card: the weights may have another licence', f'sha256         {digits}'):
        assert f'\n{line}\n' in said, said


def test_show_of_shipped_weights(capsys):
    assert main(['show']) == 0
    said = capsys.readouterr().out
    assert '\nlicence        research only: trained on camvid\n' in said
    assert 'classes        11: sky, building' in said


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of a model hub as downloading needs; one repository, org/tiny."""

    folder: Path
    asked: list[str]

    def do_HEAD(self):
        self.answer(head=True)

    def do_GET(self):
        self.answer(head=False)

    def answer(self, head):
        self.asked.append(f'{self.command} {self.path}')
        files = {path.name: path.read_bytes() for path in self.folder.iterdir()}
        file = re.fullmatch(f'/org/tiny/resolve/({SHA}|main)/(.+)', self.path)
        headers = {'X-Repo-Commit': SHA}
        if re.match('/api/models/org/tiny(/revision/main)?$', self.path):
            body = json.dumps({'id': 'org/tiny', 'sha': SHA, 'siblings': [
                {'rfilename': name} for name in files]}).encode()
        elif self.path.startswith(f'/api/models/org/tiny/tree/{SHA}'):
            body = json.dumps([{'type': 'file', 'path': name, 'size': len(content),
                                'oid': hashlib.sha1(content).hexdigest()}
                               for name, content in files.items()]).encode()
        elif file and file[2] in files:
            body = files[file[2]]
            headers['ETag'] = f'"{hashlib.sha1(body).hexdigest()}"'
        else:
            self.send_response(404)
            self.send_header('X-Error-Code', 'RepoNotFound')
            self.send_header('Content-Length', '0')
            self.end_headers()
            return
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(folder):
    (folder / 'pytorch_model.bin').write_bytes(pickle.dumps(Bomb()))
    Hub.folder, Hub.asked = folder, []
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()
    thread.join()


def test_pull_over_a_network(tmp_path, hub, model, capsys, monkeypatch):
    """In a process of its own, since huggingface_hub reads its variables when it is imported."""
    environment = {**os.environ, 'HF_ENDPOINT': hub, 'HF_HOME': str(tmp_path / 'home'),
                   'HF_HUB_DISABLE_XET': '1', 'HF_HUB_DISABLE_TELEMETRY': '1',
                   'PYTHONPATH': os.pathsep.join(sys.path)}
    environment.pop('HF_HUB_CACHE', None)
    script = ('import torchvision_operators\nimport sys\nfrom featshare_core.cli import main\n'
              'sys.exit(main(["pull", "org/tiny"]) or main(["pull", "org/nosuch"]) - 1)')
    run = subprocess.run([sys.executable, '-c', script], env=environment, capture_output=True,
                         text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    assert f'pulled org/tiny@{SHA}\n' in run.stdout
    assert '\nlicence        mit, which segmentation_models_pytorch writes' in run.stdout
    assert 'featshare: org/nosuch cannot be pulled: ' in run.stderr
    assert not any('pytorch_model.bin' in asked for asked in Hub.asked)
    asked = len(Hub.asked)
    # Nothing else downloads it again.
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'home' / 'hub'))
    monkeypatch.setattr(conversions, 'convert', None)
    assert assert_same('org/tiny', model).training['converted_from'] == f'org/tiny@{SHA}'
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert main(['pull', 'org/tiny']) == 0
    assert main(['pull', 'org/other']) == 1
    assert 'org/other cannot be pulled: ' in capsys.readouterr().err
    assert len(Hub.asked) == asked


def test_what_cannot_be_pulled(tmp_path, capsys, monkeypatch):
    for name in ('tiny', str(tmp_path), 'a/b/c'):
        assert main(['pull', name]) == 1
        assert f'featshare: {name} is not org/name or org/name@revision' in \
            capsys.readouterr().err
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    assert main(['pull', 'org/tiny']) == 1
    assert 'needs huggingface_hub: pip install huggingface_hub' in capsys.readouterr().err


def test_where_the_cache_cannot_be_written(tmp_path, folder, monkeypatch):
    (tmp_path / 'cache').write_text('a file')
    with pytest.raises(CheckpointError, match='set XDG_CACHE_HOME to a folder that can be'):
        load_checkpoint(folder)


def test_a_damaged_file_of_the_cache_is_converted_again(folder, model, caplog):
    path = find_weights(folder)
    path.write_bytes(path.read_bytes()[:1000])
    assert_same(folder, model)
    assert f'{path} is damaged' in caplog.text


def test_a_pull_that_was_interrupted_is_named(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:1')
    cached_repository(tmp_path / 'hub', folder, 'org/tiny')
    next((tmp_path / 'hub').rglob('snapshots/*/model.safetensors')).unlink()
    with pytest.raises(CheckpointError, match=r'has no model\.safetensors, or was pulled in'):
        find_weights('org/tiny')


def test_a_file_that_is_missing_is_no_name_of_a_hub():
    with pytest.raises(CheckpointError, match=r'checkpoint out/typo\.pt does not exist'):
        find_weights('out/typo.pt')


def test_the_cache_keeps_those_used_last(folder, monkeypatch):
    monkeypatch.setattr(conversions, 'KEPT', 2)
    first = find_weights(folder)
    os.utime(first, (1, 1))
    for licence in 'ab':
        (folder / 'README.md').write_text(f'---\nlicense: {licence}\n---')
        assert load_checkpoint(folder)[1].licence == licence
    assert not first.exists()
    assert len(list(first.parent.iterdir())) == 2


def test_other_folders_are_refused(tmp_path):
    (tmp_path / 'empty').mkdir()
    reason = (r'empty is a folder, but neither featshare export nor save_pretrained wrote it: it '
              r'has no config\.json; `featshare convert`')
    with pytest.raises(CheckpointError, match=reason):
        load_checkpoint(tmp_path / 'empty')
    save_file({'a': torch.zeros(1)}, tmp_path / 'empty' / 'model.safetensors')
    for text in ('{}', '[1]', '[' * 100_000):
        (tmp_path / 'empty' / 'config.json').write_text(text)
        with pytest.raises(CheckpointError, match='empty'):
            load_checkpoint(tmp_path / 'empty')


@pytest.mark.parametrize(('file', 'content'), [
    ('albumentations_config_eval.json', {'height': 1e999, 'width': 96}),
    ('albumentations_config_eval.json', {'height': 1 << 40, 'width': 96}),
    ('albumentations_config_eval.json', '[' * 100_000), ('config.json', {'encoder_depth': 1e999}),
    ('config.json', {'decoder_merge_policy': []})])
def test_settings_of_any_kind_are_refused(folder, file, content):
    """The image on which the networks are compared is never of a size that a file names."""
    path = folder / file
    if isinstance(content, str):
        path.write_text(content)
    elif file == 'config.json':
        path.write_text(json.dumps({**json.loads(path.read_text()), **content}))
    else:
        path.write_text(json.dumps({'transform': {'__class_fullname__': 'Resize', **content}}))
    with pytest.raises(CheckpointError, match=r'^mine cannot be converted: '):
        load_checkpoint(folder)
