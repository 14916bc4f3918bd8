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
"""The passing-traffic set: exactly labelled, exactly moved, and never learnt from."""
from __future__ import annotations

from functools import lru_cache
import json
from pathlib import Path

import cv2
from featshare_core.cli import main
from featshare_core.data.rendered import rendered_source
from featshare_core.data.street.clips import Clip, CLIPS, FIRST_SEED
from featshare_core.data.street.painter import Thing
from featshare_core.data.traffic import traffic_source, TrafficClip
from featshare_core.evaluation.videos import DataChoice, Video
from featshare_core.labels import CAMVID
from featshare_core.networks.checkpoint import Config, save_checkpoint
from featshare_core.training.config import load_config
import numpy as np
import pytest
import torch
import yaml

ROOT = Path(__file__).parents[1]
POLE, SIGN, CAR, PEDESTRIAN, BICYCLIST = (
    CAMVID.names.index(name) for name in ('pole', 'sign', 'car', 'pedestrian', 'bicyclist'))
LABELS = {'cyclist': {BICYCLIST}, 'walker': {PEDESTRIAN}, 'car': {CAR}, 'lamp': {POLE},
          'sign': {POLE, SIGN}, 'bollard': {POLE}}


@lru_cache
def clip(name: str, width: int = 160, height: int = 120) -> TrafficClip:
    """Return a clip that tests share: its frames must not depend on what was rendered."""
    return TrafficClip(name, width, height)


