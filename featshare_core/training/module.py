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
"""The training loop's body: a batch in, a loss out; lagged frames in, scores out."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
import json
from typing import Any

from featshare_core.data.augment import augment
from featshare_core.evaluation.accuracy import labelled_classes, mean_iou
from featshare_core.labels import UNLABELLED
from featshare_core.networks.checkpoint import Config
from featshare_core.networks.split import SplitNetwork
from featshare_core.training import loss
from featshare_core.training.config import TrainConfig
from featshare_core.training.pseudo_labels import normalise, to_multiple
from featshare_core.training.schedule import factor
import lightning
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

NAN_CHECK_STEPS = 20
"""Interval between checks for NaN, in steps."""
TERMS = ('loss', 'current', 'key', 'key_on_current', 'match', 'distilled')
MENDING_TERMS = ('loss', 'match', 'distilled')


class LearningError(RuntimeError):
    """Training that cannot go on."""


class Learner(lightning.LightningModule):
    """
    Trains a network by ``config``: feature sharing, or the per-frame baseline.

    :param checkpoint: the config of the checkpoint that the network will be saved in.
    :param class_weights: see ``loss.nll``.
    :param teacher: the frozen network whose logits are distilled, and its config; not saved with
        the run.
    :param steps_per_epoch: optimisation steps.
    :param files: fingerprints of the files that the run starts from, by their role.
    """

    class_weights: Tensor | None

    def __init__(self, config: TrainConfig, network: SplitNetwork, checkpoint: Config,
                 steps_per_epoch: int, class_weights: Tensor | None = None,
                 teacher: tuple[SplitNetwork, Config] | None = None,
                 files: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.config, self.network, self.checkpoint = config, network, checkpoint
        self._run = {**asdict(config), 'steps_per_epoch': steps_per_epoch, **(files or {})}
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.frozen_backbone:
            network.backbone.requires_grad_(False)
        if config.mending:
            for name, parameter in network.named_parameters():
                parameter.requires_grad_(name in network.mending_names)
        self.steps_per_epoch = steps_per_epoch
        self.register_buffer('class_weights', class_weights, persistent=False)
        # In a list, so that it is no part of the module: neither saved nor trained.
        self._teacher = [teacher]
        self._terms = torch.zeros(len(TERMS))
        self._steps: list[tuple[int, float, Tensor]] = []  # number, learning rate, terms
        self._counted = 0
        self._matrices: dict[int, Tensor] = {}
        self.scores: dict[str, float] = {}

    def configure_optimizers(self) -> Any:
        """Return the optimiser and its learning rate, step by step."""
        config = self.config
        kind = torch.optim.Adam if config.optimizer == 'adam' else torch.optim.AdamW
        learned = [p for p in self.network.parameters() if p.requires_grad]
        optimizer = kind(learned, config.lr, weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: factor(config.schedule, step, config.epochs
                                           * self.steps_per_epoch, self.steps_per_epoch))
        return {'optimizer': optimizer,
                'lr_scheduler': {'scheduler': schedule, 'interval': 'step'}}

    def on_fit_start(self) -> None:
        """Move the tensors and the teacher, which the module does not own, to its device."""
        self._terms = self._terms.to(self.device)
        if self._teacher[0] is not None:
            self._teacher[0][0].to(self.device).eval()

    def on_train_epoch_start(self) -> None:
        """Switch to training mode, with the configured batch-norm statistics frozen."""
        self.network.train()
        self.network.configure(aligned=self.config.aligned == 'always' or self.config.mending)
        frozen = {'none': None, 'backbone': self.network.backbone, 'all': self.network}
        part = frozen[self.config.frozen_norms]
        for module in part.modules() if part is not None else ():
            if isinstance(module, _BatchNorm):
                module.eval()

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> Any:
        """Keep the seeds out of the device: reading them back would wait for it."""
        if 'noise' in batch:
            batch['noise'] = batch['noise'].tolist()
        return batch

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """Return the loss of a collated batch of ``pairs.Triplets``."""
        seeds = batch['noise']
        # What is drawn in a step, dropout above all, is the same after an interruption.
        torch.manual_seed(np.random.SeedSequence(
            (self.config.seed, self.global_step, self.global_rank)).generate_state(1)[0].item())
        images, masks = augment(batch['image'], batch['mask'], batch['view'], batch['colours'],
                                seeds, self.config.crop)
        taught = self._taught(images)
        images = normalise(images, self.checkpoint)  # Nx3xhxw; masks Nxhxw
        if self.config.is_sharing:
            keys, pseudo = augment(batch['key'], batch['pseudo'], batch['key_view'],
                                   batch['key_colours'], [seed + 1 for seed in seeds],
                                   self.config.crop)
            keys = normalise(keys, self.checkpoint)
            if self.config.mending:
                terms = self._mending_terms(images, keys)
            else:
                rng = np.random.default_rng((self.config.seed, self.global_step))
                self.network.configure(shared_levels=int(rng.choice(self.config.shared_levels)))
                terms = self._sharing_terms(images, masks, keys, pseudo, batch['distance'], taught)
        else:
            logits = self._full(self.network(images))
            value = loss.nll(logits, masks, self.class_weights)
            if taught is not None:
                value = value + self.config.loss.distillation_weight * loss.distillation(
                    logits, taught)
            terms = [value.mean()]
        self._watch(terms)
        return terms[0]

    @torch.no_grad()
    def _taught(self, images: Tensor) -> Tensor | None:
        """Return the teacher's logits of images of 0 to 1."""
        if self._teacher[0] is None:
            return None
        network, config = self._teacher[0]
        return self._full(network(to_multiple(normalise(images, config),
                                              network.input_multiple)))

    def _sharing_terms(self, images: Tensor, masks: Tensor, keys: Tensor, pseudo: Tensor,
                       distance: Tensor, taught: Tensor | None) -> list[Tensor]:
        """Return the loss and the means of its terms, in the order of ``TERMS``."""
        config, weights = self.config.loss, self.class_weights
        network, count = self.network, len(images)
        # Both frames in one batch, and all three uses of the decoder: batch norms then see, in
        # training, the mixture that their running statistics are of.
        low = network.low(torch.cat((images, keys)))  # 2Nx...: current frames, then key frames
        high = network.high(low)
        current_low = tuple(part[:count] for part in low)
        carried = network.propagate(current_low, tuple(part[count:] for part in high))
        logits = network.decode_key(*(
            tuple(torch.cat(pair) for pair in zip(parts, more))
            for parts, more in ((low, current_low), (high, carried))))  # 3NxCxhxw
        on_key, on_current = self._full(logits[:2 * count]), self._full(logits[2 * count:])
        current = loss.nll(on_current, masks, weights)
        key = loss.nll(on_key[count:], pseudo, weights)
        key_on_current = loss.nll(on_key[:count], masks, weights)
        agreement = None
        if config.match_where_classes_agree:
            winners = on_key.detach().argmax(1)  # 2Nxhxw
            agreement = winners[:count] == winners[count:]
        match = loss.feature_match([part[:count] for part in network.without_landmarks(high)],
                                   network.without_landmarks(carried), config.match, agreement)
        distilled = torch.zeros_like(current) if taught is None \
            else loss.distillation(on_current, taught)
        alpha = loss.inverse_alpha(distance) if config.alpha == 'inverse' \
            else torch.full_like(current, float(config.alpha))
        total = loss.total_loss(current, key, key_on_current, match, distilled, alpha,
                                config.match_weight, config.distillation_weight)
        return [total, *(term.mean() for term in
                         (current, key, key_on_current, match, distilled))]

    def _mending_terms(self, images: Tensor, keys: Tensor) -> list[Tensor]:
        """
        Return the loss and the means of its terms where the mendings alone learn.

        They learn what the frame gives on its own, not its labels, which gain too little to be
        asked for (docs/notes/ablation.md). Those of all cuts learn in a step, each as if alone:
        what is frozen is computed once for all of them.
        """
        config, network, count = self.config.loss, self.network, len(images)
        cuts = sorted(self.config.shared_levels)
        sums = torch.zeros(len(MENDING_TERMS), device=images.device)
        with torch.no_grad():
            network.configure(shared_levels=cuts[0])
            finest = network.low(torch.cat((images, keys)))
            # What the frame gives on its own is the teacher: the same network, for every cut.
            low = tuple(part[:count] for part in finest)
            target = network.decode_key(low, network.high(low)).float()  # NxCxh'xw'
        for cut in cuts:
            network.configure(shared_levels=cut)
            low = finest[:network.levels - cut]
            with torch.no_grad():
                high = network.high(low)
            low = tuple(part[:count] for part in low)
            carried = network.propagate(low, tuple(part[count:] for part in high),
                                        in_place=self.global_step % 2 == 0)
            logits = network.decode_key(low, carried).float()
            # By the features' own size, which differs tenfold from network to network.
            own = high[0][:count]  # NxCxhxw, of the current frames themselves
            size = own.abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-6)
            match = loss.feature_match([own / size], [carried[0] / size],
                                       config.match)
            distilled = loss.distillation(logits, target)
            total = config.match_weight * match + config.distillation_weight * distilled
            sums = sums + torch.stack([term.mean() for term in (total, match, distilled)])
        return [*(sums / len(cuts))]

    def _full(self, logits: Tensor) -> Tensor:
        """Return logits at the crop's size, in full precision."""
        return F.interpolate(logits.float(), self.config.crop[::-1], mode='bilinear')

    def _watch(self, terms: list[Tensor]) -> None:
        """Sum the terms; check every ``NAN_CHECK_STEPS``, because a check waits for the device."""
        terms_now = torch.stack([term.detach() for term in terms])
        self._terms[:len(terms)] += terms_now
        self._counted += 1
        rate = self.trainer.optimizers[0].param_groups[0]['lr']
        self._steps.append((self.global_step, rate, terms_now))
        if self._counted % NAN_CHECK_STEPS == 0:
            self._check()

    def _check(self) -> dict[str, float]:
        """
        Return the epoch's mean of each term.

        :raises LearningError: where one is not finite.
        """
        means = (self._terms / max(self._counted, 1)).tolist()
        names: Sequence[str] = MENDING_TERMS if self.config.mending else TERMS
        if not self.config.is_sharing:
            names = names[:1]
        self._log_steps(names)
        named = dict(zip(names, means))
        if not np.isfinite(means).all():
            bad = [name for name, value in named.items() if not np.isfinite(value)]
            raise LearningError(
                f'{", ".join(bad)} became NaN or infinite by step {self.global_step} (epoch '
                f'{self.current_epoch}); the last whole epoch is kept. Restart with a lower '
                f'lr than {self.config.lr} or with a gradient_clip, and check the data')
        return named

    def _log_steps(self, names: Sequence[str]) -> None:
        """Log the terms of this process's steps since the last call, and their learning rates."""
        for step, rate, terms in self._steps:
            values = {f'step/{name}': value for name, value in zip(names, terms.tolist())}
            for logger in self.loggers:
                logger.log_metrics({**values, 'step/lr': rate}, step)
        self._steps.clear()

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means; a run that broke is noticed before it is saved."""
        means = self._check()
        self.print(f'epoch {self.current_epoch + 1}/{self.config.epochs}:',
                   ', '.join(f'{name} {value:.4f}' for name, value in means.items()))
        for name, value in means.items():
            self.log(f'train/{name}', value, sync_dist=True, prog_bar=name == 'loss')
        self.log('lr', self.trainer.optimizers[0].param_groups[0]['lr'])
        self._terms.zero_()
        self._counted = 0

    def on_validation_epoch_start(self) -> None:
        """
        Start counting, one matrix for each lag of each cut.

        The baseline is scored at every cut: cached features without sharing training are the
        control that such training has to beat.
        """
        classes = len(self.checkpoint.labels)
        config = self.config
        self.network.configure(aligned=config.aligned != 'never')
        cuts = config.shared_levels if config.is_sharing else self.network.cuts
        self._matrices = {
            cut: torch.zeros(config.interval, classes, classes, dtype=torch.int64,
                             device=self.device) for cut in cuts}

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """Count the pixels of a collated batch of ``pairs.LaggedFrames``."""
        images, keys = (to_multiple(
            normalise(batch[name].permute(0, 3, 1, 2).float() / 255, self.checkpoint),
            self.network.input_multiple) for name in ('image', 'key'))
        truth, lags = batch['mask'].long(), batch['distance']
        for cut, matrices in self._matrices.items():
            self.network.configure(shared_levels=cut)
            low = self.network.low(images)
            shared = self.network.high(self.network.low(keys))
            # At lag 0 the frame is its own key frame.
            first = (lags == 0).view(-1, 1, 1, 1)
            logits = self.network.decode(low, shared)
            if self.network.aligned:
                logits = torch.where(first, self.network.decode_key(low, shared), logits)
            # NxHxW, as the truth
            predicted = F.interpolate(logits.float(), truth.shape[-2:], mode='bilinear').argmax(1)
            classes = matrices.shape[-1]
            # NxHxW: the flat index (lag, true class, predicted class) of each pixel
            pairs = (lags.view(-1, 1, 1) * classes + truth) * classes + predicted
            counts = torch.bincount(pairs[truth != UNLABELLED], minlength=matrices.numel())
            matrices += counts.view_as(matrices)

    def on_validation_epoch_end(self) -> None:
        """Log mIoU in percent: key frames, each lag, and the mean and worst of the lags."""
        self.scores = {}
        for cut, counted in self._matrices.items():
            matrices = self.trainer.strategy.reduce(counted, reduce_op='sum').cpu().numpy()
            scored = labelled_classes(matrices)
            by_lag = [100 * mean_iou(m, scored) for m in matrices if m.any()]
            prefix = f'val/{cut}-levels/'
            self.scores[f'{prefix}key'] = by_lag[0]
            if not cut:
                continue
            for lag, score in enumerate(by_lag[1:], 1):
                self.scores[f'{prefix}lag-{lag}'] = score
            if len(by_lag) > 1:
                self.scores[f'{prefix}current-mean'] = float(np.mean(by_lag[1:]))
                self.scores[f'{prefix}current-worst'] = float(np.min(by_lag[1:]))
        names = self.checkpoint.labels.names
        if not scored.all():
            self.print(f'! mIoU is the mean over {scored.sum()} of {len(names)} classes: no pixel '
                       f'of val is labelled ' + ', '.join(
                           name for name, found in zip(names, scored) if not found))
        if not self.config.is_sharing:
            self.network.configure(shared_levels=0)
        for name, value in self.scores.items():
            self.log(name, value)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the configuration, so that another one does not resume this run."""
        checkpoint['featshare'] = json.dumps(self._run)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a run of another configuration."""
        theirs = json.loads(checkpoint['featshare'])
        ours = json.loads(json.dumps(self._run))
        other = sorted(name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name))
        if other:
            raise LearningError(
                f'the run that is here had another {", ".join(other)}: name another '
                f'output folder, or remove this one')
