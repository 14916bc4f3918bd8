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
"""Every engine by device, precision and kind of weights: which engine runs, or which error."""
import itertools
from pathlib import Path
import re
import sys
from types import ModuleType, SimpleNamespace

from featshare_core.evaluation import latency
from featshare_core.inference import engines
from featshare_core.inference.cuda import cuda_engine
from featshare_core.inference.device import PRECISIONS as ALL
from featshare_core.inference.engines import (
    AUTO,
    engine_choices,
    ENGINE_NAMES,
    ENGINES,
    installed_engines,
    make_engine,
)
from featshare_core.inference.export.models import CONFIG_FILE
from featshare_core.inference.segmenter import VideoSegmenter
import numpy as np
import pytest
import torch

DOCUMENT = (Path(__file__).parents[1] / 'docs' / 'robot' / 'ros-interface.md').read_text()
ENGINES_SECTION = DOCUMENT[DOCUMENT.index('## Engines'):DOCUMENT.index('## Time')]

# What runs by device, in a process whose PyTorch has no CUDA (left) and has it (right); an x is a
# ValueError, a ! a RuntimeError. ONNX Runtime has CUDA in both.
EXPECTED = """
engine         weights     auto                  cpu                cuda:1                auto                  cpu                cuda:1
auto           checkpoint  openvino@cpu          openvino@cpu       !                     graphs@cuda:0         openvino@cpu       graphs@cuda:1
auto           exported    openvino@cpu          openvino@cpu       onnx-cuda@cuda:1      onnx-cuda@cuda:0      openvino@cpu       onnx-cuda@cuda:1
torch          checkpoint  torch@cpu             torch@cpu          !                     torch@cuda:0          torch@cpu          torch@cuda:1
torch          exported    x                     x                  x                     x                     x                  x
graphs         checkpoint  x                     x                  !                     graphs@cuda:0         x                  graphs@cuda:1
graphs         exported    x                     x                  x                     x                     x                  x
openvino       checkpoint  openvino@cpu          openvino@cpu       x                     openvino@cpu          openvino@cpu       x
openvino       exported    openvino@cpu          openvino@cpu       x                     openvino@cpu          openvino@cpu       x
onnx           checkpoint  onnx@cpu              onnx@cpu           x                     onnx@cpu              onnx@cpu           x
onnx           exported    onnx@cpu              onnx@cpu           x                     onnx@cpu              onnx@cpu           x
onnx-cuda      checkpoint  onnx-cuda@cuda:0      x                  onnx-cuda@cuda:1      onnx-cuda@cuda:0      x                  onnx-cuda@cuda:1
onnx-cuda      exported    onnx-cuda@cuda:0      x                  onnx-cuda@cuda:1      onnx-cuda@cuda:0      x                  onnx-cuda@cuda:1
onnx-tensorrt  checkpoint  onnx-tensorrt@cuda:0  x                  onnx-tensorrt@cuda:1  onnx-tensorrt@cuda:0  x                  onnx-tensorrt@cuda:1
onnx-tensorrt  exported    onnx-tensorrt@cuda:0  x                  onnx-tensorrt@cuda:1  onnx-tensorrt@cuda:0  x                  onnx-tensorrt@cuda:1
onnx-openvino  checkpoint  onnx-openvino@cpu     onnx-openvino@cpu  x                     onnx-openvino@cpu     onnx-openvino@cpu  x
onnx-openvino  exported    onnx-openvino@cpu     onnx-openvino@cpu  x                     onnx-openvino@cpu     onnx-openvino@cpu  x
"""  # noqa: E501
PRECISIONS = {
    'torch@cpu': 'fp32 bf16', 'openvino@cpu': 'fp32 bf16', 'onnx@cpu': 'fp32',
    'onnx-openvino@cpu': 'fp32', 'torch@cuda': 'fp32 bf16 fp16', 'graphs@cuda': 'fp32 bf16 fp16',
    'onnx-cuda@cuda': 'fp32', 'onnx-tensorrt@cuda': 'fp32'}
# With device `auto`, CUDA may be used, but ONNX Runtime computes in fp32 there: OpenVINO runs
# instead, and that is reported.
ELSEWHERE = {('auto', 'exported', 'auto', 'bf16'): 'openvino@cpu'}


