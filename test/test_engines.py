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
"""Every engine against eager PyTorch in fp32, and what they promise."""
from concurrent.futures import Future
import shutil
import threading

from featshare_core.cli import main
from featshare_core.data.synthetic import RenderedStreet
from featshare_core.inference import engine as engine_module
from featshare_core.inference.cpu import host_engine
from featshare_core.inference.cuda.cuda_engine import CudaEngine
from featshare_core.inference.cuda.dense import buffer_dense_blocks
from featshare_core.inference.cuda.fold import fold_batch_norms
from featshare_core.inference.cuda.tiles import winning_class
from featshare_core.inference.engines import installed_engines, make_engine
from featshare_core.inference.export.models import export, ExportedModels
from featshare_core.inference.parts import Pixels, prepare
from featshare_core.inference.pixels import resized
from featshare_core.inference.segmenter import VideoSegmenter
from featshare_core.networks.checkpoint import CheckpointError, load_checkpoint
import numpy as np
import pytest
import torch
from torch.nn import functional as F

CPU_ENGINES = [('torch', 'bf16'), ('openvino', 'fp32'), ('openvino', 'bf16'), ('onnx', 'fp32')]


@pytest.fixture(scope='module')
def video():
    """Five frames with a scene in them, of another size than the network's."""
    street = RenderedStreet(640, 360, seed=3)
    return [street.frame(index)[0] for index in range(5)]


@pytest.fixture(scope='module')
def reference(video):
    segmenter = VideoSegmenter.from_checkpoint('default', 3, 'cpu', 'fp32', engine='torch')
    return [segmenter.segment(frame, confidence=True) for frame in video]


def make(engine, precision, **options):
    if engine not in installed_engines('cpu'):
        pytest.skip(f'the packages of engine {engine} are not installed')
    return VideoSegmenter.from_checkpoint('default', 3, 'cpu', precision, engine=engine, **options)


def agree(results, reference, confidence=True):
    for result, expected in zip(results, reference):
        assert result.is_key == expected.is_key
        assert result.frames_since_key == expected.frames_since_key
        assert (result.mask == expected.mask).mean() >= 0.995
        if confidence:
            difference = result.confidence.astype(int) - expected.confidence
            assert np.abs(difference).mean() < 2


@pytest.mark.parametrize(('engine', 'precision'), CPU_ENGINES)
def test_engines_agree_with_eager_fp32(engine, precision, video, reference):
    segmenter = make(engine, precision)
    assert segmenter.engine.name == engine
    assert segmenter.engine.precision == precision
    agree([segmenter.segment(frame, confidence=True) for frame in video], reference)


@pytest.mark.parametrize('engine', ['openvino', 'onnx'])
@pytest.mark.parametrize('size', [(32, 32), (96, 32)])
def test_the_smallest_images(engine, size, video):
    # Landmarks are pooled until one row is left: OpenVINO has crashed for that.
    results, expected = ([segmenter.segment(frame) for frame in video[:2]] for segmenter in (
        make(name, 'fp32', input_size=size) for name in (engine, 'torch')))
    agree(results, expected, confidence=False)


@pytest.mark.parametrize(('engine', 'precision'), CPU_ENGINES)
def test_streams_of_two_sizes_do_not_touch_each_other(engine, precision, video, reference):
    segmenter = make(engine, precision)
    results = []
    for frame in video:
        results.append(segmenter.segment(frame, 'left', confidence=True))
        segmenter.segment(frame[:, ::-1], 'mirrored')
        segmenter.segment(frame[40:340, 20:320], 'square')
    agree(results, reference)


