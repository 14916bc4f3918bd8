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
"""Segment a recording into another, in stages, and continue an interrupted output."""
from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
import json
from pathlib import Path
import shutil
import sys
import threading
import time

from featshare_core.durable import sync_folder, write_durably
from featshare_core.inference.export.models import fingerprint
from featshare_core.inference.options import make_segmenter, SegmenterOptions
from featshare_core.inference.segmenter import Result
from featshare_core.pipeline import overlap
from featshare_ros.images import FULL_RANGE
from featshare_ros.recordings.bag import RecordingError, UnreadableError
from featshare_ros.recordings.bag_input import BagInput, decode, DecodedImage, Group
from featshare_ros.recordings.bag_output import bag_metadata, METADATA_FILE, Outputs, Wanted
from featshare_ros.recordings.mcap_file import McapFile, State, UnknownFileError
from featshare_ros.recordings.mcap_records import Channel

EARLIER = {'sensor_bits': json.dumps(FULL_RANGE), 'moved_frames': json.dumps(0)}
"""Settings that outputs of earlier versions do not name, with what applied then."""


@dataclass(frozen=True)
class Job(SegmenterOptions):
    """How recordings are segmented, and which outputs are written."""

    topics: tuple[str, ...] = ()
    """Image topics, each TOPIC or NAME=TOPIC; empty for the only one."""
    raw: bool = False
    overlay: bool = False
    confidence: bool = False
    only_masks: bool = False
    sensor_bits: int = FULL_RANGE


@dataclass(frozen=True)
class Outcome:
    """The result for a recording; ``state``: done, complete already or interrupted."""

    state: str
    frames: int
    """Images of the whole output, those of earlier runs included."""
    new_frames: int = 0
    seconds: float = 0.0
    """Duration of this run, from the first byte read to the last one written, without loading."""
    failed: int = 0
    """Images that could not be decoded."""
    first_problem: str = ''


@dataclass
class _Step:
    """A group on its way through the stages."""

    group: Group
    image: DecodedImage | None
    again: bool
    """Whether an earlier run wrote this image: it is run only for its deep features."""
    result: Result | None = None
    introduce: bool = False
    """Whether it is the camera's first image, with which the class names are written."""
    state: State | None = None


def segment_recording(source: Path, output: Path, job: Job, resume: bool = False,
                      stop: threading.Event | None = None,
                      progress: Callable[[int, int], None] = lambda done, total: None) -> Outcome:
    """
    Write a recording with the masks of every image of ``source``.

    The output is closed and readable at the end, also where this raises or ``stop`` was set; only
    after a crash it has no metadata.yaml. ``resume`` continues it in all these cases.

    :param output: the directory to create; it may exist only with ``resume``.
    :param stop: ends the run early, once it is set.
    :param progress: called with the images done and the images in all.
    :raises RecordingError: where input or output cannot be read, written or continued, or the
        input holds fewer messages than it counts.
    :raises ValueError, RuntimeError: where the network cannot be run, as ``VideoSegmenter``.
    """
    if job.moved_frames:
        raise ValueError('recordings have no moved frames: --resume continues after any image')
    stop = stop or threading.Event()
    with BagInput(source, job.topics, copy=not job.only_masks) as bag:
        copies = bag.channels()
        outputs = Outputs(bag.cameras, Wanted(job.raw, job.overlay, job.confidence),
                          len(copies) + 1)
        _refuse_clash(source, copies, outputs)
        channels = [*copies, *outputs.channels]
        settings = _settings(job, bag)
        path = output / f'{output.resolve().name}_0.mcap'
        new = _make_folder(output, path, resume)
        file = _open(output, path, channels, settings)
        try:
            if _is_complete(file, path, channels):
                file.abandon()
                return Outcome('complete already', int(file.state.get('frames', 0)))
            work = _Work(bag, outputs, file, job, stop, progress)
        except BaseException:
            if new:  # otherwise a second try with other settings would be refused
                shutil.rmtree(output)  # before the lock is released: nobody may continue it
            file.abandon()
            raise
        (output / METADATA_FILE).unlink(missing_ok=True)
        problem: Exception | None = None
        try:
            # One process may segment many recordings, each with a network of its own.
            with closing(work):
                work.run()
        except Exception as error:
            problem = error
        finally:
            try:
                # The last, incomplete chunk; there may be no room for it.
                if not isinstance(problem, OSError):
                    file.flush()
            except OSError as error:
                problem = problem or error
            try:
                file.close(lambda: write_durably(output / METADATA_FILE,
                                                 bag_metadata(path, file, channels)))
            except OSError as error:
                raise RecordingError(f'{output} could not be closed: {error}; --resume '
                                     'continues it') from (problem or error)
        if problem is not None:
            saved = file.state.get('frames', 0)
            reason = f'{output} cannot be written: {problem.strerror or problem}' \
                if isinstance(problem, OSError) else str(problem)
            advice = '' if isinstance(problem, UnreadableError) else '; --resume continues it'
            raise RecordingError(f'{reason}. The {saved} images until then are in {output}, '
                                 f'closed and readable{advice}') from problem
        return work.outcome()


