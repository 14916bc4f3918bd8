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
"""VideoSegmenter and the torch engine, on the CPU."""
import ctypes
import os
from pathlib import Path
import subprocess
import sys

from featshare_core.inference.device import choose_device, choose_precision
from featshare_core.inference.engines import installed_engines
from featshare_core.inference.memory import return_free_memory
from featshare_core.inference.pixels import network_size
from featshare_core.inference.segmenter import Result, VideoSegmenter
from featshare_core.inference.timing import Rolling
from featshare_core.networks.checkpoint import load_checkpoint
from featshare_core.overlay import paint
import numpy as np
import pytest
import torch
from torch.nn import functional as F

HEIGHT, WIDTH = 120, 200


def frames(count, seed=0, size=(HEIGHT, WIDTH)):
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)


@pytest.fixture
def segmenter(random_checkpoint):
    return VideoSegmenter.from_checkpoint(random_checkpoint, key_interval=3, device='cpu',
                                          precision='fp32', engine='torch')


def test_key_and_current_frames_follow_the_schedule(segmenter):
    results = [segmenter.segment(frame) for frame in frames(7)]
    assert [r.is_key for r in results] == [True, False, False, True, False, False, True]
    assert [r.frames_since_key for r in results] == [0, 1, 2, 0, 1, 2, 0]
    assert [r.key_reason for r in results] == ['first', '', '', 'interval', '', '', 'interval']
    for result in results:
        assert result.mask.shape == (HEIGHT, WIDTH)
        assert result.mask.dtype == np.uint8
        assert result.mask.max() < len(segmenter.labels)
        assert result.confidence is None
        stages = ['preprocess', 'low', 'high', 'decode', 'postprocess']
        if not result.is_key:
            stages.remove('high')
        assert list(result.timings) == stages
        assert all(t > 0 for t in result.timings.values())


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
@pytest.mark.parametrize('shared_levels', [1, 2, 3])
def test_current_on_the_key_frame_itself_is_key(random_checkpoint, shared_levels, precision):
    segmenter = VideoSegmenter.from_checkpoint(
        random_checkpoint, device='cpu', precision=precision, shared_levels=shared_levels,
        engine='torch')
    frame = frames(1)[0]
    key = segmenter.segment(frame, confidence=True)
    current = segmenter.segment(frame, confidence=True)
    assert key.is_key
    assert not current.is_key
    np.testing.assert_array_equal(current.mask, key.mask)
    np.testing.assert_array_equal(current.confidence, key.confidence)


def test_masks_are_those_of_the_plain_network(random_checkpoint, segmenter):
    network, config = load_checkpoint(random_checkpoint)
    frame = frames(1)[0]
    size = network_size((HEIGHT, WIDTH), (96, 128), 32)
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None]
    pixels = F.interpolate(pixels, size, mode='bilinear', antialias=True).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (config.mean, config.std))
    with torch.inference_mode():
        logits = network((pixels - mean) / std)
        logits = F.interpolate(logits, (HEIGHT, WIDTH), mode='bilinear')
    expected = logits.softmax(1).max(1)
    result = segmenter.segment(frame, confidence=True)
    agreement = (result.mask == expected.indices[0].numpy()).mean()
    assert agreement > 0.999
    difference = result.confidence.astype(int) - (255 * expected.values[0]).round().int().numpy()
    assert np.abs(difference).max() <= 1


def test_current_frames_really_use_the_key_frames_features(segmenter):
    first, second, third = frames(3)
    segmenter.segment(first)
    after_first = segmenter.segment(third).mask
    segmenter.reset()
    segmenter.segment(second)
    after_second = segmenter.segment(third).mask
    assert (after_first != after_second).any()


def test_streams_do_not_touch_each_other(segmenter, random_checkpoint):
    alone = VideoSegmenter.from_checkpoint(random_checkpoint, 3, 'cpu', 'fp32')
    left, right = frames(6, seed=1), frames(6, seed=2, size=(90, 160))
    for own, other in zip(left, right):
        expected = alone.segment(own, 'left')
        result = segmenter.segment(own, 'left')
        segmenter.segment(other, 'right')
        assert result.is_key == expected.is_key
        np.testing.assert_array_equal(result.mask, expected.mask)


def test_a_new_image_size_is_a_key_frame_of_that_size(segmenter):
    segmenter.segment(frames(1)[0])
    result = segmenter.segment(frames(1, size=(64, 64))[0])
    assert result.key_reason == 'size'
    assert result.mask.shape == (64, 64)


@pytest.mark.parametrize('engine', sorted({'torch', 'openvino', 'onnx'}
                                            & {*installed_engines('cpu')}))
