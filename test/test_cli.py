"""The featshare command, without ROS."""
import cv2
import numpy as np

from featshare_core.cli import main
from featshare_core.inference.segmenter import VideoSegmenter


def test_segment_writes_a_mask_for_each_image(tmp_path, random_checkpoint, capsys):
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), np.uint8)
    (tmp_path / 'in').mkdir()
    for index, image in enumerate(images):
        cv2.imwrite(str(tmp_path / 'in' / f'{index}.png'), image[..., ::-1])
    assert main(['segment', str(tmp_path / 'in'), str(tmp_path / 'out'), '--overlay',
                 '--weights', str(random_checkpoint), '--key-interval', '2',
                 '--device', 'cpu']) == 0
    segmenter = VideoSegmenter.from_checkpoint(random_checkpoint, 2, 'cpu')
    for index, image in enumerate(images):
        mask = cv2.imread(str(tmp_path / 'out' / f'{index}.png'), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, segmenter.segment(image).mask)
        assert (tmp_path / 'out' / f'{index}_overlay.jpg').is_file()
    assert '2 key frames' in capsys.readouterr().out


def test_segment_reads_a_video(tmp_path, random_checkpoint):
    video = cv2.VideoWriter(str(tmp_path / 'v.mp4'), cv2.VideoWriter.fourcc(*'mp4v'), 10, (64, 48))
    for level in range(4):
        video.write(np.full((48, 64, 3), 60 * level, np.uint8))
    video.release()
    assert main(['segment', str(tmp_path / 'v.mp4'), str(tmp_path / 'out'),
                 '--weights', str(random_checkpoint), '--device', 'cpu']) == 0
    assert len(list((tmp_path / 'out').iterdir())) == 4


def test_what_cannot_be_done_is_reported(tmp_path, random_checkpoint, capsys):
    def failure(*arguments):
        assert main(['segment', *map(str, arguments), '--weights', str(random_checkpoint)]) == 1
        return capsys.readouterr().err
    (tmp_path / 'empty').mkdir()
    assert 'holds no image' in failure(tmp_path / 'empty', tmp_path / 'out')
    assert 'no folder, and no video' in failure(tmp_path / 'nothing.mp4', tmp_path / 'out')
    (tmp_path / 'empty' / 'bad.png').write_bytes(b'x')
    assert 'bad.png cannot be decoded' in failure(tmp_path / 'empty', tmp_path / 'out')
    (tmp_path / 'file').write_text('')
    assert 'File exists' in failure(tmp_path / 'empty', tmp_path / 'file')
    assert 'is the input too' in failure(tmp_path / 'empty', tmp_path / 'empty')
    (tmp_path / 'empty' / 'bad.jpg').write_bytes(b'x')
    assert 'would have the same mask' in failure(tmp_path / 'empty', tmp_path / 'out')
