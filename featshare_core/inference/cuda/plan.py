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
"""Plan: the buffers and the CUDA graphs for one image size."""
from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
import time
from typing import Any

from featshare_core.inference.cuda.constants import fold_constants
from featshare_core.inference.cuda.tiles import winning_class
from featshare_core.inference.device import kernels_chosen
from featshare_core.inference.engine import Frame, Prediction
from featshare_core.inference.parts import Pixels
from featshare_core.inference.pixels import Size
from featshare_core.inference.streams import Pending, StreamCache
from featshare_core.networks.split import SplitNetwork, Tensors
import numpy as np
import torch
from torch import nn, Tensor
from torch.nn import functional as F

WARM_UP_RUNS = 3
"""Number of runs before a capture; cuDNN chooses its kernels in them."""
SAME = 0.98
"""Least share of pixels on which a captured graph agrees with eager execution."""


class Plan:
    """
    Buffers and graphs for one image size; a frame allocates nothing on the device.

    Current frames read the shared tensors in the plan's buffers. The stream whose tensors are
    there is ``loaded``; they are copied into its own cache only when another stream needs the
    buffers, so that a single camera copies none.

    :param image, size, mask: (height, width) of the images, the network's input and the masks.
    """

    def __init__(self, network: SplitNetwork, pixels: Pixels, device: torch.device,
                 dtype: torch.dtype, image: Size, size: Size, mask: Size) -> None:
        self._network, self._pixels, self._device, self._dtype = network, pixels, device, dtype
        self.image, self._size, self._mask_size = image, size, mask
        pinned = device.type == 'cuda'
        self._host_image = torch.empty(1, *image, 3, dtype=torch.uint8, pin_memory=pinned)
        self._image = torch.zeros(1, *image, 3, dtype=torch.uint8, device=device)
        # The mask, and the confidence.
        self._host_planes = torch.empty(2, *mask, dtype=torch.uint8, pin_memory=pinned)
        self.loaded: StreamCache | None = None
        self._saved = False  # whether the loaded cache's own tensors are up to date
        self._kernels: Any = None  # while fused operations are traced
        with torch.inference_mode():
            shared = self._deep_half(self._image)
            self.shared = tuple(torch.empty_like(tensor) for tensor in shared)
            self.deep_shared = tuple(torch.empty_like(tensor) for tensor in shared)
        self._traced: list[nn.Module] = []
        self._runs: dict[tuple[str, bool], Callable[[], None]]
        self._deep_run: Callable[[], None]
        self._deep_stream = torch.cuda.Stream(device, priority=0) if pinned else None
        self._deep_image = torch.zeros_like(self._image)
        self.run_eagerly()

    def run_eagerly(self) -> None:
        """Run each mode's operations one by one, as the network does."""
        self._use(lambda function, *inputs: function)

    def fold_constants(self, fused: bool = False) -> None:
        """
        Run the modes' operations with constants folded.

        :param fused: use Triton's kernels for most of the other operations.
        :raises ImportError: where Triton is missing; other errors where it does not work here.
        """
        if not fused:
            self._prepare_runs(fold_constants)
            return
        from featshare_core.inference.cuda import kernels
        from featshare_core.inference.cuda.fuse import fuse
        ops = self._network.ops
        self._kernels = kernels
        self._network.configure(ops=kernels.OPS)
        try:
            self._prepare_runs(lambda function, *inputs: fuse(fold_constants(function, *inputs)))
        finally:
            self._network.configure(ops=ops)
            self._kernels = None

    def _prepare_runs(self, prepared: Callable[..., Callable[..., Any]]) -> None:
        with torch.inference_mode():
            logits = self._key_logits(self._image)[0]
        self._use(prepared, logits)

    def _use(self, prepared: Callable[..., Callable[..., Any]], *logits: Tensor) -> None:
        runs: dict[tuple[str, bool], Callable[[], None]] = {}
        with torch.inference_mode():
            key = prepared(self._key_logits, self._image)
            current = prepared(self._current_logits, self._image, *self.shared)
            deep = prepared(self._deep_half, self._image)
            made = [key, current, deep]
            for confidence in (False, True):
                decided = prepared(partial(self._decided, confidence), *logits)
                runs['key', confidence] = partial(self._key, key, decided)
                runs['current', confidence] = partial(self._current, current, decided)
                made.append(decided)
        self._runs, self._deep_run = runs, partial(self._deep, deep)
        self._traced += [function for function in made if isinstance(function, nn.Module)]

    def capture(self, lock: AbstractContextManager[Any]) -> None:
        """
        Capture every mode as a graph.

        :param lock: held during each capture.
        :raises RuntimeError: where that fails, or the graph's mask differs from the network's.
        """
        # Graphs read the constants of the functions that they were captured from, but hold no
        # reference to them.
        self._read = runs, deep_run = self._runs, self._deep_run
        self.run_eagerly()
        eager = self._runs
        rng = torch.Generator().manual_seed(0)
        self._host_image.copy_(torch.randint(0, 256, self._host_image.shape, generator=rng))
        graphs: dict[tuple[str, bool], Callable[[], None]] = {}
        with torch.inference_mode(), torch.cuda.device(self._device), kernels_chosen():
            # A graph keeps the priority of the stream that it is captured on. Graphs that never
            # run beside each other, and pass nothing to each other in it, share one memory pool.
            side = torch.cuda.Stream(self._device, priority=-1)
            pool = torch.cuda.graph_pool_handle()
            for mode, run in runs.items():
                graphs[mode] = self._captured(run, side, pool, lock)
            if self.shared:  # PyTorch warns of an empty graph
                deep_run = self._captured(deep_run, torch.cuda.Stream(self._device),
                                          torch.cuda.graph_pool_handle(), lock)
            for mode in eager:
                masks = []
                for modes in (eager, graphs):
                    modes[mode]()
                    torch.cuda.synchronize(self._device)
                    masks.append(self._host_planes[0].clone())
                same = (masks[0] == masks[1]).float().mean().item()
                if same < SAME:
                    raise RuntimeError(f'the graph of {mode[0]} frames agrees with the '
                                       f'network on {same:.1%} of pixels only')
        self._runs, self._deep_run = graphs, deep_run

    def _captured(self, run: Callable[[], None], side: torch.cuda.Stream, pool: Any,
                  lock: AbstractContextManager[Any]) -> Callable[[], None]:
        # As PyTorch requires: warmed up on a side stream, then captured.
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_RUNS):
                run()
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads' work on the device must not invalidate the capture.
        with lock, torch.cuda.graph(graph, pool, side, capture_error_mode='thread_local'):
            run()
        return graph.replay

    def answer(self, frame: Frame, mode: str, confidence: bool, lag: int,
               stand_in: bool) -> Prediction:
        """
        Run a mode on an HxWx3 uint8 frame and wait for its mask: a frame's only wait.

        :param mode: ``key`` or ``current``.
        :param lag, stand_in: as in ``Prediction``.
        """
        start = time.perf_counter()
        np.copyto(self._host_image.numpy()[0], frame)
        staged = time.perf_counter()
        self._runs[mode, confidence]()
        if self._device.type == 'cuda':
            torch.cuda.current_stream(self._device).synchronize()
        done = time.perf_counter()
        # The next frame overwrites the buffers; the caller keeps the copies.
        planes = self._host_planes.numpy()
        mask, probability = planes[0].copy(), planes[1].copy() if confidence else None
        end = time.perf_counter()
        return Prediction(mask, probability, lag, {
            'preprocess': 1e3 * (staged - start), 'network': 1e3 * (done - staged),
            'postprocess': 1e3 * (end - done)}, stand_in=stand_in)

    def new_cache(self) -> StreamCache:
        """Return a cache for a stream, with shared tensors yet to be filled."""
        return StreamCache(self, tuple(torch.empty_like(tensor) for tensor in self.shared))

    def release(self, cache: StreamCache) -> None:
        """Save the loaded stream's tensors, unless it is ``cache``, which a key frame renews."""
        if self.loaded is not None and self.loaded is not cache and not self._saved:
            _copy(self.loaded.shared, self.shared)
        self.loaded = None

    def renewed(self, cache: StreamCache) -> None:
        """Note that the buffers hold a stream's tensors, newer than those in its cache."""
        self.loaded, self._saved = cache, False

    def load(self, cache: StreamCache) -> None:
        """Copy a stream's shared tensors into the buffers that current frames read."""
        self.release(cache)
        _copy(self.shared, cache.shared)
        self.loaded, self._saved = cache, True

    def take_deep(self, cache: StreamCache) -> Tensors:
        """Copy the deep half's result to where a stream's tensors are; return its cache's."""
        if self.loaded is cache:
            self._saved = False
            _copy(self.shared, self.deep_shared)
        else:
            _copy(cache.shared, self.deep_shared)
        shared: Tensors = cache.shared
        return shared

    def begin_deep(self, cache: StreamCache) -> Pending:
        """Start the deep half on the newest frame, which is the cache's stream's."""
        self._deep_image.copy_(self._image)
        if self._deep_stream is None:
            self._deep_run()
            return _DeepHalf(self, cache, None)
        self._deep_stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._deep_stream):
            self._deep_run()
            event = torch.cuda.Event()
            event.record()
        return _DeepHalf(self, cache, event)

    def close(self) -> None:
        """Free graphs and buffers; the plan cannot be used any more."""
        if self._device.type == 'cuda':
            with suppress(RuntimeError):  # of a device that no longer works
                # A deep half that nobody waits for may still be writing.
                torch.cuda.synchronize(self._device)
        # What runs the modes refers back to the plan, and traced modules refer to themselves:
        # otherwise they would wait for the garbage collector.
        for module in self._traced:
            vars(module).clear()
        vars(self).clear()

    def _input(self, image: Tensor) -> Tensor:
        """Return a 1xHxWx3 uint8 image as the network's input, 1x3xhxw."""
        if self._kernels:
            normalised: Tensor = self._kernels.normalise(
                image, self._pixels.scale, self._pixels.shift, *self._size, self._dtype)
            return normalised
        pixels = self._pixels(image)  # 1x3xHxW
        if pixels.shape[-2:] != self._size:
            pixels = F.interpolate(pixels, self._size, mode='bilinear', antialias=True)
        return pixels.to(self._dtype, memory_format=torch.channels_last)

    def _key_logits(self, image: Tensor) -> Tensors:
        """Return 1xCxh'xw' logits, and the shared tensors."""
        low = self._network.low(self._input(image))
        shared = self._network.high(low)
        return self._network.decode_key(low, shared), *shared

    def _current_logits(self, image: Tensor, *shared: Tensor) -> Tensor:
        """Return 1xCxh'xw' logits."""
        return self._network.decode(self._network.low(self._input(image)), shared)

    def _deep_half(self, image: Tensor) -> Tensors:
        return self._network.high(self._network.low(self._input(image)))

    def _decided(self, confidence: bool, logits: Tensor) -> Tensor:
        """Return the mask, 1xHxW uint8; where ``confidence``, the confidence as a second plane."""
        if self._kernels:
            decided: Tensor = self._kernels.decide(logits, *self._mask_size, confidence)
            return decided
        planes = torch.empty(2 if confidence else 1, *self._mask_size, dtype=torch.uint8,
                             device=logits.device)
        winning_class(logits, self._mask_size, planes[0], planes[1] if confidence else None)
        return planes

    def _key(self, network: Callable[..., Tensors], decided: Callable[..., Tensor]) -> None:
        self._image.copy_(self._host_image, non_blocking=True)
        logits, *shared = network(self._image)
        _copy(self.shared, tuple(shared))
        self._take_home(decided(logits))

    def _current(self, network: Callable[..., Tensor], decided: Callable[..., Tensor]) -> None:
        self._image.copy_(self._host_image, non_blocking=True)
        self._take_home(decided(network(self._image, *self.shared)))

    def _take_home(self, planes: Tensor) -> None:
        self._host_planes[:len(planes)].copy_(planes, non_blocking=True)

    def _deep(self, half: Callable[..., Tensors]) -> None:
        _copy(self.deep_shared, half(self._deep_image))


class _DeepHalf:
    """
    A deep half's result in the plan's buffers, once ``event`` has been reached.

    :param event: recorded after it; None on the CPU, where it has already run.
    """

    def __init__(self, plan: Plan, cache: StreamCache, event: torch.cuda.Event | None) -> None:
        self._plan, self._cache, self._event = plan, cache, event

    def done(self) -> bool:
        return self._event is None or self._event.query()

    def result(self) -> Tensors:
        return self._plan.take_deep(self._cache)


def _copy(to: Tensors, source: Tensors) -> None:
    for target, tensor in zip(to, source):
        target.copy_(tensor)
