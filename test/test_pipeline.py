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
"""The stages run side by side, in order, and hold little."""
import threading
import time

from featshare_core import pipeline
from featshare_core.pipeline import overlap
import pytest


def test_order_and_overlap():
    running, most = set(), 0
    lock = threading.Lock()

    def stage(name, seconds):
        def work(value):
            nonlocal most
            with lock:
                running.add(name)
                most = max(most, len(running))
            time.sleep(seconds * (1 + value % 3))
            with lock:
                running.discard(name)
            return value
        return work
    assert list(overlap(range(30), stage('decode', 0.001), stage('run', 0.002),
                        stage('encode', 0.001))) == list(range(30))
    assert most == 3


def test_what_is_held_is_bounded():
    read = []

    def source():
        for index in range(1000):
            read.append(index)
            yield index
    stages = overlap(source(), lambda x: x, lambda x: x, lambda x: x)
    assert next(stages) == 0
    time.sleep(0.3)
    assert len(read) <= 2 * pipeline.DEPTH + 6
    stages.close()
    time.sleep(0.3)
    assert len(read) < 1000
    assert not [t for t in threading.enumerate() if t.name in ('reader', 'device')]


@pytest.mark.parametrize('place', range(4))
def test_errors_come_in_their_turn(place):
    def fail(value):
        if value == 5:
            raise ValueError('five')
        return value
    stages = [lambda value: value] * 3

    def source():
        for index in range(20):
            yield fail(index) if place == 3 else index
    if place < 3:
        stages[place] = fail
    got = []
    with pytest.raises(ValueError, match='five'):
        for value in overlap(source(), *stages):
            got.append(value)
    assert got == list(range(5))
