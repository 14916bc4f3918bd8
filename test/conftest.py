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
"""What all tests share: a ROS domain of their own, and where data may be."""
from contextlib import suppress
import functools
import logging
import os
from pathlib import Path
import random
import sys
import tempfile

import pytest

if 'launch.logging' in sys.modules:
    # launch_testing's plugin has imported it, and it keeps the lines of new loggers from caplog.
    logging.setLoggerClass(logging.Logger)

REPOSITORY = Path(__file__).resolve().parents[1]

# Before rclpy is imported anywhere: no cross-talk with other nodes on this machine or network,
# and images of any size between processes.
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
os.environ['ROS_LOCALHOST_ONLY'] = '1'
os.environ.setdefault('ROS_DOMAIN_ID', str(random.SystemRandom().randint(1, 90)))
_worker = os.environ.get('PYTEST_XDIST_WORKER')
if _worker:
    # Before PyTorch is imported, here and in the nodes: threads of several processes that spin
    # on the same cores slow each other down several times.
    _share = (os.cpu_count() or 1) // int(os.environ['PYTEST_XDIST_WORKER_COUNT'])
    os.environ.setdefault('OMP_NUM_THREADS', str(max(1, _share)))
if _worker and 'ROS_DOMAIN_ID_OF_TESTS' not in os.environ:
    # A domain for each of pytest's processes, which have all inherited the first one's.
    os.environ['ROS_DOMAIN_ID_OF_TESTS'] = os.environ['ROS_DOMAIN_ID']
    os.environ['ROS_DOMAIN_ID'] = str(int(os.environ['ROS_DOMAIN_ID']) + 1 + int(_worker[2:]))
for _variable in ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'):
    os.environ[_variable] = str(REPOSITORY / 'config' / 'fastdds_large_images.xml')


# Nothing of an earlier run, nor of the user's.
_cache = tempfile.TemporaryDirectory(prefix='featshare-test-cache-')
os.environ['XDG_CACHE_HOME'] = _cache.name


LONG_FILES = ('test_kernels', 'test_report', 'test_training', 'test_engines', 'test_faults',
              'test_lifecycle', 'test_smp', 'test_segment_bag_resume', 'test_segment_bag',
              'test_health', 'test_diagnostics', 'test_image_loss', 'test_nodes', 'test_segmenter',
              'test_smp_training', 'test_fleet', 'test_ending', 'test_first_image',
              'test_preparing', 'test_doctor', 'test_install', 'test_demo', 'test_latency',
              'test_data', 'test_time')
"""Test files of more than about 15 seconds, the longest first."""


def pytest_collection_modifyitems(items):
    """Begin with the longest files, or one process alone would end with them."""
    order = {name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path, parent):
    """
    Import test files while they are collected, not before.

    launch_testing's plugin imports each file earlier. There, a file that is skipped because a
    package is missing skips its whole folder: on a robot, not one test would run.
    """
    if module_path.name == 'test_launch_testing.py':
        with suppress(ImportError):
            import launch_ros  # noqa: F401
            return None  # launch_testing collects it
    return pytest.Module.from_parent(parent, path=module_path)


def shared_data() -> Path:
    """Return the folder with real video, which the package's users do not have."""
    return REPOSITORY.parent / 'shared' / 'data'


@pytest.fixture(scope='session')
def fuzzed():
    """The costs of fuzz tests by test; written to FUZZ_JSON, where that names a file."""
    costs: dict[str, dict[str, float]] = {}
    yield costs
    if 'FUZZ_JSON' in os.environ:
        from featshare_core.evaluation.provenance import provenance, write_json
        write_json(os.environ['FUZZ_JSON'], {**provenance('make nightly', 'cpu'), 'tests': costs})


@pytest.fixture
def budget(request, fuzzed):
    """Return a function that makes the test's Budget, of seconds and MiB."""
    from budget import Budget
    return lambda seconds, mib: Budget(fuzzed.setdefault(request.node.name, {}), seconds, mib)


@pytest.fixture
def real_data() -> Path:
    folder = shared_data()
    if not folder.is_dir():
        pytest.skip(f'real video is not part of the package: {folder} is missing')
    return folder


@pytest.fixture
def one_thread():
    """On small images PyTorch's threads only wait for one another."""
    import torch
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='session')
def random_checkpoint(tmp_path_factory):
    """A checkpoint of the thesis's network with random weights: masks of no sense, in full."""
    from featshare_core.labels import CAMVID
    from featshare_core.networks.checkpoint import Config, save_checkpoint
    from featshare_core.networks.fpn import FPN
    import torch
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'random.safetensors'
    config = Config('fpn-densenet121', CAMVID, (128, 96), {'shared_levels': 2})
    save_checkpoint(path, FPN(len(CAMVID)), config)
    return path


@pytest.fixture
def peer():
    """A ROS node of the test's own."""
    from harness import Peer
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture(scope='module')
def faults(tmp_path_factory) -> Path:
    """The file that tells a faulty node what to do."""
    return tmp_path_factory.mktemp('node') / 'faults'


@pytest.fixture
def stream(node, peer):
    """A camera of the module's node."""
    from harness import Stream
    stream = Stream(peer)
    yield stream
    stream.stop()


@pytest.fixture
def streets_rendered_once(monkeypatch):
    """Training runs of this process render each street once."""
    from featshare_core.training import data
    monkeypatch.setattr(data, 'street_store', _street_store)


@functools.cache
def _street_store(*arguments):
    from featshare_core.data.store import street_store
    return street_store(*arguments)


@pytest.fixture(scope='session')
def baselines(tmp_path_factory):
    """A folder with a random per-frame checkpoint of each network, NAME.safetensors."""
    from featshare_core.labels import CAMVID
    from featshare_core.networks.checkpoint import Config, NETWORKS, save_checkpoint
    import torch
    folder = tmp_path_factory.mktemp('baselines')
    torch.manual_seed(0)
    for name in ('fpn-densenet121', 'fpn-efficientnet-lite0', 'light-efficientnet-lite0'):
        network = NETWORKS[name](len(CAMVID))
        save_checkpoint(folder / f'{name}.safetensors', network,
                        Config(name, CAMVID, (64, 64), {'shared_levels': 0},
                               network.backbone.mean, network.backbone.std))
    return folder
