"""TorchEngine: eager PyTorch on the CPU and on CUDA."""
from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featshare_core.inference.engine import Engine, Frame, Prediction
from featshare_core.inference.pixels import MaskMaker, Size, as_planes, network_size, resize
from featshare_core.inference.timing import StageTimer
from featshare_core.networks.checkpoint import Config
from featshare_core.networks.split import SplitNetwork, Tensors

PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


def choose_device(wanted: str) -> torch.device:
    """
    Return the device for ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    :raises ValueError: for another word.
    :raises RuntimeError: where a CUDA device is wanted and missing: never a silent CPU run.
    """
    if wanted == 'auto':
        return torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ValueError(f'device {wanted!r} is none of auto, cpu, cuda, cuda:N') from error
    if device.type not in ('cpu', 'cuda'):
        raise ValueError(f'device {wanted!r} is none of auto, cpu, cuda, cuda:N')
    if device.type == 'cuda':
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            build = torch.version.cuda or 'without CUDA'
            raise RuntimeError(
                f'device {wanted!r} was asked for, but PyTorch {torch.__version__} (built for '
                f'CUDA: {build}) sees {count} CUDA devices; install a CUDA build of PyTorch and '
                f'a driver, or choose device "cpu" or "auto"')
        return torch.device('cuda', device.index or 0)
    return device


def choose_precision(wanted: str, device: torch.device) -> str:
    """
    Return the precision for ``auto``, ``fp32``, ``bf16`` or ``fp16`` on a device.

    ``auto`` is bf16 where the device multiplies it natively, else fp16 on CUDA devices with
    tensor cores, else fp32.

    :raises ValueError: for another word, and for fp16 on the CPU, which has no fast kernels.
    """
    if wanted not in ('auto', *PRECISIONS):
        raise ValueError(f'precision {wanted!r} is none of auto, {", ".join(PRECISIONS)}')
    if device.type == 'cuda':
        if wanted == 'auto':
            capability = torch.cuda.get_device_capability(device)
            return 'bf16' if capability >= (8, 0) else 'fp16' if capability >= (7, 0) else 'fp32'
        return wanted
    if wanted == 'fp16':
        raise ValueError('precision fp16 is for CUDA; on the CPU choose fp32, bf16 or auto')
    if wanted == 'auto':
        return 'bf16' if _cpu_multiplies_bf16() else 'fp32'
    return wanted


def _cpu_multiplies_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, 'get_capabilities') else {}
    return bool(capabilities.get('avx512_bf16') or capabilities.get('amx_bf16'))


@dataclass
class _Cache:
    """A stream's key frame: its size at the network's input, and the shared tensors."""

    size: Size
    shared: Tensors


