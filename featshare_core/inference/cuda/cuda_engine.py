"""CudaEngine: from an image to its mask, in host memory both, as one CUDA graph a mode."""
from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import replace

import torch

from featshare_core.inference.cuda.dense import buffer_dense_blocks
from featshare_core.inference.cuda.fold import FoldError, fold_batch_norms
from featshare_core.inference.cuda.plan import Cache, Plan
from featshare_core.inference.device import PRECISIONS, choose_precision
from featshare_core.inference.engine import (
    Engine,
    Frame,
    Prediction,
    checked_input_size,
    drop_oldest,
    named,
)
from featshare_core.inference.parts import Pixels, prepare
from featshare_core.inference.pixels import Size, network_size
from featshare_core.networks.checkpoint import Config
from featshare_core.networks.split import SplitNetwork

log = logging.getLogger(__name__)


class CudaEngine(Engine):
    """
    Runs a ``SplitNetwork`` on a CUDA device.

    Each mode is captured as a graph when an image size is first seen, in 16 bits with Triton's
    kernels for most of it. Where these fail, or the graph's masks are not the network's, graphs of
    PyTorch's operations take their place, and then eager execution, which ``fallback`` tells.

    :param network: taken over: it is moved to the device and cast.
    :param device: a CUDA device; tests run the same code, without graphs, on the CPU.
    :param precision: ``fp32``, ``bf16``, ``fp16`` or ``auto``.
    :param input_size, full_size: as ``HostEngine``.
    :param graphs: fold batch norms, buffer dense blocks, settle constants, fuse operations and
        capture graphs; or run the network eagerly as it is.
    """

    def __init__(self, network: SplitNetwork, config: Config, device: torch.device,
                 precision: str = 'auto', input_size: tuple[int, int] | None = None,
                 full_size: bool = True, graphs: bool = True) -> None:
        self._device = device
        self.precision = choose_precision(precision, device)
        self.device = str(device)
        if device.type == 'cuda':
            self.device += f' ({torch.cuda.get_device_name(device)})'
        self.labels = config.labels
        self.network_name = named(config, network.shared_levels)
        self.trained_size = config.input_size[1], config.input_size[0]
        self._multiple = network.input_multiple
        self._input_size = checked_input_size(input_size, network.input_multiple)
        self._full_size = full_size
        self._settles, self._graphs = graphs, graphs and device.type == 'cuda'
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
        # Of a higher priority than the deep halves that run beside it.
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == 'cuda' else None
        self._plans: OrderedDict[Size, Plan] = OrderedDict()
        self._caches: dict[str, Cache] = {}

    def key(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Run the whole network and remember the deep features for the stream."""
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            plan = self._plan(frame)
            cache = self._caches.pop(stream, None)  # gone where this fails
            if cache is None or cache.plan is not plan:
                cache = Cache(plan, tuple(torch.empty_like(t) for t in plan.shared))
            plan.hand_over(cache)
            prediction = plan.answer(frame, 'key', confidence, 0)
        cache.restart()
        self._caches[stream] = cache
        plan.loaded = cache
        return prediction

    def current(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Run the shallow half with the stream's remembered deep features."""
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            plan = self._plan(frame)
            cache = self._caches.get(stream)
            if cache is None or cache.plan is not plan:
                raise LookupError(f'stream {stream!r} has had no key frame of this size')
            cache.advance()
            if plan.loaded is not cache:
                plan.load(cache)
            return plan.answer(frame, 'current', confidence, cache.lag)

    def defer(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Answer as ``current`` does, and run the deep half on this frame beside what follows."""
        prediction = self.current(frame, stream, confidence)
        cache = self._caches[stream]
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            # The deep half's buffers are one stream's at a time, which may have fallen silent.
            for other in self._caches.values():
                other.take()
            if any(other.newer is not None for other in self._caches.values()):
                return prediction
            cache.newer, cache.newer_lag = cache.plan.begin_deep(), 0
        return replace(prediction, deferred=True)

    def forget(self, stream: str) -> None:
        """Free what is remembered of a stream."""
        cache = self._caches.pop(stream, None)
        if cache is not None and cache.plan.loaded is cache:
            cache.plan.loaded = None

    def _plan(self, frame: Frame) -> Plan:
        shape: Size = (frame.shape[0], frame.shape[1])
        if shape in self._plans:
            self._plans.move_to_end(shape)
            return self._plans[shape]
        size = self._input_size or network_size(shape, self.trained_size, self._multiple)
        plan = Plan(self._network, self._pixels, self._device, PRECISIONS[self.precision], shape,
                     size, shape if self._full_size else size)
        self._prepare(plan)
        self._plans[shape] = plan
        drop_oldest(self._plans, {cache.plan.image for cache in self._caches.values()})
        return plan

    def _prepare(self, plan: Plan) -> None:
        """Let a plan run the fastest way that works."""
        if self._fuses:
            try:
                plan.settle(fused=True)
                if self._graphs:
                    plan.capture()
                return
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:  # of any kind: Triton's compiler and drivers have their own
                self._fuses = False
                self._fall_back(f'operations are not fused: {type(error).__name__}: {error}')
        if self._settles:
            try:
                plan.settle()
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:  # of any kind: a network may do what cannot be traced
                self._settles = False
                self._fall_back(f'constants are computed for every frame: {error!r}')
                plan.run_eagerly()
        if self._graphs:
            try:
                plan.capture()
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
