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
"""An archive of recordings, segmented by a Ray cluster: one task per recording."""
from __future__ import annotations

from dataclasses import dataclass, replace
import logging
import os
from pathlib import Path
import secrets
import socket
import time

from featshare_core.networks.weights import absolute_weights
from featshare_core.progress import reporter
from featshare_ros.recordings.bag import BAG_SUFFIXES, RecordingError
from featshare_ros.recordings.segment_recording import Job, Outcome, segment_recording

RETRIES = 5
"""Largest number of restarts of a task whose worker or machine was lost."""


@dataclass(frozen=True)
class Row:
    """A line of the summary table."""

    recording: str
    state: str
    frames: int = 0
    seconds: float = 0.0
    worker: str = ''
    problem: str = ''


def find_recordings(folder: Path, leave_out: Path) -> dict[str, Path]:
    """
    Return the path of every recording under a folder, by its name relative to the folder.

    Recordings are rosbag2 directories, and .mcap and .db3 files outside of them.

    :param leave_out: a folder that is not searched: that of the outputs.
    :raises RecordingError: where there is none.
    """
    if not folder.is_dir():
        raise RecordingError(f'{folder}: no such directory')
    found: dict[str, Path] = {}
    for root, folders, files in os.walk(folder):
        here = Path(root)
        folders[:] = sorted(name for name in folders
                            if (here / name).resolve() != leave_out.resolve())
        if 'metadata.yaml' in files and here != folder:
            found[str(here.relative_to(folder))] = here
            folders.clear()
            continue
        for name in sorted(files):
            if name.endswith(BAG_SUFFIXES):
                path = here / name
                plain = path.with_suffix('')
                taken = plain.is_dir() or str(plain.relative_to(folder)) in found
                found[str((path if taken else plain).relative_to(folder))] = path
    if not found:
        raise RecordingError(f'{folder}: no recording in it: neither a directory with a '
                             f'metadata.yaml nor a {" or ".join(BAG_SUFFIXES)} file')
    return found


def segment_archive(source: Path, output: Path, job: Job, address: str, gpu_share: float) -> int:
    """
    Segment all recordings of a folder into another, and print a table.

    Complete outputs are skipped, interrupted ones continued. Ray restarts a task whose worker is
    lost; it continues where the lost one stopped. A recording that cannot be segmented becomes a
    row of the table and does not stop the others.

    :param address: of a running cluster, whose machines have both folders under the same paths
        and this package installed; empty for this machine, where Ray is started for this call and
        reached through the loopback interface alone.
    :param gpu_share: GPUs per task, for example 0.3, where the cluster has GPUs.
    :returns: exit status: 0 where every recording is segmented, otherwise 1.
    :raises RecordingError: where the folder has no recordings.
    :raises ImportError: where ray is not installed.
    """
    if not address:
        _confine_ray()
    try:
        import ray
    except ImportError as error:
        raise ImportError('--ray needs ray, which is not installed: '
                          "pip install 'ray>=2.59'") from error
    recordings = find_recordings(source, output)
    source, output = source.resolve(), output.resolve()
    # Workers have working directories of their own.
    job = replace(job, weights=absolute_weights(job.weights))
    # Without 'local', Ray joins the cluster that a file in /tmp or RAY_ADDRESS names.
    ray.init(address or 'local', include_dashboard=None if address else False,
             logging_level=logging.WARNING, log_to_driver=False)
    try:
        gpus = gpu_share if ray.cluster_resources().get('GPU', 0) else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(segment_one)
        tasks = {task.remote(name, str(path.resolve()), str(output / name), job): name
                 for name, path in recordings.items()}
        rows = []
        show = reporter('segmenting', 'recordings', len(tasks))
        waiting = list(tasks)
        while waiting:
            (finished,), waiting = ray.wait(waiting)
            try:
                rows.append(ray.get(finished))
            except ray.exceptions.RayError as error:
                rows.append(Row(tasks[finished], 'failed', problem=_first_line(error)))
            show(len(rows))
    finally:
        ray.shutdown()
    print(table(rows))
    return int(any(row.state == 'failed' for row in rows))


def _confine_ray() -> None:
    """Set what Ray reads on its import and start, so that it accepts nobody else's connections."""
    # On Linux too, Ray uses the loopback interface alone if this is off.
    os.environ['RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER'] = '0'
    # Whoever may connect can run code. Ray asks for this token, which is in no file; without it,
    # Ray would write one into the home folder.
    os.environ.setdefault('RAY_AUTH_TOKEN', secrets.token_hex(32))


def segment_one(name: str, source: str, output: str, job: Job) -> Row:
    """Segment one recording, on a worker; a failure is returned as a row."""
    import torch
    # Ray sets the variable to the task's cores; more threads would compete with other tasks.
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', '1')))
    worker = f'{socket.gethostname()}:{os.getpid()}'
    begin = time.monotonic()
    try:
        outcome = segment_recording(Path(source), Path(output), job, resume=True)
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        return Row(name, 'failed', seconds=time.monotonic() - begin, worker=worker,
                   problem=_first_line(error))
    return Row(name, _state(outcome), outcome.frames, time.monotonic() - begin, worker,
               f'{outcome.failed} images left out' if outcome.failed else '')


def table(rows: list[Row]) -> str:
    """Return the rows as text, sorted by name, with a line of totals."""
    lines = [('recording', 'state', 'frames', 'seconds', 'worker', '')]
    for row in sorted(rows, key=lambda row: row.recording):
        lines.append((row.recording, row.state, str(row.frames), f'{row.seconds:.1f}', row.worker,
                      row.problem))
    widths = [max(len(line[column]) for line in lines) for column in range(6)]
    text = ['  '.join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
            for line in lines]
    states = [row.state for row in rows]
    counted = ', '.join(f'{states.count(state)} {state}' for state in sorted(set(states)))
    return '\n'.join([*text, f'{len(rows)} recordings: {counted}'])


def _state(outcome: Outcome) -> str:
    if outcome.state == 'complete already':
        return 'skipped'
    return 'done' if outcome.new_frames == outcome.frames else 'resumed'


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
