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
"""Data sets as they are read, and what is said of wrong ones."""
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
from featshare_core.data import store
from featshare_core.data.cityscapes import cityscapes_source, train_id_table
from featshare_core.data.files import read_file
from featshare_core.data.folder import folder_source
from featshare_core.data.rendered import rendered_source
from featshare_core.data.source import camvid_source
from featshare_core.data.store import FrameStore, street_store
from featshare_core.labels import CITYSCAPES
import numpy as np
import pytest
import yaml


def write(path, size=(8, 6), value=0, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if channels == 1 else (size[1], size[0], 3)
    assert cv2.imwrite(str(path), np.full(shape, value, np.uint8))
    return path


@pytest.fixture
def cityscapes(tmp_path):
    name = 'bonn_000003_0000'
    write(tmp_path / f'gtFine/train/bonn/{name}19_gtFine_labelIds.png', value=26)
    for number in range(10, 25):
        write(tmp_path / f'leftImg8bit_sequence/train/bonn/{name}{number}_leftImg8bit.jpg',
              value=10 * (number - 9), channels=3)
    write(tmp_path / 'gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png', value=4)
    write(tmp_path / 'leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png', channels=3)
    return tmp_path


@pytest.fixture
def folder(tmp_path):
    classes = [{'name': name, 'color': [0, 0, index]} for index, name in enumerate('abc')]
    (tmp_path / 'labels.yaml').write_text(yaml.safe_dump({'classes': classes}))
    for number in range(5):
        write(tmp_path / f'train/frames/drive/{number}.jpg', channels=3)
    write(tmp_path / 'train/masks/drive/3.png', value=2)
    write(tmp_path / 'train/frames/still.png', channels=3)
    write(tmp_path / 'train/masks/still.png', value=255)
    return tmp_path


def test_cityscapes_with_and_without_its_sequence(cityscapes):
    source = cityscapes_source(cityscapes, 'train')
    drive, still = source.samples
    assert [int(name.split('_')[-2]) for name in drive.frames] == list(range(19, 9, -1))
    assert len(still.frames) == 1
    assert abs(int(source.read_image(drive.frames[9])[0, 0, 0]) - 10) < 4
    assert (source.read_mask(drive.mask, drive.frames[0])
            == CITYSCAPES.names.index('car')).all()
    assert (source.read_mask(still.mask, still.frames[0]) == 255).all()


def test_cityscapes_ids():
    table = train_id_table()
    names = {7: 'road', 8: 'sidewalk', 11: 'building', 23: 'sky', 24: 'person', 33: 'bicycle'}
    for label_id, name in names.items():
        assert CITYSCAPES.names[table[label_id]] == name
    assert sorted(table[table >= 0])[:19] == list(range(19))
    assert table[0] == table[30] == table[255] == 255
    assert table[34] == -1


def test_real_cityscapes_snippets(real_data):
    source = cityscapes_source(real_data / 'cityscapes', 'train')
    assert [len(sample.frames) for sample in source.samples] == [20] * 4
    machine = cityscapes_source(real_data / 'cityscapes', 'train', 'machine_labels')
    assert len(machine.samples) == 120
    sample, same = source.samples[0], machine.samples[19]
    assert sample.frames[0] == same.frames[0]
    truth = source.read_mask(sample.mask, sample.frames[0])
    guess = machine.read_mask(same.mask, same.frames[0])
    known = (truth != 255) & (guess != 255)
    assert (truth == guess)[known].mean() > 0.9


def test_real_camvid_has_stills_to_train_on_and_a_video_to_score(real_data):
    assert {len(s.frames) for s in camvid_source(real_data / 'camvid', 'train').samples} == {1}
    val = camvid_source(real_data / 'camvid', 'val').samples
    assert len(val) == 101
    assert [len(s.frames) for s in val[:3]] == [1, 2, 3]
    assert len(val[100].frames) == 32


def test_missing_cityscapes_files_are_named(cityscapes):
    with pytest.raises(FileNotFoundError, match=r'gtFine/val is missing; expected layout'):
        cityscapes_source(cityscapes, 'val')
    (cityscapes / 'leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png').unlink()
    with pytest.raises(FileNotFoundError, match=r'ulm_000000_000019_leftImg8bit.png is missing'):
        cityscapes_source(cityscapes, 'train')
    (cityscapes / 'gtFine/test').mkdir()
    with pytest.raises(FileNotFoundError, match=r'gtFine/test holds no'):
        cityscapes_source(cityscapes, 'test')


def test_a_folder_of_videos_and_stills(folder):
    source = folder_source(folder, 'train')
    still, drive = source.samples
    assert len(still.frames) == 1
    assert [Path(name).stem for name in drive.frames] == ['3', '2', '1', '0']
    assert (source.read_mask(drive.mask, drive.frames[0]) == 2).all()
    assert source.labels.names == ('a', 'b', 'c')


@pytest.mark.parametrize(('path', 'change', 'message'), [
    ('train/masks/drive/3.png', {'size': (9, 6)}, '3.png has 9 x 6 pixels, its frame .*3.jpg 8 x'),
    ('train/masks/drive/3.png', {'value': 3}, '3.png holds the id 3; known are 0 to 2'),
    ('train/masks/drive/3.png', {'channels': 3}, '3.png is no mask of one byte a pixel'),
])
def test_a_wrong_mask_is_named(folder, path, change, message):
    write(folder / path, **change)
    with pytest.raises(ValueError, match=message):
        FrameStore(folder_source(folder, 'train'), (8, 6)).load(3)


@pytest.mark.parametrize('path', ['train/masks/drive/3.png', 'train/frames/drive/1.jpg'])
def test_a_corrupt_image_is_named(folder, path):
    (folder / path).write_bytes((folder / path).read_bytes()[:20])
    reason = '(: truncated or damaged JPEG| cannot be decoded)'
    with pytest.raises(ValueError, match=f'{path}{reason}'):
        FrameStore(folder_source(folder, 'train'), (8, 6)).load(3)


def test_a_jpeg_that_breaks_off_is_named(folder):
    # OpenCV would fill it up with grey.
    path = folder / 'train/frames/drive/1.jpg'
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    cv2.imwrite(str(path), noise)
    content = path.read_bytes()
    path.write_bytes(content[:len(content) // 2])
    with pytest.raises(ValueError, match=r'drive/1\.jpg: truncated JPEG: 64x64 pixels, \d+ bytes'):
        FrameStore(folder_source(folder, 'train'), (8, 6)).load(3)
    # What a camera appends does no harm.
    path.write_bytes(content + bytes(5000))
    np.testing.assert_array_equal(read_file(path), cv2.imread(str(path)))


def test_missing_pairs_and_empty_splits_are_named(folder):
    orphan = write(folder / 'train/masks/drive/9.png')
    with pytest.raises(FileNotFoundError, match=r'drive/9.png has no frame'):
        folder_source(folder, 'train')
    orphan.unlink()
    (folder / 'train/masks/still.png').unlink()
    with pytest.raises(FileNotFoundError, match=r'masks/still.png is missing'):
        folder_source(folder, 'train')
    with pytest.raises(FileNotFoundError, match=r'val/frames is missing; expected layout'):
        folder_source(folder, 'val')
    for name in ('frames', 'masks'):
        (folder / 'val' / name).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r'val holds no labelled frame'):
        folder_source(folder, 'val')


def test_the_street_has_its_frames_before_each_labelled_one():
    source = rendered_source((3, 4), 1, 3, (32, 32))
    assert [sample.frames for sample in source.samples[:2]] == [('3/1', '3/0'),
                                                                ('3/2', '3/1', '3/0')]
    store = FrameStore(source, (32, 32))
    store.load(2)
    assert store.in_memory
    assert store.image('4/2').shape == (32, 32, 3)
    assert store.mask(source.samples[-1]).shape == (32, 32)
    with pytest.raises(ValueError, match='empty'):
        rendered_source((3, 2), 1, 3, (32, 32))


def test_a_longer_street_is_rendered_by_several_processes(monkeypatch):
    pools = []

    def pool(*arguments, **options):
        pools.append(ProcessPoolExecutor(*arguments, **options))
        return pools[-1]

    monkeypatch.setattr(store, 'ProcessPoolExecutor', pool)
    monkeypatch.setattr(store, 'POOLED', 6)
    street_store((1, 1), 1, 3, (32, 32))
    assert not pools
    many = street_store((1, 2), 1, 3, (32, 32))
    assert len(pools) == 1
    alone = FrameStore(rendered_source((2, 2), 1, 3, (32, 32)), (32, 32))
    assert many.in_memory
    np.testing.assert_array_equal(many.image('2/2'), alone.image('2/2'))
    np.testing.assert_array_equal(many.mask(many.source.samples[-1]),
                                  alone.mask(alone.source.samples[-1]))


def test_what_does_not_fit_into_memory_is_read_each_time(folder, monkeypatch):
    monkeypatch.setattr('featshare_core.data.store.MEMORY_SHARE', 0)
    store = FrameStore(folder_source(folder, 'train'), (8, 6))
    store.load(3)
    assert not store.in_memory
    assert store.mask(store.source.samples[1])[0, 0] == 2


def test_frames_are_resized(folder):
    store = FrameStore(folder_source(folder, 'train'), (4, 3))
    sample = store.source.samples[1]
    for _ in range(2):
        assert store.image(sample.frames[0]).shape == (3, 4, 3)
        assert store.mask(sample).shape == (3, 4)
        store.load(1)
