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
"""What is exported once is not exported again, unless something else would come out."""
import logging
from pathlib import Path
import signal
import sys
import threading
import time

from featshare_core.inference.engines import make_engine
from featshare_core.inference.export import cache as model_cache
from featshare_core.inference.export.cache import cached, identity, kept
from featshare_core.inference.export.models import Models, NetworkModels
from featshare_core.inference.export.process import ExportProcess, Origin
from featshare_core.labels import CAMVID
from featshare_core.networks.checkpoint import Config, load_checkpoint
from featshare_core.networks.fpn import FPN
import numpy as np
import pytest
import torch

FILES = {'key': bytes(range(256)) * 4, 'current': b'current'}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    return tmp_path / 'featshare' / 'models'


def unasked():
    raise AssertionError('this is kept, and need not be made')


def test_what_was_made_is_found(folder):
    assert cached('some', lambda: FILES) == FILES
    assert cached('some', unasked) == FILES
    assert cached('other', lambda: {'key': b''}) == {'key': b''}
    assert sorted(file.name for file in folder.iterdir()) == ['other', 'some']


def test_what_is_kept_is_listed_by_its_last_use(folder):
    assert kept() == []
    for name in ('first', 'second', 'first'):
        time.sleep(.02)  # the times of files are coarse
        cached(name, lambda: FILES)
    (folder / 'third.123').touch()  # not finished yet
    assert kept() == [folder / 'first', folder / 'second']


def test_a_read_only_place_serves_what_is_there(folder, monkeypatch, caplog):
    cached('some', lambda: FILES)

    def refuse(*_):
        raise PermissionError(30, 'Read-only file system')

    for function in ('utime', 'replace'):
        monkeypatch.setattr(model_cache.os, function, refuse)
    assert cached('some', unasked) == FILES
    assert not caplog.text
    assert cached('other', lambda: FILES) == FILES
    assert 'every start exports them: [Errno 30] Read-only file system' in caplog.text


@pytest.mark.parametrize('damage', [
    lambda content: b'', lambda content: content[:20], lambda content: content[:-1],
    lambda content: bytes(len(content)), lambda content: content[:500] + b'?' + content[501:]])