def cases():
    """Yield (engine, exported, device, precision, PyTorch has CUDA) and the outcome."""
    header, *rows = (line.split() for line in EXPECTED.strip().splitlines())
    for (engine, weights, *outcomes), precision in itertools.product(
            rows, ('auto', 'fp32', 'bf16', 'fp16')):
        for index, (device, outcome) in enumerate(zip(header[2:], outcomes)):
            has_cuda = index >= 3
            found = outcome
            if outcome not in 'x!' and precision != 'auto' \
                    and precision not in PRECISIONS[outcome.partition(':')[0]].split():
                found = ELSEWHERE.get((engine, weights, device, precision), 'x') \
                    if has_cuda else 'x'
            yield (engine, weights == 'exported', device, precision, has_cuda), found


class Stub:
    """An engine that is made of nothing, and knows what it was made for."""

    trained_size = 32, 32
    fallback = ''
    failure = None
    was_closed = False

    def __init__(self, name, device, precision='fp32'):
        self.name, self.device, self.precision = name, str(device), precision

    def key(self, frame):
        if self.failure is not None and self.failure[0] == self.name:
            raise self.failure[1]

    def forget(self, stream):
        pass

    def close(self):
        Stub.was_closed = True


@pytest.fixture
def stubs(monkeypatch, tmp_path):
    """Engines without their runtimes; ``packages`` are installed, ``cuda`` is PyTorch's."""
    state = SimpleNamespace(packages={'onnx', 'openvino', 'onnxruntime'}, cuda=2)
    monkeypatch.setattr(engines, 'find_spec', lambda package: package in state.packages or None)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: state.cuda > 0)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: state.cuda)
    monkeypatch.setattr(engines, 'load_checkpoint', lambda *_: ('network', 'config'))
    for source in ('ExportedModels', 'NetworkModels'):
        monkeypatch.setattr(engines, source, lambda *_: SimpleNamespace(precision=''))
    monkeypatch.setattr(engines, 'TorchEngine', lambda network, config, precision, *_: Stub(
        'torch', 'cpu', precision))
    monkeypatch.setattr(
        cuda_engine, 'CudaEngine', lambda network, config, device, precision, size, full, graphs:
        Stub('graphs' if graphs else 'torch', device, precision))
    openvino, onnx = ModuleType('openvino_engine'), ModuleType('onnx_engine')
    openvino.OpenVinoEngine = lambda source, precision, *_: Stub('openvino', 'cpu', precision)

    def onnx_engine(source, provider, size, full, index):
        on_cuda = provider in ('cuda', 'tensorrt')
        return Stub('onnx' if provider == 'cpu' else f'onnx-{provider}',
                    f'cuda:{index}' if on_cuda else 'cpu')
    onnx.OnnxEngine = onnx_engine
    for name, module in (('openvino_engine', openvino), ('onnx_engine', onnx)):
        monkeypatch.setitem(sys.modules, f'featshare_core.inference.cpu.{name}', module)
    (tmp_path / CONFIG_FILE).touch()
    state.exported = tmp_path
    monkeypatch.setattr(Stub, 'failure', None)
    monkeypatch.setattr(Stub, 'was_closed', False)
    return state


def outcome(weights, engine, device, precision):
    try:
        made = make_engine(weights, engine, device, precision)
    except ValueError:
        return 'x', ''
    except RuntimeError:
        return '!', ''
    assert precision in ('auto', made.precision)
    return f'{made.name}@{made.device}', made.fallback


def test_engine_by_device_by_precision_by_weights(stubs):
    wrong = {}
    for (engine, exported, device, precision, has_cuda), expected in cases():
        stubs.cuda = 2 if has_cuda else 0
        found, fallback = outcome(stubs.exported if exported else 'default', engine, device,
                                  precision)
        elsewhere = has_cuda and exported and (engine, device, precision) == (
            'auto', 'auto', 'bf16')
        if found != expected or bool(fallback) != elsewhere:
            wrong[engine, exported, device, precision, has_cuda] = found, expected, fallback
    assert not wrong
    rows = [line.split()[0] for line in EXPECTED.strip().splitlines()[1:]]
    assert tuple(dict.fromkeys(rows)) == ENGINE_NAMES


