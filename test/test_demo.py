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
"""The demo as a user runs it, with the real node on real ROS 2, and what it writes."""
from __future__ import annotations

from pathlib import Path
import re
import subprocess
import sys

import cv2
from featshare_core.data.synthetic import RenderedStreet
from featshare_core.labels import CAMVID, CITYSCAPES
from featshare_core.networks.checkpoint import Config, save_checkpoint
from featshare_ros.demo import __main__ as demo
from featshare_ros.demo.preparation import MOST_DROPPED, SAMPLES, SLOWDOWNS
from featshare_ros.demo.replay import ReplayError, Run
from featshare_ros.demo.report import draw_legend, OverlayVideo, write_contact_sheet
from featshare_ros.recordings.bag import open_recording, RecordedImage, write_recording
import numpy as np
import pytest
from test_demo_page import check_page
import torch

FRAMES, FPS, SIZE = 24, 8, (320, 192)
FAST = 200
"""Rate in Hz that the small network hardly keeps up with, and ``slow_checkpoint`` never does."""


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network: its masks are nonsense, the way there is the same."""
    return untrained(tmp_path_factory.mktemp('weights'), (96, 64))


@pytest.fixture(scope='module')
def slow_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that takes more than twice 1 / FAST per frame on two fast cores."""
    return untrained(tmp_path_factory.mktemp('weights'), (256, 160))


def untrained(folder: Path, input_size: tuple[int, int]) -> Path:
    torch.manual_seed(0)
    path = folder / 'untrained.safetensors'
    config = Config('fpn-densenet121', CAMVID, input_size, {'shared_levels': 2})
    save_checkpoint(path, config.build(), config)
    return path


def street(path: Path, fps: float) -> Path:
    """Write a recording of a rendered street that moves by 1/8 s from frame to frame."""
    frames = RenderedStreet(*SIZE, seed=3, fps=FPS)
    write_recording(path, (frames.frame(index)[0] for index in range(FRAMES)),
                    '/camera/image_raw', fps)
    return path


