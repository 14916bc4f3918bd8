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
"""Sharing's cost on video without labels: against the per-frame network's own masks."""
from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
import hashlib
from itertools import islice
from pathlib import Path
from typing import Any

from featshare_core.evaluation.accuracy import (
    class_iou,
    confusion_matrix,
    finite,
    Matrix,
    mean_of,
    rounded,
)
from featshare_core.evaluation.flicker import Flicker, Mask
from featshare_core.evaluation.provenance import provenance, short_fingerprint, shown
from featshare_core.evaluation.results import cut
from featshare_core.evaluation.things import class_ids, components, matched, Survival, Thing
from featshare_core.inference.engine import Engine, Frame
from featshare_core.inference.engines import make_engine
from featshare_core.progress import preparing, track
import numpy as np

MANY = 500
"""Length in frames of the longest video of which every frame is a key frame, unless asked for."""
WAYS = ('shared', 'repeated')
"""What is compared with the per-frame masks: sharing, and the key frame's mask again."""


class SharingCost:
    """
    Compares current frames, at every lag, with the per-frame network's masks of the same frames.

    Frames are added in order. The whole network runs on each; on every ``stride``-th it is a key
    frame too, in a stream of its own, with which the following ``interval - 1`` frames run as
    current frames. At stride 1 every frame is seen at every lag; at a stride of ``interval``, as
    deployed, every frame at one. Frames with fewer than ``interval - 1`` frames before them do
    not count. What is held does not grow with the video: features and masks of at most
    ``interval`` key frames.

    :param things: names of the classes whose things are followed; None for ``things.THINGS``.
    :raises ValueError: where interval or stride is too small, or there is no class of a name.
    """

    def __init__(self, engine: Engine, interval: int, stride: int = 1,
                 things: Collection[str] | None = None) -> None:
        if interval < 2:
            raise ValueError(f'an interval of {interval} has no current frames: choose at least 2')
        if stride < 1:
            raise ValueError(f'a stride is 1 frame or more, not {stride}')
        self.engine, self.interval, self.stride = engine, interval, stride
        self.frames = 0
        classes = len(engine.labels)
        self._things = class_ids(engine.labels, things)
        self._matrices: dict[str, list[Matrix]] = {
            way: [np.zeros((classes, classes), np.int64) for _ in range(interval)]
            for way in WAYS}
        self._flicker = Flicker(interval)
        self._survival = {way: Survival(engine.labels, interval, self._things) for way in WAYS}
        self._keys: dict[int, Mask] = {}
        self._earlier: deque[list[Thing]] = deque(maxlen=interval - 1)  # the newest first
        self._size: tuple[int, ...] = ()

    def add(self, frame: Frame) -> None:
        """
        Add the next frame, HxWx3 uint8 RGB.

        :raises ValueError: where it has another size than the frames before.
        """
        now = self.frames
        if now and frame.shape != self._size:
            raise ValueError(f'frame {now} is {frame.shape[1]}x{frame.shape[0]}, the ones before '
                             f'it {self._size[1]}x{self._size[0]}')
        self.frames, self._size = now + 1, frame.shape
        is_key = now % self.stride == 0
        reference = self.engine.key(frame, self._stream(now) if is_key else 'per frame').mask
        things = components(reference, self._things)
        counts = now >= self.interval - 1
        for key, repeated in list(self._keys.items()):
            lag = now - key
            mask = self.engine.current(frame, self._stream(key)).mask
            if counts:
                self._compare(lag, reference, {'shared': mask, 'repeated': repeated},
                              matched(things, list(self._earlier)[:lag]))
                self._flicker.add(now, now - 1, reference, mask, lag)
            if lag == self.interval - 1:
                del self._keys[key]
        if is_key:
            self._keys[now] = reference
            if counts:
                self._compare(0, reference, dict.fromkeys(WAYS, reference), things)
                self._flicker.add(now, now - 1, reference, reference, 0)
        self._earlier.appendleft(things)

    def _stream(self, key: int) -> str:
        # No stream is needed for longer than an interval.
        return str(key % self.interval)

    def _compare(self, lag: int, reference: Mask, masks: dict[str, Mask],
                 things: Sequence[Thing]) -> None:
        for way, mask in masks.items():
            self._matrices[way][lag] += confusion_matrix(reference, mask, len(self.engine.labels))
            self._survival[way].count(lag, things, [thing.found(mask) for thing in things],
                                      [thing.size for thing in things])

    def summary(self) -> dict[str, Any]:
        """
        Return what was found, in percent: see docs/models/evaluation.md.

        :returns: ``pixels``, ``miou`` and each of ``per_class`` as ``compared`` has them, over
            the classes that the per-frame masks hold; ``flicker``, and ``things`` of both ways.
        :raises ValueError: where there were fewer frames than an interval has.
        """
        if self.frames < self.interval:
            raise ValueError(f'interval {self.interval} needs at least as many frames, and there '
                             f'are {self.frames}')
        seen = np.sum(self._matrices['shared'], axis=(0, 2))  # pixels of each class per frame
        present = seen > 0
        pixels = {way: [finite(np.diag(m).sum() / m.sum()) if m.any() else None for m in by_lag]
                  for way, by_lag in self._matrices.items()}
        iou = {way: [np.where(m.any(1), class_iou(m), np.nan) for m in by_lag]
               for way, by_lag in self._matrices.items()}
        flicker = self._flicker.summary() or {}
        return rounded({
            'frames': self.frames - self.interval + 1,
            'pixels': compared(**pixels),
            'classes': {'scored': int(present.sum()), 'of': len(seen)},
            'miou': compared(**{way: [mean_of([float(v) for v in one if np.isfinite(v)])
                                      for one in by_lag] for way, by_lag in iou.items()}),
            'per_class': {
                name: {'share_of_pixels': 100 * float(seen[index] / seen.sum()),
                       **compared(**{way: [finite(one[index]) for one in by_lag]
                                     for way, by_lag in iou.items()})}
                for index, name in enumerate(self.engine.labels.names) if present[index]},
            # The per-frame network's own flicker is 0 here: it is the reference.
            'flicker': {name: flicker.get(name) for name in ('key', 'between', 'ratio', 'pairs')},
            'things': {way: one.summary() for way, one in self._survival.items()}})


