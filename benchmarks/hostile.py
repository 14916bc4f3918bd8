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
A drive with three cameras, one of which is hostile.

    python benchmarks/hostile.py [--minutes 30] [--rate 10] [--size 640x360] [--json FILE]

The honest cameras send JPEGs of a rendered drive. Afterwards their masks are computed again by
the library, without the hostile camera: image by image as the node processed them, with the key
frames that the node's schedule chooses at their stamps. They must be equal, pixel by pixel: same
engine, threads and machine, so no tolerance is needed.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
import os
from pathlib import Path
import tempfile
import time
from typing import Any, NamedTuple
import zlib

from camera import Camera, drive, FRAMES, number_of
from featshare_core.evaluation.provenance import provenance
from figures import engine_parser, report
from hostile_camera import KINDS
from live_node import LiveNode, prepare_environment, REPORT_S
import numpy as np

HONEST, HOSTILE = ('front', 'rear'), 'hostile'
"""Names of the cameras; each prefixes its topics."""
HOSTILE_RATE = 20.0
"""Images a second of the hostile camera."""
KEY_INTERVAL, MAX_KEY_AGE = 5, 0.3
"""The node's schedule of key frames, its defaults: frames, and seconds of stamps."""
WAITING = 2
"""Most images of a camera that are neither processed, dropped nor failed: one waits, one runs."""
LONGEST_GAP_S = 1.0
"""Limit of the longest time between two masks of an honest camera, in seconds."""


class Mask(NamedTuple):
    """A mask that arrived: its image's number and stamp in seconds, CRC-32, and arrival."""

    number: int
    stamp: float
    crc: int
    arrived: float


class Listener:
    """Collects the honest cameras' masks, and every status of all cameras."""

    def __init__(self, live: LiveNode) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import Image
        self.masks: dict[str, list[Mask]] = {name: [] for name in HONEST}
        self.waiting: dict[str, list[int]] = {name: [] for name in (*HONEST, HOSTILE)}
        self.longest_text, self.unprintable = 0, 0
        self.longest_ms: dict[str, float] = {}
        quality = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
        for name in HONEST:
            live.ros.create_subscription(Image, f'/segmentation/{name}/mask',
                                         self._taker(self.masks[name]), quality)
        live.ros.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    @staticmethod
    def _taker(masks: list[Mask]) -> Any:
        from featshare_ros.images import stamp_seconds

        def on_mask(message: Any) -> None:
            stamp = message.header.stamp
            masks.append(Mask(number_of(stamp), stamp_seconds(stamp.sec, stamp.nanosec) or 0.0,
                              zlib.crc32(message.data), time.monotonic()))
        return on_mask

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            values = {item.key: item.value for item in status.values}
            texts = (status.message, *values.values())
            self.longest_text = max(self.longest_text, *map(len, texts))
            self.unprintable += sum(not text.isprintable() for text in texts)
            name = status.name.rpartition(': ')[2]
            if name in self.waiting:
                for key in ('decoding max (ms)', 'key latency max (ms)'):
                    label = f'{name}, {key}'
                    with suppress(ValueError):  # unknown, before the first image
                        self.longest_ms[label] = max(self.longest_ms.get(label, 0.0),
                                                     float(values[key]))
                received, *ends = (int(values[key]) for key in (
                    'received', 'processed', 'dropped', 'failed'))
                self.waiting[name].append(received - sum(ends))


