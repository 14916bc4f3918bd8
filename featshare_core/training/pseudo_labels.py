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
"""Pseudo labels: the frozen per-frame baseline's argmax, kept on disk."""
from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
from featshare_core.data.source import Array
from featshare_core.data.store import frames_before, FrameStore
from featshare_core.durable import write_atomically
from featshare_core.networks.checkpoint import Config
from featshare_core.networks.split import SplitNetwork
import numpy as np
import torch
from torch.nn import functional as F

BATCH = 16
"""Images per forward pass of the baseline."""


class PseudoLabels:
    """
    The classes that a baseline predicts for frames, looked up by the frames' content.

    :param baseline: its checkpoint file, whose content names the folder of its labels, so that
        another baseline's labels are never used instead.
    :param cache: the parent of these folders.
    """

    def __init__(self, baseline: Path, cache: Path) -> None:
        self.folder = cache / hashlib.sha256(baseline.read_bytes()).hexdigest()[:16]
        self._memory: dict[str, Array] = {}

    def __call__(self, image: Array) -> Array:
        """
        Return the labels, HxW uint8 class ids, of an HxWx3 uint8 image that ``make`` labelled.

        :raises ValueError: where its file is missing or damaged.
        """
        key = _digest(image)
        labels = self._memory.get(key)
        if labels is None:
            path = self.folder / f'{key}.png'
            labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            if labels is None or labels.shape != image.shape[:2]:
                raise ValueError(f'the pseudo labels {path} are missing or damaged; remove '
                                 f'{self.folder}, and the next start rebuilds them')
        return labels

    @torch.inference_mode()
    def make(self, network: SplitNetwork, config: Config, store: FrameStore, lags: int,
             device: torch.device) -> int:
        """
        Label the frames without a label file; keep all labels in memory if the frames are.

        :param network: the baseline, in eval mode; it is moved to the device.
        :param config: its config, whose mean and standard deviation normalise the images.
        :param lags: largest distance of a key frame before a labelled frame, in frames.
        :returns: the number of frames labelled now; the others had label files.
        """
        names, keep = frames_before(store.source.samples, lags), store.in_memory
        # Reading frames from the disk takes long: a marker file says that all are labelled.
        digest = hashlib.sha256(repr((store.size, names)).encode()).hexdigest()[:16]
        complete = self.folder / f'{digest}.complete'
        if complete.is_file() and not keep:
            return 0
        self.folder.mkdir(parents=True, exist_ok=True)
        network.to(device)
        batch: list[tuple[str, Array]] = []
        made = 0
        for name in names:
            image = store.image(name)
            key = _digest(image)
            path = self.folder / f'{key}.png'
            labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
            if labels is None:
                batch.append((key, image))
            elif keep:
                self._memory[key] = np.asarray(labels, np.uint8)
            if len(batch) == BATCH:
                self._label(network, config, batch, device, keep)
                made, batch = made + len(batch), []
        if batch:
            self._label(network, config, batch, device, keep)
        complete.touch()
        return made + len(batch)

    def _label(self, network: SplitNetwork, config: Config, batch: list[tuple[str, Array]],
               device: torch.device, keep: bool) -> None:
        pixels = torch.from_numpy(np.stack([image for _, image in batch])).to(device)
        # Nx3xHxW, 0 to 1, then normalised.
        inputs = normalise(pixels.permute(0, 3, 1, 2).float() / 255, config)
        height, width = inputs.shape[-2:]
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == 'cuda'):
            # NxCxhxw at the network's output size, then NxCxHxW.
            logits = network(to_multiple(inputs, network.input_multiple))
        logits = F.interpolate(logits.float(), (height, width), mode='bilinear')
        for (key, _), labels in zip(batch, logits.argmax(1).to(torch.uint8).cpu().numpy()):
            # Without waiting for the disk: there are thousands, and damaged ones are rebuilt.
            write_atomically(self.folder / f'{key}.png', cv2.imencode('.png', labels)[1].tobytes())
            if keep:
                self._memory[key] = labels


def _digest(image: Array) -> str:
    content = np.ascontiguousarray(image)
    return hashlib.blake2b(content.data, digest_size=16,
                           salt=f'{image.shape[1]}x{image.shape[0]}'.encode()).hexdigest()


def normalise(images: torch.Tensor, config: Config) -> torch.Tensor:
    """Return Nx3xHxW images of 0 to 1 as the network takes them, channels last."""
    mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (config.mean, config.std))
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def to_multiple(images: torch.Tensor, multiple: int) -> torch.Tensor:
    """Return Nx3xHxW images at the next smaller multiples of ``multiple``, one at least."""
    size = [max(side // multiple, 1) * multiple for side in images.shape[-2:]]
    if size == list(images.shape[-2:]):
        return images
    return F.interpolate(images, size, mode='bilinear', antialias=True)
