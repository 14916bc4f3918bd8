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
"""Checkpoints: what is written comes back, and what is wrong is refused with its reason."""
from dataclasses import replace
import json
import pickle
import time

from featshare_core.labels import CAMVID, LabelSet
from featshare_core.networks.checkpoint import (
    CheckpointError,
    Config,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from featshare_core.networks.fpn import FPN
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
import torch


def test_round_trip(tmp_path):
    labels = LabelSet(('a', 'b', 'c'), ((1, 2, 3), (4, 5, 6), (7, 8, 9)))
    config = Config('fpn-densenet121', labels, (480, 352), {'shared_levels': 3},
                    mean=(0.1, 0.2, 0.3), training={'steps': 7}, scores={'miou': 12.5})
    network = FPN(3, 3)
    save_checkpoint(tmp_path / 'x.safetensors', network, config)
    loaded, read = load_checkpoint(tmp_path / 'x.safetensors')
    assert read == config
    assert not loaded.training
    for name, tensor in network.named_parameters():
        assert torch.equal(loaded.get_parameter(name), tensor.half().float()), name


def test_the_cut_is_chosen_when_loading(random_checkpoint):
    assert load_checkpoint(random_checkpoint)[0].shared_levels == 2
    for shared in (1, 2, 3):
        network, config = load_checkpoint(random_checkpoint, shared_levels=shared)
        assert network.shared_levels == shared == config.options['shared_levels']
    with pytest.raises(CheckpointError, match='shared_levels is one of 0, 1, 2, 3 in this '
                                              r'network, not 4 \(random.safetensors\)'):
        load_checkpoint(random_checkpoint, shared_levels=4)


def test_a_checkpoint_with_norms_for_key_frames_is_refused(tmp_path):
    config = Config('fpn-efficientnet-lite0', CAMVID, (64, 64), {'shared_levels': 2})
    old = replace(config, options={**config.options, 'key_norms': 1})
    save_checkpoint(tmp_path / 'old.safetensors', config.build(), old)
    with pytest.raises(CheckpointError, match=r'old.safetensors: .* \(option key_norms\), which '
                                              r'is no longer supported: train it again'):
        load_checkpoint(tmp_path / 'old.safetensors')


def test_what_half_precision_cannot_hold_is_kept_in_full(tmp_path):
    network = FPN(3)
    network.fusion_norm.running_var.fill_(1e6)
    save_checkpoint(tmp_path / 'x.safetensors', network, Config(
        'fpn-densenet121', LabelSet(('a', 'b', 'c'), ((0, 0, 0),) * 3), (480, 352)))
    loaded, _ = load_checkpoint(tmp_path / 'x.safetensors')
    assert loaded.fusion_norm.running_var.eq(1e6).all()
    assert (tmp_path / 'x.safetensors').stat().st_mode & 0o444 == 0o444


@pytest.mark.parametrize(('name', 'score', 'least'), [
    ('default', 'val/2-levels/key', 70), ('densenet121', 'val/2-levels/key', 60)])
def test_shipped_checkpoints_are_found_by_name_and_work(name, score, least):
    network, config = load_checkpoint(name)
    assert config.labels == CAMVID
    assert network.shared_levels == 2
    # fp16, and small enough for a repository.
    assert find_checkpoint(name).stat().st_size < 20e6
    with safe_open(find_checkpoint(name), 'pt') as file:
        assert file.get_tensor('classifier.weight').dtype == torch.float16
    assert config.scores[score] >= least
    assert config.training


def test_a_name_that_is_not_shipped_is_refused_with_those_that_are():
    with pytest.raises(CheckpointError, match=r"called 'nosuch'; shipped: .*default"):
        load_checkpoint('nosuch')


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r'missing.safetensors does not exist'):
        load_checkpoint(tmp_path / 'missing.safetensors')
    reason = (r'is a folder, but neither featshare export nor save_pretrained wrote it: it has no '
              r'config\.json')
    with pytest.raises(CheckpointError, match=reason):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize('size', [0, 4, 1000, 100_000])
def test_a_truncated_file_is_refused(tmp_path, random_checkpoint, size):
    path = tmp_path / 'short.safetensors'
    path.write_bytes(random_checkpoint.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r'short.safetensors is not a readable'):
        load_checkpoint(path)


class Bomb:
    exploded = False

    def __reduce__(self):
        return (setattr, (Bomb, 'exploded', True))


@pytest.mark.parametrize('name', ['weights.pth', 'weights.safetensors'])
def test_a_pickle_is_refused_and_not_run(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match='pickled files are not'):
        load_checkpoint(tmp_path / name)
    assert not Bomb.exploded


def rewritten(path, source, header=None, **tensors):
    """Write a copy of a checkpoint with other header fields or tensors; None removes one."""
    with safe_open(source, 'pt') as file:
        fields = json.loads(file.metadata()['featshare'])
    content = {n: t for n, t in {**load_file(source), **tensors}.items() if t is not None}
    save_file(content, path, {'featshare': json.dumps({**fields, **(header or {})})})
    return path


