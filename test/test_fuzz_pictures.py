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
JPEG, PNG and camera_info of damaged or hostile structure, each within limits of time and memory.

As in `test_fuzz.py`, FUZZ_EXAMPLES says how many; `make nightly` tries 10,000 of each.
"""
from __future__ import annotations

from collections import Counter
import os
import random
import re
import struct
import zlib

import cv2
from featshare_core.inference.segmenter import Result
from featshare_core.labels import CAMVID
from featshare_core.pictures import decode_picture, PictureError, PNG_MAGIC
from featshare_ros.outputs import Answer, camera_info, OutputError
from hypothesis import given, HealthCheck, settings
from hypothesis import strategies as st
import numpy as np
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, RegionOfInterest
from std_msgs.msg import Header

EXAMPLES = int(os.environ.get('FUZZ_EXAMPLES', '500'))
BUDGET_S = 0.5
"""Limit of the CPU time for one input, in seconds."""
BUDGET_MIB = 64
"""Limit of the memory for one input, as growth of the process's peak, in MiB."""
MAX_PIXELS = 1_000_000
COMMON = {'max_examples': EXAMPLES, 'deadline': None, 'database': None,
          'derandomize': EXAMPLES <= 500, 'suppress_health_check': list(HealthCheck)}
seeds = st.integers(0, 2**32 - 1)

NOISE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
PICTURE = cv2.resize(NOISE, (112, 80), interpolation=cv2.INTER_CUBIC)
JPEGS = [cv2.imencode('.jpg', picture, [
    cv2.IMWRITE_JPEG_RST_INTERVAL, restart, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling])[1].tobytes()
    for picture in (PICTURE, PICTURE[..., 0]) for restart in (0, 3) for progressive in (0, 1)
    for sampling in (0x411111, 0x111111)]


def decode(content, counts, budget):
    """Decode within the budget, and count the outcome."""
    try:
        with budget.one_input(f'{len(content)} bytes'):
            pixels = decode_picture(content, random.Random(len(content)).choice(
                ['RGB', 'GRAY']), MAX_PIXELS)
        assert pixels.dtype == np.uint8
        assert 0 < pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS
        counts['decoded'] += 1
    except PictureError as error:
        assert len(str(error)) < 500
        counts['refused'] += 1


def mutate_bytes(data, rng):
    """Return data of which a part is lost, zero, other, or there twice."""
    at = rng.randrange(len(data))
    to = min(len(data), at + rng.choice([1, 2, 30, 300]))
    return rng.choice([
        lambda: data[:at] + data[to:],
        lambda: data[:at] + bytes(to - at) + data[to:],
        lambda: data[:at] + rng.randbytes(to - at) + data[to:],
        lambda: data[:at] + data[at:to] * rng.choice([2, 100]) + data[to:],
        lambda: data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1:],
        lambda: data[:at]])()


def markers(data, codes):
    return [match.start() for match in re.finditer(rb'\xff[\xc0-\xda]', data[:100_000])
            if data[match.start() + 1] in codes]


def mutate_jpeg(data, rng):
    """Return a JPEG with other scans, restart intervals, sizes, or segments."""
    kind = rng.randrange(6)
    scans, restarts = markers(data, {0xda}), markers(data, range(0xd0, 0xd8))
    frames = markers(data, range(0xc0, 0xc3))
    if kind == 0 and scans:  # the last scan again and again
        return data[:-2] + data[scans[-1]:-2] * rng.choice([1, 20, 60, 500]) + data[-2:]
    if kind == 1 and len(restarts) > 1:  # lost, repeated or swapped intervals
        first, second = sorted(rng.sample(restarts, 2))
        return data[:first] + rng.choice([b'', data[first:second] * 2, data[second:first:-1]]) \
            + data[second:]
    if kind == 2 and restarts:  # padding, or another marker
        at = rng.choice(restarts)
        return data[:at] + rng.randbytes(rng.randrange(12)) + data[at:at + 1] \
            + bytes([rng.randrange(0xc0, 0xff)]) + data[at + 2:]
    if kind == 3 and frames:  # another size, or other sampling factors
        at = frames[0] + 5
        size = rng.choice([struct.pack('>HH', rng.randrange(65536), rng.randrange(65536)),
                           data[at:at + 4] + bytes([data[at + 4], 1, rng.randrange(256)])])
        return data[:at] + size + data[at + len(size):]
    if kind == 4:  # segments, or fill bytes, before the rest
        segment = rng.choice([b'\xff', b'\xff\xfe\x00\x02', b'\xff\xdd\x00\x04\x00\x01',
                              b'\xff\xda\x00\x08', data[2:40]])
        return data[:2] + segment * rng.choice([1, 100, 20_000]) + data[2:]
    return mutate_bytes(data, rng) if data else data