def test_without_current_frames_the_network_is_not_divided(random_checkpoint, engine):
    def loaded(**options):
        return VideoSegmenter.from_checkpoint(random_checkpoint, device='cpu', engine=engine,
                                              precision='fp32', **options)
    with loaded(key_interval=1) as whole, loaded(key_interval=1, shared_levels=2) as divided:
        assert (whole.engine.shared_levels, divided.engine.shared_levels) == (0, 2)
        assert whole.engine.network_name.endswith('fpn-densenet121, undivided')
        for interval, mode in ((1, 'blocking'), (2, 'deferred')):
            # Nothing to share, and nothing to defer: the mask stays that of the whole network.
            whole.schedule.key_interval, whole.key_mode = interval, mode
            for frame in frames(4):
                other = whole.segment(frame).mask != divided.segment(frame).mask
                assert other.mean() < 1e-3  # rounding
        for runner in getattr(whole.engine, '_runners', {}).values():
            assert runner._current is runner._key  # compiled once
    for interval, levels in ((2, 0), (3, 2)):  # with moved frames alone between, and with others
        with loaded(key_interval=interval, moved_frames=1) as moving:
            assert moving.engine.shared_levels == levels
    with loaded(key_interval=1, key_mode='deferred') as deferred:
        assert deferred.engine.shared_levels == 2  # every frame is a current frame


def test_the_input_size_and_the_masks_size_can_be_chosen(random_checkpoint):
    segmenter = VideoSegmenter.from_checkpoint(random_checkpoint, device='cpu',
                                               input_size=(160, 64), full_size=False)
    assert segmenter.segment(frames(1)[0]).mask.shape == (64, 160)
    for wrong in ((100, 64), (0, 32), (-32, 32)):
        with pytest.raises(ValueError, match='multiples of 32'):
            VideoSegmenter.from_checkpoint(random_checkpoint, device='cpu', input_size=wrong)


def test_the_network_keeps_the_images_aspect_ratio():
    assert network_size((720, 1280), (352, 480), 32) == (320, 544)
    assert network_size((360, 480), (352, 480), 32) == (352, 480)
    assert network_size((1024, 2048), (512, 512), 32) == (352, 736)
    for strip in ((1, 10_000), (1_000_000, 1)):
        height, width = network_size(strip, (352, 480), 32)
        assert min(height, width) == 32
        assert height * width <= 352 * 480


@pytest.mark.parametrize('frame', [
    None, np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8),
    np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8), [[[0, 0, 0]]]])
def test_what_is_no_frame_is_refused_and_changes_nothing(segmenter, frame):
    segmenter.segment(frames(1)[0])
    with pytest.raises(ValueError, match='HxWx3 uint8'):
        segmenter.segment(frame)
    assert segmenter.segment(frames(1)[0]).frames_since_key == 1


def test_views_with_padded_rows_and_read_only_memory_are_taken(segmenter):
    padded = np.zeros((HEIGHT, WIDTH + 7, 3), np.uint8)
    padded[:, :WIDTH] = frames(1)[0]
    view = padded[:, :WIDTH]
    view.flags.writeable = False
    before = view.copy()
    result = segmenter.segment(view, 'view')
    np.testing.assert_array_equal(result.mask, segmenter.segment(frames(1)[0], 'whole').mask)
    np.testing.assert_array_equal(view, before)


def test_bgr_arrays_and_pil_images_give_the_masks_of_rgb_arrays(segmenter):
    pil = pytest.importorskip('PIL.Image')
    image = frames(1)[0]
    expected = segmenter.segment(image).mask
    alpha = np.dstack((image, np.full((HEIGHT, WIDTH), 9, np.uint8)))
    for index, (frame, color) in enumerate([
            (image[..., ::-1], 'bgr'), (np.ascontiguousarray(image[..., ::-1]), 'bgr'),
            (pil.fromarray(image), 'rgb'), (pil.fromarray(alpha), 'rgb')]):
        result = segmenter.segment(frame, f'stream {index}', color=color)
        np.testing.assert_array_equal(result.mask, expected)
    for frame, color, message in (
            (image, 'BGR', "color is 'rgb' or 'bgr', not 'BGR'"),
            (pil.fromarray(image), 'bgr', "color='bgr' is for arrays"),
            (pil.new('I;16', (8, 8)), 'rgb', r"mode I;16, not RGB, .*with .convert\('RGB")):
        with pytest.raises(ValueError, match=message):
            segmenter.segment(frame, color=color)


