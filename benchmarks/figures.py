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
"""The command line that benchmarks of the engine share: measure, print, write."""
from __future__ import annotations

import argparse
from collections.abc import Callable
import json
from pathlib import Path
from typing import Any


def engine_parser(document: str | None, size: str) -> argparse.ArgumentParser:
    """Return a parser that describes a script and takes what all of them do."""
    parser = argparse.ArgumentParser(
        description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--size', default=size)
    parser.add_argument('--device', default='auto')
    parser.add_argument('--weights', default='default')
    parser.add_argument('--json', type=Path)
    return parser


def report(parser: argparse.ArgumentParser,
           measure: Callable[[argparse.Namespace], dict[str, Any]]) -> None:
    """Parse the command line, measure, print and write."""
    arguments = parser.parse_args()
    text = json.dumps(measure(arguments), indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text)
