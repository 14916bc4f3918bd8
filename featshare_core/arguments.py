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
"""What the command lines of this package have in common."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from featshare_core.text import parse_size

STATUS = ('exit status: 0 done; 1 failed, or input that was damaged or incomplete; 2 wrong usage '
          'that is found while the options are read; 130 interrupted')


def version() -> str:
    """Return the version, and the commit of a source tree."""
    from featshare_core import __version__
    from featshare_core.evaluation.provenance import commit
    return f'featshare_ros {__version__}, commit {commit() or "unknown"}'


class _Version(argparse.Action):
    """Print the version; git is asked only when it is wanted."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print it and end the process."""
        print(version())
        parser.exit()


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add ``--version``, and what the exit statuses mean."""
    parser.add_argument('--version', action=_Version, nargs=0,
                        help='print the version and the commit')
    parser.epilog = STATUS


def check_output(path: Path, overwrite: bool) -> None:
    """
    Refuse to replace a file, or to write into a folder that is not empty.

    :param overwrite: whether the user allows it.
    :raises ValueError: where they do not; the message names the option.
    """
    exists = any(path.iterdir()) if path.is_dir() else path.exists()
    if exists and not overwrite:
        raise ValueError(f'{path} exists already; --overwrite replaces it')


def size_argument(text: str) -> tuple[int, int]:
    """Return (width, height) of ``WxH``."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
