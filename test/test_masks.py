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
"""Masks as drawing programs write them, classes that they lack, and the orientation of images."""
import io
from pathlib import Path
from types import SimpleNamespace

import cv2
from featshare_core.data import files
from featshare_core.data.camvid import read_camvid
from featshare_core.data.cityscapes import LAYOUT as CITYSCAPES_LAYOUT
from featshare_core.data.files import exif_orientation, read_file
from featshare_core.data.folder import folder_source, LAYOUT, load_mapping
from featshare_core.data.frames import frames_of
from featshare_core.data.masks import encode_indices, read_indices
from featshare_core.data.source import identity_table, read_ids, read_image
from featshare_core.evaluation.accuracy import Score
from featshare_core.evaluation.consistency import Consistency
from featshare_core.evaluation.flicker import Flicker
from featshare_core.evaluation.tables import class_lines
from featshare_core.evaluation.things import Survival
from featshare_core.evaluation.videos import DataChoice
from featshare_core.labels import CAMVID, LabelSet
from featshare_ros.images import decode_compressed
import numpy as np
import pytest
import yaml

TWO = LabelSet(('floor', 'lane'), ((1, 2, 3), (4, 5, 6)))


def folder(root, masks, names=TWO.names, split='val'):
    """Write a data set of one video, of which every frame has a mask."""
    classes = [{'name': name, 'color': [0, 0, index]} for index, name in enumerate(names)]
    (root / 'labels.yaml').write_text(yaml.safe_dump({'classes': classes}))
    for kind in ('frames', 'masks'):
        (root / split / kind / 'v').mkdir(parents=True)
    for index, mask in enumerate(masks):
        cv2.imwrite(str(root / split / 'frames/v' / f'{index}.png'),
                    np.zeros((*mask.shape, 3), np.uint8))
        cv2.imwrite(str(root / split / 'masks/v' / f'{index}.png'), mask)
    return root


@pytest.mark.parametrize(('mode', 'bits', 'classes'), [
    ('P', 8, 200), ('P', 4, 13), ('P', 2, 4), ('P', 1, 2), ('1', 1, 2), ('L', 8, 200)])
@pytest.mark.parametrize('transparent', [False, True])
def test_ids_do_not_depend_on_palette_and_depth(mode, bits, classes, transparent, tmp_path):
    from PIL import Image
    rng = np.random.default_rng(0)
    ids = rng.integers(0, classes, (7, 13), np.uint8)
    ids[0, 0] = classes - 1
    image = Image.fromarray(ids * 255, 'L').convert('1') if mode == '1' else Image.fromarray(ids)
    if mode == 'P':
        image.putpalette(rng.integers(0, 256, 3 * 2**bits, np.uint8).tobytes())
    options = {'bits': bits} if mode == 'P' else {}
    if transparent and mode != '1':
        options['transparency'] = 0
    image.save(tmp_path / 'mask.png', **options)
    assert (tmp_path / 'mask.png').read_bytes()[24] == bits
    np.testing.assert_array_equal(read_indices(tmp_path / 'mask.png'), ids)
    # So do the data sets.
    frame = tmp_path / 'frame.png'
    cv2.imwrite(str(frame), np.zeros((7, 13, 3), np.uint8))
    np.testing.assert_array_equal(
        read_ids(str(tmp_path / 'mask.png'), str(frame), identity_table(classes)), ids)
    if classes <= len(CAMVID):
        np.testing.assert_array_equal(read_camvid(frame, tmp_path / 'mask.png')[1], ids)


def test_written_masks_have_a_palette(tmp_path):
    from PIL import Image
    mask = np.arange(11, dtype=np.uint8).repeat(3).reshape(3, 11)
    content = encode_indices(mask, CAMVID.palette()[:11])
    picture = Image.open(io.BytesIO(content))
    assert picture.mode == 'P'
    np.testing.assert_array_equal(np.asarray(picture), mask)
    np.testing.assert_array_equal(np.asarray(picture.convert('RGB')), CAMVID.palette()[mask])
    (tmp_path / 'mask.png').write_bytes(content)
    np.testing.assert_array_equal(read_indices(tmp_path / 'mask.png'), mask)
    for at in (17, len(content) - 30):  # the header, and the pixels
        damaged = bytearray(content)
        damaged[at] ^= 1
        (tmp_path / 'mask.png').write_bytes(damaged)
        with pytest.raises(ValueError, match=r'mask\.png cannot be decoded'):
            read_indices(tmp_path / 'mask.png')