@pytest.mark.parametrize('name', ['default', 'light', 'densenet121'])
def test_the_cuda_engines_code_agrees_where_there_is_no_cuda(name, video):
    # All but the capturing: folded norms, buffers, caches and the masks made on the device.
    size = (256, 160)
    plain = VideoSegmenter.from_checkpoint(name, 3, 'cpu', 'fp32', engine='torch',
                                           input_size=size)
    reference = [plain.segment(frame, confidence=True) for frame in video]
    network, config = load_checkpoint(name)
    engine = CudaEngine(network, config, torch.device('cpu'), 'fp32', size)
    segmenter = VideoSegmenter(engine, 3)
    results = []
    for frame in video:
        results.append(segmenter.segment(frame, confidence=True))
        segmenter.segment(frame[:, ::-1], 'mirrored')
    agree(results, reference)
    with pytest.raises(LookupError, match='no key frame of this size'):
        engine.current(video[0][:100], '')


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('precision', ['fp32', 'bf16', 'fp16'])
@pytest.mark.parametrize('name', ['default', 'light', 'densenet121'])
def test_cuda_graphs_agree_with_eager_fp32(name, precision, video):
    plain = VideoSegmenter.from_checkpoint(name, 3, 'cpu', 'fp32', engine='torch')
    reference = [plain.segment(frame, confidence=True) for frame in video]
    segmenter = VideoSegmenter.from_checkpoint(name, 3, 'cuda', precision)
    results = []
    for frame in video:
        results.append(segmenter.segment(frame, confidence=True))
        segmenter.segment(frame[:, ::-1], 'mirrored')
        # What is free is taken and filled: nothing that a graph reads may lie there.
        for size in (2**10, 2**16, 2**22, 2**28):
            torch.full((size,), torch.nan, device='cuda')
    assert segmenter.engine.name == 'graphs'
    assert segmenter.engine.fallback == ''
    agree(results, reference)


@pytest.mark.parametrize('shared_levels', [0, 1, 2, 3])
@pytest.mark.parametrize('name', ['default', 'light', 'densenet121'])
def test_a_device_is_given_all_it_works_on(name, shared_levels):
    """
    What a CUDA graph cannot capture: tensors of the host, and values that the host waits for.

    PyTorch's ``meta`` device refuses both, and every machine has one.
    """
    network, config = load_checkpoint(name, shared_levels)
    fold_batch_norms(network.eval())
    buffer_dense_blocks(network)
    device, size = torch.device('meta'), (100, 150)
    network = prepare(network, device, 'bf16')
    image = torch.zeros(1, 64, 96, 3, dtype=torch.uint8, device=device)
    planes = torch.zeros(2, *size, dtype=torch.uint8, device=device)
    with torch.inference_mode():
        low = network.low(Pixels(config).to(device)(image).to(torch.bfloat16))
        shared = network.high(low)
        for logits in (network.decode_key(low, shared), network.decode(low, shared)):
            winning_class(logits, size, *planes)


def engine_of_each_kind(size):
    network, config = load_checkpoint('default')
    yield CudaEngine(network, config, torch.device('cpu'), 'fp32', size)
    yield make('torch', 'fp32', input_size=size).engine
    if 'openvino' in installed_engines('cpu'):
        yield make('openvino', 'fp32', input_size=size).engine


def test_deferred_key_frames_answer_with_what_is_there(video):
    for engine in engine_of_each_kind((128, 96)):
        segmenter = VideoSegmenter(engine, 2, key_mode='deferred')
        first = segmenter.segment(video[0])
        assert first.is_key
        np.testing.assert_array_equal(first.mask, engine.key(video[0], 'alone').mask)
        assert segmenter.segment(video[1]).frames_since_key == 1
        deferred = segmenter.segment(video[2])
        assert (deferred.key_reason, deferred.is_key) == ('interval', False)
        assert deferred.frames_since_key == 2
        # Once the deep half has ended, its frame is the one that counts.
        cache = engine._caches['']
        if isinstance(cache.newer, Future):
            cache.newer.result(60)
        result = segmenter.segment(video[3])
        assert result.frames_since_key == 1
        engine.key(video[2], 'alone')
        np.testing.assert_array_equal(result.mask, engine.current(video[3], 'alone').mask)


def test_deferred_key_frames_block_where_the_scene_may_have_changed(video):
    segmenter = VideoSegmenter(make_engine(device='cpu', engine='torch'), 2, 0.5, 'deferred')
    assert segmenter.segment(video[0], stamp=1.0).key_reason == 'first'
    assert segmenter.segment(video[1], stamp=2.0).is_key
    assert segmenter.segment(video[1], stamp=1.5).is_key
    assert segmenter.segment(video[1][:200], stamp=1.6).is_key
    with pytest.raises(ValueError, match='key_mode'):
        VideoSegmenter(segmenter.engine, key_mode='never')


