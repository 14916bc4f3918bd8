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
"""Every camera gets masks from its first image on, whatever the size of the image."""
from itertools import pairwise
import time

from featshare_ros.image_sizes import ImageSizes
from harness import counts_of, image_message, Logger, NodeProcess, picture, stamped, wait_until
import pytest
from sensor_msgs.msg import Image

CAMERA, ENGINE = 'segmentation: camera', 'segmentation: engine'
SETTINGS = {'engine': 'openvino', 'device': 'cpu', 'precision': 'fp32'}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))


def image(size):
    return stamped(image_message(picture(*size)))


def run(peer, weights, condition, size=(96, 256)):
    """Start a node, publish images until the condition on its diagnostics holds; return these."""
    process = NodeProcess(weights=weights, **SETTINGS)
    try:
        process.wait_for_log('segmenting /image')
        masks, newest = peer.collect(Image, '/segmentation/mask'), peer.diagnostics()
        publisher = peer.publisher(Image, '/image')
        peer.wait_matched('/segmentation/mask')
        wait_until(lambda: CAMERA in newest(), 20, 'diagnostics')
        end = time.monotonic() + 60
        while not condition(newest()):
            assert time.monotonic() < end, f'{newest()}\n{process.log}'
            publisher.publish(image(size))
            time.sleep(0.1)
        assert all((mask.height, mask.width) == size for mask in masks)
        assert counts_of(newest)['failed'] == 0
        return {name: values for name, (_, _, values) in newest().items()}, process.log
    finally:
        code, _ = process.stop()
        assert code == 0


def test_a_new_size_has_masks_while_it_is_prepared_and_is_known_at_the_next_start(
        peer, random_checkpoint, cache):
    seen = set()

    def prepared(newest):
        values = newest[CAMERA][2]
        seen.add(newest[ENGINE][2]['preparing'])
        assert newest[CAMERA][0] == b'\x00' or values['processed'] == '0', newest[CAMERA]
        return int(values['processed']) > int(values['stand-ins']) + 3 > 3
    first, _ = run(peer, random_checkpoint, prepared)
    assert int(first[CAMERA]['stand-ins']) >= 2
    # The first image, and the first of its own size.
    assert int(first[CAMERA]['key frames']) >= 2

    def some(newest):
        return int(newest[CAMERA][2]['processed']) > 3
    second, _ = run(peer, random_checkpoint, some)
    assert second[CAMERA]['stand-ins'] == '0'
    assert second[ENGINE]['preparing'] == 'nothing'


@pytest.mark.parametrize('content', [
    '[[0, 5]]', '[[99999999, 5]]', '[[16000, 16000]]', '{"a": 1}', '[[1]]', '\x00', '[[true, 8]]',
    '[["a", 8]]', '7', pytest.param('[' * 100000, id='deep')])
def test_kept_sizes_that_cannot_be_read_are_ignored(cache, tmp_path, content):
    folder = tmp_path / 'featshare' / 'image_sizes'
    folder.mkdir(parents=True)
    (folder / 'front.segmentation.json').write_text(content)
    logger = Logger()
    sizes = ImageSizes('/front/segmentation', logger)
    assert sizes.known == []
    assert 'front.segmentation.json is ignored' in logger.lines[0]
    sizes.met((48, 64))
    assert ImageSizes('/front/segmentation', logger).known == [(48, 64)]


def test_the_newest_sizes_are_kept_by_node_and_few_are_written(cache, tmp_path):
    logger = Logger()
    sizes = ImageSizes('/segmentation', logger)
    for size in ((1, 2), (3, 4), (1, 2), (5, 6), (7, 8)):
        sizes.met(size)
    # If sizes keep changing, not every one is written to disk.
    assert ImageSizes('/segmentation', logger).known == [(3, 4), (1, 2)]
    assert ImageSizes('/other', logger).known == []
    later = ImageSizes('/segmentation', logger)
    later.met((5, 6))
    assert ImageSizes('/segmentation', logger).known == [(5, 6), (3, 4)]
    assert [path.name for path in (tmp_path / 'featshare' / 'image_sizes').iterdir()] \
        == ['segmentation.json']
    assert logger.lines == []


def test_what_cannot_be_renamed_is_removed(cache, tmp_path):
    # Each start would have left a file of another name.
    folder = tmp_path / 'featshare' / 'image_sizes'
    (folder / 'segmentation.json').mkdir(parents=True)
    logger = Logger()
    ImageSizes('/segmentation', logger).met((48, 64))
    assert 'cannot be kept' in logger.lines[0]
    assert [path.name for path in folder.iterdir()] == ['segmentation.json']


def test_sizes_that_cannot_be_kept_are_reported_once(tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    logger = Logger()
    sizes = ImageSizes('/segmentation', logger)
    for _ in range(3):
        sizes.met((48, 64))
    assert len(logger.lines) == 1
    assert 'cannot be kept' in logger.lines[0]


def test_a_camera_whose_size_changes_does_not_starve_another(peer, random_checkpoint, cache):
    process = NodeProcess(weights=random_checkpoint, cameras='["steady", "restless"]', **SETTINGS)
    try:
        process.wait_for_log('segmenting /steady/image, /restless/image')
        masks = peer.collect(Image, '/segmentation/steady/mask')
        newest = peer.diagnostics()
        steady = peer.publisher(Image, '/steady/image')
        restless = peer.publisher(Image, '/restless/image')
        peer.wait_matched('/segmentation/steady/mask')
        sizes = ((96, 96), (96, 192), (96, 300), (192, 96), (64, 400), (300, 96), (64, 128))
        arrivals, sent, end = [], 0, time.monotonic() + 8
        while time.monotonic() < end:
            steady.publish(image((64, 128)))
            if sent % 5 == 0:
                restless.publish(image(sizes[sent // 5 % 7]))
            sent += 1
            if len(masks) > len(arrivals):
                arrivals += [time.monotonic()] * (len(masks) - len(arrivals))
            time.sleep(0.1)
        restless = newest()['segmentation: restless'][2]
        assert restless['failed'] == '0'
        # `restless` sends one image in five. Prepared for on the worker, each would delay many.
        assert len(arrivals) > 2 * int(restless['processed']) > 10
        assert max(after - before for before, after in pairwise(arrivals)) < 5
        # Sizes that are never the same twice in a row are not prepared for.
        assert int(restless['stand-ins']) > int(restless['processed']) / 2
    finally:
        process.stop()