def test_a_class_without_a_pixel_is_not_scored_in_silence(tmp_path):
    masks = [np.full((4, 4), value, np.uint8) for value in (0, 0, 255)]
    masks[1][0] = 255
    root = folder(tmp_path, masks)
    choice = DataChoice('folder', root)
    with pytest.raises(ValueError, match=r'folder-val: no pixel is labelled lane. Its masks hold '
                       'only 0 and 255, as drawing .* "0: floor" and "255: lane". --allow-abs'):
        choice.video(choice.open(), TWO, 1)
    allowed = DataChoice('folder', root, allow_absent=True)
    assert '--allow-absent-classes' in allowed.arguments()
    allowed.video(allowed.open(), TWO, 1)
    # 255 for white is what a mapping can say.
    (root / 'mapping.yaml').write_text('0: floor\n255: lane\n')
    mapped = DataChoice('folder', root, mapping=root / 'mapping.yaml')
    video = mapped.video(mapped.open(), TWO, 1)
    np.testing.assert_array_equal(video.read_truth(video.source.samples[1])[:2, 0], [1, 0])
    assert mapped.fingerprint() != choice.fingerprint()
    # Nothing labelled at all is an error whatever is allowed.
    nothing = DataChoice('folder', folder(tmp_path, masks[2:], split='none'), 'none',
                         allow_absent=True)
    with pytest.raises(ValueError, match=r'floor or lane. Its masks hold only 255'):
        nothing.video(nothing.open(), TWO, 1)


def test_a_mean_over_some_classes_says_so():
    score = Score(('a', 'b', 'c'), Consistency(1), Flicker(1),
                  Survival(LabelSet(('a', 'b', 'c'), ((0, 0, 0),) * 3), 1, set()), [[]])
    # Of 10 pixels of a, two are taken for c, of which there is none.
    score.videos = {'v': [np.array([[8, 0, 2], [0, 0, 0], [0, 0, 0]])]}
    score.frames_of = {'v': 1}
    summary = score.summary()
    assert summary['miou']['key'] == 80
    assert summary['classes'] == {'scored': 1, 'of': 3, 'absent': ['b', 'c']}
    assert class_lines(summary) == [
        '! mIoU is the mean over 1 of 3 classes: no pixel is labelled b, c']
    score.videos = {'v': [np.eye(3, dtype=np.int64)]}
    assert class_lines(score.summary()) == []


def test_shipped_weights_are_scored_on_the_classes_that_a_mapping_names(tmp_path):
    mask = np.array([[7, 26, 3, 255]], np.uint8)
    (tmp_path / 'mapping.yaml').write_text('7: road\n26: car\n3: null\n')
    root = folder(tmp_path, [mask], names=('asphalt', 'vehicle'))
    choice = DataChoice('folder', root, mapping=tmp_path / 'mapping.yaml')
    video = choice.video(choice.open(), CAMVID, 1)
    truth = video.read_truth(video.source.samples[0])
    assert truth.tolist() == [[CAMVID.names.index('road'), CAMVID.names.index('car'), 255, 255]]
    with pytest.raises(ValueError, match='7: road, 26: car: no such class; there are floor, lane'):
        choice.video(choice.open(), TWO, 1)
    with pytest.raises(ValueError, match='--mapping is for --data folder, not for camvid'):
        DataChoice('camvid', tmp_path, mapping=tmp_path / 'mapping.yaml')