class TorchEngine(Engine):
    """
    Runs a ``SplitNetwork`` eagerly.

    :param network: taken over: it is moved to the device and cast.
    :param input_size: (width, height) of the network's input; None for as many pixels as the
        network was trained on, in each image's own aspect ratio.
    :param full_size: masks have the image's size; otherwise that of the network's input.
    """

    def __init__(self, network: SplitNetwork, config: Config, device: str = 'auto',
                 precision: str = 'auto', input_size: tuple[int, int] | None = None,
                 full_size: bool = True) -> None:
        self._device = choose_device(device)
        self.precision = choose_precision(precision, self._device)
        self.device = str(self._device)
        if self._device.type == 'cuda':
            self.device += f' ({torch.cuda.get_device_name(self._device)})'
        # Timers record on the current device, which need not be ours.
        self._current_device = torch.cuda.device(self._device) \
            if self._device.type == 'cuda' else nullcontext()
        self._multiple = network.input_multiple
        self.network_name = f'{config.network}, {network.shared_levels} shared levels'
        self.trained_size = config.input_size[1], config.input_size[0]
        self._input_size: Size | None = None
        if input_size is not None:
            self._input_size = input_size[1], input_size[0]
            if min(input_size) <= 0 or any(side % self._multiple for side in input_size):
                raise ValueError(f'input_size {input_size[0]}x{input_size[1]} is not made of '
                                 f'multiples of {self._multiple}')
        self._full_size = full_size
        self._network = self._prepare(network)
        std = 255 * torch.tensor(config.std, device=self._device).view(3, 1, 1)
        self._scale = 1 / std
        self._shift = -255 * torch.tensor(config.mean, device=self._device).view(3, 1, 1) / std
        self._caches: dict[str, _Cache] = {}
        self._timer = StageTimer(self._device)
        self._masks = MaskMaker()

    def _prepare(self, network: SplitNetwork) -> SplitNetwork:
        network = network.eval().to(self._device, PRECISIONS[self.precision])
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for module in network.modules():
            # Statistics of 8 bits would shift whole channels; kernels take them in fp32.
            if isinstance(module, nn.BatchNorm2d):
                module.float()
        return network

    def key(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Run the whole network and remember the deep features for the stream."""
        with torch.inference_mode(), self._current_device:
            size = self._size_for(frame)
            self._timer.start()
            low = self._network.low(self._input(frame, size))
            self._timer.mark('low')
            shared = self._network.high(low)
            self._caches[stream] = _Cache(size, shared)
            self._timer.mark('high')
            return self._finish(frame, size, self._network.decode_key(low, shared), confidence)

    def current(self, frame: Frame, stream: str = '', confidence: bool = False) -> Prediction:
        """Run the shallow half with the stream's remembered deep features."""
        with torch.inference_mode(), self._current_device:
            size = self._size_for(frame)
            cache = self._caches.get(stream)
            if cache is None or cache.size != size:
                raise LookupError(f'stream {stream!r} has had no key frame of this size')
            self._timer.start()
            low = self._network.low(self._input(frame, size))
            self._timer.mark('low')
            logits = self._network.decode(low, cache.shared)
            return self._finish(frame, size, logits, confidence)

    def forget(self, stream: str) -> None:
        """Free what is remembered of a stream."""
        self._caches.pop(stream, None)

    def _size_for(self, frame: Frame) -> Size:
        height, width = frame.shape[:2]
        return self._input_size or network_size((height, width), self.trained_size, self._multiple)

    def _input(self, frame: Frame, size: Size) -> Tensor:
        """Return the frame as the network takes it: 1x3xhxw, normalised."""
        planes = as_planes(frame)
        if self._device.type == 'cuda':
            planes = resize(planes.to(self._device).float(), size)
        else:
            planes = resize(planes, size).contiguous().float()
        image = planes.mul_(self._scale).add_(self._shift).to(PRECISIONS[self.precision])[None]
        self._timer.mark('preprocess')
        return image.contiguous(memory_format=torch.channels_last)

    def _finish(self, frame: Frame, size: Size, logits: Tensor,
                wants_confidence: bool) -> Prediction:
        """Upsample, take the winning class, and bring the mask to host memory."""
        self._timer.mark('decode')
        height, width = frame.shape[:2] if self._full_size else size
        if self._device.type == 'cuda':
            logits = F.interpolate(logits.float(), size=(height, width), mode='bilinear')
            winner = logits.max(1)
            planes = [winner.indices[0].to(torch.uint8)]
            if wants_confidence:
                share = (winner.values - logits.logsumexp(1)).exp_()
                planes.append(share.mul_(255).round_()[0].to(torch.uint8))
            host_mask, *rest = torch.stack(planes).cpu().numpy()
            confidence = rest[0] if rest else None
            self._timer.mark('postprocess')
            torch.cuda.current_stream(self._device).synchronize()
        else:
            scores = logits[0].float().contiguous().numpy()
            host_mask = self._masks.mask(scores, (height, width))
            confidence = self._masks.confidence(scores, (height, width)) \
                if wants_confidence else None
            self._timer.mark('postprocess')
        return Prediction(host_mask, confidence, self._timer.stages())
