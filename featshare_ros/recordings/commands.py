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
The entry points of the commands for recordings.

Only the standard library is imported here, so that a missing package is reported in one line.
``python -m featshare_ros.recordings.commands NAME`` runs the command of that name.
"""
from __future__ import annotations

import sys

from featshare_core.packages import run_command


def compare_bags() -> int:
    """Run ``compare_bags``."""
    return run_command('featshare_ros.recordings.compare')


def evaluate_bag() -> int:
    """Run ``evaluate_bag``."""
    return run_command('featshare_ros.recordings.evaluate_bag')


def make_recording() -> int:
    """Run ``make_recording``."""
    return run_command('featshare_ros.recordings.make_recording')


def segment_bag() -> int:
    """Run ``segment_bag``."""
    return run_command('featshare_ros.recordings.segment_bag')


if __name__ == '__main__':
    sys.argv = sys.argv[1:]  # as if the command itself had been started
    sys.exit(globals()[sys.argv[0]]())