def test_auto_without_packages(stubs, caplog):
    stubs.cuda = 0
    for exported, packages, expected, reason in (
            # OpenVINO is there, but PyTorch exports with onnx: the slower engine is reported.
            (False, {'openvino'}, 'torch@cpu', 'engine openvino needs onnx: pip install onnx'),
            (False, {'onnx'}, 'torch@cpu', ''), (False, set(), 'torch@cpu', ''),
            (True, {'openvino'}, 'openvino@cpu', ''), (True, {'onnxruntime'}, 'onnx@cpu', '')):
        caplog.clear()
        stubs.packages = packages
        found = outcome(stubs.exported if exported else 'default', 'auto', 'auto', 'auto')
        assert found == (expected, reason)
        assert bool(caplog.records) == bool(reason)
        assert reason in caplog.text
    stubs.packages, stubs.cuda = {'openvino'}, 2
    found = outcome(stubs.exported, 'auto', 'auto', 'auto')
    assert found == ('openvino@cpu',
                     'engine onnx-cuda needs onnxruntime-gpu: pip install onnxruntime-gpu')
    for engine, device, message in (
            ('auto', 'cuda', 'onnx-cuda needs onnxruntime-gpu: pip install onnxruntime-gpu$'),
            ('onnx-openvino', 'auto', 'pip install onnxruntime-openvino$')):
        with pytest.raises(ImportError, match=message):
            make_engine(stubs.exported, engine, device)
    with pytest.raises(ImportError, match=r'pip install onnxruntime-gpu onnx$'):
        make_engine(engine='onnx-tensorrt')


def test_an_engine_of_auto_that_fails_is_closed_and_the_next_one_runs(stubs, caplog):
    stubs.cuda = 2
    Stub.failure = 'onnx-cuda', RuntimeError('no such library\nand a long story')
    assert outcome(stubs.exported, 'auto', 'auto', 'fp32') == (
        'openvino@cpu', 'engine onnx-cuda does not start: RuntimeError: no such library')
    assert Stub.was_closed
    assert 'engine openvino runs instead' in caplog.text
    # Where CUDA was asked for, nothing else stands in.
    assert outcome(stubs.exported, 'auto', 'cuda', 'fp32') == ('onnx-cuda@cuda:0', '')
    # An argument that no engine could take is no reason for another engine.
    Stub.failure = 'openvino', ValueError('input_size 65x32 is not made of multiples of 32')
    with pytest.raises(ValueError, match='65x32'):
        make_engine(device='cpu')


def test_the_documents_describe_every_engine_as_the_table_does():
    rows = re.findall(r'^\| (`.*?) \|$', ENGINES_SECTION.split('`auto` takes the first')[0],
                      re.MULTILINE)
    described = {}
    for row in rows[1:]:
        names, devices, precisions, _, packages = (cell.strip() for cell in row.split(' |'))
        by_device = dict(re.findall(r'(\w+): ([^;]+)', precisions))
        computes = {device.lower(): by_device.get(device, precisions)
                    for device in devices.split(', ')}
        for name in re.findall('`(.+?)`', names):
            described[name] = {
                device: tuple(ALL) if text == 'all' else tuple(re.findall(r'\w+', text))
                for device, text in computes.items()}, packages
    # Triton is used where it is installed; no engine needs it.
    assert {name: (precisions, packages.replace('triton', ''))
            for name, (precisions, packages) in described.items()} == {
        name: (kind.precisions, ' '.join(kind.packages.values()))
        for name, kind in ENGINES.items()}
    assert re.findall(r'`(\w+)` and `(\w+)` run checkpoints only', ENGINES_SECTION) == [
        tuple(name for name, kind in ENGINES.items() if not kind.runs_models)]
    parameter = re.search(r'^\| `engine` \| `auto` \| \| (.*?): see', DOCUMENT, re.MULTILINE)
    assert tuple(re.findall('`(.+?)`', parameter[1])) == ENGINE_NAMES


def test_the_documents_have_the_order_in_which_engines_are_tried():
    orders = {(weights, device): tuple(re.findall('`(.+?)`', order)) for weights, device, order
              in re.findall(r'^\| an? (\w+).*? \| (.*?) \| (.*?) \|$', ENGINES_SECTION,
                            re.MULTILINE)}
    assert orders == {
        ('checkpoint', 'CUDA'): AUTO['cuda', False], ('checkpoint', 'CPU'): AUTO['cpu', False],
        ('exported', '`cuda`, `cuda:N`'): AUTO['cuda', True],
        ('exported', '`auto` on a machine with CUDA'): AUTO['cuda', True] + AUTO['cpu', True],
        ('exported', 'CPU'): AUTO['cpu', True]}


