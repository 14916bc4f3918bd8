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
"""The subcommand ``featshare doctor``: what is installed, what runs here, and how fast."""
from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
import logging
from logging.handlers import BufferingHandler
import os
from pathlib import Path
import re
import shutil
from statistics import median
import tempfile
import time
from typing import Any

from featshare_core.doctor.hardware import hardware
from featshare_core.doctor.lines import BAD, failure, gib, Lines, probed
from featshare_core.doctor.software import dds, versions
from featshare_core.inference.options import add_engine_options, from_arguments, SegmenterOptions

LABEL_WIDTH = 16
"""Width of the column of labels, in characters."""
FRAMES = 7
"""Number of frames of each kind that are timed."""


def doctor_command(arguments: argparse.Namespace) -> None:
    """
    Print what is installed, which engine runs here and why, and the time of a frame.

    Lines marked with an exclamation mark need attention and say what to do. The output is meant
    to be pasted into a bug report. The exit status is 1 where no engine runs.
    """
    print('featshare doctor')
    _section('Versions', versions())
    _section('Machine', hardware())
    _section('Engines', _engines(arguments))
    runs = _section('One frame', _frames(arguments))
    _section('Exported models', _models(arguments))
    _section('DDS', dds())
    print(f'\nLines marked {BAD.strip()} need attention. To report a bug, paste all of this '
          'output; the home folder is written as ~.')
    if not runs:
        raise RuntimeError('no engine runs here: the section "One frame" says why')


def add_doctor_command(subparsers: Any) -> None:
    """Add ``doctor`` to the command line's subparsers."""
    command = subparsers.add_parser(
        'doctor', help='what is installed, which engine runs here and why; for bug reports',
        description=doctor_command.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.set_defaults(run=doctor_command)
    add_engine_options(command)


def _section(title: str, lines: Lines) -> bool:
    """Print a section line by line, up to an error; return whether there was none."""
    print(f'\n{title}')
    try:
        for label, text in lines:
            _print(label, text)
    except Exception as error:  # of any type: each library has its own
        _print('', failure(error))
        return False
    return True


def _print(label: str, text: str) -> None:
    for line in shareable(text).splitlines():
        mark = BAD if line.startswith(BAD) else ' ' * len(BAD)
        # Flushed, so that a library that ends the process does not suppress earlier lines.
        print(f'{mark}{label:<{LABEL_WIDTH}}{line.removeprefix(BAD)}'.rstrip(), flush=True)
        label = ''


def shareable(text: str) -> str:
    """Return a text without escape sequences, with ~ for the home folder."""
    text = re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', text)
    for home in {os.path.expanduser('~'), os.path.realpath(os.path.expanduser('~'))}:
        if len(home) > 1 and home.startswith('/'):  # else there is none, or it is the root
            text = re.sub(rf'{re.escape(home)}(?![\w.-])', '~', text)
    return text


def _engines(arguments: argparse.Namespace) -> Lines:
    from featshare_core.inference.engines import engine_choices
    yield '', (f'with --weights {arguments.weights} --device {arguments.device} '
               f'--precision {arguments.precision} --engine {arguments.engine}')
    first = True
    for choice in engine_choices(arguments.weights, arguments.engine, arguments.device,
                                 arguments.precision):
        if choice.problem:
            text = f'{BAD * choice.tried}{choice.problem}'
        elif choice.tried:
            text = 'tried first' if first else 'tried if those above do not start'
            first = False
        else:
            text = f'not tried: --engine {choice.engine} chooses it'
        yield choice.engine, text


def _frames(arguments: argparse.Namespace) -> Lines:
    """Run the engine; raises the error that keeps it from running."""
    from featshare_core.inference.options import make_segmenter
    import numpy as np
    with _logged() as warnings:
        start = time.perf_counter()
        segmenter = make_segmenter(from_arguments(SegmenterOptions, arguments))
        try:
            segmenter.warm_up()
            prepared = time.perf_counter() - start
            engine = segmenter.engine
            yield 'engine', f'{engine.name} on {engine.device} in {engine.precision}'
            yield 'network', engine.network_name
            height, width = engine.trained_size
            yield 'image', f'{width}x{height}'
            yield 'prepared in', f'{prepared:.1f} s'
            frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
            for label, run in (('key frame', engine.key), ('current frame', engine.current)):
                times = []
                for _ in range(FRAMES):
                    start = time.perf_counter()
                    run(frame)
                    times.append(1e3 * (time.perf_counter() - start))
                yield label, f'{median(times):.1f} ms, median of {FRAMES} after warming up'
            reasons = engine.fallback.split('; ') if engine.fallback else []
            yield '', '\n'.join(BAD + reason for reason in reasons)
            for message in dict.fromkeys(record.getMessage() for record in warnings):
                if not any(reason in message for reason in reasons):
                    yield '', BAD + message
        finally:
            segmenter.close()


@contextmanager
def _logged() -> Iterator[list[logging.LogRecord]]:
    """Collect the library's warnings, so that they are not printed between the lines."""
    handler, logger = BufferingHandler(1000), logging.getLogger('featshare_core')
    handler.setLevel(logging.WARNING)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield handler.buffer
    finally:
        logger.propagate = True
        logger.removeHandler(handler)


def _models(arguments: argparse.Namespace) -> Lines:
    from featshare_core.inference.export import cache, models
    from featshare_core.networks.checkpoint import load_checkpoint
    from featshare_core.networks.weights import is_exported
    folder = cache.folder()
    yield 'folder', f'{folder}\n{probed(_writable, folder)}'
    entries = cache.kept()
    size = sum(file.stat().st_size for file in entries)
    yield 'kept', (f'{len(entries)} of at most {cache.KEPT} (one per network, cut and image '
                   f'size), {size / 1e6:.1f} MB')
    if is_exported(arguments.weights):
        height, width = models.ExportedModels(Path(arguments.weights).expanduser()).size
        yield 'sizes', f'{width}x{height} only, for which {arguments.weights} was exported'
        return
    known = models.NetworkModels(*load_checkpoint(arguments.weights)).identity
    sizes = [file.name.partition('-')[2] for file in entries if file.name.startswith(known)]
    yield 'sizes', (f'{", ".join(sizes) or "none"}: sizes of the network input for which '
                    f'{arguments.weights} is kept')


def _writable(folder: Path) -> str:
    """Return the free space of a folder that is or can be created, or why it is not writable."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return f'writable, {gib(shutil.disk_usage(folder).free)} free'
    except OSError as error:
        return (f'{BAD}cannot be written ({error.strerror}): models that it lacks are exported '
                f'at every start\n{BAD}mount a writable folder, or set XDG_CACHE_HOME to one')
