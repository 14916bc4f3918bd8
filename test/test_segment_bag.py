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
"""segment_bag: every image in order, and clear words where a recording cannot be read."""
from dataclasses import fields
import shutil
import subprocess
import sys
import threading

from bags import contents, outputs, write_bag
import cv2
from featshare_core.inference.options import from_arguments, SegmenterOptions
from featshare_core.inference.segmenter import VideoSegmenter
from featshare_core.labels import CAMVID
from featshare_ros.images import decode_compressed, decode_image
from featshare_ros.recordings.bag import IMAGE, message_types, RecordingError
from featshare_ros.recordings.bag_input import BagInput, camera_name, CameraTopic, decode
from featshare_ros.recordings.segment_bag import _parse, main
from featshare_ros.recordings.segment_recording import _make_folder, Job, segment_recording
import numpy as np
import pytest
from rosbags.rosbag2 import Reader


@pytest.fixture
def run(random_checkpoint, capsys):
    """Call segment_bag; return its exit status and what it said."""
    def call(*arguments):
        status = main([*map(str, arguments), '--weights', str(random_checkpoint),
                       '--device', 'cpu'])
        said = capsys.readouterr()
        return status, said.out + said.err
    return call


def expected_masks(recording, checkpoint, cameras, compressed):
    """Return {camera: [mask, ...]} of the library on the same images."""
    kind = f'sensor_msgs/msg/{"Compressed" * compressed}Image'
    segmenter = VideoSegmenter.from_checkpoint(checkpoint, key_interval=5, device='cpu',
                                               max_key_age=Job().max_key_age)
    masks = {camera: [] for camera in cameras}
    for topic, _, content in recording:
        camera = topic.split('/')[1]
        if camera in masks:
            message = message_types().deserialize_cdr(content, kind)
            stamp = message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec
            frame = (decode_compressed if compressed else decode_image)(message)
            masks[camera].append(segmenter.segment(frame, camera, stamp or None).mask)
    return masks


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('compressed', [False, True])
def test_round_trip_of_two_cameras(tmp_path, run, random_checkpoint, storage, compressed):
    original = write_bag(tmp_path / 'in', storage=storage, compressed=compressed)
    topics = [f'/{camera}/image_raw' + '/compressed' * compressed for camera in ('front', 'rear')]
    status, said = run(tmp_path / 'in', tmp_path / 'out', '--topic', topics[0],
                       '--topic', topics[1])
    assert status == 0, said
    assert '28 images' in said
    copied = [entry for entry in contents(tmp_path / 'out')
              if not entry[0].startswith('/segmentation')]
    assert copied == original
    found = outputs(tmp_path / 'out')
    expected = expected_masks(original, random_checkpoint, ('front', 'rear'), compressed)
    for camera, topic in zip(('front', 'rear'), topics):
        times = [log_time for name, log_time, _ in original if name == topic]
        masks = found[f'/segmentation/{camera}/mask/compressed']
        assert [log_time for log_time, _ in masks] == times
        for (log_time, message), mask in zip(masks, expected[camera], strict=True):
            stamp = message.header.stamp
            assert stamp.sec * 10**9 + stamp.nanosec == log_time - 3_000_000
            assert message.header.frame_id == camera
            assert message.format.startswith('mono8; png')
            np.testing.assert_array_equal(
                cv2.imdecode(message.data, cv2.IMREAD_UNCHANGED), mask)
        assert [log_time for log_time, _ in found[f'/segmentation/{camera}/timing']] == times
        (log_time, labels), = found[f'/segmentation/{camera}/label_info']
        assert log_time == times[0]
        assert tuple(entry.class_name for entry in labels.class_map) == CAMVID.names
    keys = [{value.key: value.value for value in message.status[0].values}
            for _, message in found['/segmentation/front/timing']]
    assert [entry['frames since key'] for entry in keys[:7]] == list('0123401')
    assert keys[0]['key reason'] == 'first'
    assert float(keys[0]['preprocess (ms)']) > 0


def test_metadata_is_that_of_a_rosbag2_recording(tmp_path, run):
    write_bag(tmp_path / 'in')
    assert run(tmp_path / 'in', tmp_path / 'out', '--topic', '/front/image_raw')[0] == 0
    with Reader(tmp_path / 'in') as source, Reader(tmp_path / 'out') as result:
        before = {c.topic: c for c in source.connections}
        after = {c.topic: c for c in result.connections}
        for topic, connection in before.items():
            for name in ('msgtype', 'msgdef', 'digest', 'msgcount', 'ext'):
                assert getattr(after[topic], name) == getattr(connection, name), (topic, name)
        assert {topic: c.msgcount for topic, c in after.items() if topic not in before} == {
            '/segmentation/mask/compressed': 14, '/segmentation/timing': 14,
            '/segmentation/label_info': 1}
        assert (source.start_time, source.end_time) == (result.start_time, result.end_time)
        # ROS 1 called the type of a stamp otherwise: Foxglove would not read on.
        assert all('builtin_interfaces/Time stamp' in c.msgdef.data for topic, c in after.items()
                   if topic.startswith('/segmentation'))
    with Reader(tmp_path / 'out' / 'out_0.mcap') as lone:  # without metadata.yaml
        assert lone.message_count == 2 * 28 + 29


