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
"""Things that pass: cut out of stills, pasted at two places into a pair of frames."""
from featshare_core.data.augmentation_settings import Augmentation
from featshare_core.data.pairs import Triplets
from featshare_core.data.passing import cut_out, paste
from featshare_core.data.source import Labelled, Source
from featshare_core.data.store import FrameStore
from featshare_core.labels import CAMVID
import numpy as np
import pytest

SIZE = (96, 64)
CAR, PEDESTRIAN, ROAD = (CAMVID.names.index(name) for name in ('car', 'pedestrian', 'road'))


def store_of(things, frames=1):
    """A grey road with rectangles (class, x, y, width, height), each of its class's colour."""
    image, mask = np.full((*SIZE[::-1], 3), 90, np.uint8), np.full(SIZE[::-1], ROAD, np.uint8)
    for label, x, y, width, height in things:
        image[y:y + height, x:x + width] = CAMVID.colors[label]
        mask[y:y + height, x:x + width] = label
    sample = Labelled(tuple(map(str, range(frames))), 'mask')
    return FrameStore(Source('road', CAMVID, [sample], lambda name: image,
                             lambda name, frame: mask), SIZE)


def test_whole_things_of_a_size_are_cut_out():
    store = store_of([(CAR, 20, 10, 20, 15), (PEDESTRIAN, 60, 20, 8, 22),
                      (CAR, 0, 40, 20, 15),  # cut off by the border
                      (PEDESTRIAN, 50, 5, 2, 2), (CAR, 30, 43, 60, 20)])  # too small, too large
    cars, pedestrians = cut_out([store])
    assert [[ids.shape for _, ids in things] for things in (cars, pedestrians)] \
        == [[(15, 20)], [(22, 8)]]
    picture, ids = cars[0]
    assert (picture == (*CAMVID.colors[CAR], 255)).all()
    assert (ids == CAR).all()
    assert cut_out([store_of([(CAR, 20, 10, 20, 15)], frames=2)]) == []


def test_a_pair_shows_them_at_two_places():
    store = store_of([])
    image, mask = store.image('0'), store.mask(store.source.samples[0])
    things = cut_out([store_of([(CAR, 20, 10, 20, 15)])])
    shifts = []
    for seed in range(60):
        new, ids, key = paste(np.random.default_rng(seed), things, image, mask, image, 2)
        shown, before = ((frame != image).any(2) for frame in (new, key))
        # The mask shows what the current frame shows, but for blended edges.
        assert (ids == CAR)[~shown].sum() == 0
        assert (shown & (ids != CAR)).sum() <= 0.25 * shown.sum()
        if shown.any() and before.any():
            shifts.append(abs(np.nonzero(shown)[1].mean() - np.nonzero(before)[1].mean()))
    assert len(shifts) > 20
    assert max(shifts) > 5 > min(shifts)
    assert (image == store.image('0')).all()  # neither the frames nor the masks of the data
    assert (mask == ROAD).all()


def test_samples_hold_them_and_are_decided_by_their_number():
    store = store_of([(CAR, 20, 10, 20, 15)])
    make = [Triplets([store], [1], (64, 64), Augmentation(passing=passing), 0, (1, 4))
            for passing in (True, True, False)]
    moved = 0
    for index in range(10):
        first, same, plain = (triplets[index] for triplets in make)
        for name, value in first.items():
            np.testing.assert_array_equal(value, same[name])
        moved += not np.array_equal(first['image'], plain['image'])
    assert moved >= 4


def test_data_without_a_thing_is_refused():
    for store, distances in ((store_of([]), (1, 4)), (store_of([(CAR, 20, 10, 20, 15)]), None)):
        with pytest.raises(ValueError, match=r'augmentation\.passing: it is for pairs of frames'):
            Triplets([store], [1], (64, 64), Augmentation(passing=True), 0, distances)
