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
"""CudaEngine: from an image to its mask, both in host memory, as one CUDA graph per mode."""
from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
import copy
from dataclasses import replace
import logging
import threading

from featshare_core.inference.cuda.dense import buffer_dense_blocks
from featshare_core.inference.cuda.fold import fold_batch_norms, FoldError
from featshare_core.inference.cuda.plan import Plan
from featshare_core.inference.device import choose_precision, PRECISIONS
from featshare_core.inference.engine import (
    checked_input_size,
    drop_oldest,
    Engine,
    Frame,
    named,
    Prediction,
)
from featshare_core.inference.parts import Pixels, prepare
from featshare_core.inference.pixels import network_size, Size
from featshare_core.inference.preparing import Preparer
from featshare_core.inference.streams import cache_of, StreamCache
from featshare_core.networks.checkpoint import Config
from featshare_core.networks.split import SplitNetwork
import torch

log = logging.getLogger(__name__)


class CudaEngine(Engine):
    """
    Runs a ``SplitNetwork`` on a CUDA device.

    Each mode is captured as a graph when an image size is first seen, in 16 bits with Triton's
    kernels for most operations. Where these fail, or the graph's masks differ from the network's,
    graphs of PyTorch's operations replace them, and where these fail, eager execution, with the
    reason in ``fallback``. Stand-in masks (see ``Engine.beside``) are computed eagerly.

    :param network: changed in place: it is moved to the device and cast.
    :param device: a CUDA device; tests run the same code, without graphs, on the CPU.
    :param precision: ``fp32``, ``bf16``, ``fp16`` or ``auto``.
    :param input_size, full_size: as in ``VideoSegmenter.from_checkpoint``.
    :param graphs: fold batch norms and constants, buffer dense blocks, fuse operations and capture
        graphs; otherwise the network runs eagerly, unchanged.
    """

    def __init__(self, network: SplitNetwork, config: Config, device: torch.device,
                 precision: str = 'auto', input_size: tuple[int, int] | None = None,
                 full_size: bool = True, graphs: bool = True) -> None:
        self._device = device
        self.precision = choose_precision(precision, device)
        self.device = str(device)
        if device.type == 'cuda':
            self.device += f' ({torch.cuda.get_device_name(device)})'
        self.labels, self.licence = config.labels, config.licence
        self.shared_levels = network.shared_levels
        self.network_name = named(config, network.shared_levels)
        self.trained_size = config.input_size[1], config.input_size[0]
        self._multiple = network.input_multiple
        self._input_size = checked_input_size(input_size, network.input_multiple)
        self._full_size = full_size
        self._folds_constants, self._graphs = graphs, graphs and device.type == 'cuda'
        self.name = 'graphs' if self._graphs else 'torch'
        if graphs:
            try:
                fold_batch_norms(network.eval())
            except FoldError as error:
                self._fall_back(str(error))
            buffer_dense_blocks(network)
        self._fuses = self._graphs and self.precision != 'fp32'
        self._network = prepare(network, device, self.precision)
        self._pixels = Pixels(config).to(device)
        # A higher priority than that of the deep halves that run beside it.
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == 'cuda' else None
        self._plans: OrderedDict[Size, Plan] = OrderedDict()
        self._caches: dict[str, StreamCache] = {}
        self._standing_in: set[Size] = set()
        self._preparer = Preparer(self._prepared, Plan.close)
        # No frame is run while the preparer's thread captures a graph.
        self._capturing = threading.RLock()

    def key(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Run the whole network and keep the deep features for the stream."""
        self._check_open()
        with self._capturing, torch.inference_mode(), torch.cuda.stream(self._stream):
            plan = self._plan(frame)
            cache = self._caches.pop(stream, None)  # gone where this fails
            if cache is not None and cache.prepared is not plan:
                _discard(cache)
                cache = None
            if cache is None:
                cache = plan.new_cache()
            plan.release(cache)
            prediction = plan.answer(frame, 'key', confidence, 0,
                                     plan.image in self._standing_in)
        cache.restart()
        self._caches[stream] = cache
        plan.renewed(cache)
        return prediction

    def current(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Run the shallow half with the deep features kept for the stream."""
        self._check_open()
        with self._capturing, torch.inference_mode(), torch.cuda.stream(self._stream):
            plan = self._plan(frame)
            cache = cache_of(self._caches, stream, plan)
            cache.advance()
            if plan.loaded is not cache:
                plan.load(cache)
            return plan.answer(frame, 'current', confidence, cache.lag,
                               plan.image in self._standing_in)

    def defer(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Return what ``current`` does, and start the deep half on this frame."""
        prediction = self.current(frame, stream, confidence)
        cache = self._caches[stream]
        with self._capturing, torch.inference_mode(), torch.cuda.stream(self._stream):
            # One stream at a time has the deep half's buffers, and may have no more frames.
            for other in self._caches.values():
                other.take()
            if any(other.newer is not None for other in self._caches.values()):
                return prediction
            cache.defer(cache.prepared.begin_deep(cache))
        return replace(prediction, deferred=True)

    def skip(self, stream: str = '') -> None:
        """Advance the lag of the stream's features by a frame without a run of the network."""
        if stream in self._caches:
            with self._capturing, torch.inference_mode(), torch.cuda.stream(self._stream):
                self._caches[stream].advance()

    def fit(self, frame: Frame, stream: str = '') -> tuple[int, ...]:
        """Return ``(1,)`` for a prepared size, ``(0,)`` for another; () unless ``beside``."""
        if not self.beside or self.closed:
            return ()
        done = self._preparer.take()
        if done is not None:
            self._replace(*done)
        shape: Size = (frame.shape[0], frame.shape[1])
        prepared = shape in self._plans and shape not in self._standing_in
        if not prepared:
            self._preparer.want(stream, shape)
        return (int(prepared),)

    @property
    def preparing(self) -> str:
        """Return the image size in preparation, or why that failed; or ''."""
        return self._preparer.state

    def forget(self, stream: str) -> None:
        """Free what is kept of a stream."""
        self._preparer.forget(stream)
        cache = self._caches.pop(stream, None)
        if cache is not None:
            _discard(cache)

    def close(self) -> None:
        """Free the network, its graphs and buffers, and what is kept of every stream."""
        if self.closed:
            return
        self.closed = True
        self._preparer.close()
        for stream in list(self._caches):
            self.forget(stream)
        for plan in self._plans.values():
            plan.close()
        self._plans.clear()
        del self._network, self._pixels
        if self._device.type == 'cuda':
            with suppress(RuntimeError):  # of a device that no longer works
                torch.cuda.empty_cache()

    def _plan(self, frame: Frame) -> Plan:
        shape: Size = (frame.shape[0], frame.shape[1])
        if shape in self._plans:
            self._plans.move_to_end(shape)
            return self._plans[shape]
        if self.beside:
            plan = self._new_plan(shape, self._network)
            self._standing_in.add(shape)
        else:
            plan = self._ready_plan(shape, self._network)
        self._keep(shape, plan)
        return plan

    def _new_plan(self, shape: Size, network: SplitNetwork) -> Plan:
        size = self._input_size or network_size(shape, self.trained_size, self._multiple)
        return Plan(network, self._pixels, self._device, PRECISIONS[self.precision], shape, size,
                    shape if self._full_size else size)

    def _ready_plan(self, shape: Size, network: SplitNetwork) -> Plan:
        plan = self._new_plan(shape, network)
        try:
            self._prepare(plan)
        except BaseException:
            plan.close()
            raise
        return plan

    def _keep(self, shape: Size, plan: Plan) -> None:
        self._plans[shape] = plan
        dropped = drop_oldest(self._plans,
                              {cache.prepared.image for cache in self._caches.values()})
        if dropped is not None:
            self._standing_in.discard(dropped.image)
            dropped.close()

    def _prepared(self, shape: Size) -> Plan:
        # A copy, with the same weights: a plan changes the network's operations while it is built.
        network = copy.copy(self._network)
        stream = torch.cuda.Stream(self._device) if self._device.type == 'cuda' else None
        with torch.inference_mode(), torch.cuda.stream(stream):
            plan = self._ready_plan(shape, network)
            if stream is not None:
                stream.synchronize()
        return plan

    def _replace(self, shape: Size, plan: Plan) -> None:
        """Replace the eager plan of a size by the prepared one."""
        before = self._plans.pop(shape, None)
        self._standing_in.discard(shape)
        if before is not None:
            for stream, cache in list(self._caches.items()):
                if cache.prepared is before:
                    _discard(self._caches.pop(stream))
            before.close()
        self._keep(shape, plan)

    def _prepare(self, plan: Plan) -> None:
        """Make a plan run in the fastest way that works."""
        if self._fuses:
            try:
                plan.fold_constants(fused=True)
                if self._graphs:
                    plan.capture(self._capturing)
                return
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:  # of any type: Triton's compiler and drivers have their own
                self._fuses = False
                self._fall_back(f'operations are not fused: {type(error).__name__}: {error}')
        if self._folds_constants:
            try:
                plan.fold_constants()
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:  # of any type: not every network can be traced
                self._folds_constants = False
                self._fall_back(f'constants are computed for every frame: {error!r}')
                plan.run_eagerly()
        if self._graphs:
            try:
                plan.capture(self._capturing)
            except RuntimeError as error:
                if isinstance(error, torch.cuda.OutOfMemoryError):
                    raise
                self._graphs = False
                self.name = 'torch'
                self._fall_back(f'no CUDA graphs: {error}')
                torch.cuda.synchronize(self._device)
                plan.run_eagerly()

    def _fall_back(self, reason: str) -> None:
        reason = reason.splitlines()[0]
        log.warning('%s; this device runs at a lower rate', reason)
        self.fallback = '; '.join(filter(None, (self.fallback, reason)))


def _discard(cache: StreamCache) -> None:
    """Remove the references to a cache that is no longer used."""
    cache.restart()  # features being computed refer to it
    if cache.prepared.loaded is cache:
        cache.prepared.loaded = None
