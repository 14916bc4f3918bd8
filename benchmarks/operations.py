"""
How many operations a frame takes on a CUDA device: where images are small, these cost its time.

    python benchmarks/operations.py [--size 1280x720] [--input-size 512x512] [--json FILE]

Counted, not timed, and so on any machine: the CUDA engine's modes run on the CPU, and what
PyTorch dispatches is counted, if it yields more than a view of what was there. A convolution with
a bias is one operation here, and two kernels there.
"""
from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

import numpy as np
import torch
from figures import engine_parser, report
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from featshare_core.inference.command import size_argument
from featshare_core.inference.cuda_engine import CudaEngine
from featshare_core.networks.checkpoint import load_checkpoint


class Counting(TorchDispatchMode):
    """Counts what is dispatched while it is active, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count an operation, and do it."""
        result = func(*args, **(kwargs or {}))
        if func._schema.is_mutable or not _places(result) <= _places((args, kwargs)):
            self.counts[func._schema.name.partition('::')[2]] += 1
        return result


def _places(values: Any) -> set[int]:
    """Return where in memory the tensors among some values lie."""
    return {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(values)
            if isinstance(leaf, torch.Tensor)}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Count a key frame's and a current frame's operations, at each cut, aligned and in place."""
    width, height = size_argument(arguments.size)
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    rows = []
    for levels in (0, 1, 2, 3):
        for aligned in (True, False) if levels else (False,):
            for graphs in (False, True):
                network, config = load_checkpoint(arguments.weights, levels, aligned)
                engine = CudaEngine(network, config, torch.device('cpu'), 'bf16',
                                    size_argument(arguments.input_size), graphs=graphs)
                engine.key(image)
                row: dict[str, Any] = {'shared_levels': levels, 'aligned': aligned,
                                       'optimised': graphs}
                for mode, run in (('key', engine.key), ('current', engine.current)):
                    with Counting() as counting:
                        run(image)
                    row[mode] = sum(counting.counts.values())
                    row[f'{mode}_by_name'] = dict(counting.counts.most_common())
                rows.append(row)
    return {'weights': arguments.weights, 'size': arguments.size,
            'input_size': arguments.input_size, 'torch': torch.__version__, 'operations': rows}


if __name__ == '__main__':
    parser = engine_parser(__doc__, '1280x720')
    parser.add_argument('--input-size', default='512x512')
    report(parser, measure)
