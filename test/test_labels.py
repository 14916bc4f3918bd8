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
"""Label sets: tables and YAML files."""
from featshare_core.labels import (
    CAMVID,
    CITYSCAPES,
    find_label_set,
    label_set,
    LabelSet,
    load_label_set,
    named_sets,
    OKABE_ITO,
)
import numpy as np
import pytest


def test_the_known_sets():
    assert len(CAMVID) == 11
    assert CAMVID.names[3] == 'road'
    assert len(CITYSCAPES) == 19
    assert CITYSCAPES.names[13] == 'car'
    palette = CAMVID.palette()
    assert palette.shape == (256, 3)
    assert tuple(palette[8]) == (64, 0, 128)
    assert not palette[11:].any()


def test_a_yaml_file(tmp_path):
    path = tmp_path / 'set.yaml'
    path.write_text('classes:\n- {name: floor, color: [1, 2, 3]}\n'
                    '- {name: wall, color: [4, 5, 6]}\n')
    assert load_label_set(path) == LabelSet(('floor', 'wall'), ((1, 2, 3), (4, 5, 6)))


@pytest.mark.parametrize('text', [
    '', 'classes: [', 'classes: 3', 'classes: []', 'classes: [{name: a}]',
    'classes: [{name: a, color: [1, 2]}]',
    'classes: [{name: a, color: [1, 2, 300]}]', 'classes: [{name: a, color: [1, 2, x]}]',
    'classes: [{name: a, color: [0, 0, 0]}, {name: a, color: [0, 0, 0]}]', '- 1',
    'classes: [a, a]', 'classes: [a, {name: b, color: [0, 0, 0]}]', 'classes: [a]\nnames: [a]',
    'names: {0: a, 2: b}', 'names: {1: a, 2: b}', 'names: {0: a, 0.5: b}', 'names: [a, b]\nnc: 3',
    'names: [1, 2]', 'names: {}',
    # What PyYAML's constructors let pass, and what its parser is too deep for.
    '!!timestamp x', 'classes: !!bool x', 'a: !!float x', '!!int x',
    pytest.param('[' * 3000, id='deep list'), pytest.param('{a: ' * 100_000, id='deep map')])
def test_what_is_refused(tmp_path, text):
    path = tmp_path / 'bad.yaml'
    path.write_text(text)
    with pytest.raises(ValueError, match=r'bad\.yaml'):
        load_label_set(path)


def test_aliases_stand_for_a_limited_number_of_values(tmp_path):
    path = tmp_path / 'bad.yaml'
    doubled = ''.join(f'a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n' for i in range(1, 25))
    for text in (f'a0: &a0 [x, x]\n{doubled}names: [a]\nnc: *a24', 'names: &a [*a]'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r'bad\.yaml stands for more than .* by its aliases'):
            load_label_set(path)
    path.write_text('name: &a road\nclasses: [*a, sky]')
    assert load_label_set(path).names == ('road', 'sky')


def test_mappings_have_a_limited_number_of_entries(tmp_path):
    # Before PyYAML 6.0.2, nested merge keys made millions of a few lines.
    path = tmp_path / 'bad.yaml'
    path.write_text('a: &a {' + ', '.join(f'k{i}: 0' for i in range(6000)) + '}\nb: &b {'
                    + ', '.join(f'm{i}: 0' for i in range(6000)) + '}\nnames: {<<: [*a, *b]}')
    with pytest.raises(ValueError, match=r'bad\.yaml is not valid YAML: a mapping has more than'):
        load_label_set(path)


def test_too_many_classes():
    with pytest.raises(ValueError, match='1 to 255'):
        LabelSet(tuple(map(str, range(256))), tuple((0, 0, 0) for _ in range(256)))
    assert np.all(LabelSet(('a',), ((9, 9, 9),)).palette()[0] == 9)


@pytest.mark.parametrize('text', [
    'classes: [road, sky, a car]', 'names: [road, sky, a car]', 'road\nsky\n\n a car\n',
    'path: data\ntrain: images\nnc: 3\nnames: {1: sky, 0: road, 2: a car}'])
def test_names_alone_get_colours(tmp_path, text):
    path = tmp_path / 'names.yaml'
    path.write_text(text)
    labels = load_label_set(path)
    assert labels.names == ('road', 'sky', 'a car')
    assert labels.colors == OKABE_ITO[:3]


def test_colours_of_names_are_distinct():
    for count in (1, 7, 8, 150, 255):
        labels = label_set([str(index) for index in range(count)])
        assert len({*labels.colors, (0, 0, 0)}) == count + 1
        assert labels.colors[:7] == OKABE_ITO[:count]
    assert label_set(CITYSCAPES.names) is CITYSCAPES
    assert label_set(CAMVID.names[::-1]).colors[0] == OKABE_ITO[0]


@pytest.mark.parametrize(('name', 'count', 'index', 'word'), [
    ('camvid', 11, 3, 'road'), ('cityscapes', 19, 13, 'car'), ('voc', 21, 15, 'person'),
    ('ade20k', 150, 6, 'road'), ('ade20k', 150, 149, 'flag'), ('coco-stuff', 171, 0, 'person'),
    ('coco-stuff', 171, 148 - 11, 'road'), ('mapillary', 65, 13, 'Road'),
    ('mapillary', 65, 55, 'Car')])
def test_named_sets(name, count, index, word):
    labels = find_label_set(name)
    assert len(labels) == count
    assert labels.names[index] == word
    assert name in named_sets()


def test_a_set_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nosuch is neither a file nor .* ade20k, camvid'):
        find_label_set('nosuch')
    (tmp_path / 'mine.txt').write_text('a\nb')
    assert find_label_set(tmp_path / 'mine.txt').names == ('a', 'b')