def without(street: TrafficClip, code: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return picture and labels of a frame from which one thing is left out."""
    painter = street._camera(index / street.fps)

    def draw(thing: Thing) -> None:
        if thing.code != code:
            thing.draw(painter)

    street._paint(painter, index / street.fps, draw)
    return street._expose(painter.rgb, index), painter.labels


def test_a_frame_is_decided_by_clip_and_index_alone() -> None:
    first, second = (TrafficClip('cyclist-crossing', 96, 72) for _ in range(2))
    frames = {index: first.render(index) for index in (20, 0, 7)}
    first.instances(15, 4)
    for index in (0, 7, 20):
        again = second.render(index)
        for one, other in ((frames[index].rgb, again.rgb), (frames[index].ids, again.ids),
                           (frames[index].labels, again.labels)):
            np.testing.assert_array_equal(one, other)
    assert again.rgb.shape == (72, 96, 3) and again.ids.shape == again.labels.shape == (72, 96)
    assert again.rgb.dtype == again.labels.dtype == np.uint8 and again.ids.dtype == np.int32


@pytest.mark.parametrize('name', CLIPS)
def test_instance_ids_and_labels_agree_and_the_picture_is_the_same_without_ids(name: str) -> None:
    street = clip(name)
    index = street.clip.frames // 2
    rendered = street.render(index)
    rgb, labels = without(street, -1, index)
    np.testing.assert_array_equal(rendered.rgb, rgb)
    np.testing.assert_array_equal(rendered.labels, labels)
    kinds = dict(zip(street._codes, (actor.kind for actor in street.clip.actors)))
    seen = set(np.unique(rendered.ids).tolist())
    assert seen & set(kinds), 'no actor is in the middle frame'
    for code in seen - {0}:
        found = set(np.unique(rendered.labels[rendered.ids == code]).tolist())
        assert found <= LABELS[kinds[code]] if code in kinds else found <= set().union(
            *LABELS.values())
    # Every car and person has an id.
    assert rendered.ids[np.isin(rendered.labels, (CAR, PEDESTRIAN, BICYCLIST))].all()


@pytest.mark.parametrize('name', ['cyclist-crossing', 'car-cutting-across',
                                  'pedestrian-from-behind-car-dusk'])
def test_an_id_covers_just_what_its_thing_paints(name: str) -> None:
    street = clip(name)
    index = street.clip.frames - 6
    rendered = street.render(index)
    code = max(street._codes, key=lambda code: (rendered.ids == code).sum())
    mine = rendered.ids == code
    assert mine.sum() > 60
    rgb, labels = without(street, code, index)
    np.testing.assert_array_equal(labels[~mine], rendered.labels[~mine])
    # Smooth edges reach two pixels beyond; the shadow lies on the ground and does not change.
    near = cv2.dilate(mine.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    np.testing.assert_array_equal(rgb[~near], rendered.rgb[~near])
    # Between its spokes a wheel shows what is behind, and is bicyclist too, as in CamVid.
    assert (rgb[mine] != rendered.rgb[mine]).any(axis=1).mean() > .75


@pytest.mark.parametrize(('name', 'actor', 'index', 'lag'), [
    ('cyclist-crossing', 0, 20, 1), ('cyclist-crossing', 0, 20, 4),
    ('cyclist-crossing', 1, 24, 3), ('cyclists-oncoming', 0, 26, 4),
    ('car-cutting-across', 0, 20, 3), ('cars-oncoming', 0, 6, 2),
    ('pedestrian-from-behind-car', 1, 27, 2), ('posts-while-turning', 2, 16, 1)])
def test_motion_is_how_far_the_pixels_went(name: str, actor: int, index: int, lag: int) -> None:
    street = clip(name, 480, 360)
    code = street._codes[actor]
    ids, found = street.instances(index, lag)
    earlier = street.render(index - lag).ids == code
    middles = []
    for mask in (ids == code, earlier):
        rows, columns = np.nonzero(mask)
        assert len(rows) > 100
        assert columns.min() > 0 and columns.max() < 479, 'the thing is cut off'
        middles.append(np.array((columns.min() + columns.max(), rows.min() + rows.max())) / 2)
    expected = float(np.linalg.norm(middles[0] - middles[1]))
    assert found[code].motion == pytest.approx(expected, rel=.15, abs=2)
    assert expected > 3


def test_the_set_holds_small_and_large_slow_and_fast_things_at_several_rates() -> None:
    assert {clip.fps for clip in CLIPS.values()} == {10, 15, 30}
    light = {dusk: np.mean([clip(name).render(0).rgb.mean() for name, each in CLIPS.items()
                            if each.dusk == dusk]) for dusk in (False, True)}
    assert light[True] < .75 * light[False]
    motions, heights = [], []
    for name, index in (('cyclist-overtaken', 19), ('pedestrians-far', 20)):
        ids, found = clip(name, 480, 360).instances(index, 4)
        for code, one in found.items():
            if one.label in (PEDESTRIAN, BICYCLIST) and one.motion is not None:
                motions.append(one.motion)
                heights.append(np.ptp(np.nonzero(ids == code)[0]) + 1)
    assert min(motions) < 5 and max(motions) > 60
    assert min(heights) < 25 and max(heights) > 120


def test_training_cannot_see_the_streets() -> None:
    assert all(clip.seed >= FIRST_SEED for clip in CLIPS.values())
    with pytest.raises(ValueError, match='are for training'):
        Clip('mine', FIRST_SEED - 1, 15, 3, 0, 5, ())
    for seeds in ((FIRST_SEED, FIRST_SEED), (1, FIRST_SEED), (FIRST_SEED + 5, FIRST_SEED + 9)):
        with pytest.raises(ValueError, match='for evaluation alone'):
            rendered_source(seeds, 1, 1, (32, 32))
    rendered_source((FIRST_SEED - 1, FIRST_SEED - 1), 1, 1, (32, 32))
    for path in (ROOT / 'config' / 'train').glob('*.yaml'):
        for entry in yaml.safe_load(path.read_text()).get('train', ()):
            assert max(entry.get('seeds', [0])) < FIRST_SEED


def test_a_training_configuration_cannot_name_the_set(tmp_path: Path) -> None:
    path = tmp_path / 'run.yaml'
    path.write_text('{size: [64, 64], crop: [64, 64], epochs: 1, batch: 1, '
                    'train: [{kind: traffic}], val: {kind: street}}')
    with pytest.raises(ValueError, match='kind'):
        load_config([path], {})


def test_no_pass_runs_from_one_clip_into_the_next() -> None:
    source = traffic_source((64, 48))
    passes = Video(source, CAMVID).passes(5)
    assert all(len({name.partition('/')[0] for name in one.frames}) == 1 for one in passes)
    scored = [one.samples[4].frames[0] for one in passes if 4 in one.samples]
    assert len(scored) == sum(clip.frames - 4 for clip in CLIPS.values())
    name = 'car-overtakes/9'
    rgb, labels = clip('car-overtakes', 64, 48).frame(9)
    np.testing.assert_array_equal(source.read_image(name), rgb)
    np.testing.assert_array_equal(source.read_mask(name, name), labels)
    assert source.read_instances is not None
    ids, found = source.read_instances(name, 2)
    assert set(np.unique(ids).tolist()) - {0} == set(found)
    assert all(one.pixels == (ids == code).sum() for code, one in found.items())


@pytest.mark.parametrize(('index', 'lag'), [(-1, 0), (30, 0), (3, 4)])
def test_frames_that_a_clip_has_not_are_refused(index: int, lag: int) -> None:
    with pytest.raises(ValueError, match='has the frames 0 to 29'):
        clip('car-overtakes').instances(index, lag)


def test_an_unknown_clip_is_refused() -> None:
    with pytest.raises(ValueError, match='cyclist-crossing'):
        TrafficClip('parade')


def test_featshare_evaluate_scores_the_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    config = Config('fpn-efficientnet-lite0', CAMVID, (64, 64), {'shared_levels': 2})
    weights = tmp_path / 'random.safetensors'
    save_checkpoint(weights, config.build(), config)
    whole = DataChoice('traffic').fingerprint()
    for name in list(CLIPS):
        if name != 'posts-while-turning':
            monkeypatch.delitem(CLIPS, name)
    assert DataChoice('traffic').fingerprint() != whole
    assert main(['evaluate', '--weights', str(weights), '--data', 'traffic', '--interval', '2',
                 '--device', 'cpu', '--precision', 'fp32',
                 '--json', str(tmp_path / 'score.json')]) == 0
    result = json.loads((tmp_path / 'score.json').read_text())
    assert result['frames'] == 23 and result['labelled_frames'] == 24
    assert result['data']['name'] == 'traffic'
    assert main(['evaluate', '--weights', str(weights), '--data', 'camvid']) == 1
    assert '--root' in capsys.readouterr().err


def test_a_clip_becomes_a_recording_at_its_own_rate(tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    from featshare_ros.recordings.make_recording import main as make_recording
    assert make_recording(['traffic/cars-oncoming', str(tmp_path / 'a'), '--frames', '2']) == 0
    assert '2 images of /camera/image_raw/compressed, 10 Hz' in capsys.readouterr().out
    assert make_recording(['traffic/parade', str(tmp_path / 'b')]) == 1
    assert 'no clip of passing traffic' in capsys.readouterr().err
