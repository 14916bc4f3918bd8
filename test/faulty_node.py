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
"""
The real node with an engine that fails on demand: faulty_node.py FILE --ros-args ...

FILE is read on every frame and whenever the engine is loaded. Its words:

    fail        every frame raises what CUDA raises when its memory is full
    load        loading the engine fails
    loading=S   loading takes S seconds longer
    slow=S      every frame takes S seconds longer
    once        only the next frame fails; the word is then removed
    stuck       destroying the node never returns
"""
from pathlib import Path
import sys
import time

from featshare_core.inference.segmenter import VideoSegmenter
from featshare_ros import main
from featshare_ros.node import SegmentationNode

FAULTS = Path(sys.argv[1])


def words():
    return FAULTS.read_text().split() if FAULTS.exists() else []


class FaultyEngine:
    """A wrapped engine that fails as the file says."""

    def __init__(self, engine):
        self._engine = engine

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def key(self, *arguments):
        self._fail()
        return self._engine.key(*arguments)

    def current(self, *arguments):
        self._fail()
        return self._engine.current(*arguments)

    def defer(self, *arguments):
        self._fail()
        return self._engine.defer(*arguments)

    def _fail(self):
        for word in words():
            if word.startswith('slow='):
                time.sleep(float(word[5:]))
            elif word == 'once':
                FAULTS.write_text('')
                raise RuntimeError('CUDA error: unspecified launch failure')
            elif word == 'fail':
                raise RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB')


def load(*arguments, **options):
    if 'load' in words():
        raise RuntimeError('CUDA error: device-side assert triggered')
    for word in words():
        if word.startswith('loading='):
            time.sleep(float(word[8:]))
    segmenter = from_checkpoint(*arguments, **options)
    segmenter.engine = FaultyEngine(segmenter.engine)
    return segmenter


def destroy_node(node):
    if 'stuck' in words():
        time.sleep(600)
    destroy(node)


destroy = SegmentationNode.destroy_node
SegmentationNode.destroy_node = destroy_node
from_checkpoint = VideoSegmenter.from_checkpoint
VideoSegmenter.from_checkpoint = load

if __name__ == '__main__':
    main.main(sys.argv[2:])
