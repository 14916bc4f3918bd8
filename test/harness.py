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
"""Runs the real node as a process of its own and talks to it over DDS."""
from array import array
from contextlib import contextmanager
import os
from pathlib import Path
import signal
import subprocess
import sys
import tempfile
import threading
import time

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParametersAtomically
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

RELIABLE = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                     durability=DurabilityPolicy.TRANSIENT_LOCAL)
FAST = {'engine': 'torch', 'device': 'cpu', 'precision': 'fp32', 'input_size': '[64, 64]'}
"""Parameters with which a node starts and answers quickly."""


class NodeProcess:
    """
    `python -m featshare_ros.main` with its log; `name` is the fully qualified node name.

    `faults`, a file, runs it with the engine of `faulty_node.py`, which does what the file says.
    """

    def __init__(self, *arguments, namespace='', faults=None, **parameters):
        module = ['-m', 'featshare_ros.main'] if faults is None else \
            [str(Path(__file__).with_name('faulty_node.py')), str(faults)]
        command = [sys.executable, *module, '--ros-args']
        for key, value in parameters.items():
            command += ['-p', f'{key}:={value}']
        if namespace:
            command += ['-r', f'__ns:=/{namespace}']
        self.name = f'/{namespace}/segmentation' if namespace else '/segmentation'
        self._log = tempfile.TemporaryFile('w+')  # noqa: SIM115
        self._process = subprocess.Popen(
            [*command, *arguments], stdout=self._log, stderr=subprocess.STDOUT,
            env={**os.environ, 'PYTHONUNBUFFERED': '1', 'RCUTILS_COLORIZED_OUTPUT': '0'})

    @property
    def pid(self):
        return self._process.pid

    @property
    def log(self):
        # Not the file's own position: the process writes through it.
        return os.pread(self._log.fileno(), 1 << 20, 0).decode(errors='replace')

    @property
    def alive(self):
        return self._process.poll() is None

    def wait_for_log(self, text, timeout=100):
        wait_until(lambda: text in self.log or not self.alive, timeout,
                   lambda: f'{text!r} in the log:\n{self.log}')
        assert text in self.log, f'the node ended without {text!r}:\n{self.log}'

    def stop(self, *signs, timeout=20):
        """Send signals, SIGINT by default, 0.1 s apart; return (exit code, seconds it took)."""
        if not self.alive:
            return self._process.returncode, 0.0
        start = time.monotonic()
        for number, sign in enumerate(signs or [signal.SIGINT]):
            time.sleep(0.1 * bool(number))
            self._process.send_signal(sign)
        try:
            return self._process.wait(timeout), time.monotonic() - start
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f'not stopped within {timeout} s:\n{self.log}') from None


@contextmanager
def node_here(*arguments, **parameters):
    """Run the node in this process, spun by a thread; `arguments` follow `--ros-args`."""
    from featshare_ros.node import SegmentationNode
    words = [word for key, value in parameters.items() for word in ('-p', f'{key}:={value}')]
    context = rclpy.Context()
    rclpy.init(context=context, args=['--ros-args', *arguments, *words])
    node = SegmentationNode(context=context)
    executor = SingleThreadedExecutor(context=context)
    ending = threading.Event()

    def spin():
        while not ending.is_set():
            executor.spin_once(timeout_sec=0.1)

    thread = threading.Thread(target=spin, daemon=True)
    try:
        node.autostart()
        executor.add_node(node)
        thread.start()
        yield node
    finally:
        ending.set()
        if thread.is_alive():
            thread.join(20)
        node.destroy_node()
        rclpy.shutdown(context=context)


def wait_until(condition, timeout, what):
    """Poll; `what` is a text, or a function that makes it when the time is up."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, \
            f'timed out after {timeout} s waiting for {what() if callable(what) else what}'
        time.sleep(0.01)


class Peer:
    """A ROS node of the test's own, spun by a thread."""

    def __init__(self):
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node('peer', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self):
        try:
            self.executor.spin()
        except Exception:
            if self.context.ok():
                raise

    def close(self):
        self.executor.shutdown(timeout_sec=2)
        # Destroyed while the thread still waits for it, the node can end the process.
        self._thread.join(5)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)

    def collect(self, kind, topic, qos=RELIABLE):
        """Return a list that grows with every message of a topic."""
        messages = []
        self.node.create_subscription(kind, topic, messages.append, qos)
        return messages

    def publisher(self, kind, topic, qos=BEST_EFFORT):
        """Return a publisher that somebody has subscribed to."""
        publisher = self.node.create_publisher(kind, topic, qos)
        wait_until(lambda: publisher.get_subscription_count() > 0, 20, f'a subscriber of {topic}')
        return publisher

    def wait_matched(self, topic, timeout=20):
        wait_until(lambda: self.node.count_publishers(topic) > 0, timeout,
                   f'a publisher of {topic}')

    def call(self, kind, name, request, timeout=20):
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(timeout_sec=timeout), f'no service {name}'
        # A server that has not discovered the client yet drops its answer for good, and no client
        # can tell. Servers discover the readers of one participant in order: once a
        # younger client gets an answer, this one has been discovered too.
        younger = self.node.create_client(GetParameters,
                                          f'{name.rpartition("/")[0]}/get_parameters')
        knocks = []

        def known():
            if not knocks or time.monotonic() - knocks[-1][0] > 2:
                knocks.append((time.monotonic(),
                               younger.call_async(GetParameters.Request())))
            return any(knock.done() for _, knock in knocks)

        wait_until(known, timeout, f'the node of {name} to answer at all')
        future = client.call_async(request)
        wait_until(future.done, timeout, f'an answer of {name}')
        self.node.destroy_client(younger)
        self.node.destroy_client(client)
        return future.result()

    def set_parameters(self, node, **values):
        """Return the SetParametersResult of setting them all at once."""
        request = SetParametersAtomically.Request(parameters=[
            Parameter(name, value=value).to_parameter_msg() for name, value in values.items()])
        return self.call(SetParametersAtomically, f'{node}/set_parameters_atomically',
                         request).result

    def get_parameter(self, node, name):
        answer = self.call(GetParameters, f'{node}/get_parameters',
                           GetParameters.Request(names=[name]))
        return Parameter.from_parameter_msg(
            rclpy.parameter.ParameterMsg(name=name, value=answer.values[0])).value

    def describe_parameter(self, node, name):
        return self.call(DescribeParameters, f'{node}/describe_parameters',
                         DescribeParameters.Request(names=[name])).descriptors[0]

    def diagnostics(self):
        """Return a function that gives each status's newest {name: (level, message, values)}."""
        arrays = self.collect(DiagnosticArray, '/diagnostics')

        def newest():
            return {s.name: (s.level, s.message, {v.key: v.value for v in s.values})
                    for array in list(arrays) for s in array.status}
        return newest