def compared(shared: Sequence[float | None], repeated: Sequence[float | None]) -> dict[str, Any]:
    """
    Return agreements in percent, and what remains of a repeated mask's damage.

    :param shared, repeated: agreement with the per-frame masks at lags 0, 1, ..., 0 to 1 each.
    :returns: ``shared`` and ``repeated``: ``per_lag``, and ``mean`` and ``worst`` from lag 1 on.
        ``damage_remaining``: (1 - shared) / (1 - repeated) ``per_lag``, and ``mean``, the same of
        the mean agreements; None where a repeated mask does no damage.
    """
    result: dict[str, Any] = {}
    for name, by_lag in (('shared', shared), ('repeated', repeated)):
        found = [None if value is None else 100 * value for value in by_lag]
        current = [value for value in found[1:] if value is not None]
        result[name] = {'per_lag': found, 'mean': mean_of(found[1:]),
                        'worst': min(current) if current else None}
    one, other = result['shared'], result['repeated']
    result['damage_remaining'] = {
        'per_lag': [_remaining(*pair) for pair in zip(one['per_lag'], other['per_lag'])],
        'mean': _remaining(one['mean'], other['mean'])}
    return result


def _remaining(shared: float | None, repeated: float | None) -> float | None:
    if shared is None or repeated is None or repeated >= 100:
        return None
    return 100 * (100 - shared) / (100 - repeated)


@dataclass(frozen=True)
class Footage:
    """
    Video without labels.

    :param name: for display, without the folders of this machine.
    :param frames: HxWx3 uint8 RGB, in order; read once.
    :param length: their number, as far as it is known before they are read.
    :param command: the command line that names it.
    :param hz: frames per second; None where that is not known.
    """

    name: str
    frames: Iterable[Frame]
    length: int
    command: str
    hz: float | None = None


def evaluate_unlabelled(weights: str | Path, footage: Footage, interval: int,
                        stride: int | None = None, limit: int | None = None,
                        shared_levels: int | None = None, device: str = 'auto',
                        precision: str = 'auto', aligned: bool | None = None,
                        things: Collection[str] | None = None) -> dict[str, Any]:
    """
    Return what sharing costs a checkpoint on video without labels; see ``SharingCost``.

    :param stride: frames from one key frame to the next; None for 1 up to ``MANY`` frames and
        for ``interval`` beyond.
    :param limit: frames to read at most; None for all.
    :returns: provenance, and what ``SharingCost.summary`` returns, in percent.
    :raises ValueError, FileNotFoundError: where footage, interval or checkpoint do not fit.
    """
    if limit is not None and limit < interval:
        raise ValueError(f'{limit} frames are fewer than an interval of {interval}')
    length = footage.length if limit is None else min(limit, footage.length or limit)
    chosen = stride if stride is not None else 1 if length <= MANY else interval
    preparing(shown(weights))
    engine = make_engine(weights, 'auto', device, precision, shared_levels, aligned=aligned)
    cost = SharingCost(engine, interval, chosen, things)
    digest = hashlib.sha256()
    for frame in track(islice(footage.frames, limit), f'{shown(weights)}, {footage.name}',
                       'frames', length or None):
        digest.update(frame.tobytes())
        cost.add(frame)
    given = {'interval': interval, 'stride': chosen, 'frames': limit,
             'shared-levels': shared_levels}
    command = ' '.join((f'{footage.command} --weights {shown(weights)}',
                        *(f'--{name} {value}' for name, value in given.items()
                          if value is not None),
                        *([] if aligned is None else ['--aligned' if aligned else '--no-aligned']),
                        *(['--things', *things] if things else [])))
    return {**provenance(command, engine.device), 'weights': shown(weights),
            'sha256': short_fingerprint(weights), 'network': engine.network_name,
            'shared_levels': cut(weights, shared_levels),
            'data': {'name': footage.name, 'sha256': digest.hexdigest()[:16],
                     'frames': cost.frames},
            'interval': interval, 'stride': chosen, 'engine': engine.name,
            'device': engine.device, 'precision': engine.precision, **cost.summary()}
