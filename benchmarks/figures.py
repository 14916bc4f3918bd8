"""The command line that benchmarks of the engine share: measure, print, write."""
from __future__ import annotations

import argparse
import json
from collections.abc import Callable
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