class Stream:
    """
    A camera that publishes from a thread of its own, and the masks that came back.

    `period` (seconds), `paused` and `change`, a function that gets each message before it is
    published, may be set at any time.
    """

    def __init__(self, peer, topic='/image', mask='/segmentation/mask', period=0.05):
        self.period, self.paused, self.change = period, False, lambda message: None
        self.sent = 0
        self.masks = peer.collect(Image, mask)
        self.publisher = peer.publisher(Image, topic)
        peer.wait_matched(mask)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.wait_for_masks()

    def _run(self):
        pixels = np.zeros((64, 64, 3), np.uint8)
        while not self._ending.wait(self.period):
            if not self.paused:
                self.sent += 1
                message = image_message(pixels, stamp=10 + 0.05 * self.sent)
                self.change(message)
                self.publisher.publish(message)

    def wait_for_masks(self, count=3):
        target = len(self.masks) + count
        wait_until(lambda: len(self.masks) >= target, 30, 'masks')

    def stop(self):
        self._ending.set()
        self._thread.join()


def image_message(pixels, encoding='rgb8', stamp=1.0, frame_id='camera'):
    """Return an Image of an HxWx3 or HxW uint8 array."""
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding,
                    step=pixels.strides[0])
    message.header.frame_id = frame_id
    message.header.stamp.sec = int(stamp)
    message.header.stamp.nanosec = round((stamp - int(stamp)) * 1e9)
    message.data = array('B', pixels.tobytes())
    return message


_stamp = [100.0]


def picture(height=48, width=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def stamped(message):
    """Give a message a stamp later than all before."""
    _stamp[0] += 0.05
    message.header.stamp.sec = int(_stamp[0])
    message.header.stamp.nanosec = int(_stamp[0] % 1 * 1e9)
    return message


def good_image(**options):
    return stamped(image_message(picture(**options)))


def answered(masks, publisher, message, timeout=20):
    """Publish a message and return its mask, the one with its header."""
    end = time.monotonic() + timeout
    publisher.publish(message)
    while True:
        for mask in masks:
            if mask.header == message.header:
                return mask
        assert time.monotonic() < end, f'no mask for {message.header}'
        time.sleep(0.01)


def linked(masks, publisher, make=good_image, timeout=60):
    """
    Publish images until one is answered, then one more; afterwards every image arrives.

    The graph knows publisher and subscriber before data flow between them, and only an
    answer shows when. Of the repeated images nothing is left in the node: it answers in order.

    :param make: returns a message with a new stamp.
    """
    sent = []

    def reached():
        if not sent or time.monotonic() - sent[-1][1] > 0.5:
            message = make()
            publisher.publish(message)
            sent.append((message.header, time.monotonic()))
        return any(mask.header == header for mask in list(masks) for header, _ in sent)

    wait_until(reached, timeout, 'any mask')
    return answered(masks, publisher, make())


def until(publish, condition, what, timeout=20):
    """Call ``publish`` every 0.2 s until the condition holds."""
    published = [0.0]

    def met():
        if condition():
            return True
        if time.monotonic() - published[0] > 0.2:
            publish()
            published[0] = time.monotonic()
        return False

    wait_until(met, timeout, what)


def stable_counts(peer, name='segmentation: camera', timeout=20):
    """Return a camera's counts, published after the call, when no image waits or is in work."""
    found = []

    def received(array):
        found.extend(counts({item.key: item.value for item in status.values})
                     for status in array.status if status.name == name)

    def stable():
        # The first may have been on its way at the call.
        return len(found) > 1 and found[-1]['received'] == sum(
            found[-1][key] for key in ('processed', 'dropped', 'failed'))

    subscription = peer.node.create_subscription(DiagnosticArray, '/diagnostics', received,
                                                 RELIABLE)
    wait_until(stable, timeout, lambda: f'all images to be counted: {found[-1:]}')
    peer.node.destroy_subscription(subscription)
    return found[-1]


def counts_of(newest, name='segmentation: camera'):
    """Return the counts of a camera's images in its newest diagnostics."""
    return counts(newest()[name][2])


def counts(values):
    """Return the counts among the values of a camera's status."""
    return {key: int(values[key])
            for key in ('received', 'processed', 'dropped', 'failed', 'key frames')}


class Logger:
    """A node's logger that keeps the lines."""

    def __init__(self):
        self.lines = []

    def warning(self, text):
        self.lines.append(text)

    info = error = warning
