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
A long drive with a fault every few seconds: the node must stay up, stay small, and answer.

    python benchmarks/soak.py [--minutes 30] [--rate 25] [--size 960x540] [--seed 0]

Faults come at random (seeded): broken images, other sizes and encodings, gaps, stamps that jump
back or are zero, a camera that dies and returns, a subscriber that takes nothing, parameters and
services, lifecycle transitions while images flow, an engine that fails, cannot be rebuilt, or
is slow.
Bars: no crash, and exit status 0; memory grows by less than 2 % from the end of the fifth part of
the drive on; between faults each good image is answered or overtaken by one that is.
"""
from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
import json
import os
from pathlib import Path
import random
import tempfile
import time
from typing import Any

from camera import number_of, numbered
from featshare_core.evaluation.provenance import provenance, write_json
from live_node import LiveNode, prepare_environment, REPOSITORY
import numpy as np

ANSWER_S = 60.0
"""Seconds after a fault within which images must be answered again."""


class Drive:
    """A camera, the faults, and the account of what was answered."""

    def __init__(self, live: LiveNode, faults: Path, width: int, height: int, rate: float,
                 seed: int) -> None:
        from sensor_msgs.msg import Image
        self.live, self.faults, self.random = live, faults, random.Random(seed)
        self.image = Image
        self.width, self.height, self.period = width, height, 1 / rate
        self.size, self.encoding, self.broken, self.stamps = (width, height), 'rgb8', '', 'live'
        self.publisher = live.ros.create_publisher(Image, 'image', 5)
        self.sent: list[int] = []
        self.answered: set[int] = set()
        self.calm = False
        self.good: list[int] = []
        self.count = 0
        live.ros.create_subscription(Image, '/segmentation/mask', self._on_mask, 10)

    def _on_mask(self, message: Any) -> None:
        self.answered.add(number_of(message.header.stamp))

    def publish(self) -> None:
        """Publish the next image; what is wrong with it, attributes say."""
        from featshare_ros.images import encode_image
        width, height = self.size
        self.count += 1
        pixels = np.full((height, width, 3), self.count % 256, np.uint8)
        header = self.image().header
        if self.stamps == 'live':
            header.stamp = self.live.ros.get_clock().now().to_msg()
        elif self.stamps == 'past':
            header.stamp.sec = 1000 + self.count % 20
        if self.stamps != 'zero':  # the image's number; those without a stamp have none
            numbered(header.stamp, self.count)
        message = encode_image(pixels, 'rgb8', header)
        message.encoding = self.encoding
        if self.broken == 'data':
            message.data = message.data[:100]
        elif self.broken == 'encoding':
            message.encoding = 'infrared9'
        self.publisher.publish(message)
        if self.calm:
            self.good.append(self.count)

    def flow(self, seconds: float) -> None:
        """Publish at the rate for some seconds."""
        end = time.monotonic() + seconds
        due = time.monotonic()
        while time.monotonic() < end:
            self.publish()
            due += self.period
            time.sleep(max(0.0, due - time.monotonic()))

    def recover(self) -> float:
        """Publish until an image is answered; return the seconds that it took."""
        start, first = time.monotonic(), self.count + 1
        while not any(number in self.answered for number in range(first, self.count + 1)):
            self.flow(self.period)
            if time.monotonic() - start > ANSWER_S or self.live.process.poll() is not None:
                raise RuntimeError('no mask any more')
        return time.monotonic() - start

    def settle(self) -> None:
        """Wait for the newest image's mask: nothing older is to come then."""
        self.live.wait_until(lambda: self.count in self.answered, 'the newest mask', ANSWER_S)

    def call(self, kind: type, name: str, request: Any) -> None:
        """Call a service of the node while images flow; its answer may be lost, not its effect."""
        client = self.live.ros.create_client(kind, f'/segmentation/{name}')
        client.wait_for_service(5.0)
        future = client.call_async(request)
        end = time.monotonic() + 3
        while not future.done() and time.monotonic() < end:
            self.flow(self.period)
        self.live.ros.destroy_client(client)


