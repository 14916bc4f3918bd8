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
"""The real node as a process of its own, for benchmarks: its memory and its diagnostics."""
from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
REPORT_S = 2.5
"""Longest delay of a count in /diagnostics, in seconds."""


def prepare_environment() -> None:
    """Keep to this computer and to a domain of our own, fit for large images."""
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    os.environ['ROS_LOCALHOST_ONLY'] = '1'
    os.environ.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 100))
    for variable in ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'):
        os.environ.setdefault(variable, str(REPOSITORY / 'config' / 'fastdds_large_images.xml'))


class LiveNode:
    """
    A node process, and a node of ours (``ros``), spun by a thread, that listens to it.

    :param command: what runs the node, up to --ros-args.
    :param arguments: of ROS.
    :param parameters: the node's.
    """

    def __init__(self, command: list[str], log: Path, *arguments: str, **parameters: Any) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        self._command, self._log = command, log
        self._processes: list[subprocess.Popen[bytes]] = []
        log.write_bytes(b'')
        self.process = self.start(*arguments, **parameters)
        rclpy.init()
        self.ros = rclpy.create_node('benchmark')
        self._values: dict[str, dict[str, str]] = {}
        self.ros.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.ros)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def start(self, *arguments: str, threads: int | None = None,
              **parameters: Any) -> subprocess.Popen[bytes]:
        """
        Start another such process, and return it.

        :param threads: number of threads that it computes with; None for its default.
        """
        for name, value in parameters.items():
            arguments += ('-p', f'{name}:={value}')
        environment = {**os.environ, **({'OMP_NUM_THREADS': str(threads)} if threads else {})}
        with self._log.open('ab') as output:
            process = subprocess.Popen(
                [sys.executable, *self._command, '--ros-args', *arguments], stdout=output,
                stderr=subprocess.STDOUT, env=environment)
        self._processes.append(process)
        return process

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            name = status.name.rpartition(': ')[2]
            self._values[name] = {item.key: item.value for item in status.values}

    def values(self, status: str) -> dict[str, str]:
        """Return the newest values of the engine or of a camera."""
        return self._values.get(status, {})

    def engine_ms(self, percentile: str) -> dict[str, float]:
        """Return the engine's time of both modes, ``p50`` or ``p95``, in milliseconds."""
        engine = self.values('engine')
        return {mode: float(engine[f'{mode} engine {percentile} (ms)'])
                for mode in ('key', 'current')}

    def rss(self) -> float:
        """Return the node's resident memory in MiB."""
        for line in Path(f'/proc/{self.process.pid}/status').read_text().splitlines():
            if line.startswith('VmRSS'):
                return int(line.split()[1]) / 1024
        return 0.0

    def cpu_seconds(self) -> float:
        """Return the CPU time that the processes have used."""
        ticks = 0
        for process in self._processes:
            # After the name, in parentheses: field 14 is user time, field 15 is system time.
            fields = Path(f'/proc/{process.pid}/stat').read_text().rpartition(')')[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf('SC_CLK_TCK')

    def wait_until(self, condition: Callable[[], bool], what: str, timeout: float = 60.0) -> None:
        """
        Wait for a condition.

        :raises RuntimeError: where it does not come true in time, or a process has ended.
        """
        end = time.monotonic() + timeout
        while not condition():
            if any(p.poll() is not None for p in self._processes) or time.monotonic() > end:
                tail = '\n'.join(self._log.read_text(errors='replace').splitlines()[-25:])
                raise RuntimeError(f'waiting for {what} failed; the end of the log:\n{tail}')
            time.sleep(0.005)

    def close(self) -> int:
        """End the processes; return the exit status farthest from 0."""
        import rclpy
        for process in self._processes:
            process.send_signal(signal.SIGINT)
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        status = max((process.returncode for process in self._processes), key=abs)
        self._executor.shutdown()
        self._thread.join(5.0)
        self.ros.destroy_node()
        rclpy.try_shutdown()
        return status
