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
"""What depends on no input is computed once, and nothing else."""
import threading

from featshare_core.data.synthetic import RenderedStreet
from featshare_core.inference.cuda import plan
from featshare_core.inference.cuda.constants import fold_constants
from featshare_core.inference.cuda.cuda_engine import CudaEngine
from featshare_core.inference.device import kernels_chosen
from featshare_core.networks.checkpoint import load_checkpoint
import numpy as np
import pytest
import torch
from torch.nn import functional as F

pytestmark = pytest.mark.usefixtures('one_thread')


def operations(graph):
    return [node.target._schema.name for node in graph.graph.nodes
            if node.op == 'call_function' and hasattr(node.target, '_schema')]


def test_results_that_are_always_the_same_become_constants():
    weight = torch.rand(3, 3)

    def function(x):
        kernel = torch.einsum('ij,jk->ik', weight, weight.T) + torch.arange(3.0)
        return x @ kernel, kernel + 1

    graph = fold_constants(function, torch.rand(2, 3))
    assert operations(graph) == ['aten::matmul']
    x = torch.rand(5, 3)[:2]
    for found, expected in zip(graph(x), function(x)):
        torch.testing.assert_close(found, expected)


def test_what_is_written_into_stays_as_it_is():
    def function(x):
        sums = torch.zeros(4)
        sums[:2] = x
        sums[1:] += 1
        part = torch.ones(3)
        part.mul_(x[0])
        return sums, part

    graph = fold_constants(function, torch.zeros(2))
    for x in (torch.tensor((1.0, 2.0)), torch.tensor((3.0, 4.0)), torch.tensor((1.0, 2.0))):
        for found, expected in zip(graph(x), function(x)):
            assert torch.equal(found, expected)


def test_chance_stays_chance():
    for chance in (torch.rand, torch.randperm):
        graph = fold_constants(lambda x: x + chance(100), torch.zeros(100))  # noqa: B023
        assert not torch.equal(graph(torch.zeros(100)), graph(torch.zeros(100)))


@pytest.mark.parametrize('name', ['default', 'densenet121'])
def test_a_current_frame_is_left_with_what_depends_on_it(name):
    # On a GPU, small images cost what their operations count; a hundred were constants.
    network, config = load_checkpoint(name)
    frames = (np.zeros((64, 96, 3), np.uint8), np.full((64, 96, 3), 99, np.uint8))
    engine = CudaEngine(network, config, torch.device('cpu'), 'fp32')
    engine.key(frames[0])
    for graph in engine._plan(frames[0])._runs['current', True].args:
        ran = operations(graph)
        assert ran
        assert not {'aten::einsum', 'aten::arange', 'aten::full', 'aten::meshgrid'} & {*ran}
    assert engine.fallback == ''


def test_a_network_that_cannot_be_traced_runs_as_it_is(monkeypatch, caplog):
    def fails(*_):
        raise NotImplementedError('no such thing')

    monkeypatch.setattr(plan, 'fold_constants', fails)
    frame, _ = RenderedStreet(96, 64, seed=3).frame(0)
    masks = []
    for graphs in (True, False):
        network, config = load_checkpoint('default')
        engine = CudaEngine(network, config, torch.device('cpu'), 'fp32', graphs=graphs)
        masks.append((engine.key(frame).mask, engine.current(frame).mask))
        assert ('computed for every frame' in engine.fallback) == graphs
    assert (np.array(masks[0]) == np.array(masks[1])).mean() > 0.995
    assert caplog.text.count('no such thing') == 1


def test_cudnn_is_there_while_it_chooses():
    before = torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark
    with kernels_chosen():
        assert torch.backends.cudnn.enabled
        assert torch.backends.cudnn.benchmark
        F.conv2d(torch.zeros(1, 3, 8, 8), torch.zeros(4, 3, 3, 3))
    assert (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark) == before


def test_cudnns_flags_are_restored_after_two_threads_at_once():
    before = torch.backends.cudnn.benchmark
    inside, leave = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]

    def choose(number):
        with kernels_chosen():
            inside[number].set()
            leave[number].wait(60)
    threads = [threading.Thread(target=choose, args=(number,)) for number in range(2)]
    threads[0].start()
    assert inside[0].wait(60)
    threads[1].start()
    inside[1].wait(0.3)  # as long as it could go ahead
    for number in range(2):
        leave[number].set()
        threads[number].join(60)
    assert torch.backends.cudnn.benchmark == before
