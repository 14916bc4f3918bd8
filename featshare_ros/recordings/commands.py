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