class _Work:
    """The network and the position in the recording; ``run`` does all of the work."""

    def __init__(self, bag: BagInput, outputs: Outputs, file: McapFile, job: Job,
                 stop: threading.Event, progress: Callable[[int, int], None]) -> None:
        self._bag, self._outputs, self._file = bag, outputs, file
        self._confidence, self._stop, self._progress = job.confidence, stop, progress
        self._bits = job.sensor_bits
        self._segmenter = make_segmenter(job)
        self._seconds = 0.0
        # A resumed run restores the schedule, and computes the deep features of the last key
        # frames again.
        try:
            self._segmenter.warm_up()
            self._restore(file.state or {
                'position': 0, 'frames': 0, 'failed': 0, 'first_problem': '', 'keys': {},
                'introduced': [], 'schedule': self._segmenter.schedule.state()})
        except BaseException:
            self.close()
            raise

    def _restore(self, state: State) -> None:
        """
        Continue from the state in the output.

        :raises RecordingError: where an entry is missing or of another type.
        """
        try:
            self._segmenter.schedule.restore(state['schedule'])
            self._state: State = {'complete': False, **{name: kind(state[name]) for name, kind in (
                ('position', int), ('frames', int), ('failed', int), ('first_problem', str),
                ('keys', dict), ('introduced', list), ('schedule', dict))}}
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise RecordingError(f'the state in the output cannot be read ({error!r}): remove '
                                 'the output and start again') from error
        self._before: int = self._state['frames']
        self._start: int = self._state['position']
        self._again = {position: name for name, position in self._state['keys'].items()}

    def run(self) -> None:
        """Segment what is left, and write it."""
        groups = self._bag.groups(self._stop, self._start, self._again)
        done, since = self._before, time.monotonic()
        for messages, state, is_image in overlap(groups, self._decode, self._segment,
                                                 self._encode):
            for message in messages:
                self._file.write(*message)
            if state is None:
                continue
            self._file.checkpoint(state)
            if is_image:
                done += 1
                self._progress(done, self._bag.frame_count)
        if not self._stop.is_set():
            self._state = {**self._state, 'complete': True}
            self._file.checkpoint(self._state)
        self._file.flush()
        self._seconds = time.monotonic() - since

    def close(self) -> None:
        """Free the network; the result stays available."""
        self._segmenter.close()

    def outcome(self) -> Outcome:
        """Return the result."""
        state = self._state
        complete = bool(state['complete'])
        return Outcome('done' if complete else 'interrupted', state['frames'],
                       state['frames'] - self._before, self._seconds, state['failed'],
                       state['first_problem'])

    def _decode(self, group: Group) -> _Step:
        image = decode(group.camera, group.image, self._bits) if group.camera is not None else None
        return _Step(group, image, group.position <= self._start)

    def _segment(self, step: _Step) -> _Step:
        """Run the network as the node does; on the device's thread."""
        camera, image, state = step.group.camera, step.image, dict(self._state)
        if step.again:
            if camera is None or image is None or image.frame is None:
                raise UnreadableError(f'message {step.group.position} is not the key frame that '
                                      'the output names: remove the output and start again')
            if self._again[step.group.position] == camera.name:
                self._segmenter.engine.key(image.frame, camera.name, self._confidence)
            return step
        if camera is not None and image is not None:
            state['frames'] += 1
            if image.frame is not None:
                step.result = self._segmenter.segment(image.frame, camera.name, image.stamp,
                                                      self._confidence, image.header.frame_id)
                if step.result.is_key:
                    state['keys'] = {**state['keys'], camera.name: step.group.position}
            else:
                state['failed'] += 1
                state['first_problem'] = state['first_problem'] or image.problem
            if image.header is not None and camera.name not in state['introduced']:
                step.introduce = True
                state['introduced'] = [*state['introduced'], camera.name]
        state['position'] = step.group.position
        state['schedule'] = self._segmenter.schedule.state()
        step.state = self._state = state
        return step

    def _encode(self, step: _Step) -> tuple[list[tuple[int, int, bytes]], State | None, bool]:
        """Return the messages to write: channel id, log time and content."""
        group, image = step.group, step.image
        messages = list(group.copies)
        if group.camera is not None and image is not None and not step.again:
            labels, log_time = self._segmenter.labels, group.log_time
            if step.introduce:
                channel, content = self._outputs.label_info(group.camera, image.header, labels)
                messages.append((channel, log_time, content))
            messages += [(channel, log_time, content) for channel, content
                         in self._outputs.messages(group.camera, image, step.result, labels,
                                                   self._segmenter.engine.device)]
        return messages, step.state, group.camera is not None


