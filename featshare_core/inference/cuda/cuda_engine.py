"""CudaEngine: from an image to its mask, in host memory both, as one CUDA graph a mode."""
from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from featshare_core.inference.cuda.constants import settled
from featshare_core.inference.cuda.dense import buffer_dense_blocks
from featshare_core.inference.cuda.fold import FoldError, fold_batch_norms
from featshare_core.inference.cuda.tiles import winning_class
from featshare_core.inference.device import PRECISIONS, choose_precision, kernels_chosen
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
from featshare_core.networks.split import SplitNetwork, Tensors

WARM_UP_RUNS = 3  # cuDNN chooses its kernels in the first ones
SAME = 0.98  # share of pixels on which a captured graph must agree with eager execution

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
        self._plans: OrderedDict[Size, _Plan] = OrderedDict()
        self._caches: dict[str, _Cache] = {}

    def key(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Run the whole network and remember the deep features for the stream."""
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            plan = self._plan(frame)
            cache = self._caches.pop(stream, None)  # gone where this fails
            if cache is None or cache.plan is not plan:
                cache = _Cache(plan, tuple(torch.empty_like(t) for t in plan.shared))
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
                plan.hand_over(cache)
                _copy(plan.shared, cache.shared)
                plan.loaded = cache
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

    def _plan(self, frame: Frame) -> _Plan:
        shape: Size = (frame.shape[0], frame.shape[1])
        if shape in self._plans:
            self._plans.move_to_end(shape)
            return self._plans[shape]
        size = self._input_size or network_size(shape, self.trained_size, self._multiple)
        plan = _Plan(self._network, self._pixels, self._device, PRECISIONS[self.precision], shape,
                     size, shape if self._full_size else size)
        self._prepare(plan)
        self._plans[shape] = plan
        drop_oldest(self._plans, {cache.plan.image for cache in self._caches.values()})
        return plan

    def _prepare(self, plan: _Plan) -> None:
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


@dataclass
class _Cache:
    """
    A stream's shared tensors; the fields are those of ``host_engine._Cache``.

    While a plan has it ``loaded``, its newest tensors may be the plan's, and not yet ``saved``: a
    camera that is alone never copies any.
    """

    plan: _Plan
    shared: Tensors
    saved: bool = False
    lag: int = 0
    newer: Any = None
    newer_lag: int = 0

    def restart(self) -> None:
        """Begin anew at a key frame; what was on its way is older than that."""
        self.lag, self.newer, self.saved = 0, None, False

    def advance(self) -> None:
        """Go to the next frame."""
        self.lag += 1
        self.newer_lag += 1
        self.take()

    def take(self) -> None:
        """Take newer features over if they are there."""
        if self.newer is None or not self.newer.query():
            return
        self.saved = self.plan.loaded is not self
        _copy(self.shared if self.saved else self.plan.shared, self.plan.deep_shared)
        self.lag, self.newer = self.newer_lag, None


@contextmanager
def _carried_by(network: SplitNetwork, kernels: Any) -> Iterator[None]:
    """Let a network carry features over by some kernels."""
    names = ('displacement', 'warp', 'mismatch')
    for name in names:
        setattr(network, name, getattr(kernels, name))
    try:
        yield
    finally:
        for name in names:
            delattr(network, name)


class _Plan:
    """Buffers and graphs for one image size: nothing is allocated while frames come."""

    def __init__(self, network: SplitNetwork, pixels: Pixels, device: torch.device,
                 dtype: torch.dtype, image: Size, size: Size, mask: Size) -> None:
        self._network, self._pixels, self._device, self._dtype = network, pixels, device, dtype
        self.image, self._size, self._mask_size = image, size, mask
        pinned = device.type == 'cuda'
        self._host_image = torch.empty(1, *image, 3, dtype=torch.uint8, pin_memory=pinned)
        self._image = torch.zeros(1, *image, 3, dtype=torch.uint8, device=device)
        # The mask, and the confidence.
        self._host_planes = torch.empty(2, *mask, dtype=torch.uint8, pin_memory=pinned)
        self.loaded: _Cache | None = None
        self._kernels: Any = None  # while operations are traced that are to be few
        with torch.inference_mode():
            shared = self._deep_half(self._image)
            self.shared = tuple(torch.empty_like(tensor) for tensor in shared)
            self.deep_shared = tuple(torch.empty_like(tensor) for tensor in shared)
        self._runs: dict[tuple[str, bool], Callable[[], None]]
        self._deep_run: Callable[[], None]
        self._deep_stream = torch.cuda.Stream(device, priority=0) if pinned else None
        self._deep_image = torch.zeros_like(self._image)
        self.run_eagerly()

    def run_eagerly(self) -> None:
        """Run the modes' operations one by one, as the network does them."""
        self._use(lambda function, *inputs: function)

    def settle(self, fused: bool = False) -> None:
        """
        Run them without those whose results are always the same.

        :param fused: with Triton's kernels for most of the others.
        :raises ImportError: where Triton is missing; others where it does not work here.
        """
        if not fused:
            self._settle(settled)
            return
        from featshare_core.inference.cuda import kernels
        from featshare_core.inference.cuda.fuse import fuse
        self._kernels = kernels
        try:
            with _carried_by(self._network, kernels):
                self._settle(lambda function, *inputs: fuse(settled(function, *inputs)))
        finally:
            self._kernels = None

    def _settle(self, prepared: Callable[..., Callable[..., Any]]) -> None:
        with torch.inference_mode():
            logits = self._key_logits(self._image)[0]
        self._use(prepared, logits)

    def _use(self, prepared: Callable[..., Callable[..., Any]], *logits: Tensor) -> None:
        runs: dict[tuple[str, bool], Callable[[], None]] = {}
        with torch.inference_mode():
            key = prepared(self._key_logits, self._image)
            current = prepared(self._current_logits, self._image, *self.shared)
            for sure in (False, True):
                decided = prepared(partial(self._decided, sure), *logits)
                runs['key', sure] = partial(self._key, key, decided)
                runs['current', sure] = partial(self._current, current, decided)
            deep_run = partial(self._deep, prepared(self._deep_half, self._image))
        self._runs, self._deep_run = runs, deep_run

    def capture(self) -> None:
        """
        Capture every mode as a graph.

        :raises RuntimeError: where that fails, or the graph's mask is another than the network's.
        """
        # Graphs read the constants of what they were captured from, but do not keep them.
        self._read = runs, deep_run = self._runs, self._deep_run
        self.run_eagerly()
        eager = self._runs
        rng = torch.Generator().manual_seed(0)
        self._host_image.copy_(torch.randint(0, 256, self._host_image.shape, generator=rng))
        graphs: dict[tuple[str, bool], Callable[[], None]] = {}
        with torch.inference_mode(), torch.cuda.device(self._device), kernels_chosen():
            # A graph keeps the priority of the stream that it is captured on. Those that never run
            # beside each other, and leave nothing for each other there, share their memory.
            side = torch.cuda.Stream(self._device, priority=-1)
            pool = torch.cuda.graph_pool_handle()
            for mode, run in runs.items():
                graphs[mode] = self._captured(run, side, pool)
            if self.shared:  # PyTorch warns of an empty graph
                deep_run = self._captured(deep_run, torch.cuda.Stream(self._device),
                                          torch.cuda.graph_pool_handle())
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

    def _captured(self, run: Callable[[], None], side: torch.cuda.Stream,
                  pool: Any) -> Callable[[], None]:
        # As PyTorch wants it: warmed up on a stream of its own, then captured.
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_RUNS):
                run()
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # What other threads of the process do on the device shall not spoil it.
        with torch.cuda.graph(graph, pool, side, capture_error_mode='thread_local'):
            run()
        return graph.replay

    def answer(self, frame: Frame, mode: str, confidence: bool, lag: int) -> Prediction:
        """Run a mode on a frame and wait for its mask: the only wait there is."""
        start = time.perf_counter()
        np.copyto(self._host_image.numpy()[0], frame)
        staged = time.perf_counter()
        self._runs[mode, confidence]()
        if self._device.type == 'cuda':
            torch.cuda.current_stream(self._device).synchronize()
        done = time.perf_counter()
        # Buffers are written anew by the next frame; the caller keeps what it gets.
        planes = self._host_planes.numpy()
        mask, sure = planes[0].copy(), planes[1].copy() if confidence else None
        end = time.perf_counter()
        return Prediction(mask, sure, lag, {
            'preprocess': 1e3 * (staged - start), 'network': 1e3 * (done - staged),
            'postprocess': 1e3 * (end - done)})

    def hand_over(self, cache: _Cache) -> None:
        """Free the shared tensors' buffers for a stream's."""
        if self.loaded is not None and self.loaded is not cache and not self.loaded.saved:
            _copy(self.loaded.shared, self.shared)
            self.loaded.saved = True
        self.loaded = None

    def begin_deep(self) -> Any:
        """Start the deep half on the newest frame; return what ``query`` asks whether it ended."""
        self._deep_image.copy_(self._image)
        if self._deep_stream is None:
            self._deep_run()
            return _Done()
        self._deep_stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._deep_stream):
            self._deep_run()
            event = torch.cuda.Event()
            event.record()
        return event

    def _input(self, image: Tensor) -> Tensor:
        """Return an image as the network takes it."""
        if self._kernels:
            normalised: Tensor = self._kernels.normalise(
                image, self._pixels.scale, self._pixels.shift, *self._size, self._dtype)
            return normalised
        pixels = self._pixels(image)
        if pixels.shape[-2:] != self._size:
            pixels = F.interpolate(pixels, self._size, mode='bilinear', antialias=True)
        return pixels.to(self._dtype, memory_format=torch.channels_last)

    def _key_logits(self, image: Tensor) -> Tensors:
        low = self._network.low(self._input(image))
        shared = self._network.high(low)
        return self._network.decode_key(low, shared), *shared

    def _current_logits(self, image: Tensor, *shared: Tensor) -> Tensor:
        return self._network.decode(self._network.low(self._input(image)), shared)

    def _deep_half(self, image: Tensor) -> Tensors:
        return self._network.high(self._network.low(self._input(image)))

    def _decided(self, sure: bool, logits: Tensor) -> Tensor:
        """Return the mask, 1xHxW uint8; where ``sure``, the confidence as a second plane."""
        if self._kernels:
            decided: Tensor = self._kernels.decide(logits, *self._mask_size, sure)
            return decided
        planes = torch.empty(2 if sure else 1, *self._mask_size, dtype=torch.uint8,
                             device=logits.device)
        winning_class(logits, self._mask_size, planes[0], planes[1] if sure else None)
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


class _Done:
    def query(self) -> bool:
        """Return that it ended: on the CPU, the deep half runs at once."""
        return True


def _copy(to: Tensors, source: Tensors) -> None:
    for target, tensor in zip(to, source):
        target.copy_(tensor)
