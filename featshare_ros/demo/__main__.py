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
Show the whole path: a camera recording in, masks out, through real ROS 2.

Starts the segmentation node as its own process, waits for the first mask, and replays a recording
into the node, at the recorded rate or the highest at which it drops few frames. Receives the masks
over ROS 2, and writes a page with a video, a contact sheet and a latency table.
Run as ``python -m featshare_ros.demo``.
"""
from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
import itertools
import os
from pathlib import Path
import platform
import shutil
import signal
import sys
from types import FrameType

from featshare_core.arguments import add_common
from featshare_core.inference.export.models import read_config
from featshare_core.inference.schedule import KeyFrameSchedule
from featshare_core.labels import LabelSet
from featshare_core.progress import track
from featshare_ros.demo.page import write_page
from featshare_ros.demo.preparation import (
    Preparation,
    prepare,
    replay_at_a_rate_that_holds,
    SAMPLES,
)
from featshare_ros.demo.replay import NAMESPACE, NodeProcess, Replay, ReplayError, Run
from featshare_ros.demo.report import (
    markdown_table,
    OverlayVideo,
    percentiles,
    Picture,
    ReportError,
    write_contact_sheet,
)
from featshare_ros.images import (
    decode_compressed,
    decode_image,
    ImageError,
    stamp_seconds,
)
from featshare_ros.recordings.bag import (
    COMPRESSED_IMAGE,
    open_recording,
    RecordedImage,
    Recording,
    RecordingError,
    write_recording,
)
import numpy as np
import numpy.typing as npt

MAX_KEY_AGE = 0.3
"""The node's max_key_age, in seconds."""

STREET_SIZE, STREET_FPS, STREET_FRAMES, STREET_SEED = (960, 540), 25, 200, 1
"""The rendered street: (width, height) in pixels, Hz, number of frames, seed."""

MOMENTS = 12
"""Number of pictures in the contact sheet."""

ENGINES = {'openvino': 'OpenVINO', 'torch': 'PyTorch', 'graphs': 'CUDA graphs',
           'onnx': 'ONNX Runtime', 'onnx-cuda': 'ONNX Runtime with CUDA',
           'onnx-tensorrt': 'ONNX Runtime with TensorRT',
           'onnx-openvino': 'ONNX Runtime with OpenVINO'}
"""Product name of each engine."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit status."""
    options = _parse(arguments)
    # SIGTERM, like Ctrl-C, must also stop the node.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        run_demo(options.recording, options.topic, options.output, options.weights,
                 options.key_interval, options.device)
    except (RecordingError, ReplayError, ReportError, ImportError) as error:
        print(f'demo: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('demo: interrupted', file=sys.stderr)
        return 130
    return 0


def run_demo(path: Path | None, topic: str, output: Path, weights: str, key_interval: int,
             device: str) -> Run:
    """
    Replay a recording, or where ``path`` is None the rendered street, and write the results.

    :returns: the frames sent and the masks received.
    :raises RecordingError, ReplayError, ReportError: where it cannot be done; the text says why.
    """
    output.mkdir(parents=True, exist_ok=True)
    prepare_environment()
    with open_recording(path or street_recording(output), topic) as recording:
        print(f'recording: {path or "rendered street"}, {recording.frame_count} frames of '
              f'{recording.topic}, {recording.duration:.1f} s')
        compressed = recording.message_type == COMPRESSED_IMAGE
        command = [
            sys.executable, '-m', 'featshare_ros.main', '--ros-args', '-r', f'__ns:={NAMESPACE}',
            '-p', f'weights:={weights}', '-p', f'device:={device}', '-p', 'autostart:=true',
            '-p', f'image_transport:={"compressed" if compressed else "raw"}',
            '-p', f'key_interval:={key_interval}', '-p', f'max_key_age:={MAX_KEY_AGE}']
        with NodeProcess(command, output / 'node.log') as process, \
                Replay(compressed) as replay:
            print('waiting for the node ...')
            replay.wait_for_node(process)
            print('preparing the engine for the size of the images, and timing it ...')
            preparation = prepare(replay, process, samples(recording))
            slowdown = replay_at_a_rate_that_holds(replay, process, recording,
                                                   preparation.slowdown)
            run = replay.run
            if not run.received:
                raise ReplayError(process.with_log(
                    f'{len(run.sent)} frames were sent and no mask came back'))
        title = path.name if path else 'rendered street'
        rate = preparation.rate_text(_rate(sorted(run.sent)), slowdown)
        rows = latency_rows(run, preparation, rate, recording, title)
        table = markdown_table(rows)
        (output / 'latency.md').write_text(f'# Latency of the demo\n\n{table}\n')
        print(f'\n{table}\n')
        print('writing the video and the pictures ...')
        labels = read_config(weights).labels
        write_pictures(recording, run, key_stamps(run, key_interval), labels, output)
    write_page(output, title, labels, rows)
    for name in ('overlay.webm', 'contact_sheet.png', 'latency.md', 'index.html'):
        print(output / name)
    print(f'\nOpen {(output / "index.html").resolve().as_uri()} in a browser.')
    return run


def prepare_environment() -> None:
    """
    Set up ROS 2 for this process and the node: local discovery, and room for large images.

    A ROS_DOMAIN_ID that is set already is kept, so that other tools can see the topics.
    """
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    os.environ['ROS_LOCALHOST_ONLY'] = '1'  # Humble's name for it
    # Domains up to 101 use ports below Linux's ephemeral ones.
    os.environ.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 100))
    # With Fast DDS's default settings, images above 512 KiB are lost between processes. Kilted
    # reads the first of these variables, distributions up to Jazzy only the second.
    profile = str(_find_config('fastdds_large_images.xml'))
    os.environ.setdefault('FASTDDS_DEFAULT_PROFILES_FILE', profile)
    os.environ.setdefault('FASTRTPS_DEFAULT_PROFILES_FILE', profile)


