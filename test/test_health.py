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
"""What the real node logs about the health of its cameras and its engine."""
from collections import Counter
from pathlib import Path
import re
import time

from diagnostic_msgs.msg import DiagnosticStatus
from featshare_ros import level_log
from featshare_ros.level_log import LevelLog
from harness import FAST, NodeProcess, Stream, wait_until
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import pytest
from std_srvs.srv import SetBool

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / 'docs' / 'robot' / 'ros-interface.md').read_text()
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def lines(node, pattern):
    """Return (severity, time in seconds, text) of each line of the log with this pattern."""
    found = re.findall(r'^\[(\w+)\] \[(\d+\.\d+)\] \[[\w.]+\]: (.*)$', node.log, re.MULTILINE)
    return [(severity, float(stamp), text) for severity, stamp, text in found
            if re.search(pattern, text)]


def wait_for_line(node, severity, pattern, timeout=60):
    """Wait for a line of the log of this severity that begins with a pattern."""
    wait_until(lambda: any(line[0] == severity for line in lines(node, f'^{pattern}')), timeout,
               lambda: f'[{severity}] {pattern} in the log:\n{node.log}')


def change(peer, node, transition):
    request = ChangeState.Request(transition=Transition(id=transition))
    assert peer.call(ChangeState, f'{node.name}/change_state', request, timeout=60).success


def test_without_diagnostics_the_log_tells_of_topic_camera_and_every_transition(
        random_checkpoint, peer):
    node = NodeProcess('-r', 'image:=/wrong/image', weights=random_checkpoint,
                       publish_diagnostics=False, **FAST)
    try:
        node.wait_for_log('segmenting /wrong/image')
        wait_for_line(node, 'WARN', 'camera: nobody publishes /wrong/image: .*remap.*topic list')
        (_, started, _), = lines(node, 'segmenting')
        (_, warned, _), = lines(node, 'nobody publishes')
        # After two seconds, and up to one until the next evaluation; the rest allows for load.
        assert 1.0 < warned - started < 8
        assert peer.node.count_publishers('/diagnostics') == 0
        time.sleep(5)
        # Once, although it is found every second. The engine works and is not mentioned.
        assert len(lines(node, 'nobody publishes')) == 1
        assert not lines(node, '^engine:')

        stream = Stream(peer, '/wrong/image')
        wait_for_line(node, 'INFO', r'camera: OK: \d+\.\d masks/s')
        stream.stop()
        wait_for_line(node, 'WARN', r'camera: no image for \d+\.\d s')

        for on, word in ((False, 'disabled'), (True, 'enabled')):
            for _ in range(2):
                assert peer.call(SetBool, f'{node.name}/enable', SetBool.Request(data=on)).success
            wait_for_line(node, 'INFO', f'{word} by the service enable')
        for transition, line in (
                (Transition.TRANSITION_DEACTIVATE, 'deactivated'),
                (Transition.TRANSITION_CLEANUP, 'cleaned up'),
                (Transition.TRANSITION_UNCONFIGURED_SHUTDOWN, 'shut down')):
            change(peer, node, transition)
            wait_for_line(node, 'INFO', line)
        counted = Counter(text.split(' ')[0] for _, _, text in lines(node, ''))
        assert [counted[word] for word in (
            'disabled', 'enabled', 'deactivated:', 'cleaned', 'shut')] == [1] * 5
    finally:
        code, _ = node.stop()
    assert code == 0, node.log
    assert 'Traceback' not in node.log, node.log


@pytest.fixture(scope='module')
def node(random_checkpoint, faults):
    process = NodeProcess(faults=faults, weights=random_checkpoint, **FAST)
    process.wait_for_log('segmenting')
    yield process
    faults.write_text('')
    code, _ = process.stop()
    assert code == 0, process.log


def test_an_engine_that_fails_is_one_error_and_its_recovery_one_line(node, stream, faults):
    faults.write_text('fail load')
    wait_for_line(node, 'ERROR', 'engine: .*it will be rebuilt in')
    wait_for_line(node, 'ERROR', 'camera: the engine failed and is being rebuilt')
    time.sleep(3)
    # Messages that differ only in figures are the same finding.
    assert len(lines(node, '^engine: the engine cannot be rebuilt')) <= 1
    assert len(lines(node, '^camera: the engine failed and is being rebuilt')) == 1
    faults.write_text('')
    stream.wait_for_masks()
    wait_for_line(node, 'INFO', 'engine: OK: active')
    wait_for_line(node, 'INFO', r'camera: OK: \d+\.\d masks/s')


class Lines:
    """A logger that keeps (severity, text)."""

    def __init__(self):
        self.lines = []

    def info(self, text):
        self.lines.append((OK, text))

    def warning(self, text):
        self.lines.append((WARN, text))

    def error(self, text):
        self.lines.append((ERROR, text))