def faults_of(drive: Drive) -> dict[str, Callable[[], None]]:
    """Return each fault, which ends with everything as before."""
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState
    from rcl_interfaces.srv import SetParameters
    import rclpy
    from rclpy.parameter import Parameter
    from std_srvs.srv import SetBool, Trigger

    def with_values(seconds: float, **values: Any) -> Callable[[], None]:
        def fault() -> None:
            before = {name: getattr(drive, name) for name in values}
            vars(drive).update(values)
            drive.flow(seconds)
            vars(drive).update(before)
        return fault

    def engine(words: str, seconds: float) -> Callable[[], None]:
        def fault() -> None:
            drive.faults.write_text(words)
            drive.flow(seconds)
            drive.faults.write_text('')
        return fault

    def gap() -> None:
        time.sleep(drive.random.uniform(0.5, 3.0))

    def camera_returns() -> None:
        drive.live.ros.destroy_publisher(drive.publisher)
        time.sleep(1.0)
        drive.publisher = drive.live.ros.create_publisher(drive.image, 'image', 5)

    def slow_subscriber() -> None:
        # Never spun, it takes nothing.
        slow = rclpy.create_node('slow')
        for output in ('mask', 'overlay'):
            slow.create_subscription(drive.image, f'/segmentation/{output}', print, 5)
        drive.flow(2.0)
        slow.destroy_node()

    def transitions() -> None:
        chosen = [Transition.TRANSITION_DEACTIVATE]
        if drive.random.random() < 0.5:
            chosen += [Transition.TRANSITION_CLEANUP, Transition.TRANSITION_CONFIGURE]
        for transition in [*chosen, Transition.TRANSITION_ACTIVATE]:
            drive.call(ChangeState, 'change_state',
                       ChangeState.Request(transition=Transition(id=transition)))

    def enable() -> None:
        for on in (False, True):
            drive.call(SetBool, 'enable', SetBool.Request(data=on))

    def parameters() -> None:
        values = {'key_interval': drive.random.randint(-1, 10), 'overlay_opacity': 0.3,
                  'publish_confidence': drive.random.random() < 0.5,
                  'key_policy': drive.random.choice(['fixed', 'change', 'nonsense'])}
        drive.call(SetParameters, 'set_parameters', SetParameters.Request(parameters=[
            Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]))

    half = drive.width // 4 * 2, drive.height // 4 * 2
    return {
        'short data': with_values(0.5, broken='data'),
        'unknown encoding': with_values(0.5, broken='encoding'),
        'another size': with_values(1.0, size=half),
        'another encoding': with_values(1.0, encoding='bgr8'),
        'zero stamps': with_values(1.0, stamps='zero'),
        'stamps of the past': with_values(1.0, stamps='past'),
        'gap': gap,
        'camera dies and returns': camera_returns,
        'slow subscriber': slow_subscriber,
        'transitions': transitions,
        'enable': enable,
        'parameters': parameters,
        'force key frame': lambda: drive.call(Trigger, 'force_key_frame', Trigger.Request()),
        'engine fails': engine('fail', 1.0),
        'engine fails and cannot be rebuilt': engine('fail load', 2.0),
        'engine is slow': engine('slow=0.2', 1.0),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Drive for the minutes asked for and return the account."""
    folder = Path(tempfile.mkdtemp())
    faults = folder / 'faults'
    live = LiveNode([str(REPOSITORY / 'test' / 'faulty_node.py'), str(faults)],
                    folder / 'node.log', weights=arguments.weights, device=arguments.device,
                    engine=arguments.engine)
    width, height = map(int, arguments.size.split('x'))
    drive = Drive(live, faults, width, height, arguments.rate, arguments.seed)
    live.wait_until(lambda: drive.publisher.get_subscription_count() > 0, 'the node', 120)
    drive.recover()
    every = faults_of(drive)
    happened: Counter[str] = Counter()
    memory: list[tuple[float, float]] = []
    slowest = ('', 0.0)
    start, problem = time.monotonic(), ''
    try:
        while time.monotonic() < start + 60 * arguments.minutes:
            name = drive.random.choice(list(every))
            happened[name] += 1
            every[name]()
            seconds = drive.recover()
            slowest = max(slowest, (name, seconds), key=lambda pair: pair[1])
            drive.settle()
            drive.good, drive.calm = [], True
            drive.flow(drive.random.uniform(1.0, 3.0))
            drive.calm = False
            # With the newest image answered, one that is not was overtaken.
            drive.settle()
            happened['good images'] += len(drive.good)
            happened['answered'] += sum(number in drive.answered for number in drive.good)
            drive.answered.clear()
            memory.append((time.monotonic() - start, live.rss()))
    except RuntimeError as error:
        problem = f'after {max(happened, key=happened.__getitem__)}: {error}'
    alive = live.process.poll() is None
    status = live.close()
    late = [rss for at, rss in memory if at > 60 * arguments.minutes / 5] or [0.0]
    fifth = max(1, len(late) // 5)
    growth = float(np.median(late[-fifth:]) / max(1.0, np.median(late[:fifth])) - 1)
    good, answered = happened.pop('good images', 0), happened.pop('answered', 0)
    return {
        'minutes': round((time.monotonic() - start) / 60, 1), 'seed': arguments.seed,
        'rate (Hz)': arguments.rate, 'size': arguments.size,
        'load average': round(os.getloadavg()[0], 1), 'faults': dict(happened),
        'good images between faults': good, 'answered': answered,
        'overtaken': good - answered,
        'slowest recovery': f'{slowest[1]:.1f} s after: {slowest[0]}',
        'memory (MiB)': [round(rss, 1) for _, rss in memory[::max(1, len(memory) // 10)]],
        'memory growth (%)': round(100 * growth, 2), 'problem': problem, 'log': str(
            folder / 'node.log'),
        'bars': {'no crash, exit status 0': alive and status == 0 and not problem,
                 'memory grows by less than 2 %': growth < 0.02,
                 'each good image answered or overtaken': not problem}}


def main() -> None:
    """Parse the command line, drive and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=30.0)
    parser.add_argument('--rate', type=float, default=25.0, help='images a second')
    parser.add_argument('--size', default='960x540')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--device', default='auto')
    parser.add_argument('--engine', default='auto')
    parser.add_argument('--weights', default='default')
    parser.add_argument('--json', type=Path)
    arguments = parser.parse_args()
    prepare_environment()
    result = measure(arguments)
    print(json.dumps(result, indent=1))
    if arguments.json:
        result.pop('log', None)
        command = f'python benchmarks/soak.py --minutes {arguments.minutes:g} --rate ' \
            f'{arguments.rate:g} --size {arguments.size} --seed {arguments.seed}'
        write_json(arguments.json, {**provenance(command, arguments.device), **result})


if __name__ == '__main__':
    main()