def street_recording(output: Path) -> Path:
    """Return the recording of the rendered street; render it where missing or incomplete."""
    from featshare_core.data.synthetic import RenderedStreet

    width, height = STREET_SIZE
    path = output / f'street_{width}x{height}_{STREET_FPS}hz'
    if (path / 'metadata.yaml').exists():
        return path
    if path.exists():
        shutil.rmtree(path)
    street = RenderedStreet(width, height, STREET_SEED, STREET_FPS)
    frames = (street.frame(index)[0]
              for index in track(range(STREET_FRAMES), 'rendering a street', 'frames'))
    write_recording(path, frames, '/camera/image_raw/compressed', STREET_FPS, jpeg_quality=92)
    return path


def samples(recording: Recording) -> list[RecordedImage]:
    """
    Return the first images that can be decoded, at most ``SAMPLES``.

    :raises ReplayError: where there is none.
    """
    found = list(itertools.islice(
        (image for image in recording if _decode(image) is not None), SAMPLES))
    if not found:
        raise ReplayError('no image of the recording can be decoded')
    return found


def key_stamps(run: Run, key_interval: int) -> set[int] | None:
    """
    Return the stamps of key frames in nanoseconds, or None where they are not known.

    Masks do not carry it. It follows from the schedule, if every frame that the node counts as
    processed has its mask here.
    """
    if run.diagnostics.get('processed') != str(len(run.received)):
        return None
    schedule = KeyFrameSchedule(key_interval, MAX_KEY_AGE)
    keys = set()
    for stamp_ns in run.received:
        stamp = stamp_seconds(*divmod(stamp_ns, 10**9))
        if schedule.next('', run.mask_size(stamp_ns), stamp).reason:
            keys.add(stamp_ns)
    return keys


def write_pictures(recording: Recording, run: Run, keys: set[int] | None, labels: LabelSet,
                   output: Path) -> None:
    """Write overlay.webm with every frame, and contact_sheet.png with ``MOMENTS`` of them."""
    stamps = sorted(run.received)
    chosen = {stamps[round(at)] for at in np.linspace(0, len(stamps) - 1, MOMENTS)}
    moments: list[tuple[Picture, npt.NDArray[np.uint8], str]] = []
    mask: npt.NDArray[np.uint8] | None = None
    age = 0
    fps = min(100.0, max(1.0, _rate(sorted(run.sent))))
    with OverlayVideo(output / 'overlay.webm', labels, fps) as video:
        for index, (stamp, rgb) in enumerate(track(_pictures(recording), 'overlay.webm', 'frames',
                                                   len(run.sent))):
            caption = f'frame {index + 1}'
            alert = ''
            if stamp in run.received:
                mask, age = run.mask(stamp), 0
                latency = 1e3 * (run.received[stamp] - run.sent[stamp])
                kind = '' if keys is None else '  key' if stamp in keys else '  current'
                caption += f'{kind}  {latency:.0f} ms'
            else:
                age += 1
                alert = 'dropped: no mask yet' if mask is None \
                    else f'dropped: mask of {age} frame{"s" if age > 1 else ""} ago'
            video.add(rgb, mask, caption, alert)
            if stamp in chosen and mask is not None:
                moments.append((rgb, mask, caption))
    write_contact_sheet(output / 'contact_sheet.png', moments, labels,
                        'featshare_ros: camera image and published mask')