def test_every_output(tmp_path, run, random_checkpoint):
    original = write_bag(tmp_path / 'in', frames=6, cameras=('front',), size=(45, 61))
    status, said = run(tmp_path / 'in', tmp_path / 'out', '--raw', '--overlay', '--confidence',
                       '--only-masks')
    assert status == 0, said
    found = outputs(tmp_path / 'out')
    assert len(contents(tmp_path / 'out')) == sum(map(len, found.values()))  # no original
    masks = expected_masks(original, random_checkpoint, ('front',), False)['front']
    for (_, message), mask in zip(found['/segmentation/mask'], masks, strict=True):
        assert (message.encoding, message.step, message.is_bigendian) == ('mono8', 61, 0)
        np.testing.assert_array_equal(message.data.reshape(45, 61), mask)
    for _, message in found['/segmentation/confidence']:
        assert message.data.min() > 0 and message.data.shape == (45 * 61,)
    for _, message in found['/segmentation/overlay/compressed']:
        assert cv2.imdecode(message.data, cv2.IMREAD_COLOR).shape == (45, 61, 3)


def test_stamps_decide_over_key_frames(tmp_path, run):
    """A zero stamp is unknown, old features are not used, and time may jump back."""
    stamps = [0, 10**9, 2 * 10**9, 0, 10**9, 10**9, 2 * 10**9]
    write_bag(tmp_path / 'in', frames=7, cameras=('front',), stamps=stamps)
    assert run(tmp_path / 'in', tmp_path / 'out', '--max-key-age', '0.9')[0] == 0
    reasons = [next(v.value for v in message.status[0].values if v.key == 'key reason')
               for _, message in outputs(tmp_path / 'out')['/segmentation/timing']]
    assert reasons == ['first', '', '', '', 'backwards', '', 'age']
    assert run(tmp_path / 'in', tmp_path / 'all', '--key-interval', '1')[0] == 0
    timing = outputs(tmp_path / 'all')['/segmentation/timing']
    assert all(message.status[0].values[0].value == 'True' for _, message in timing)