def test_other_networks_are_refused(tmp_path, random_checkpoint):
    path = tmp_path / 'x.safetensors'
    save_file({'a': torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match='some other network'):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="a network 'unet'; this version knows fpn"):
        load_checkpoint(rewritten(path, random_checkpoint, {'network': 'unet'}))
    with pytest.raises(CheckpointError, match=r'laterals.0.bias is missing'):
        load_checkpoint(rewritten(path, random_checkpoint, **{'laterals.0.bias': None}))
    with pytest.raises(CheckpointError, match=r'stray is unknown'):
        load_checkpoint(rewritten(path, random_checkpoint, stray=torch.zeros(1)))
    with pytest.raises(CheckpointError, match=r'laterals.0.bias has shape \(3,\)'):
        load_checkpoint(rewritten(path, random_checkpoint,
                                  **{'laterals.0.bias': torch.zeros(3)}))
    with pytest.raises(CheckpointError, match=r'laterals.0.bias holds values that are no finite'):
        load_checkpoint(rewritten(path, random_checkpoint,
                                  **{'laterals.0.bias': torch.full((128,), torch.nan)}))


@pytest.mark.parametrize('header', [
    {'labels': None}, {'labels': {'names': ['a'], 'colors': []}}, {'input_size': 'large'},
    {'input_size': [0, 0]}, {'mean': [1, 2]}, {'options': {'depth': 3}}, {'options': 7},
    {'std': [0, 1, 1]}, {'network': ['x']}, {'input_size': [float('inf'), 1]},
    {'input_size': [20000, 20000]}, {'mean': [float('nan')] * 3}, {'mean': ['a', 'b', 'c']},
    {'options': {'shared_levels': 2.0}}, {'labels': {'names': [1], 'colors': [[0, 0, 0]]}}])
def test_a_damaged_header_is_refused(tmp_path, random_checkpoint, header):
    with pytest.raises(CheckpointError, match=r'x.safetensors'):
        load_checkpoint(rewritten(tmp_path / 'x.safetensors', random_checkpoint, header))


HUGE = 1 << 20


@pytest.mark.parametrize(('network', 'options'), [
    ('smp', {'architecture': 'Unet', 'encoder': 'resnet18',
             'decoder_channels': [HUGE] * 5}),
    ('smp', {'architecture': 'FPN', 'encoder': 'mit_b0', 'decoder_pyramid_channels': HUGE << 10}),
    ('smp', {'architecture': 'Unet', 'encoder': 'tu-convnext_tiny',
             'decoder_channels': [HUGE, HUGE, HUGE, HUGE, HUGE]})])
def test_a_huge_network_is_refused_before_it_is_allocated(tmp_path, network, options):
    """These would take terabytes; the file has a few bytes."""
    pytest.importorskip('segmentation_models_pytorch')
    path = tmp_path / 'small.safetensors'
    fields = {'network': network, 'options': {**options, 'shared_levels': 2}, 'labels': {
        'names': ['a'], 'colors': [[0, 0, 0]]}, 'input_size': [64, 64], 'mean': [0] * 3,
        'std': [1] * 3, 'training': {}, 'scores': {}}
    save_file({'decoder.weight': torch.zeros(1)}, path, {'featshare': json.dumps(fields)})
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=r'small\.safetensors does not fit the network'):
        load_checkpoint(path)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize('header', [
    '{"network": "smp", "options": ' + '[' * 100_000, '{"labels": ' + '{"a": ' * 100_000,
    '[' * 100_000 + ']' * 100_000, '[]', '3', '{"labels": {"names": ' + '9' * 100_000], ids=[
        'list', 'object', 'closed list', 'no object', 'number', 'long number'])
def test_a_header_of_deep_or_wrong_json_is_refused(tmp_path, header):
    path = tmp_path / 'deep.safetensors'
    save_file({'a': torch.zeros(1)}, path, {'featshare': header})
    with pytest.raises(CheckpointError, match=r'deep\.safetensors: its header cannot be read'):
        load_checkpoint(path)


@pytest.mark.parametrize('options', [
    {'backbone': 3}, {'levels': -1}, {'levels': 10 ** 30}, {'shared_levels': 10 ** 30},
    {'mending': 1, 'levels': 1}])
def test_options_that_build_no_network_are_refused(tmp_path, random_checkpoint, options):
    path = rewritten(tmp_path / 'x.safetensors', random_checkpoint,
                     {'options': {'shared_levels': 2, **options}})
    with pytest.raises(CheckpointError, match=r'x\.safetensors'):
        load_checkpoint(path)


def test_the_licence_is_kept_in_the_header(tmp_path, random_checkpoint):
    network, config = load_checkpoint(random_checkpoint)
    assert config.licence == 'unknown'
    save_checkpoint(tmp_path / 'x.safetensors', network, replace(config, licence='mit'))
    assert load_checkpoint(tmp_path / 'x.safetensors')[1].licence == 'mit'
    # Files of earlier versions do not name it; those that come with the package are CamVid's.
    assert load_checkpoint('light')[1].licence == 'research only: trained on camvid'
    for licence in (3, 'a\nb', 'x' * 201):
        with pytest.raises(CheckpointError, match=r'y\.safetensors: .* licence'):
            load_checkpoint(rewritten(tmp_path / 'y.safetensors', random_checkpoint,
                                      {'licence': licence}))