def _settings(job: Job, bag: BagInput) -> dict[str, str]:
    """Return the settings that a continued output must share, by the names for messages."""
    # The device may differ: another machine of a fleet may continue the task.
    fields = {key: value for key, value in asdict(job).items() if key not in ('device', 'topics')}
    return {name: json.dumps(value) for name, value in {
        **fields, 'weights': fingerprint(job.weights), 'recording': bag.identity,
        'cameras': [asdict(camera) for camera in bag.cameras]}.items()}


def _refuse_clash(source: Path, copies: list[Channel], outputs: Outputs) -> None:
    """Raise RecordingError where the recording already has topics that are to be written."""
    clash = sorted({channel.topic for channel in copies}
                   & {channel.topic for channel in outputs.channels})
    if clash:
        raise RecordingError(f'{source} already holds {", ".join(clash)}, which the output would '
                             'repeat: --only-masks leaves the old ones out')


def _make_folder(output: Path, path: Path, resume: bool) -> bool:
    """
    Create the output's folder, and return whether this process has created it.

    :param path: the file in it.
    :raises RecordingError: where it exists already, and holds nothing to continue.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            output.mkdir()
        except FileExistsError as error:
            if not resume:
                raise RecordingError(f'{output}: exists already, not overwritten; --resume '
                                     'continues an interrupted run') from error
            if not path.exists() and (not output.is_dir() or any(output.iterdir())):
                raise RecordingError(f'{output}: holds no {path.name} to continue') from error
            return False
        sync_folder(output.parent)
    except OSError as error:
        raise RecordingError(f'{output} cannot be written: {error.strerror or error}') from error
    return True


def _open(output: Path, path: Path, channels: list[Channel],
          settings: dict[str, str]) -> McapFile:
    """Begin the file, or open the one that is to be continued; it is locked until it is closed."""
    try:
        file = McapFile(path, channels)
        try:
            _check(file, output, path, settings)
            if not file.settings:  # new, or a crash came before its first message
                file.begin(settings)
        except BaseException:
            file.abandon()
            raise
    except UnknownFileError as error:
        raise RecordingError(f'{path}: not an output of segment_bag: {error}') from error
    except BlockingIOError as error:
        raise RecordingError(f'{path}: another process is writing it') from error
    except OSError as error:
        raise RecordingError(f'{output} cannot be written: {error.strerror or error}') from error
    return file


def _check(file: McapFile, output: Path, path: Path, settings: dict[str, str]) -> None:
    """
    Print how many finished chunks a damage costs.

    :raises RecordingError: where the file has other settings, or is damaged at its start.
    """
    other = [name for name, value in settings.items()
             if file.settings and file.settings.get(name, EARLIER.get(name)) != value]
    if other:
        raise RecordingError(f'{output} was started with other settings, so that --resume cannot '
                             f'continue it: {", ".join(other)}')
    lost = file.lost_chunks
    if lost and not file.state:
        raise RecordingError(f'{path} is damaged at its start, so that --resume cannot continue '
                             f'the {lost} finished chunks after it: remove the output and start '
                             f'again')
    if lost:
        print(f'{path} is damaged: {lost} finished chunks from there on are segmented again',
              file=sys.stderr, flush=True)


def _is_complete(file: McapFile, path: Path, channels: list[Channel]) -> bool:
    """Return whether an earlier run has finished the output, and nothing of it is damaged."""
    if not file.state.get('complete') or not file.is_closed:
        return False
    metadata = path.with_name(METADATA_FILE)
    return metadata.is_file() \
        and metadata.read_bytes() == bag_metadata(path, file, channels).encode()