@pytest.fixture
def log(monkeypatch):
    """Return a function that updates a LevelLog at a given time, and returns the new lines."""
    now, logger = [0.0], Lines()
    monkeypatch.setattr(level_log.time, 'monotonic', lambda: now[0])
    levels = LevelLog(logger, 'front')

    def update(seconds, level, message):
        now[0] = seconds
        levels.update(level, message)
        found, logger.lines = logger.lines, []
        return found
    update.levels = levels
    return update


def test_a_change_is_one_line_and_its_end_another(log):
    assert log(0, OK, '25.0 masks/s') == log(1, OK, 'inactive') == []
    assert log(2, WARN, 'no image for 2.1 s') == [(WARN, 'front: no image for 2.1 s')]
    assert log(3, WARN, 'no image for 3.1 s') == []
    assert log(4, OK, '25.0 masks/s') == [(OK, 'front: OK: 25.0 masks/s')]
    assert log(60, ERROR, 'a') == [(ERROR, 'front: a')]
    assert log(61, ERROR, 'b') == [(ERROR, 'front: b')]


def test_what_changes_too_fast_is_counted_and_no_fault_goes_unmentioned(log):
    logged = [log(second, *((WARN, f'{second} bad') if second % 2 else (OK, 'fine')))
              for second in range(95)]
    assert [len(found) for found in logged[:22]] == [0, 1, 1] + [0] * 18 + [1]
    assert sum(map(len, logged)) <= 95 / 10 + 1
    assert logged[21] == [(WARN, 'front: 21 bad (changed 19 times since the last line)')]
    # A fault that came and went between two lines.
    assert not log(96, ERROR, 'hung')
    assert not log(97, OK, 'fine')
    (_, text), = log(130, OK, 'fine')
    assert text.startswith('front: OK: fine (changed')
    assert text.endswith('the worst was ERROR: hung)')
    assert log(131, OK, 'fine') == []


def test_what_was_logged_already_is_not_logged_again(log):
    log.levels.was_logged(ERROR, 'cannot be configured')
    assert log(1, ERROR, 'cannot be configured') == []
    assert log(2, OK, 'inactive') == [(OK, 'front: OK: inactive')]


def documented(engine):
    """Return the engine's keys that the documents name for an engine on a CPU."""
    table = DOCUMENT[DOCUMENT.index('| key of the engine |'):].split('\n\n')[0]
    names = set()
    for row in table.splitlines()[2:]:
        _, keys, meaning, _ = row.split('|')
        excluded = 'only of `torch`' if engine != 'torch' else 'except `torch`'
        if excluded not in meaning:
            names |= set(re.findall('`(.*?)`', keys)) - {'p95', 'max'}
    return names


@pytest.mark.parametrize('engine', ['torch', 'openvino', 'onnx'])
def test_the_documents_name_every_key_of_every_engine(random_checkpoint, peer, engine):
    if engine != 'torch':
        pytest.importorskip({'openvino': 'openvino', 'onnx': 'onnxruntime'}[engine])
        pytest.importorskip('onnx')
    node = NodeProcess(namespace=engine, weights=random_checkpoint, key_interval=3,
                       moved_frames=1, **{**FAST, 'engine': engine})
    try:
        node.wait_for_log('segmenting')
        newest = peer.diagnostics()
        stream = Stream(peer, f'/{engine}/image', f'{node.name}/mask')
        stream.wait_for_masks(5)
        name = f'{engine}/segmentation: engine'
        for kind in ('current', 'moved'):
            wait_until(lambda kind=kind: newest().get(name, (0, '', {}))[2].get(
                f'{kind} engine p50 (ms)', 'unknown') != 'unknown', 20, 'diagnostics')
        stream.stop()
        assert newest()[name][2]['engine'] == engine
        keys = {key for key in newest()[name][2] if not key.endswith(('p95 (ms)', 'max (ms)'))}
        assert documented(engine) == keys
    finally:
        code, _ = node.stop()
    assert code == 0, node.log


def test_the_documents_name_every_stage_that_an_engine_times():
    stages = set()
    for path in (ROOT / 'featshare_core' / 'inference').rglob('*.py'):
        source = path.read_text()
        stages |= set(re.findall(r"\bmark\('(\w+)'\)", source))
        stages |= set(re.findall(r"'(\w+)': 1e3 \* \(", source))
    assert {'preprocess', 'network', 'low', 'high', 'decode', 'postprocess'} <= stages
    table = DOCUMENT[DOCUMENT.index('| key of the engine |'):].split('\n\n')[0]
    named = set(re.findall(r'`(?:key|current|moved) (\w+) p50 \(ms\)`', table))
    assert named == stages | {'engine'}