class Reference:
    """
    Masks of the library for the images that the node has processed.

    A mask depends on the images since the key frame, that one included; masks of equal sequences
    are computed once.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        from featshare_core.inference.schedule import KeyFrameSchedule
        from featshare_core.inference.segmenter import VideoSegmenter
        self._segmenter = VideoSegmenter.from_checkpoint(
            arguments.weights, key_interval=1000, device=arguments.device,
            engine=arguments.engine)
        self._schedule = KeyFrameSchedule(KEY_INTERVAL, MAX_KEY_AGE)
        # The node staggers its cameras' key frames in the order in which they were first seen.
        for name in HONEST:
            self._schedule.next(name, ())
        self._schedule.reset()
        self._known: dict[tuple[str, tuple[int, ...]], int] = {}

    def differing(self, name: str, size: str, masks: Sequence[Mask]) -> int:
        """Return how many of a camera's masks are not those of the library."""
        from featshare_core.pictures import decode_picture
        pictures = [decode_picture(data) for data in drive(topic_of(name), size)]
        frames: tuple[int, ...] = ()
        count = 0
        for mask in masks:
            if self._schedule.next(name, (), mask.stamp).reason:
                frames = ()
            frames += (mask.number % FRAMES,)
            if (name, frames) not in self._known:
                self._segmenter.reset()
                for index in frames:
                    pixels = self._segmenter.segment(pictures[index]).mask
                self._known[name, frames] = zlib.crc32(np.ascontiguousarray(pixels))
            count += mask.crc != self._known[name, frames]
        return count


def topic_of(name: str) -> str:
    """Return the image topic of a camera."""
    return f'{name}/image/compressed'


def prepare(live: LiveNode, name: str, size: str) -> None:
    """Publish a camera's images until the engine is prepared for their size."""
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import CompressedImage
    message = CompressedImage(format='jpeg', data=drive(topic_of(name), size)[0])

    def send() -> None:
        message.header.stamp = live.ros.get_clock().now().to_msg()
        publisher.publish(message)

    def prepared() -> bool:
        values = live.values(name)
        return int(values.get('processed', 0)) - int(values.get('stand-ins', 0)) > 5

    publisher = live.ros.create_publisher(CompressedImage, topic_of(name),
                                          qos_profile_sensor_data)
    timer = live.ros.create_timer(0.2, send)
    live.wait_until(prepared, f'masks of {name}', 300)
    live.ros.destroy_timer(timer)
    live.ros.destroy_publisher(publisher)