def test_damaged_images_are_left_out_and_counted(tmp_path, run):
    from rosbags.rosbag2 import StoragePlugin, Writer

    types = message_types()
    original = write_bag(tmp_path / 'good', frames=5, cameras=('front',), compressed=True)
    kind = 'sensor_msgs/msg/CompressedImage'
    with Writer(tmp_path / 'in', version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection('/front', kind, typestore=types)
        for index, (_, log_time, content) in enumerate(original[::2]):
            middle = len(content) // 2 + 200
            content = {1: content[:200], 2: content[:-300] + bytes(300),
                       3: content[:middle] + bytes(200) + content[middle + 200:],
                       }.get(index, content)
            writer.write(connection, log_time, content)
    status, said = run(tmp_path / 'in', tmp_path / 'out')
    assert status == 0
    assert '3 images were left out' in said and 'damaged message' in said
    found = outputs(tmp_path / 'out')
    assert len(found['/segmentation/mask/compressed']) == 2
    assert len(contents(tmp_path / 'out')) == 5 + 2 + 4 + 1
    messages = [message.status[0].message for _, message in found['/segmentation/timing']]
    assert 'image left out: truncated JPEG' in messages[1]
    # Its start and end are whole, its middle is lost.
    assert 'image left out: damaged JPEG' in messages[2]
    assert messages[3] == ''


def test_the_bits_of_the_sensor_and_the_source_of_an_image_are_used_as_by_the_node(
        tmp_path, monkeypatch, run):
    types = message_types()
    original = write_bag(tmp_path / 'in', frames=1, cameras=('front',))
    message = types.deserialize_cdr(original[0][2], IMAGE)
    message.encoding, message.step, message.width = 'mono16', 192, 96
    message.data = np.full(48 * 96, 4095, '<u2').view(np.uint8)
    camera, content = CameraTopic('', '/front', IMAGE), bytes(types.serialize_cdr(message, IMAGE))
    assert decode(camera, content, 12).frame.min() == 255
    assert decode(camera, content).frame.max() == 16
    assert from_arguments(Job, _parse(['in', 'out', '--sensor-bits', '12'])).sensor_bits == 12
    sources = []

    def segment(self, frame, stream='', stamp=None, confidence=False, source=''):
        sources.append(source)
        raise RuntimeError('enough')
    monkeypatch.setattr(VideoSegmenter, 'segment', segment)
    assert run(tmp_path / 'in', tmp_path / 'out', '--engine', 'torch')[0] == 1
    assert sources == ['front']


def test_what_cannot_be_done_is_reported(tmp_path, run):
    write_bag(tmp_path / 'in')

    def failure(*arguments):
        status, said = run(*arguments)
        assert status == 1
        return said

    out = tmp_path / 'out'
    assert 'no such file' in failure(tmp_path / 'missing', out)
    assert 'choose with --topic: /front/image_raw, /rear/image_raw' in failure(
        tmp_path / 'in', out)
    assert "no image topic '/left'; its topics: /chatter" in failure(
        tmp_path / 'in', out, '--topic', '/left')
    assert 'give each a different name of letters, digits and underscores' in failure(
        tmp_path / 'in', out, '--topic', 'a=/front/image_raw', '--topic', 'a=/rear/image_raw')
    assert not out.exists()
    (tmp_path / 'there').mkdir()
    assert 'exists already' in failure(tmp_path / 'in', tmp_path / 'there', '--topic',
                                       '/front/image_raw')
    one = ('--topic', '/front/image_raw')
    assert run(tmp_path / 'in', out, *one)[0] == 0
    assert 'holds /segmentation/label_info' in failure(out, tmp_path / 'again', *one)
    assert run(out, tmp_path / 'again', *one, '--only-masks')[0] == 0
    assert 'other settings, so that --resume cannot continue it: key_interval' in failure(
        tmp_path / 'in', out, *one, '--resume', '--key-interval', '3')
    (tmp_path / 'in' / 'in_0.mcap').write_bytes((tmp_path / 'in' / 'in.mcap').read_bytes())
    assert 'another program wrote it' in failure(tmp_path / 'in', tmp_path / 'in', *one,
                                                 '--resume')
    (tmp_path / 'in' / 'in.mcap').write_bytes((tmp_path / 'in' / 'in.mcap').read_bytes()[:5000])
    assert 'unreadable or truncated' in failure(tmp_path / 'in', tmp_path / 'third', *one)


OTHERS = {'key_interval': '3', 'max_key_age': '0', 'key_policy': 'change',
          'change_threshold': '0.1', 'input_size': '96x64', 'mask_size': 'network',
          'engine': 'torch', 'precision': 'fp32', 'shared_levels': '1'}
"""Another value of each setting of which masks depend, beside weights and device."""


def test_an_output_is_continued_with_its_own_settings_alone(tmp_path, run):
    write_bag(tmp_path / 'in', cameras=('front',), frames=2)
    paths = (tmp_path / 'in', tmp_path / 'out')
    assert run(*paths)[0] == 0
    assert set(OTHERS) == {field.name for field in fields(SegmenterOptions)} - {
        'weights', 'device', 'key_mode', 'moved_frames'}
    for name, value in OTHERS.items():
        status, said = run(*paths, '--resume', f'--{name.replace("_", "-")}', value)
        assert (status, said.split('continue it: ')[-1].strip()) == (1, name)
    assert 'complete already' in run(*paths, '--resume')[1]


def test_moved_frames_are_refused(tmp_path):
    write_bag(tmp_path / 'in', cameras=('front',), frames=2)
    with pytest.raises(ValueError, match='recordings have no moved frames'):
        segment_recording(tmp_path / 'in', tmp_path / 'out', Job(moved_frames=1))
    assert not (tmp_path / 'out').exists()


def test_settings_that_are_refused_leave_no_output(tmp_path, run):
    write_bag(tmp_path / 'in', cameras=('front',), frames=2)
    for options, reason in (
            ('--key-mode deferred', 'two runs would give different masks; choose blocking'),
            ('--change-threshold 1.5', 'change_threshold must be 0 to 1, not 1.5'),
            ('--change-threshold nan', 'change_threshold must be 0 to 1, not nan'),
            ('--max-key-age nan', 'max_key_age must be'),
            ('--key-interval 0', 'key_interval must be 1 or more'),
            ('--input-size 100x100', 'multiples of 32'),
            ('--engine abacus', "engine 'abacus' is none of auto, torch")):
        status, said = run(tmp_path / 'in', tmp_path / 'out', *options.split())
        assert status == 1 and reason in said, said
        assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('fails', [None, 'warm_up', 'segment'])
def test_the_network_is_closed_however_the_run_ends(tmp_path, run, monkeypatch, fails):
    write_bag(tmp_path / 'in', cameras=('front',), frames=2)
    closed, close = [], VideoSegmenter.close

    def fail(*arguments):
        raise RuntimeError('no finite numbers')
    if fails is not None:
        monkeypatch.setattr(VideoSegmenter, fails, fail)
    monkeypatch.setattr(VideoSegmenter, 'close',
                        lambda segmenter: (closed.append(segmenter), close(segmenter)))
    status, said = run(tmp_path / 'in', tmp_path / 'out')
    assert status == (0 if fails is None else 1), said
    assert fails is None or 'no finite numbers' in said
    assert len(closed) == 1
    # Before the first image there is nothing to continue.
    assert (tmp_path / 'out').exists() == (fails != 'warm_up')


def test_input_that_is_damaged_further_on(tmp_path, run):
    """What comes before the damage is kept, in a recording that is closed."""
    write_bag(tmp_path / 'in', cameras=('front',), size=(480, 640), chatter=False)
    file = tmp_path / 'in' / 'in.mcap'
    content = bytearray(file.read_bytes())
    content[len(content) // 2:len(content) // 2 + 1_000_000] = b'\xff' * 1_000_000
    file.write_bytes(content)
    status, said = run(tmp_path / 'in', tmp_path / 'out')
    assert status == 1
    assert 'unreadable after' in said and 'closed and readable' in said
    masks = outputs(tmp_path / 'out')['/segmentation/mask/compressed']
    assert 4 <= len(masks) < 14
    assert f'The {len(masks)} images until then' in said


def test_it_needs_no_ros(tmp_path, random_checkpoint):
    write_bag(tmp_path / 'in', frames=2, cameras=('front',))
    code = ('import sys\n'
            'for name in ("rclpy", "sensor_msgs", "std_msgs", "diagnostic_msgs"):\n'
            '    sys.modules[name] = None\n'
            'from featshare_ros.recordings.segment_bag import main\n'
            'sys.exit(main())')
    done = subprocess.run(
        [sys.executable, '-c', code, tmp_path / 'in', tmp_path / 'out', '--weights',
         random_checkpoint], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert len(outputs(tmp_path / 'out')['/segmentation/mask/compressed']) == 2


def test_names_of_cameras():
    assert camera_name('/front/image_raw/compressed') == 'front'
    assert camera_name('/camera/left/image_color') == 'camera_left'
    assert camera_name('/image_raw') == 'image_raw'
    assert camera_name('/rear') == 'rear'


def test_messages_of_other_topics_come_in_bounded_groups(tmp_path):
    write_bag(tmp_path / 'in', frames=5, cameras=('front',))
    with BagInput(tmp_path / 'in', (), copy=True) as bag:
        groups = list(bag.groups(threading.Event()))
        assert [group.position for group in groups] == [1, 3, 5, 7, 9, 10]
        assert [len(group.copies) for group in groups] == [1, 2, 2, 2, 2, 1]
        later = list(bag.groups(threading.Event(), start=5, again={3}))
        assert [(group.position, len(group.copies)) for group in later] == [
            (3, 0), (7, 2), (9, 2), (10, 1)]


def test_memory_is_bounded(tmp_path, random_checkpoint):
    """A recording twelve times as large takes no more memory."""
    # Not the child's resource usage, which counts what it was before it was Python.
    code = ('import re, sys\n'
            'from featshare_ros.recordings.segment_bag import main\n'
            'assert main(sys.argv[1:]) == 0\n'
            'print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])')
    peaks = []
    for frames in (20, 250):
        write_bag(tmp_path / 'in', frames=frames, cameras=('front',), size=(480, 640))
        done = subprocess.run(
            [sys.executable, '-c', code, tmp_path / 'in', tmp_path / f'out{frames}', '--weights',
             random_checkpoint, '--device', 'cpu'], capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]) / 1024)
        size = sum(file.stat().st_size for file in (tmp_path / 'in').iterdir()) / 2**20
        for folder in ('in', f'out{frames}'):
            shutil.rmtree(tmp_path / folder)
    print(f'{peaks} MB, recording of {size:.0f} MB')
    assert size > 200
    assert peaks[1] - peaks[0] < 40, f'{peaks} MB of memory for 20 and 250 images'


def test_one_process_alone_begins_an_output(tmp_path):
    """Of several that start at the same time without --resume, all but one are refused."""
    begun, refused, barrier = [], [], threading.Barrier(8)

    def begin(output):
        barrier.wait()
        try:
            begun.append(_make_folder(output, output / 'out_0.mcap', resume=False))
        except RecordingError as error:
            refused.append(str(error))

    for attempt in range(10):
        output = tmp_path / 'new' / str(attempt)
        threads = [threading.Thread(target=begin, args=(output,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert begun == [True] * (attempt + 1)
        assert len(refused) == 7 * (attempt + 1)
    assert all('exists already, not overwritten' in text for text in refused)
