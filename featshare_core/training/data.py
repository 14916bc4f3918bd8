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
"""From a configuration's data entries to loaders."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
import os
from pathlib import Path
from typing import Any

from featshare_core.data.cityscapes import cityscapes_source
from featshare_core.data.coverage import require_classes
from featshare_core.data.folder import folder_source, in_classes
from featshare_core.data.pairs import LaggedFrames, Triplets
from featshare_core.data.source import camvid_source
from featshare_core.data.store import FrameStore, street_store
from featshare_core.labels import LabelSet, load_label_set
from featshare_core.progress import track
from featshare_core.training.config import DataEntry, TrainConfig
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler


def open_store(entry: DataEntry, data: Path, size: tuple[int, int], lags: int,
               processes: int = 1) -> FrameStore:
    """
    Return a data set, decoded into memory where it fits.

    :param data: the folder that relative roots lie in.
    :param size: (width, height) in pixels of the frames and masks.
    :param lags: number of frames needed before each labelled one.
    :param processes: number of processes on this machine that keep frames in memory.
    :raises ValueError, FileNotFoundError: naming the file that is wrong or missing.
    """
    if entry.kind == 'street':
        return street_store(entry.seeds, entry.clips, entry.length, size)
    root = data / Path(entry.root).expanduser()
    if entry.kind == 'camvid':
        source = camvid_source(root, entry.split)
    elif entry.kind == 'cityscapes':
        source = cityscapes_source(root, entry.split, entry.annotations)
    elif entry.mapping:
        mapping = data / Path(entry.mapping).expanduser()
        source = in_classes(folder_source(root, entry.split, mapping),
                            load_label_set(root / 'labels.yaml'), mapping)
    else:
        source = folder_source(root, entry.split)
    store = FrameStore(source, size)
    is_first = os.environ.get('LOCAL_RANK', '0') == '0'  # of the processes on this machine
    store.load(lags, processes, partial(track, label=f'reading {source.name}',
                                        unit='frames') if is_first else iter)
    return store


def same_labels(stores: Sequence[FrameStore]) -> LabelSet:
    """
    Return the label set that all stores share.

    :raises ValueError: where two stores have different classes.
    """
    first = stores[0].source
    for store in stores[1:]:
        if store.source.labels.names != first.labels.names:
            raise ValueError(f'{store.source.name} and {first.name} have different classes: a '
                             f'network learns one label set')
    return first.labels


def classes_without_labels(config: TrainConfig, stores: Sequence[FrameStore],
                           val: FrameStore) -> dict[str, list[str]]:
    """
    Return the names of the classes without a labelled pixel, of 'train' and of 'val'.

    :raises ValueError: naming them, where there are any and the configuration does not allow it.
    """
    names = val.source.labels.names
    found = {}
    for split, kinds, parts in (('train', {entry.kind for entry in config.train}, stores),
                                ('val', {config.val.kind}, [val])):
        masks = (store.mask(sample) for store in parts for sample in store.source.samples)
        where = f'{split} ({", ".join(store.source.name for store in parts)})'
        found[split] = require_classes(
            masks, range(len(names)), names, where, 'allow_absent_classes: true',
            config.allow_absent_classes or 'street' in kinds)
    return found


def class_weights(stores: Sequence[FrameStore], shares: Sequence[float],
                  classes: int) -> torch.Tensor:
    """
    Return 1 / log(1.1 + share of pixels) per class, scaled to mean 1 (ENet, arXiv 1606.02147).

    :param shares: each store's share of the samples.
    :param classes: C, the number of classes.
    :returns: C weights, float32.
    """
    total = np.zeros(classes)
    for store, share in zip(stores, shares):
        counts = sum(np.bincount(store.mask(sample).ravel(), minlength=256)[:classes]
                     for sample in store.source.samples)
        total += share * counts / max(np.sum(counts), 1)
    weights = 1 / np.log(1.1 + total / total.sum())
    return torch.tensor(weights / weights.mean(), dtype=torch.float32)


class StepSampler(Sampler[int]):
    """
    Indices of one epoch's samples; a step's samples do not depend on the number of processes.

    :param steps: optimisation steps per epoch.
    :param batch: samples per step, of all processes together; a multiple of ``world``.
    :param rank, world: this process's number, from 0, and the number of processes.
    """

    def __init__(self, steps: int, batch: int, rank: int, world: int) -> None:
        self.steps, self.batch, self.rank, self.world = steps, batch, rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; the trainer calls this before each."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of this process's samples per epoch."""
        return self.steps * self.batch // self.world

    def __iter__(self) -> Iterator[int]:
        """Yield this process's part of every step's samples."""
        part = self.batch // self.world
        for step in range(self.epoch * self.steps, (self.epoch + 1) * self.steps):
            first = step * self.batch + self.rank * part
            yield from range(first, first + part)


def train_loader(triplets: Triplets, steps: int, batch: int, rank: int, world: int,
                 workers: int) -> DataLoader[dict[str, Any]]:
    """
    Return the loader of one process's samples.

    :param steps, batch, rank, world: see ``StepSampler``.
    :param workers: processes that prepare samples; 0 for this one.
    :raises ValueError: where the processes cannot share the batch evenly.
    """
    if batch % world:
        raise ValueError(f'a batch of {batch} cannot be shared evenly by {world} processes')
    return DataLoader(triplets, batch // world, sampler=StepSampler(steps, batch, rank, world),
                      num_workers=workers, persistent_workers=workers > 0,
                      pin_memory=torch.cuda.is_available())


def val_loader(frames: LaggedFrames, batch: int, rank: int, world: int,
               workers: int) -> DataLoader[dict[str, Any]]:
    """Return the loader of one process's part of the frames to score."""
    return DataLoader(frames, batch, sampler=range(rank, len(frames), world),
                      num_workers=workers)