def latency_rows(run: Run, preparation: Preparation, rate: str, recording: Recording, title: str,
                 ) -> list[tuple[str, str]]:
    """
    Return the rows of the table, name and value. They describe the replay, unless they name more.

    :param rate: of the replay, as text.
    """
    status = run.diagnostics
    sent, received = len(run.sent), len(run.received)
    rows = [
        ('recording', title),
        ('image', f'{recording.topic}, {recording.message_type.rsplit("/", 1)[1]}'),
        ('replayed at', rate),
        ('frames sent', f'{sent} at {_rate_text(list(run.sent.values()))}'),
        ('masks received', f'{received} at {_rate_text(list(run.received.values()))}'),
        ('dropped by the node: replaced by newer frames', status.get('dropped', '–')),
        ('latency, frame published to mask received: p50 / p95 / max ms',
         percentiles(run.latencies())),
        ('in the node, key frames: p50 / p95 / max ms', _latency(status, 'key latency')),
        ('in the node, current frames: p50 / p95 / max ms',
         _latency(status, 'current latency')),
        ('before the replay: first image to its mask', f'{preparation.first_mask_s:.1f} s'),
        ('engine', f'{ENGINES.get(status.get("engine", ""), status.get("engine", "–"))}, '
                   f'{status.get("precision", "–")}, on {status.get("device", "–")}'),
        ('network', f'{status.get("network", "–")}, checkpoint {status.get("checkpoint", "–")}, '
                    f'key frame every {status.get("key_interval", "–")}'),
        ('machine', f'{_processor()}, {os.cpu_count()} cores'),
    ]
    if preparation.engine_s is not None:
        rows.insert(10, ('before the replay: first image to the engine prepared for its size',
                         f'{preparation.engine_s:.1f} s'))
    faults = {'stand-in masks, before the engine was prepared for the size':
              int(status.get('stand-ins', 0)),
              'images that the node could not segment': int(status.get('failed', 0)),
              'frames that did not reach the node': sent - int(status.get('received', sent)),
              'masks that did not come back': int(status.get('processed', received)) - received,
              'masks with a stamp that no frame had': run.unmatched}
    rows[6:6] = [(name, str(count)) for name, count in faults.items() if count]
    return rows


def _pictures(recording: Recording) -> Iterator[tuple[int, Picture]]:
    """Yield stamp and picture of every frame; for a damaged image, the one before it."""
    rgb: Picture | None = None
    waiting: list[RecordedImage] = []
    for image in recording:
        waiting.append(image)
        picture = _decode(image)
        rgb = rgb if picture is None else picture
        if rgb is None:
            continue
        for earlier in waiting:
            yield earlier.stamp_ns, rgb
        waiting.clear()


def _decode(image: RecordedImage) -> Picture | None:
    """Return HxWx3 uint8 RGB, or None where the image is damaged."""
    try:
        return (decode_compressed if image.compressed else decode_image)(image.message)
    except ImageError:
        return None


def _latency(status: Mapping[str, str], name: str) -> str:
    """Return 'p50 / p95 / max' (ms) of a latency in the node's diagnostics."""
    return ' / '.join(status.get(f'{name} {which} (ms)', '–') for which in ('p50', 'p95', 'max'))


def _rate(times_ns: Sequence[int]) -> float:
    """Return the mean rate in Hz of ascending times in nanoseconds; 1 where there is none."""
    if len(times_ns) < 2 or times_ns[-1] == times_ns[0]:
        return 1.0
    return (len(times_ns) - 1) * 1e9 / (times_ns[-1] - times_ns[0])


def _rate_text(seconds: Sequence[float]) -> str:
    """Return the mean rate of ascending times."""
    return f'{_rate([round(time * 1e9) for time in seconds]):.3g} Hz' if len(seconds) > 1 else '–'


def _processor() -> str:
    """Return the processor's name as the system gives it."""
    try:
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.split(':', 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _find_config(name: str) -> Path:
    """Return a file of ``config/``, in the source tree or in the installation prefix."""
    for parent in Path(__file__).resolve().parents:
        for folder in (parent / 'config', parent / 'share' / 'featshare_ros' / 'config'):
            if (folder / name).is_file():
                return folder / name
    raise ReplayError(f'{name} was not installed with the package')


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Treat a signal as Ctrl-C."""
    raise KeyboardInterrupt


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser('python -m featshare_ros.demo', description=__doc__)
    add_common(parser)
    parser.add_argument('--recording', type=lambda text: Path(text) if text else None,
                        help='a rosbag2 recording (directory, .mcap, .db3) or a video file; '
                             'default: a rendered street')
    parser.add_argument('--topic', default='', help='the image topic, where there are several')
    parser.add_argument('--output', type=Path, default=Path('demo'), help='default: %(default)s')
    parser.add_argument('--weights', default='default',
                        help="a shipped checkpoint's name, a .safetensors file, a folder that "
                             '`featshare export` or save_pretrained wrote, or a name that '
                             '`featshare pull` fetched; default: %(default)s')
    parser.add_argument('--key-interval', type=int, default=5, metavar='N',
                        help='a key frame every N processed frames; default: %(default)s')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    return parser.parse_args(arguments)


if __name__ == '__main__':
    sys.exit(main())
