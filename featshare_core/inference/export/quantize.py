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
"""Post-training quantisation to int8 by NNCF, for OpenVINO."""
from __future__ import annotations

from collections.abc import Sequence
import logging
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from featshare_core.inference.engine import Frame
from featshare_core.inference.export.models import Models


def quantized(models: Models, pairs: Sequence[Sequence[Frame]]) -> Models:
    """
    Return OpenVINO models most of whose layers compute in int8.

    Weights are quantised per channel. Activations are quantised per tensor, by their ranges on the
    frames. Biases are corrected. These are NNCF's defaults. The displacement search is left in
    floating point: int8 would clip displacements at the largest one of the calibration.

    :param models: ONNX models.
    :param pairs: hxwx3 uint8 frames of the models' size: a key frame and a current frame each. The
        last may lack the latter.
    :raises ImportError: where NNCF or OpenVINO is not installed.
    :raises ValueError: where none has a current frame.
    """
    # Otherwise NNCF sends usage statistics to its developers.
    os.environ.setdefault('NNCF_CI', '1')
    try:
        import nncf
        import openvino as ov
    except ImportError as error:
        raise ImportError(f'int8 needs NNCF and OpenVINO ({error}): pip install nncf openvino '
                          f'onnx') from error
    # NNCF logs a line for each node that it leaves out.
    logging.getLogger('nncf').setLevel(logging.WARNING)
    core = ov.Core()
    key, current = (core.read_model(model) for model in (models.key, models.current))
    network = core.compile_model(key, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    keys: list[dict[str, Any]] = []
    currents: list[dict[str, Any]] = []
    for first, *later in pairs:
        keys.append({'image': first[None]})
        for other in later:
            shared = {f'shared{index}': value.copy() for index, value
                      in enumerate(list(network(keys[-1]).values())[1:])}
            currents.append({'image': other[None], **shared})
    if not currents:
        raise ValueError('int8 is calibrated on consecutive frames: give at least two')
    made = []
    with TemporaryDirectory() as folder:
        path = Path(folder, 'model.xml')
        for model, inputs in ((key, keys), (current, currents)):
            search = nncf.IgnoredScope(names=_search(model), validate=False)
            int8 = nncf.quantize(model, nncf.Dataset(inputs), subset_size=len(inputs),
                                 ignored_scope=search)
            ov.save_model(int8, path)
            made.append((path.read_bytes(), path.with_suffix('.bin').read_bytes()))
    return Models(made[0][0], made[1][0], made[0][1], made[1][1])


def _search(model: Any) -> list[str]:
    """
    Return the names of an OpenVINO model's nodes that find where key features are sampled.

    They lead from the shallow half's last layers to the indices of Gather and the grids of
    GridSample.
    """
    names: set[str] = set()
    nodes = [node.input_value(1).get_node() for node in model.get_ordered_ops()
             if node.get_type_name() in ('GridSample', 'Gather')]
    while nodes:
        node = nodes.pop()
        if node.get_friendly_name() in names or node.get_type_name() in (
                'Constant', 'Parameter', 'Convolution', 'GroupConvolution', 'MatMul'):
            continue
        names.add(node.get_friendly_name())
        nodes += [value.get_node() for value in node.input_values()]
    return sorted(names)
