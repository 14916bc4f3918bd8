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
"""compare-bags: how far the masks of two recordings agree."""
from bags import write_bag
from featshare_ros.recordings.bag import message_types, write_recording
from featshare_ros.recordings.compare import compare_bags, main, report
from featshare_ros.recordings.segment_bag import main as segment_bag
import numpy as np
import pytest


def write_masks(path, masks, topic='/segmentation/mask'):
    """Write (stamp in ns, mask) as raw masks without anything else."""
    from featshare_ros.recordings.bag import _header, IMAGE, image_message
    from rosbags.rosbag2 import StoragePlugin, Writer
    types = message_types()
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(topic, IMAGE, typestore=types)
        for stamp, mask in masks:
            message = image_message(np.asarray(mask, np.uint8), 'mono8', _header(types, stamp))
            writer.write(connection, stamp, types.serialize_cdr(message, IMAGE))


def test_counts_by_hand(tmp_path):
    write_masks(tmp_path / 'a', [(1, [[0, 0], [1, 1]]), (2, [[2, 2], [2, 2]]), (3, [[0, 1]])])
    write_masks(tmp_path / 'b', [(0, [[5]]), (1, [[0, 1], [1, 1]]), (3, [[0, 1]])])
    agreement = compare_bags(tmp_path / 'a', tmp_path / 'b')
    assert (agreement.frames, agreement.only_a, agreement.only_b) == (2, 1, 1)
    assert agreement.matrix[:2, :2].tolist() == [[2, 1], [0, 3]]
    assert agreement.per_lag == {}
    text = report(agreement)
    assert '/segmentation: 2 frames compared, 1 only in A, 1 only in B' in text
    assert '83.33 % of the pixels agree, mean IoU 70.83 over 2 of 2 classes' in text
    assert 'frames since key' not in text


def test_two_runs(tmp_path, random_checkpoint, capsys):
    write_bag(tmp_path / 'in', cameras=('front',), frames=12)
    for name, more in (('png', ()), ('raw', ('--raw',)), ('every', ('--key-interval', '1'))):
        assert segment_bag([str(tmp_path / 'in'), str(tmp_path / name), '--weights',
                            str(random_checkpoint), '--device', 'cpu', '--only-masks', *more]) == 0
    capsys.readouterr()
    assert main([str(tmp_path / 'png'), str(tmp_path / 'raw')]) == 0
    said = capsys.readouterr().out
    assert ': 12 frames compared, 0 only in A, 0 only in B\n100.00 % of the pixels' in said
    agreement = compare_bags(tmp_path / 'png', tmp_path / 'every')
    shares = {lag: np.trace(matrix) / matrix.sum() for lag, matrix in agreement.per_lag.items()}
    assert sorted(shares) == [0, 1, 2, 3, 4]
    assert shares[0] > 0.999  # key frames do not depend on the interval, but for rounding
    assert min(shares.values()) < 1
    assert agreement.names[:2] == ['sky', 'building']
    assert agreement.matrix.sum() == 12 * 48 * 64


def test_what_cannot_be_compared_is_reported(tmp_path, capsys):
    def failure(a, b):
        assert main([str(tmp_path / a), str(tmp_path / b)]) == 1
        return capsys.readouterr().err

    write_masks(tmp_path / 'a', [(1, [[0, 0]])])
    write_masks(tmp_path / 'later', [(2, [[0, 0]])])
    write_masks(tmp_path / 'small', [(1, [[0]])])
    write_masks(tmp_path / 'front', [(1, [[0]])], '/segmentation/front/mask')
    write_recording(tmp_path / 'none', [np.zeros((4, 4, 3), np.uint8)], '/camera', 10)
    assert 'no frame in common' in failure('a', 'later')
    assert 'differ in size: (2, 1) and (1, 1)' in failure('a', 'small')
    assert 'no camera in common: ' in failure('a', 'front')
    assert 'no masks in it' in failure('a', 'none')
    assert 'no such file or directory' in failure('a', 'missing')
    (tmp_path / 'broken.mcap').write_bytes(b'no recording')
    assert 'unreadable or truncated recording' in failure('a', 'broken.mcap')


def test_without_rosbags(tmp_path, monkeypatch):
    write_masks(tmp_path / 'a', [(1, [[0, 0]])])
    monkeypatch.setitem(__import__('sys').modules, 'rosbags.rosbag2', None)
    with pytest.raises(ImportError, match='pip install rosbags'):
        compare_bags(tmp_path / 'a', tmp_path / 'a')
