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
The program of the node, from its start to its end.

Only the standard library is imported before the signal handlers are installed: PyTorch, ROS and
OpenVINO take seconds to import.
"""
from __future__ import annotations

from contextlib import suppress
import os
import signal
import sys
import threading
import traceback
from typing import NoReturn, TYPE_CHECKING

if TYPE_CHECKING:
    from featshare_ros.node import SegmentationNode
    from rclpy.executors import SingleThreadedExecutor

LONGEST_END_S = 2.0
"""Longest time from a signal to the end of the process, in seconds."""
USAGE = """\
usage: segmentation_node [--help] [--version] [--ros-args [-p NAME:=VALUE] [--params-file FILE]
                         [-r FROM:=TO] [-r __ns:=NAMESPACE] [--log-level LEVEL] ...]

Turn the images of a camera into semantic segmentation masks, until SIGINT or SIGTERM.

subscribes to   image, or image/compressed with -p image_transport:=compressed; camera_info
publishes       ~/mask, ~/overlay, ~/confidence, ~/camera_info, ~/label_info, /diagnostics
services        ~/enable, ~/force_key_frame, and those of a lifecycle node

examples
  ros2 run featshare_ros segmentation_node --ros-args -r image:=/camera/image_raw
  ros2 run featshare_ros segmentation_node --ros-args --params-file segmentation.yaml
  ros2 launch featshare_ros segmentation.launch.py --show-args

parameters      config/segmentation.yaml has all of them with their defaults; of a running node:
                ros2 param list /segmentation; ros2 param describe /segmentation NAME
exit status     0 after a signal; 1 after an error, which is printed; 2 after an unknown argument
"""
"""What ``--help`` prints."""


def _outside_ros_args(words: list[str]) -> list[str]:
    """Return the words that are not between ``--ros-args`` and ``--``, or the end."""
    outside, is_ros = [], False
    for word in words:
        if word == ('--' if is_ros else '--ros-args'):
            is_ros = not is_ros
        elif not is_ros:
            outside.append(word)
    return outside


def main(args: list[str] | None = None) -> NoReturn:
    """
    Run the node until SIGINT or SIGTERM, then end the process.

    ``--help`` and ``--version`` print and end. The exit code is 0 then and after a signal, 1 after
    an error, which is printed, and 2 where an argument is not known. Further signals change
    nothing.
    """
    words = sys.argv[1:] if args is None else args
    if '--help' in words or '-h' in words:
        print(USAGE, end='')
        sys.exit(0)
    if '--version' in words:
        from featshare_core.arguments import version
        print(version())
        sys.exit(0)
    # rclpy would ignore them, and the node would run with other settings than were asked for.
    if unknown := _outside_ros_args(words):
        print(f'segmentation_node: unknown arguments: {" ".join(unknown)}; parameters and '
              f'remappings follow --ros-args, as in --ros-args -p weights:=light', file=sys.stderr)
        sys.exit(2)
    _open_standard_files()
    ending = threading.Event()
    executors: list[SingleThreadedExecutor] = []
    _watch_signals(ending, executors)
    code = 0
    try:
        _run(args, ending, executors)
    except ModuleNotFoundError as error:
        from featshare_core.packages import explain
        print(f'segmentation_node: {explain(error)}', file=sys.stderr)
        code = 1
    except Exception:
        traceback.print_exc()
        code = 1
    _flush()
    # Without the interpreter's own shutdown: destroying PyTorch and OpenVINO takes up to seconds,
    # and may crash while an engine runs.
    os._exit(code)


def _open_standard_files() -> None:
    """
    Open the null device as whichever of stdin, stdout and stderr was closed at start.

    Otherwise their numbers go to the next files that are opened, the pipe of the signals or a
    socket, and what the C library logs is written into these.
    """
    while True:
        number = os.open(os.devnull, os.O_RDWR)
        if number > 2:
            os.close(number)
            return


def _watch_signals(ending: threading.Event, executors: list[SingleThreadedExecutor]) -> None:
    """
    Set ``ending`` at the first signal; end the process if it still runs ``LONGEST_END_S`` later.

    A thread of its own receives the signal. Python runs signal handlers on the main thread only,
    and not before the import of a library or a wait for messages has returned.

    :param executors: holds the executor to wake up, once there is one. While the list is empty,
        there is nothing to shut down, and a signal ends the process at once.
    """
    received, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def watch() -> None:
        os.read(received, 1)
        ending.set()
        if executors:
            # A task makes the executor return from its wait for messages.
            executors[0].create_task(lambda: None)
            threading.Event().wait(LONGEST_END_S)
        os._exit(0)

    threading.Thread(target=watch, name='signals', daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Python writes to the pipe only for signals with a handler.
        signal.signal(number, lambda number, frame: None)


def _run(args: list[str] | None, ending: threading.Event,
         executors: list[SingleThreadedExecutor]) -> None:
    """Run the node until ``ending`` is set, and destroy it."""
    from featshare_core.inference.memory import keep_freed_blocks
    keep_freed_blocks()

    from featshare_ros.node import SegmentationNode
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    executors.append(SingleThreadedExecutor())
    try:
        node = SegmentationNode(ending)
        try:
            node.autostart()
            executors[0].add_node(node)
            _spin(executors[0], node, ending)
        finally:
            node.destroy_node()
    finally:
        # Writes the log file too.
        rclpy.try_shutdown()


def _spin(executor: SingleThreadedExecutor, node: SegmentationNode,
          ending: threading.Event) -> None:
    """Execute callbacks until ``ending`` is set; unexpected errors are logged."""
    while executor.context.ok() and not ending.is_set():
        try:
            executor.spin_once()
        except Exception:
            node.get_logger().error(f'a callback failed:\n{traceback.format_exc()}')
            # If waiting for messages fails, it must not be repeated without a pause.
            ending.wait(0.1)


def _flush() -> None:
    """Write what is buffered by Python and by the C library, which ROS logs with."""
    import ctypes
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # none, broken or closed
            stream.flush()
    ctypes.CDLL(None).fflush(None)


if __name__ == '__main__':
    main()