def begin_with_key_frames(live: LiveNode) -> None:
    """Have the next image of every camera be a key frame."""
    from std_srvs.srv import Trigger
    client = live.ros.create_client(Trigger, '/segmentation/force_key_frame')
    client.wait_for_service(10.0)
    future = client.call_async(Trigger.Request())
    live.wait_until(future.done, 'an answer of force_key_frame', 20)
    live.ros.destroy_client(client)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Drive for the minutes asked for and return the account."""
    from featshare_ros.diagnostics import LONGEST_TEXT
    folder = Path(tempfile.mkdtemp())
    # The hostile camera's sizes must not replace the user's own in the cache.
    os.environ['XDG_CACHE_HOME'] = str(folder / 'cache')
    log, seconds = folder / 'node.log', 60 * arguments.minutes
    live = LiveNode(
        ['-m', 'featshare_ros.main'], log, weights=arguments.weights, device=arguments.device,
        engine=arguments.engine, cameras=[*HONEST, HOSTILE], image_transport='compressed',
        key_interval=KEY_INTERVAL, max_key_age=MAX_KEY_AGE)
    try:
        live.wait_until(lambda: bool(live.values('front')), 'the node', 300)
        for name in HONEST:
            prepare(live, name, arguments.size)
        time.sleep(REPORT_S)
        begin_with_key_frames(live)
        listener = Listener(live)
        before = {name: int(live.values(name)['processed']) for name in HONEST}
        rates = {**dict.fromkeys(HONEST, arguments.rate), HOSTILE: HOSTILE_RATE}
        attacker = str(Path(__file__).with_name('hostile_camera.py'))
        cameras = {name: Camera(topic_of(name), arguments.size, rate, seconds, *(
            [attacker] if name == HOSTILE else [])) for name, rate in rates.items()}
        for camera in cameras.values():
            camera.wait_until_ready()
        for camera in cameras.values():
            camera.begin()
        start, memory, load = time.monotonic(), [], []
        while time.monotonic() < start + seconds:
            memory.append(live.rss())
            load.append(os.getloadavg()[0])
            time.sleep(1.0)
        sent = {name: camera.sent() for name, camera in cameras.items()}
        time.sleep(REPORT_S)
        counts = {name: {key: int(live.values(name)[key]) for key in (
            'received', 'processed', 'dropped', 'failed', 'stand-ins')} for name in rates}
        engine = dict(live.values('engine'))
        alive = live.process.poll() is None
    finally:
        status = live.close()
    fifth = max(1, len(memory) // 5)
    growth = float(np.median(memory[-fifth:]) / np.median(memory[fifth:2 * fifth]) - 1)
    reference = Reference(arguments)
    honest = {}
    for name in HONEST:
        masks = listener.masks[name]
        honest[name] = {
            'sent': sent[name], **counts[name], 'masks': len(masks),
            'processed before': before[name],
            'differing masks': reference.differing(name, arguments.size, masks),
            'longest gap (s)': round(max(b.arrived - a.arrived for a, b in pairwise(masks)), 3)}
    missing = sum(h['processed'] - h['processed before'] - h['masks'] for h in honest.values())
    waiting = [count for counted in listener.waiting.values() for count in counted]
    gap = max(h['longest gap (s)'] for h in honest.values())
    said = log.read_bytes()
    command = f'python benchmarks/hostile.py --minutes {arguments.minutes:g} --rate ' \
        f'{arguments.rate:g} --size {arguments.size}'
    return {
        **provenance(command, arguments.device),
        'minutes': round(seconds / 60, 1), 'size': arguments.size, 'rate (Hz)': arguments.rate,
        'hostile rate (Hz)': HOSTILE_RATE, 'hostile kinds': list(KINDS),
        'network': engine['network'], 'engine': engine['engine'],
        'precision': engine['precision'], 'device': engine['device'],
        'load average': {'median': round(float(np.median(load)), 1), 'most': round(max(load), 1)},
        'honest': honest, 'hostile': {'sent': sent[HOSTILE], **counts[HOSTILE]},
        'honest masks': sum(h['masks'] for h in honest.values()),
        'differing masks': sum(h['differing masks'] for h in honest.values()),
        'longest in /diagnostics': listener.longest_ms,
        'longest gap (s)': gap, 'statuses': len(waiting), 'most waiting': max(waiting),
        'memory (MiB)': [round(rss) for rss in memory[::max(1, len(memory) // 30)]],
        'memory growth (%)': round(100 * growth, 2),
        'longest text (characters)': listener.longest_text, 'log (bytes)': len(said),
        'exit status': status,
        'bars': {
            'no crash, exit status 0': alive and status == 0,
            'every mask of the honest cameras arrived here': missing == 0,
            'none of them differs': not any(h['differing masks'] for h in honest.values()),
            f'longest gap below {LONGEST_GAP_S} s': gap < LONGEST_GAP_S,
            f'received = processed + dropped + failed + at most {WAITING} in work, each second':
                min(waiting) >= 0 and max(waiting) <= WAITING,
            'received = processed + dropped + failed at the end': all(
                c['received'] == c['processed'] + c['dropped'] + c['failed']
                for c in counts.values()),
            'memory grows by less than 2 %': growth < 0.02,
            f'texts in /diagnostics are printable and at most {LONGEST_TEXT} characters':
                not listener.unprintable and listener.longest_text <= LONGEST_TEXT,
            'no control character in the log': not any(
                byte < 32 and byte not in b'\n\t' for byte in said)}}


if __name__ == '__main__':
    parser = engine_parser(__doc__, '640x360')
    parser.add_argument('--engine', default='auto')
    parser.add_argument('--minutes', type=float, default=30.0)
    parser.add_argument('--rate', type=float, default=10.0,
                        help='images a second of each honest camera')
    prepare_environment()
    report(parser, measure)
