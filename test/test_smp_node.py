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
"""The real node with a checkpoint of segmentation_models_pytorch."""
from featshare_core.inference.segmenter import VideoSegmenter
from featshare_core.labels import CAMVID
from featshare_core.networks.checkpoint import Config, save_checkpoint
from featshare_core.networks.smp.build import smp_network
from harness import answered, image_message, linked, NodeProcess, stamped
import numpy as np
import pytest
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
import torch

try:
    import segmentation_models_pytorch  # noqa: F401
except (ImportError, RuntimeError) as error:
    pytest.skip(f'segmentation_models_pytorch is not installed, or does not work ({error})',
                allow_module_level=True)


def test_the_node_runs_it(tmp_path, peer):
    torch.manual_seed(0)
    options = {'architecture': 'Unet', 'encoder': 'resnet18', 'shared_levels': 3}
    path = tmp_path / 'unet.safetensors'
    save_checkpoint(path, smp_network(len(CAMVID), **options),
                    Config('smp', CAMVID, (96, 64), options))
    segmenter = VideoSegmenter.from_checkpoint(path, 2, 'cpu', 'fp32', input_size=(96, 64),
                                               engine='torch')
    node = NodeProcess(weights=path, key_interval=2, engine='torch', device='cpu',
                       precision='fp32', input_size='[96, 64]')
    try:
        node.wait_for_log('segmenting /image')
        masks = peer.collect(Image, '/segmentation/mask')
        publisher = peer.publisher(Image, '/image')
        linked(masks, publisher)
        # The frames below begin with a key frame, whatever those above were.
        assert peer.call(Trigger, f'{node.name}/force_key_frame', Trigger.Request()).success
        rng = np.random.default_rng(0)
        for number in range(4):
            frame = rng.integers(0, 256, (48, 72, 3), np.uint8)
            mask = answered(masks, publisher, stamped(image_message(frame)))
            expected = segmenter.segment(frame, stamp=100 + 0.05 * number).mask
            got = np.frombuffer(mask.data, np.uint8).reshape(48, 72)
            np.testing.assert_array_equal(got, expected)
    finally:
        code, _ = node.stop()
    assert code == 0, node.log
    assert 'Traceback' not in node.log, node.log
