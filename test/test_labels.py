"""Label sets: tables and YAML files."""
import numpy as np
import pytest

from featshare_core.labels import CAMVID, CITYSCAPES, LabelSet, load_label_set


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
    'classes: [{name: a, color: [0, 0, 0]}, {name: a, color: [0, 0, 0]}]', '- 1'])
def test_what_is_refused(tmp_path, text):
    path = tmp_path / 'bad.yaml'
    path.write_text(text)
    with pytest.raises(ValueError, match=r'bad\.yaml'):
        load_label_set(path)


def test_too_many_classes():
    with pytest.raises(ValueError, match='1 to 255'):
        LabelSet(tuple(map(str, range(256))), tuple((0, 0, 0) for _ in range(256)))
    assert np.all(LabelSet(('a',), ((9, 9, 9),)).palette()[0] == 9)