def test_overlay_of_a_result(segmenter):
    image = frames(1)[0]
    result = segmenter.segment(image)
    expected = paint(image, result.mask, segmenter.labels, 0.3)
    np.testing.assert_array_equal(result.overlay(image, 0.3), expected)
    bgr = result.overlay(image[..., ::-1], 0.3, color='bgr')
    np.testing.assert_array_equal(bgr[..., ::-1], expected)
    small = Result(result.mask[::2, ::2], None, True, 'first', 0, {}, labels=segmenter.labels)
    assert small.overlay(image).shape == (HEIGHT // 2, WIDTH // 2, 3)
    larger = np.zeros((2 * HEIGHT + 1, 2 * WIDTH, 3), np.uint8)  # as rounding may have it
    assert result.overlay(larger).shape == image.shape
    # A copy of 6 % of the size was segmented; both its sides are rounded.
    copy = Result(np.zeros((65, 115), np.uint8), None, True, 'first', 0, {},
                  labels=segmenter.labels, frame_size=(65, 115))
    assert copy.overlay(np.zeros((1080, 1920, 3), np.uint8)).shape == (65, 115, 3)
    for frame in (larger[:2 * HEIGHT - 4], image.swapaxes(0, 1)):  # they were stretched
        with pytest.raises(ValueError, match='in another aspect ratio than the 200x120 that'):
            result.overlay(frame)
    with pytest.raises(ValueError, match='opacity is a number from 0 to 1, not 50'):
        result.overlay(image, 50)


def test_input_sizes_in_the_notation_of_the_commands(random_checkpoint):
    options = {'device': 'cpu', 'precision': 'fp32', 'engine': 'torch', 'full_size': False}
    for size in ('96x64', [96, 64], np.array([96, 64])):
        made = VideoSegmenter.from_checkpoint(random_checkpoint, input_size=size, **options)
        result = made.segment(frames(1)[0])
        assert result.mask.shape == (64, 96)
    assert result.overlay(frames(1)[0]).shape == (64, 96, 3)
    for wrong in (640, '640', '640X480', (640,), (640.0, 480.0), ('640', '480'), '0x64', 'ab',
                  b'64', bytearray(b'64'), memoryview(b'64'), {640, 480}, {640: 1, 480: 1},
                  (True, 5)):
        with pytest.raises(ValueError, match=r'^input_size is \(width, height\) or text such as'):
            VideoSegmenter.from_checkpoint(random_checkpoint, input_size=wrong)


def test_a_with_statement_closes_the_segmenter(random_checkpoint):
    with VideoSegmenter.from_checkpoint(random_checkpoint, device='cpu', precision='fp32',
                                        engine='torch') as segmenter:
        assert segmenter.segment(frames(1)[0]).is_key
    with pytest.raises(RuntimeError, match='`close` was called on this VideoSegmenter; create'):
        segmenter.segment(frames(1)[0])
    assert segmenter.engine.closed


def test_one_frame_by_one_and_very_wide(segmenter):
    assert segmenter.segment(frames(1, size=(1, 1))[0]).mask.shape == (1, 1)
    assert segmenter.segment(frames(1, size=(2, 900))[0]).mask.shape == (2, 900)


def test_a_failing_engine_restarts_the_stream(segmenter, monkeypatch):
    segmenter.segment(frames(1)[0])
    with monkeypatch.context() as patch:
        patch.setattr(segmenter.engine, 'current', lambda *_: (_ for _ in ()).throw(
            RuntimeError('out of memory')))
        with pytest.raises(RuntimeError, match='out of memory'):
            segmenter.segment(frames(1)[0])
    assert segmenter.segment(frames(1)[0]).is_key


def test_warming_up_leaves_no_trace(segmenter):
    segmenter.warm_up()
    assert segmenter.segment(frames(1)[0]).key_reason == 'first'


def test_a_stream_that_ended_is_forgotten(segmenter):
    for index in range(5):
        segmenter.segment(frames(1)[0], f'camera {index}')
        segmenter.forget(f'camera {index}')
    assert not segmenter.engine._caches
    assert segmenter.schedule.state() == {'phases': {}, 'streams': {}, 'pictures': {}}


def test_weights_that_overflow_are_found_when_warming_up(segmenter):
    with torch.no_grad():
        segmenter.engine._network.classifier.weight.fill_(float('inf'))
    with pytest.raises(RuntimeError, match='no finite numbers in fp32'):
        segmenter.warm_up()


def test_a_current_frame_without_a_key_frame_is_refused(segmenter):
    with pytest.raises(LookupError, match='no key frame'):
        segmenter.engine.current(frames(1)[0], 'new')


def test_a_missing_cuda_device_is_an_error(random_checkpoint):
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    with pytest.raises(RuntimeError, match=rf"'cuda:{count}' was asked .* {count} CUDA devices"):
        VideoSegmenter.from_checkpoint(random_checkpoint, device=f'cuda:{count}')


def test_devices_and_precisions():
    cpu = choose_device('cpu')
    assert cpu.type == 'cpu'
    for wrong in ('gpu', 'tpu', 'meta', '', None):
        with pytest.raises(ValueError, match='none of auto, cpu, cuda'):
            choose_device(wrong)
    assert choose_precision('auto', cpu) in ('fp32', 'bf16')
    assert choose_precision('bf16', cpu) == 'bf16'
    with pytest.raises(ValueError, match='fp16 is for CUDA'):
        choose_precision('fp16', cpu)
    with pytest.raises(ValueError, match='none of auto, fp32'):
        choose_precision('half', cpu)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('precision', ['fp32', 'bf16', 'fp16'])
def test_cuda_agrees_with_the_cpu(precision):
    from featshare_core.data.synthetic import RenderedStreet
    street = RenderedStreet(640, 360, seed=3)
    video = [street.frame(i)[0] for i in range(4)]
    on_cpu = VideoSegmenter.from_checkpoint('default', 3, 'cpu', 'fp32')
    on_cuda = VideoSegmenter.from_checkpoint('default', 3, 'cuda', precision)
    for frame in video:
        expected, result = on_cpu.segment(frame), on_cuda.segment(frame, confidence=True)
        assert result.is_key == expected.is_key
        assert (result.mask == expected.mask).mean() > 0.99
        assert result.confidence.shape == result.mask.shape


def test_bf16_agrees_with_fp32_on_the_shipped_weights():
    from featshare_core.data.synthetic import RenderedStreet
    street = RenderedStreet(480, 360, seed=3)
    segmenters = [VideoSegmenter.from_checkpoint('default', 3, 'cpu', precision)
                  for precision in ('fp32', 'bf16')]
    for index in range(4):
        frame, _ = street.frame(index)
        masks = [segmenter.segment(frame).mask for segmenter in segmenters]
        assert (masks[0] == masks[1]).mean() > 0.99


def test_rolling_percentiles():
    rolling = Rolling(window=4)
    assert rolling.percentiles() is None
    for value in (100, 1, 2, 3, 4):
        rolling.add(value)
    assert len(rolling) == 4
    p50, p95, largest = rolling.percentiles()
    assert (p50, largest) == (2.5, 4)
    assert 3 < p95 <= 4


def test_the_overlay_mixes_image_and_colours(segmenter):
    image = np.full((6, 8, 3), 100, np.uint8)
    mask = np.full((6, 8), 3, np.uint8)
    mask[0] = 255
    labels = segmenter.labels
    assert np.array_equal(paint(image, mask, labels, 0), image)
    full = paint(image, mask, labels, 1)
    assert tuple(full[1, 0]) == labels.colors[3]
    assert tuple(full[0, 0]) == (0, 0, 0)
    half = paint(image, mask, labels, 0.5)
    assert tuple(half[1, 0]) == tuple((np.array(labels.colors[3]) + 100) // 2)
    assert paint(image, mask[:3, :4], labels, 0.5).shape == (3, 4, 3)


def test_freed_memory_goes_back_to_the_system():
    libc = ctypes.CDLL(None)
    if not hasattr(libc, 'malloc_trim'):
        pytest.skip('the C library is not glibc')
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

    def resident() -> float:
        return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGESIZE')

    # Too small for a mapping each; the last one keeps the heap from shrinking by itself.
    size, count = 64 << 10, 2000
    blocks = [libc.malloc(size) for _ in range(count)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[:-1]:
        libc.free(block)
    before = resident()
    return_free_memory()
    assert before - resident() > 0.9 * size * count
    libc.free(blocks[-1])


@pytest.mark.parametrize('kept', [False, True])
def test_images_are_received_into_memory_that_earlier_ones_have_freed(kept):
    if not hasattr(ctypes.CDLL(None), 'malloc_trim'):
        pytest.skip('the C library is not glibc')
    # In a process of its own, whose setting it is: how often the system had to clear a page.
    script = f"""
import resource
from array import array
from featshare_core.inference.memory import keep_freed_blocks
if {kept}:
    keep_freed_blocks()
image = bytes(1280 * 720 * 3)
def receive():
    copies = [array('B', image) for _ in range(3)]
receive()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    receive()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"""
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    faults = int(done.stdout)
    assert faults < 500 if kept else faults > 5000
