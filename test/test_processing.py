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
"""What becomes of one image message, in this process, with a segmenter that answers at once."""
from __future__ import annotations

from array import array
import time
import types

import cv2
from diagnostic_msgs.msg import DiagnosticStatus
from featshare_core.inference.schedule import KeyFrameSchedule
from featshare_core.inference.segmenter import Result
from featshare_core.labels import CAMVID
from featshare_ros import processing
from featshare_ros.camera import Arrival
from featshare_ros.diagnostics import (
    BAD_IMAGES,
    CameraStatistics,
    DARK_IMAGES,
    EngineStatistics,
    LONGEST_TEXT,
)
from featshare_ros.outputs import Published
from featshare_ros.parameters import PARAMETERS
from featshare_ros.processing import Processor
from harness import image_message, Logger
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class Segmenter:
    """Chooses key frames as the real one does, and keeps the reasons."""

    labels, failing = CAMVID, False

    def __init__(self):
        self.schedule = KeyFrameSchedule(5)
        self.reasons, self.frames = [], []

    def segment(self, frame, stream, stamp, confidence, source):
        self.frames.append(frame)
        self.reasons.append(self.schedule.next(stream, frame.shape[:2], stamp, frame,
                                               source).reason)
        return Result(frame[..., 0], None, bool(self.reasons[-1]), '', 0, {})


class Processing:
    """A processor with one camera; ``send`` returns the camera's status after a message."""

    def __init__(self, compressed=False, **values):
        self.segmenter, self.logger = Segmenter(), Logger()
        self.camera = types.SimpleNamespace(
            name='', compressed=compressed, info=None, statistics=CameraStatistics('/image'))
        self.values = {spec.name: spec.default for spec in PARAMETERS} | values
        publishers = types.SimpleNamespace(
            publish=lambda answer: Published(time.monotonic(), 0, []))
        self.processor = Processor(
            types.SimpleNamespace(get_logger=lambda: self.logger,
                                  context=types.SimpleNamespace(ok=lambda: True)),
            self.segmenter, {'': publishers}, EngineStatistics(),
            types.SimpleNamespace(current=self.values), lambda: None,
            types.SimpleNamespace(met=lambda size: None))

    def send(self, message):
        now = time.monotonic()
        self.camera.statistics.arrived(now)
        self.processor.process(self.camera, Arrival(message, now, None))
        return self.camera.statistics.status('camera', 'cpu', 1)