@pytest.mark.parametrize(('text', 'message'), [
    ('- road', 'expected lines "ID: NAME"'), ('256: road', '256: road is no id of 0 to 255'),
    ('road: 7', 'road: 7 is no id'), ('true: road', 'True: road is no id'),
    ('7: [road]', 'is no id'), ('7: road\n8: "\\e"', '8: the class name .* is not printable'),
    ('7: null', '1 to 255 classes'), ('{', 'is not valid YAML'),
    ('[' * 3000, 'is not valid YAML'), ('0: 2001-99-99', 'is not valid YAML')])
def test_a_wrong_mapping_is_refused(text, message, tmp_path):
    path = tmp_path / 'mapping.yaml'
    path.write_text(text)
    with pytest.raises(ValueError, match=rf'mapping\.yaml.*{message}'):
        load_mapping(path)


def test_the_documented_layouts_are_those_of_the_messages():
    page = (Path(__file__).parents[1] / 'docs' / 'models' / 'training.md').read_text()
    for layout in (CITYSCAPES_LAYOUT, LAYOUT):
        lines = layout.partition('\n')[2]
        assert f'\n\n{lines}\n\n' in page


def with_orientation(jpeg, orientation, big=False):
    """Return a JPEG with an EXIF header."""
    order = 'big' if big else 'little'
    entry = b''.join(value.to_bytes(size, order) for value, size in (
        (0x0112, 2), (3, 2), (1, 4), (orientation, 2), (0, 2)))
    tags = (b'MM\0*' if big else b'II*\0') + (8).to_bytes(4, order) + (1).to_bytes(2, order) \
        + entry + bytes(4)
    content = b'Exif\0\0' + tags
    return jpeg[:2] + b'\xff\xe1' + (len(content) + 2).to_bytes(2, 'big') + content + jpeg[2:]


@pytest.mark.parametrize('orientation', [3, 6])
def test_an_orientation_is_applied_nowhere_and_reported(orientation, tmp_path, caplog):
    picture = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    jpeg = cv2.imencode('.jpg', picture)[1].tobytes()
    stored = cv2.cvtColor(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR),
                          cv2.COLOR_BGR2RGB)
    turned = with_orientation(jpeg, orientation, big=orientation == 6)
    assert exif_orientation(turned) == orientation
    assert exif_orientation(jpeg) == 1
    for name in ('a', 'b'):
        (tmp_path / f'{name}.jpg').write_bytes(turned)
    # OpenCV on its own turns it.
    assert not np.array_equal(cv2.imread(str(tmp_path / 'a.jpg'))[..., ::-1], stored)
    message = SimpleNamespace(format='jpeg', data=turned)
    for image in (decode_compressed(message), read_image(str(tmp_path / 'a.jpg')),
                  *(frame for _, frame in frames_of(tmp_path))):
        np.testing.assert_array_equal(image, stored)
    (said,) = caplog.messages
    assert f'a.jpg has the EXIF orientation {orientation}, which is not applied' in said


def test_a_tiff_that_opencv_would_turn_is_refused(tmp_path):
    from PIL import Image
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / 'a.tif', tiffinfo={0x0112: 3})
    with pytest.raises(ValueError, match=r'a\.tif is a TIFF with the orientation 3'):
        read_file(tmp_path / 'a.tif')


def test_numbers_in_names_count_by_their_value(tmp_path):
    folder(tmp_path, [np.full((2, 2), index % 2, np.uint8) for index in range(12)])
    (_, *_, last) = folder_source(tmp_path, 'val').samples
    assert [name.rpartition('/')[2] for name in last.frames] == [
        f'{index}.png' for index in range(11, -1, -1)]
    assert [name for name, _ in frames_of(tmp_path / 'val/frames/v')] == [
        str(index) for index in range(12)]
    names = ['a.png', 'a1.png', 'a01.png', 'a2b9.png', 'a2b10.png', 'a10.png', 'b.png']
    assert sorted(names, key=lambda name: files.natural(tmp_path / name)) == [
        'a.png', 'a01.png', 'a1.png', 'a2b9.png', 'a2b10.png', 'a10.png', 'b.png']
