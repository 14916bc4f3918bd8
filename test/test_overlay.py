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
"""The overlay: the labels' own colours, colours of the user's, and the legend."""
from featshare_core.labels import CAMVID, find_label_set, label_set, LabelSet, named_sets
from featshare_core.overlay import draw_legend, paint
from harness import FAST, node_here
import numpy as np
import pytest


@pytest.mark.parametrize('name', named_sets())
def test_at_full_opacity_every_pixel_has_exactly_its_labels_colour(name):
    labels = find_label_set(name)
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for size in ((16, 16), (50, 30)):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        painted = paint(image, mask, labels, 1.0)
        np.testing.assert_array_equal(painted, labels.palette()[mask])


def legend(labels, height=480, width=640, mask=None):
    """Return a grey picture with a legend."""
    picture = np.full((height, width, 3), 200, np.uint8)
    draw_legend(picture, np.zeros((height, width), np.uint8) if mask is None else mask, labels)
    return picture


def colors_of(picture):
    """Return the colours of the legend's fields, from the top; a row is 1/28 of the height."""
    row = max(picture.shape[0] // 28, 12)
    middle = row // 4 + row // 2
    rows = range(middle, picture.shape[0], row)
    colors = [tuple(int(value) for value in picture[y, middle]) for y in rows]
    return [color for color in colors if color != (200, 200, 200)]


@pytest.mark.parametrize('height', [180, 480, 1080])
def test_the_legend_has_every_class_in_its_colour_and_leaves_the_rest_alone(height):
    picture = legend(CAMVID, height, 2 * height)
    assert colors_of(picture) == list(CAMVID.colors)
    row = max(height // 28, 12)
    box = picture[:12 * row, :8 * row]
    # White names beside the fields: each row has some, on a dark ground.
    for index in range(len(CAMVID)):
        assert box[row // 4 + index * row:][:row, 2 * row:].max() > 200
    assert (picture[12 * row:] == 200).all()
    assert (picture[:, 10 * row:] == 200).all()


def test_a_legend_that_does_not_fit_has_the_largest_classes_of_the_mask():
    labels = find_label_set('ade20k')
    mask = np.full((100, 160), 7, np.uint8)
    mask[:20] = 149
    mask[0, :5] = 3
    assert colors_of(legend(labels, 100, 160, mask)) == [
        labels.colors[index] for index in (7, 149, 3)]
    # More of these than fit; and pixels without a class are in no legend.
    mask = np.repeat(np.arange(160, dtype=np.uint8)[None], 100, 0)
    mask[:, 150:] = 255
    assert len(colors_of(legend(labels, 100, 160, mask))) == 7


@pytest.mark.parametrize('size', [(1, 1), (8, 300), (300, 8), (17, 17)])
def test_a_legend_larger_than_the_picture_is_cut(size):
    picture = legend(label_set(['Straße, breit', 'x' * 100]), *size)
    assert picture.shape == (*size, 3)


def test_colours_of_a_file_are_those_of_the_node(random_checkpoint, tmp_path):
    file = tmp_path / 'colors.yaml'
    mine = {name: (index, 2 * index, 255) for index, name in enumerate(CAMVID.names)}
    write(file, dict(reversed(mine.items())))
    with node_here(weights=random_checkpoint, label_colors_file=file, **FAST) as node:
        assert node._segmenter.labels == LabelSet(CAMVID.names, tuple(mine.values()))


def write(file, colors):
    file.write_text('classes:\n' + ''.join(
        f'- {{name: {name}, color: {list(color)}}}\n' for name, color in colors.items()))


@pytest.mark.parametrize(('change', 'reason'), [
    ({'road': None}, 'the classes are not those of the network: missing: road'),
    ({'car': None, 'auto': (1, 2, 3)}, 'the classes are not those of the network: missing: car; '
                                       'not a class of the network: auto'),
    ({'car': (1, 2, 300)}, "the colour of 'car' must be three integers 0 to 255"),
    (None, 'is neither a file nor one of the label sets ade20k, camvid')])
def test_colours_that_do_not_fit_fail_configuring_with_the_reason(random_checkpoint, tmp_path,
                                                                  change, reason):
    file = tmp_path / 'colors.yaml'
    if change is not None:
        colors = {**dict(zip(CAMVID.names, CAMVID.colors)), **change}
        write(file, {name: color for name, color in colors.items() if color is not None})
    with node_here(weights=random_checkpoint, label_colors_file=file, **FAST) as node:
        assert node._state == 'unconfigured'
        assert str(file) in node._problem
        assert reason in node._problem