def test_a_deep_half_that_takes_too_long_leaves_the_limits_of_the_age_as_they_are(video):
    segmenter = VideoSegmenter(make_engine(device='cpu', engine='torch'), 2, 0.5, 'deferred')
    engine, ended, deep = segmenter.engine, threading.Event(), segmenter.engine._run_deep

    def slow(image):
        ended.wait(60)
        return deep(image)
    engine._run_deep = slow
    results = [segmenter.segment(video[0], stamp=0.1 * count) for count in range(7)]
    ended.set()
    # Begun on the third frame, and on none while that is on its way; half a second after it the
    # answer is waited for.
    assert [r.key_reason for r in results] == ['first', '', 'interval', '', '', '', '']
    assert [r.frames_since_key for r in results] == [0, 1, 2, 3, 4, 5, 6]
    last = segmenter.segment(video[0], stamp=0.8)
    assert (last.key_reason, last.is_key, last.frames_since_key) == ('age', True, 0)


@pytest.mark.parametrize('engine', ['torch', 'openvino'])
def test_more_sizes_than_are_kept_do_not_forget_each_other(engine, video, monkeypatch):
    monkeypatch.setattr(engine_module, 'KEPT_SIZES', 2)
    if engine == 'torch':
        network, config = load_checkpoint('default')
        segmenter = VideoSegmenter(
            CudaEngine(network, config, torch.device('cpu'), 'fp32', graphs=False))
        prepared = segmenter.engine._plans
    else:
        segmenter = make(engine, 'fp32')
        prepared = segmenter.engine._runners
    segmenter.schedule.key_interval = 100
    sizes = [(96, 128), (96, 160), (96, 192), (96, 224)]
    made = []
    for count in range(3):
        made.append([id(plan) for plan in prepared.values()])
        for height, width in sizes:
            frame = np.ascontiguousarray(video[count][:height, :width])
            result = segmenter.segment(frame, f'{width} wide')
            assert result.key_reason == ('' if count else 'first')
    # Nothing was prepared twice: each size is a stream's.
    assert sorted(made[1]) == sorted(made[2])
    assert len(made[1]) == len(sizes)
    for _, width in sizes:
        segmenter.forget(f'{width} wide')
    segmenter.segment(np.ascontiguousarray(video[0][:128, :128]))
    segmenter.segment(np.ascontiguousarray(video[0][:128, :160]))
    assert len(prepared) <= len(sizes) + 1


def test_a_deep_half_that_fails_beside_is_reported_and_the_stream_goes_on(video, monkeypatch):
    segmenter = VideoSegmenter(make_engine(device='cpu', engine='torch'), 1, key_mode='deferred')
    segmenter.segment(video[0])

    def fails(*_):
        raise RuntimeError('no memory for the deep half')
    with monkeypatch.context() as patch:
        patch.setattr(segmenter.engine, '_run_deep', fails)
        segmenter.segment(video[1])
        segmenter.engine._caches[''].newer.exception(60)
        with pytest.raises(RuntimeError, match='no memory for the deep half'):
            segmenter.segment(video[2])
    assert segmenter.segment(video[3]).is_key


@pytest.mark.parametrize(('shape', 'size', 'band'), [
    ((1, 5, 16, 24), (64, 64), 16 << 20), ((1, 5, 16, 24), (333, 501), 40_000),
    ((1, 3, 40, 40), (17, 23), 1), ((1, 2, 1, 1), (5, 7), 16 << 20)])
def test_bands_are_what_whole_logits_are(shape, size, band, monkeypatch):
    monkeypatch.setattr('featshare_core.inference.cuda.tiles.TILE_BYTES', band)
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(logits, size, mode='bilinear').softmax(1).max(1)
    mask, confidence = torch.zeros(2, *size, dtype=torch.uint8)
    winning_class(logits, size, mask, confidence)
    assert (mask == expected.indices[0]).float().mean() > 0.999
    assert (confidence - 255 * expected.values[0]).abs().max() < 1
    winning_class(logits, size, mask, None)
    assert (mask == expected.indices[0]).float().mean() > 0.999


