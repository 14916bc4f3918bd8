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
"""The log lines for changes of a status's level."""
from __future__ import annotations

from collections import deque
import re
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus

LINES, SECONDS = 2, 20.0
"""
Largest number of lines about one status within a time, and that time in seconds.

Two, so that both the beginning and the end of a short fault are logged at once.
"""
NAMES = {DiagnosticStatus.OK: 'OK', DiagnosticStatus.WARN: 'WARN', DiagnosticStatus.ERROR: 'ERROR'}


class LevelLog:
    """
    Logs each change of a status: of its level, and of what is wrong at the same level.

    Messages that differ only in their figures are the same finding. Changes beyond ``LINES`` in
    ``SECONDS`` are counted, and the next line gives their number and the worst status.

    :param logger: the node's.
    :param name: of the camera, or `engine`.
    """

    def __init__(self, logger: Any, name: str) -> None:
        self._logger = logger
        self._name = name
        self._finding = DiagnosticStatus.OK, ''
        self._changes = 0
        self._worst = DiagnosticStatus.OK, ''
        self._times: deque[float] = deque(maxlen=LINES)

    def update(self, level: bytes, message: str) -> None:
        """Log the status where it has changed since the last line."""
        finding = _finding(level, message)
        if finding != self._finding:
            self._finding = finding
            self._changes += 1
            self._worst = max(self._worst, (level, message), key=lambda status: status[0])
        now = time.monotonic()
        if not self._changes or (
                len(self._times) == LINES and now - self._times[0] < SECONDS):
            return
        text = f'{self._name}: {"OK: " * (level == DiagnosticStatus.OK)}{message}'
        if self._changes > 1:
            worst, what = self._worst
            text += f' (changed {self._changes} times since the last line'
            if _finding(worst, what) != finding:
                text += f'; the worst was {NAMES[worst]}: {what}'
            text += ')'
        # One call per severity: rclpy allows no call to change its severity.
        if level == DiagnosticStatus.ERROR:
            self._logger.error(text)
        elif level == DiagnosticStatus.WARN:
            self._logger.warning(text)
        else:
            self._logger.info(text)
        self._logged(now)

    def was_logged(self, level: bytes, message: str) -> None:
        """Note that a status has been logged already, so that ``update`` does not log it again."""
        self._finding = _finding(level, message)
        self._logged(time.monotonic())

    def _logged(self, now: float) -> None:
        self._times.append(now)
        self._changes = 0
        self._worst = DiagnosticStatus.OK, ''


def _finding(level: bytes, message: str) -> tuple[bytes, str]:
    """Return level and message without figures, which identify a finding."""
    return level, '' if level == DiagnosticStatus.OK else re.sub(r'\d+(\.\d+)?', '', message)