def test_damaged_models_are_exported_again(folder, damage, caplog):
    cached('some', lambda: FILES)
    file = folder / 'some'
    file.write_bytes(damage(file.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert cached('some', lambda: FILES) == FILES
    assert 'some is damaged' in caplog.text
    assert cached('some', unasked) == FILES


@pytest.mark.parametrize('home', ['file', '/dev/null', '~'])
def test_without_a_place_to_keep_them_they_are_made(tmp_path, monkeypatch, caplog, home):
    (tmp_path / 'file').touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', home)
    with caplog.at_level(logging.WARNING):
        assert cached('some', lambda: FILES) == FILES
    assert 'every start exports them: ' in caplog.text
    assert [file.name for file in tmp_path.iterdir()] == ['file']


def test_an_exporter_that_fails_is_asked_once(folder):
    calls = []

    def fail():
        calls.append(1)
        raise RuntimeError('no such operator')

    with pytest.raises(RuntimeError, match='no such operator'):
        cached('some', fail)
    assert len(calls) == 1
    assert not folder.exists()


def test_those_used_last_stay(folder, monkeypatch):
    monkeypatch.setattr(model_cache, 'KEPT', 2)
    folder.mkdir(parents=True)
    (folder / 'some.123').touch()  # of a process that was killed
    for name in ('first', 'second', 'first', 'third'):
        time.sleep(.02)  # the times of files are coarse
        cached(name, lambda: FILES)
    assert sorted(file.name for file in folder.iterdir()) == ['first', 'third']


def test_whatever_changes_a_model_changes_its_name(folder, monkeypatch):
    torch.manual_seed(0)
    network = FPN(11, backbone='efficientnet-lite0').eval()
    config = Config('fpn-efficientnet-lite0', CAMVID, (64, 64))
    exported = []
    monkeypatch.setattr(NetworkModels, '_export',
                        lambda self, size: exported.append(size) or Models(b'key', b'current'))

    def models(size=(64, 64), **changes):
        NetworkModels(network, Config(**{**vars(config), **changes})).models(size)
        return len(exported)

    assert models() == models() == 1
    assert models((64, 96)) == 2
    assert models(mean=(0.1, 0.2, 0.3)) == 3
    for number, (name, value) in enumerate((('shared_levels', 1), ('aligned', True)), 4):
        network.configure(**{name: value})
        assert models() == number
    with torch.no_grad():
        network.classifier.bias[3] += 1e-3
    assert models() == models() == 6
    # Other code, or another version of a library, may make something else of the same network.
    name, code = identity(network), model_cache._code()
    assert len(code[0]) == 64
    assert torch.__version__.startswith(code[1].partition('+')[0])
    monkeypatch.setattr(model_cache, '_code', lambda: (*code, 'another'))
    assert identity(network) != name


@pytest.fixture
def source(random_checkpoint):
    origin = Origin(random_checkpoint, 1, True)
    made = NetworkModels(*load_checkpoint(*origin), origin)
    yield made
    made.close()


def test_another_process_exports_the_same_models(folder, source, monkeypatch):
    expected = source._export((64, 96))
    source.prepare((64, 96))
    monkeypatch.setattr(NetworkModels, '_export', lambda self, size: unasked())
    assert source.models((64, 96)) == expected
    # What is kept needs no process.
    monkeypatch.setattr(ExportProcess, 'run', lambda *arguments: unasked())
    source.prepare((64, 96))


def test_models_are_exported_here_where_no_process_can(folder, source, monkeypatch, caplog,
                                                       random_checkpoint):
    Path(random_checkpoint).rename(f'{random_checkpoint}.moved')
    source.prepare((64, 96))
    Path(f'{random_checkpoint}.moved').rename(random_checkpoint)
    assert 'another cannot do it: ' in caplog.text
    assert 'CheckpointError: ' in caplog.text
    assert source.models((64, 96)).key
    caplog.clear()
    source.prepare((96, 96))  # is not tried again
    assert not caplog.text


@pytest.mark.parametrize('executable', ['/nowhere/python', None])
def test_without_an_interpreter_models_are_exported_here(folder, source, monkeypatch, caplog,
                                                         executable):
    monkeypatch.setattr(sys, 'executable', executable)
    source.prepare((64, 96))
    assert 'another cannot do it: ' in caplog.text


def test_a_cache_that_keeps_nothing_is_found_out_once(folder, source, monkeypatch, caplog):
    run = []
    monkeypatch.setattr(ExportProcess, 'run', lambda self, *arguments: run.append(arguments))
    for size in ((64, 96), (96, 96)):
        source.prepare(size)
    assert len(run) == 1
    assert 'does not keep its result' in caplog.text


def test_the_other_process_runs_nothing_of_the_working_directory(folder, source, monkeypatch,
                                                                 tmp_path):
    # As in a folder that others may write to.
    (tmp_path / 'queue.py').write_text('open("executed", "w"); raise RuntimeError')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', ['', *sys.path])
    source.prepare((64, 96))
    assert [file.name for file in kept()] == [source._name((64, 96))]
    assert not (tmp_path / 'executed').exists()


def test_closing_ends_the_other_process(folder, source):
    problems = []

    def prepare():
        try:
            source.prepare((64, 96))
        except RuntimeError as error:
            problems.append(str(error))

    thread = threading.Thread(target=prepare)
    thread.start()
    while source._process._running is None:
        time.sleep(.01)
    source.close()
    thread.join(30)
    assert source._process._running.returncode == -signal.SIGKILL
    with pytest.raises(RuntimeError, match='closed'):
        source.prepare((64, 96))
    assert problems == ['the engine is closed']
    assert not kept()


def test_an_engine_answers_the_same_from_kept_models(folder, monkeypatch):
    pytest.importorskip('openvino')
    frame = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)

    def masks():
        engine = make_engine('default', 'openvino', 'cpu', input_size=(96, 64))
        return engine.key(frame).mask, engine.current(frame[:, ::-1]).mask

    before = masks()
    monkeypatch.setattr(NetworkModels, '_export', lambda self, size: unasked())
    for mask, again in zip(before, masks()):
        assert np.array_equal(mask, again)