@pytest.fixture(scope='module')
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of a rendered street."""
    return street(tmp_path_factory.mktemp('recordings') / 'street', FPS)


def run(*arguments: object, before: str = '') -> subprocess.CompletedProcess[str]:
    """Run the demo; ``before`` is Python that runs in its process first."""
    program = ['-c', f'{before}\nfrom featshare_ros.demo.__main__ import main; exit(main())'] \
        if before else ['-m', 'featshare_ros.demo']
    return subprocess.run([sys.executable, *program, *map(str, arguments)],
                          capture_output=True, text=True, timeout=150,
                          cwd=Path(__file__).parents[1])


def shapes_in(video: Path) -> list[tuple[int, ...]]:
    """Return the shape of every frame that can be read."""
    reader, shapes = cv2.VideoCapture(str(video)), []
    while (frame := reader.read()[1]) is not None:
        shapes.append(frame.shape)
    return shapes


def nodes_left(weights: Path) -> list[str]:
    """Return the command lines of processes that were started with these weights."""
    lines = []
    for file in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            lines.append(file.read_text(errors='replace').replace('\0', ' '))
        except OSError:
            continue  # ended meanwhile
    return [line for line in lines if str(weights) in line]


@pytest.mark.timeout(180)
@pytest.mark.parametrize('fps', (FPS, FAST))
def test_demo(checkpoint: Path, tmp_path: Path, fps: int) -> None:
    done = run('--recording', street(tmp_path / 'street', fps), '--output', tmp_path,
               '--weights', checkpoint, '--device', 'cpu', '--key-interval', 3)
    assert done.returncode == 0, done.stderr
    table = (tmp_path / 'latency.md').read_text()
    assert '\n'.join(table.splitlines()[2:]) in done.stdout
    rate = replayed_at(table, fps)
    sent_at = re.search(rf'\| {FRAMES} at ([\d.]+) Hz', table)
    assert sent_at is not None and float(sent_at[1]) == pytest.approx(rate, rel=0.1)
    received, dropped, unreached = (
        sum(map(int, re.findall(rf'{row}[^|]*\| (\d+)', table)))
        for row in ('masks received', 'dropped by the node', 'did not reach the node'))
    # Only those of the replay: the images that the node was prepared with are not counted.
    assert received + dropped + unreached == FRAMES
    assert received >= 0.9 * FRAMES
    assert unreached <= FRAMES // 8  # a starved machine loses one now and then; DDS is best effort
    assert 'could not' not in table and 'come back' not in table and 'stamp' not in table
    assert len(re.findall(r'p95 / max ms +\| [\d.]+ / [\d.]+ / [\d.]+ ', table)) == 3
    assert re.search(r'\| before the replay: first image to its mask +\| [\d.]+ s ', table)
    assert re.search(r'\| engine +\| (OpenVINO, (fp32|bf16)|PyTorch, fp32), on cpu ', table)
    assert 'key frame every 3' in table
    for name in ('overlay.webm', 'contact_sheet.png', 'latency.md', 'index.html'):
        assert str(tmp_path / name) in done.stdout
    assert (tmp_path / 'index.html').as_uri() in done.stdout
    assert 'OpenCV' not in done.stderr
    check_page(tmp_path)

    video = cv2.VideoCapture(str(tmp_path / 'overlay.webm'))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(min(fps, 100))
    shapes = shapes_in(tmp_path / 'overlay.webm')
    assert len(shapes) == FRAMES and set(shapes) == {shapes[0]}
    assert shapes[0][0] > SIZE[1] and shapes[0][1] == SIZE[0]
    assert cv2.imread(str(tmp_path / 'contact_sheet.png')).std() > 20
    assert not nodes_left(checkpoint)


@pytest.mark.timeout(180)
def test_replay_that_drops_frames_is_repeated_slower(slow_checkpoint: Path,
                                                     tmp_path: Path) -> None:
    done = run('--recording', street(tmp_path / 'street', FAST), '--output', tmp_path,
               '--weights', slow_checkpoint, '--device', 'cpu', before=(
                   'from featshare_ros.demo import preparation\n'
                   'preparation.choose_slowdown = lambda *_: 1.0'))
    assert done.returncode == 0, done.stderr
    assert 'more than 5% of the frames were dropped: repeating at a lower rate' in done.stdout
    table = (tmp_path / 'latency.md').read_text()
    row = re.search(rf'\| replayed at +\| ([\d.]+) of {FAST} Hz: at ([\d.]+) Hz this machine '
                    r'dropped more than 5% of the frames +\|\n', table)
    assert row is not None, table
    rates = [f'{FAST / factor:.3g}' for factor in SLOWDOWNS]
    assert rates.index(row[1]) == rates.index(row[2]) + 1
    counts = [int(re.search(rf'\| {name}[^|]*\| (\d+)', table)[1])  # type: ignore[index]
              for name in ('frames sent', 'masks received', 'dropped by the node')]
    assert counts[0] == FRAMES and counts[1] + counts[2] <= FRAMES
    # The lowest rate is the last, whatever is dropped: a busy machine may not hold it either.
    assert counts[1] >= 0.9 * FRAMES or row[1] == rates[-1]


def replayed_at(table: str, fps: int) -> float:
    """Return the rate of the replay in Hz, and check that it is one of the allowed rates."""
    row = re.search(r'\| replayed at +\| (.*?) +\|\n', table)
    assert row is not None
    if row[1] == f'{fps} Hz, as recorded':
        return fps
    slower = re.fullmatch(
        rf'([\d.]+) of {fps} Hz: (this machine needs \d+ ms per frame, \d+ ms or more for one in '
        rf'ten|at [\d.]+ Hz this machine dropped more than {MOST_DROPPED:.0%} of the frames)',
        row[1])
    assert slower is not None, row[1]
    assert slower[1] in {f'{fps / factor:.3g}' for factor in SLOWDOWNS[1:]}
    return float(slower[1])


@pytest.mark.timeout(120)
def test_demo_says_why_it_cannot(recording: Path, tmp_path: Path) -> None:
    missing = tmp_path / 'missing.safetensors'
    done = run('--recording', recording, '--output', tmp_path, '--weights', missing)
    assert done.returncode == 1
    assert f'demo: the node cannot be configured: checkpoint {missing} does not' in done.stderr
    assert not nodes_left(missing)
    done = run('--recording', tmp_path / 'nothing', '--output', tmp_path)
    assert done.returncode == 1 and 'no such file' in done.stderr


def test_street_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, 'STREET_SIZE', (64, 48))
    monkeypatch.setattr(demo, 'STREET_FRAMES', 3)
    (tmp_path / 'street_64x48_25hz').mkdir()  # as an interrupted one leaves it
    path = demo.street_recording(tmp_path)
    made = (path / 'metadata.yaml').stat().st_mtime_ns
    assert demo.street_recording(tmp_path) == path
    assert (path / 'metadata.yaml').stat().st_mtime_ns == made
    with open_recording(path) as street:
        assert street.frame_count == 3


def test_key_frames_are_given_only_where_they_are_known() -> None:
    from sensor_msgs.msg import Image

    happened = Run()
    for stamp_ns in (0, 10**8, 3 * 10**8, 4 * 10**8, 15 * 10**8, 16 * 10**8):
        happened.sent[stamp_ns] = happened.received[stamp_ns] = 1.0
        happened.keep_mask(stamp_ns, Image(height=2, width=3, data=bytes(range(6))))
    assert demo.key_stamps(happened, 3) is None  # no diagnostics from the node
    happened.diagnostics['processed'] = '7'
    assert demo.key_stamps(happened, 3) is None  # a mask is missing
    happened.diagnostics['processed'] = '6'
    assert demo.key_stamps(happened, 3) == {0, 4 * 10**8, 15 * 10**8}  # first, interval, age
    np.testing.assert_array_equal(happened.mask(10**8), [[0, 1, 2], [3, 4, 5]])
    assert happened.mask(5) is None


def test_samples_are_images_that_can_be_decoded() -> None:
    from sensor_msgs.msg import CompressedImage

    jpeg = cv2.imencode('.jpg', np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    images = [RecordedImage('/image', index, index,
                            CompressedImage(format='jpeg', data=jpeg[:200] if bad else jpeg),
                            True, b'') for index, bad in enumerate([True, *[False, True] * 20])]
    found = demo.samples(images)  # type: ignore[arg-type]
    assert [image.stamp_ns for image in found] == [2 * index + 1 for index in range(SAMPLES)]
    with pytest.raises(ReplayError, match='no image of the recording can be decoded'):
        demo.samples(images[:1])  # type: ignore[arg-type]


def test_pictures_of_any_size(tmp_path: Path) -> None:
    """Odd, huge and changing sizes, masks of another size, unlabelled pixels, few moments."""
    rng = np.random.default_rng(0)
    moments = []
    with OverlayVideo(tmp_path / 'a.webm', CITYSCAPES, 10) as video:
        for height, width in ((301, 2571), (40, 30), (301, 2571)):
            rgb = rng.integers(0, 256, (height, width, 3), np.uint8)
            mask = rng.choice(np.array([0, 18, 255], np.uint8), (height // 2, width // 2))
            video.add(rgb, mask, 'text')
            video.add(rgb, None, 'text', 'alert')
            moments.append((rgb, mask, 'caption'))
    shapes = shapes_in(tmp_path / 'a.webm')
    assert len(shapes) == 6 and shapes[0][1] == 960
    write_contact_sheet(tmp_path / 'a.png', moments[:2], CITYSCAPES, 'title')
    assert cv2.imread(str(tmp_path / 'a.png')) is not None


def test_legend_shows_every_class() -> None:
    for width in (120, 640, 2000):
        legend = draw_legend(CITYSCAPES, width)
        assert legend.shape[1] == width
        present = {tuple(color) for color in legend.reshape(-1, 3).tolist()}
        assert set(CITYSCAPES.colors) <= present