def test_jpegs_of_any_structure(budget):
    counts, limits = Counter(), budget(BUDGET_S, BUDGET_MIB)

    @settings(**COMMON)
    @given(seeds)
    def run(seed):
        rng = random.Random(seed)
        data = rng.choice(JPEGS)
        for _ in range(rng.randrange(4)):
            if len(data) < 100_000:  # or what the test makes costs more than what it tests
                data = mutate_jpeg(data, rng)
        decode(data, counts, limits)

    run()
    # Neither all good nor all bad, or it tests little.
    assert min(counts.values()) > EXAMPLES / 50
    assert len(counts) == 2


BOMB = b'a\0\0' + zlib.compress(bytes(5_000_000), 9)
ROWS = [zlib.compress(bytes([kind]) * size, level) for kind in range(3) for level in (0, 9)
        for size in (64 * 200, 900 * 2701, 5000, 17 * 54)]


def chunk(kind, content):
    return struct.pack('>I', len(content)) + kind + content + struct.pack(
        '>I', zlib.crc32(kind + content))


def random_png(rng):
    """Return a PNG whose chunks are whole, but fit each other or not."""
    width, height = (rng.choice([1, 17, 64, 900, 70_000, 2**31]) for _ in range(2))
    depth, colour = rng.choice([(8, 2), (16, 2), (8, 0), (1, 0), (16, 0), (8, 3), (8, 6), (3, 9)])
    data = rng.choice(ROWS)
    extra = [(rng.choice([b'zTXt', b'iCCP', b'tEXt', b'tRNS', b'PLTE', b'acTL', b'eXIf']),
              rng.choice([BOMB, rng.randbytes(30)]))
             for _ in range(rng.choice([0, 1, 30]))]
    chunks = [(b'IHDR', struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0,
                                    rng.randrange(2))),
              *extra, (b'IDAT', data), (b'IEND', b'')]
    if rng.randrange(4) == 0:
        rng.shuffle(chunks)
    return PNG_MAGIC + b''.join(chunk(*pair) for pair in chunks)


def test_pngs_of_any_structure(budget):
    counts, limits = Counter(), budget(BUDGET_S, BUDGET_MIB)
    whole = [cv2.imencode('.png', picture)[1].tobytes()
             for picture in (PICTURE, PICTURE[..., 0], PICTURE.astype(np.uint16) * 257)]

    @settings(**COMMON)
    @given(seeds)
    def run(seed):
        rng = random.Random(seed)
        data = random_png(rng) if rng.randrange(2) else rng.choice(whole)
        for _ in range(rng.choice([0, 0, 1, 3])):
            data = mutate_bytes(data, rng) if data else data
        decode(data, counts, limits)

    run()
    assert min(counts.values()) > EXAMPLES / 50
    assert len(counts) == 2


numbers = st.one_of(st.sampled_from([0, 1, 2, 4, 64, 128, 2**31, 2**32 - 1]),
                    st.integers(0, 2**32 - 1))
reals = st.floats(allow_nan=True, allow_infinity=True)


def test_calibrations_of_any_numbers(budget):
    limits = budget(BUDGET_S, BUDGET_MIB)

    @settings(**COMMON)
    @given(st.tuples(*[numbers] * 8), st.lists(reals, min_size=12, max_size=12),
           st.sampled_from([(64, 128), (1, 1), (480, 640)]))
    def run(sizes, values, mask):
        roi = RegionOfInterest(**dict(zip(('x_offset', 'y_offset', 'width', 'height'), sizes)))
        info = CameraInfo(width=sizes[4], height=sizes[5], binning_x=sizes[6],
                          binning_y=sizes[7], roi=roi, k=values[:9], p=values, d=values)
        answer = Answer(Header(), CAMVID, frame=np.zeros((64, 128, 3), np.uint8), info=info,
                        result=Result(np.zeros(mask, np.uint8), None, True, 'first', 0, {}))
        with limits.one_input(f'{sizes}'):
            try:
                serialize_message(camera_info(answer, None))
            except OutputError as error:
                assert len(str(error)) < 500

    run()