@pytest.mark.parametrize('engine', ['openvino', 'onnx'])
def test_a_resize_leaves_the_cores_to_the_models(engine, video, monkeypatch):
    """PyTorch's threads spin after it, on cores that the models' threads need then."""
    threads = []

    def noted(*arguments):
        threads.append(torch.get_num_threads())
        return resized(*arguments)

    monkeypatch.setattr(host_engine, 'resized', noted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        make(engine, 'fp32').segment(video[0])
        assert (threads, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(('others', 'pinned'), [(0, True), (1, False)])
def test_threads_are_pinned_to_cores_where_the_process_has_all_of_them(others, pinned, video,
                                                                       monkeypatch):
    """Else several processes, each with fewer threads, would compute on the same cores."""
    pytest.importorskip('openvino')
    from featshare_core.inference.cpu import openvino_engine
    monkeypatch.setattr(openvino_engine, 'usable_physical_cores',
                        lambda: torch.get_num_threads() + others)
    segmenter = make('openvino', 'fp32')
    segmenter.segment(video[0])
    runner, = segmenter.engine._runners.values()
    assert runner._key.get_compiled_model().get_property('ENABLE_CPU_PINNING') == pinned


def test_an_exported_network_runs_without_its_checkpoint(tmp_path, video):
    pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    network, config = load_checkpoint('default', 3)
    export(network, config, tmp_path, (128, 160))
    plain = VideoSegmenter.from_checkpoint('default', 3, 'cpu', 'fp32', 3, input_size=(160, 128),
                                           engine='torch')
    for engine in ('auto', 'onnx'):
        exported = VideoSegmenter.from_checkpoint(tmp_path, 3, precision='fp32', engine=engine)
        assert exported.labels == plain.labels
        assert exported.engine.network_name == plain.engine.network_name
        plain.reset()
        for frame in video[:2]:
            assert (exported.segment(frame).mask == plain.segment(frame).mask).mean() > 0.995
    for options, message in (
            ({'device': 'abacus'}, 'none of auto, cpu'),
            ({'engine': 'graphs'}, 'checkpoints only: choose one of openvino, onnx'),
            ({'shared_levels': 1}, 'export it again'),
            ({'input_size': (64, 64)}, 'exported for: 160x128')):
        with pytest.raises(ValueError, match=message):
            make_engine(tmp_path, **options)
    (tmp_path / 'current.onnx').unlink()
    with pytest.raises(CheckpointError, match=r'holds no current\.onnx'):
        make_engine(tmp_path)
    with pytest.raises(ValueError, match='100x64 is not made of multiples of 32'):
        export(network, config, tmp_path, (64, 100))


def test_an_export_replaces_earlier_exports_alone(tmp_path, capsys):
    pytest.importorskip('onnx')
    for name, content in (('config.json', '{"camera": "front"}'), ('config.json', '{'),
                          ('notes.txt', 'mine')):
        (tmp_path / 'mine').mkdir()
        (tmp_path / 'mine' / name).write_text(content)
        for output, message in ((tmp_path / 'mine', 'holds files that featshare export did not'),
                                (tmp_path / 'mine' / name, 'is a file, not a folder to write')):
            for options in ([], ['--overwrite']):
                assert main(['export', str(output), *options]) == 1
                assert message in capsys.readouterr().err
        assert [file.read_text() for file in (tmp_path / 'mine').iterdir()] == [content]
        shutil.rmtree(tmp_path / 'mine')
    for content in ('{"checkpoint": {}}', '{'):  # an earlier export, and a damaged one
        (tmp_path / 'key.onnx').write_text('')
        (tmp_path / 'config.json').write_text(content)
        assert main(['export', str(tmp_path), '--overwrite', '--size', '65x32']) == 1
        assert 'multiples of 32' in capsys.readouterr().err


def test_the_command_exports(tmp_path, capsys):
    pytest.importorskip('onnx')
    assert main(['export', str(tmp_path / 'small'), '--size', '64x32']) == 0
    assert 'for images of 64x32' in capsys.readouterr().out
    assert ExportedModels(tmp_path / 'small').size == (32, 64)
    assert main(['export', str(tmp_path / 'odd'), '--size', '65x32']) == 1
    assert 'multiples of 32' in capsys.readouterr().err
    assert not (tmp_path / 'odd').exists()
    (tmp_path / 'theirs').mkdir()
    (tmp_path / 'theirs' / 'config.json').write_text('{"_model_class": "Unet"}')
    for name, message in (('small', 'small exists already; --overwrite replaces it'),
                          ('theirs', 'holds a network that save_pretrained wrote')):
        assert main(['export', str(tmp_path / name), '--size', '64x64']) == 1
        assert message in capsys.readouterr().err
    assert ExportedModels(tmp_path / 'small').size == (32, 64)
    assert main(['export', str(tmp_path / 'small'), '--size', '64x64', '--overwrite']) == 0
    assert ExportedModels(tmp_path / 'small').size == (64, 64)
    with pytest.raises(SystemExit):
        main(['export', str(tmp_path / 'odd'), '--size', 'large'])