def jpeg_message(damaged=False, form='jpeg'):
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    data = cv2.imencode('.jpg', noise)[1].tobytes()
    if damaged:
        data = data[:len(data) // 2] + data[len(data) // 2 + 500:]
    return CompressedImage(format=form, data=array('B', data))


def test_a_damaged_jpeg_fails_is_counted_and_is_never_a_key_frame():
    node = Processing(compressed=True)
    status = node.send(jpeg_message(damaged=True))
    assert status.level == ERROR
    assert 'images failed (bad images): damaged JPEG' in status.message
    assert node.segmenter.reasons == []
    assert node.send(jpeg_message()).level == OK
    for _ in range(6):
        node.send(jpeg_message(damaged=True))
    node.send(jpeg_message())
    # The first good one is the key frame, and damaged ones count for nothing.
    assert node.segmenter.reasons == ['first', '']
    counts = node.camera.statistics.counts
    assert (counts.received, counts.processed, counts.failed) == (9, 2, 7)


def test_images_of_another_camera_on_the_topic_begin_with_a_key_frame():
    node = Processing()
    for name in ('front', 'front', 'rear', 'rear', 'front'):
        node.send(image_message(np.zeros((24, 32, 3), np.uint8), frame_id=name))
    assert node.segmenter.reasons == ['first', '', 'source', '', 'source']


@pytest.mark.parametrize('encoding', ['mono16', 'bayer_rggb16', 'png'])
def test_a_sensor_of_12_bits_is_hinted_at_and_can_be_named(encoding):
    samples = np.random.default_rng(0).integers(0, 4096, (24, 32)).astype('<u2')
    node = Processing(compressed=encoding == 'png')
    message = CompressedImage(format='mono16; png compressed ', data=array(
        'B', cv2.imencode('.png', samples)[1].tobytes())) if encoding == 'png' \
        else image_message(samples, encoding)
    for _ in range(DARK_IMAGES - 1):
        status = node.send(message)
    assert status.level == OK
    status = node.send(message)
    assert status.level == WARN
    assert status.message.startswith(f'no sample of {DARK_IMAGES} images is above an eighth of '
                                     f'the 16-bit range: if the sensor has fewer bits')
    assert node.segmenter.frames[-1].max() <= 16
    node.values['sensor_bits'] = 12
    assert node.send(message).level == OK
    assert node.segmenter.frames[-1].max() > 240


def test_bright_images_are_not_looked_at_again(monkeypatch):
    node = Processing()
    bright = image_message(np.full((24, 32), 9000, '<u2'), 'mono16')
    node.send(bright)
    monkeypatch.setattr(CameraStatistics, 'brightest', lambda *arguments: pytest.fail('looked'))
    for _ in range(2 * DARK_IMAGES):
        assert node.send(bright).level == OK


def test_slow_decoding_is_reported_as_such_and_where(monkeypatch):
    node = Processing()
    message = image_message(np.zeros((24, 32, 3), np.uint8))
    other = CameraStatistics('/other')
    seen = []

    def slow(message, bits):
        # Seen from the executor's thread in the meantime.
        topic, since = node.processor.decoding
        other.arrived(time.monotonic() - 6)
        seen.append(other.status('other', 'cpu', 1, decoding=(topic, since - 7)))
        time.sleep(0.6)
        return np.zeros((24, 32, 3), np.uint8)
    monkeypatch.setattr(processing, 'decode_image', slow)
    status = node.send(message)
    assert (status.level, status.message[:26]) == (WARN, 'decoding an image took 0.6')
    assert float({v.key: v.value for v in status.values}['decoding max (ms)']) >= 600
    assert node.processor.decoding is None
    assert (seen[0].level, seen[0].message) == (
        ERROR, 'images arrive, but none was finished for 6 s: the decoder has worked on an image '
               'of /image for 7.0 s')
    monkeypatch.undo()
    assert node.send(message).level == OK
    # A failure does not hide it.
    other.decoded(0.7)
    other.failed('damaged', BAD_IMAGES, other.last_arrival)
    assert other.status('other', 'cpu', 1).message == (
        '1 of 1 images failed (bad images): damaged; decoding an image took 0.7 s; no camera was '
        'served meanwhile')


def test_a_decoder_that_fails_is_not_the_engine(monkeypatch):
    def fails(*arguments):
        raise MemoryError('no room')
    monkeypatch.setattr(processing, 'decode_image', fails)
    node = Processing()
    status = node.send(image_message(np.zeros((24, 32, 3), np.uint8)))
    assert '(bad images): the decoder failed: MemoryError: no room' in status.message


def test_text_of_a_message_is_short_and_on_one_line_wherever_it_is_shown():
    evil = 'x\n[ERROR] [1.0] [segmentation]: all is well\x1b[2J' + 'y' * 1_000_000
    good = image_message(np.zeros((24, 32, 3), np.uint8), frame_id=evil)
    bad = image_message(np.zeros((24, 32, 3), np.uint8), evil, frame_id=evil)
    empty = image_message(np.zeros((24, 32, 3), np.uint8), evil)
    empty.data = array('B')
    for compressed, messages in (
            (False, (good, bad, empty)),
            (True, (jpeg_message(form=evil), jpeg_message(True, evil),
                    CompressedImage(format=evil), jpeg_message(form='compressedDepth' + evil)))):
        for message in messages:
            node = Processing(compressed)
            status = node.send(message)
            texts = [status.message, *(item.value for item in status.values), *node.logger.lines]
            for text in texts:
                assert len(text) <= LONGEST_TEXT + 100
                assert text.isprintable(), text


def test_the_limit_of_pixels_is_the_parameters():
    node = Processing(compressed=True, max_compressed_pixels=3071)
    assert 'more than the 0.003071 megapixels' in node.send(jpeg_message()).message
    node.values['max_compressed_pixels'] = 3072
    assert node.send(jpeg_message()).level == OK