def test_what_is_installed_and_fast_is_timed(stubs, monkeypatch):
    stubs.packages = {'onnx', 'openvino', 'onnxruntime'}
    assert installed_engines('cpu') == ['torch', 'openvino', 'onnx', 'onnx-openvino']
    assert installed_engines('cuda') == ['torch', 'graphs', 'onnx-cuda', 'onnx-tensorrt']
    for device, packages, expected in (
            ('cpu', {'onnx', 'openvino', 'onnxruntime'},
             ['eager-fp32', 'eager-bf16', 'openvino', 'onnx']),
            ('cpu', {'openvino'}, ['eager-fp32', 'eager-bf16']),
            ('cuda', {'onnx', 'openvino'}, ['eager-fp32', 'eager-bf16', 'graphs'])):
        stubs.packages = packages
        where = torch.device(device)
        for native, fast in (
                ('bf16', expected),
                ('fp32', [name for name in expected if name != 'eager-bf16'])):
            monkeypatch.setattr(latency, 'choose_precision', lambda *_, native=native: native)
            names = latency.engine_names(where)
            assert names == fast
            assert latency.engine_names(where, expected[::-1]) == expected
            found = latency.engines_for('default', 2, where, (64, 64), names)
            assert list(found) == fast
            assert {one.device for one in found.values()} <= {'cpu', 'cuda:0'}
        for unable in ('abacus', 'openvino' if device == 'cuda' else 'graphs'):
            with pytest.raises(ValueError, match=f'^{unable} cannot be timed on {device} with .*; '
                                                 f'choose from {", ".join(expected)}$'):
                latency.engine_names(where, ['eager-fp32', unable])


def test_what_is_not_installed_or_unknown_is_reported(monkeypatch):
    with pytest.raises(ValueError, match='none of auto, torch, graphs'):
        make_engine(engine='tensorflow')
    with pytest.raises(TypeError, match="True or False, not 'no'"):
        make_engine(full_size='no')
    for engine, device, message in (
            ('graphs', 'cpu', 'graphs runs on cuda, not on cpu'),
            ('openvino', 'cuda', 'openvino runs on cpu, not on cuda'),
            ('onnx', 'cuda:1', 'onnx runs on cpu, not on cuda:1'),
            ('onnx-cuda', 'cpu', 'onnx-cuda runs on cuda, not on cpu'),
            ('openvino', 'abacus', "'abacus' is none of auto, cpu, cuda, cuda:N")):
        with pytest.raises(ValueError, match=message):
            make_engine(engine=engine, device=device)
    with monkeypatch.context() as patch:
        patch.setattr(engines, 'find_spec', lambda package: None)
        with pytest.raises(ImportError, match='pip install onnxruntime onnx'):
            make_engine(engine='onnx')
        assert make_engine(device='cpu').name == 'torch'
    pytest.importorskip('onnxruntime')
    with pytest.raises(ValueError, match='onnx computes in fp32, not in bf16'):
        make_engine(engine='onnx', precision='bf16')
    with pytest.raises(RuntimeError, match=r'has no TensorrtExecutionProvider, it has .*CPU'):
        make_engine(engine='onnx-tensorrt')


def test_an_engine_that_does_not_start_is_replaced_and_reported(monkeypatch, caplog):
    openvino = pytest.importorskip('openvino')
    pytest.importorskip('onnx')

    def fails(*_):
        raise RuntimeError('illegal instruction\nand a long story')
    monkeypatch.setattr(openvino.Core, 'compile_model', fails)
    engine = make_engine(device='cpu')
    assert engine.name == 'torch'
    assert engine.fallback == ('engine openvino does not start: RuntimeError: illegal '
                               'instruction')
    assert 'engine torch runs instead' in caplog.text
    with pytest.raises(RuntimeError, match='illegal instruction'):
        VideoSegmenter(make_engine(engine='openvino')).segment(np.zeros((64, 96, 3), np.uint8))


@pytest.mark.parametrize('packages', [{'onnx', 'openvino', 'onnxruntime'}, {'onnx'}, set()],
                         ids=len)
def test_the_choices_are_those_of_make_engine(stubs, packages):
    stubs.packages = packages
    for (engine, exported, device, precision, has_cuda), _ in cases():
        stubs.cuda = 2 * has_cuda
        arguments = stubs.exported if exported else 'default', engine, device, precision
        choices = engine_choices(*arguments)
        assert sorted(choice.engine for choice in choices) == sorted(ENGINES)
        tried = [choice for choice in choices if choice.tried]
        assert choices[:len(tried)] == tried
        able = [choice.engine for choice in tried if not choice.problem]
        try:
            made = make_engine(*arguments)
        except RuntimeError:  # PyTorch lacks the device, which the table does not know
            assert able
        except (ValueError, ImportError) as error:
            assert not able
            assert tried[-1].problem == str(error)
        else:
            assert made.name == able[0]
        # An engine without a problem runs if it is named.
        for choice in choices:
            if not choice.problem and (has_cuda or not device.startswith('cuda')):
                assert make_engine(arguments[0], choice.engine, device, precision)
