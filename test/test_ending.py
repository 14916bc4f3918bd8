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
"""Signals end the real node at any time, with exit code 0 and no traceback."""
from pathlib import Path
from signal import SIGINT, SIGTERM
import subprocess
import sys

from harness import FAST, good_image, linked, NodeProcess, wait_until
import pytest
from sensor_msgs.msg import Image

LONGEST_S = 10
"""Longest time to the end, in seconds: the aim is one; the rest allows for a busy machine."""


def mapped(node, library):
    """Return whether the process has loaded a shared library."""
    return library in Path(f'/proc/{node.pid}/maps').read_text()


def end(node, *signs):
    code, seconds = node.stop(*signs)
    assert code == 0, node.log
    assert seconds < LONGEST_S
    for text in ('Traceback', 'terminate called', 'KeyboardInterrupt', '[ERROR]', 'rosout'):
        assert text not in node.log, node.log


# The libraries in the order in which the node loads them: imports, its constructor, configuring.
@pytest.mark.parametrize(('library', 'signs'), [
    ('_rclpy_pybind11', [SIGINT]),
    ('_rclpy_pybind11', [SIGTERM]),
    ('libtorch_cpu', [SIGINT]),
    ('libtorch_cpu', [SIGINT, SIGTERM]),
    ('libtorch_python', [SIGTERM]),
    ('diagnostic_msgs_s__rosidl_typesupport_c', [SIGINT]),
    ('diagnostic_msgs_s__rosidl_typesupport_c', [SIGINT, SIGTERM]),
    ('libopenvino', [SIGTERM])])
def test_a_signal_ends_it_while_libraries_are_loaded(library, signs):
    if library == 'libopenvino':
        pytest.importorskip('openvino')
    node = NodeProcess(device='cpu')
    wait_until(lambda: mapped(node, library) or not node.alive, 60, f'{library} to be loaded')
    end(node, *signs)


@pytest.mark.parametrize('signs', [[SIGINT, SIGTERM], [SIGINT, SIGINT, SIGINT]])
def test_signals_end_an_active_node_and_its_log_is_complete(random_checkpoint, peer, tmp_path,
                                                          monkeypatch, signs):
    monkeypatch.setenv('ROS_LOG_DIR', str(tmp_path))
    # The C library buffers stdout if it is a file, as here.
    monkeypatch.setenv('RCUTILS_LOGGING_USE_STDOUT', '1')
    monkeypatch.setenv('RCUTILS_LOGGING_BUFFERED_STREAM', '1')
    node = NodeProcess(weights=random_checkpoint, **FAST)
    publisher = peer.publisher(Image, '/image')
    for _ in range(20):
        publisher.publish(good_image(height=240, width=320))
    end(node, *signs)
    assert 'segmenting /image' in node.log
    assert 'segmenting /image' in ''.join(file.read_text() for file in tmp_path.glob('*.log'))


def test_a_node_that_cannot_be_destroyed_ends_all_the_same(random_checkpoint, tmp_path):
    (tmp_path / 'faults').write_text('stuck')
    node = NodeProcess(faults=tmp_path / 'faults', weights=random_checkpoint, **FAST)
    node.wait_for_log('segmenting')
    end(node, SIGINT)


def test_an_error_ends_it_with_exit_code_1():
    node = NodeProcess('-p')
    wait_until(lambda: not node.alive, 60, 'the node to end')
    assert node.stop()[0] == 1
    assert "Couldn't parse trailing -p flag" in node.log


def test_signals_are_handled_before_anything_large_is_imported():
    code = ('import sys, featshare_ros.main;'
            'print({"torch", "rclpy", "numpy", "openvino", "cv2"} & sys.modules.keys())')
    assert subprocess.run([sys.executable, '-c', code], check=True, text=True,
                          capture_output=True).stdout == 'set()\n'


@pytest.mark.parametrize('closed', ['>&- 2>&-', '<&- >&- 2>&-'])
def test_it_runs_on_where_its_output_is_closed(random_checkpoint, peer, closed):
    # The number of a closed file is given to the next that is opened: log lines must not be
    # written into the pipe that signals are received from.
    process = subprocess.Popen(
        ['bash', '-c', f'exec "$0" -m featshare_ros.main --ros-args "$@" {closed}', sys.executable,
         '-p', f'weights:={random_checkpoint}',
         *(word for name, value in FAST.items() for word in ('-p', f'{name}:={value}'))])
    try:
        masks = peer.collect(Image, '/segmentation/mask')
        linked(masks, peer.publisher(Image, '/image'))
        process.send_signal(SIGINT)
        assert process.wait(LONGEST_S) == 0
    finally:
        process.kill()
