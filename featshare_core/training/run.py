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
"""A training run from configuration to checkpoint."""
from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
import os
from pathlib import Path
import sys
from typing import Any
import warnings

import cv2
from featshare_core.data.pairs import LaggedFrames, Triplets
from featshare_core.evaluation.provenance import short_fingerprint
from featshare_core.inference.device import choose_device, choose_precision
from featshare_core.labels import LabelSet
from featshare_core.networks.checkpoint import (
    Config,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from featshare_core.networks.split import SplitNetwork
from featshare_core.networks.state_file import load_state
from featshare_core.training.checkpoints import DurableCheckpoints, find_state, LAST
from featshare_core.training.config import FINAL, MAX_LEVELS, TrainConfig
from featshare_core.training.data import (
    class_weights,
    classes_without_labels,
    open_store,
    same_labels,
    train_loader,
    val_loader,
)
from featshare_core.training.depthwise import fix_depthwise_gradients
from featshare_core.training.log import loggers, Pace, silence_tips
from featshare_core.training.module import Learner
from featshare_core.training.pseudo_labels import PseudoLabels
import lightning
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_only
import torch


def train(config: TrainConfig, output: Path, data: Path, device: str = 'auto', devices: int = 1,
          nodes: int = 1, workers: int = 0, callbacks: tuple[Callback, ...] = (),
          progress: bool = True, precision: str = 'auto') -> dict[str, float]:
    """
    Train, save ``output/final.safetensors`` and score.

    A run resumes from the state that ``find_state`` returns: the unfinished epoch is repeated, and
    the weights are those of an uninterrupted run.

    :param data: the folder that the configuration's relative roots lie in.
    :param device: ``auto``, ``cpu``, ``cuda``; ``devices`` of each of ``nodes`` machines.
    :param workers: processes that prepare samples, for each device.
    :param precision: ``fp32``, or ``bf16`` or ``fp16`` mixed with it; ``auto`` is what the
        device multiplies fast.
    :returns: the scores, mIoU in percent.
    :raises ValueError, OSError: for wrong data, naming the file.
    :raises RuntimeError: where training cannot go on.
    """
    for expected in ('Checkpoint directory', '.*LeafSpec'):
        warnings.filterwarnings('ignore', expected, module='lightning')
    silence_tips()
    cv2.setNumThreads(1)  # its threads and PyTorch's spin against each other
    torch.manual_seed(config.seed)
    chosen = choose_device(device)
    if chosen.index and device != 'auto':
        raise ValueError(f'device {device}: training takes cpu or cuda; CUDA_VISIBLE_DEVICES='
                         f'{chosen.index} says which')
    kind = chosen.type
    if config.batch % (devices * nodes):
        raise ValueError(f'a batch of {config.batch} cannot be shared evenly by '
                         f'{devices * nodes} processes')
    lags = config.distances[1] if config.is_sharing else 0
    # Before minutes of reading data.
    resumed = find_state(output)
    for named in (config.baseline, config.teacher):
        if named:
            find_checkpoint(named)
    stores = [open_store(entry, data, config.size, lags, devices) for entry in config.train]
    val = open_store(config.val, data, config.size, config.interval - 1, devices)
    labels = same_labels([*stores, val])
    absent = classes_without_labels(config, stores, val)['train']
    warn = rank_zero_only(partial(print, file=sys.stderr, flush=True))
    if absent:
        warn(f'! the network cannot learn {", ".join(absent)}: no pixel of train is labelled so')
    if not (config.baseline or config.backbone_weights):
        warn('! the backbone starts from random weights: --backbone-weights names better ones, '
             "for example ImageNet's (imagenet, or a file)")
    scored_frames = LaggedFrames(val, config.interval)
    if scored_frames.lags < config.interval:
        before = max(len(sample.frames) for sample in val.source.samples) - 1
        warn(f'! current frames are not scored: a labelled frame of val ({val.source.name}) has '
             f'at most {before} frames before it, and interval {config.interval} needs '
             f'{config.interval - 1}')
    shares = [entry.share for entry in config.train]
    network, checkpoint = build_network(config, labels)
    pseudo, teacher = None, None
    if config.baseline:
        baseline, baseline_config = load_checkpoint(config.baseline, shared_levels=0)
        _start_from(network, baseline, config, baseline_config, labels, checkpoint)
        if baseline_config.labels.names != labels.names:
            warn(f'! the classifier starts from random weights: the baseline {config.baseline} '
                 f'has other classes')
        checkpoint = replace(checkpoint, mean=baseline_config.mean, std=baseline_config.std)
        if config.is_sharing and not config.mending:
            teacher = baseline, baseline_config
            pseudo = PseudoLabels(find_checkpoint(config.baseline),
                                  output.parent / 'pseudo_labels')
            rank = f'{kind}:{os.environ.get("LOCAL_RANK", "0")}' if kind == 'cuda' else kind
            for store in stores:
                pseudo.make(baseline, baseline_config, store, lags, torch.device(rank))
    if config.teacher:
        teacher = load_checkpoint(config.teacher, shared_levels=0)
        if teacher[1].labels.names != labels.names:
            raise ValueError(f'the teacher {config.teacher} was trained on other classes: '
                             f'{", ".join(teacher[1].labels.names)}')
    triplets = Triplets(stores, shares, config.crop, config.augmentation, config.seed,
                        config.distances if config.is_sharing else None, pseudo)
    labelled = sum(len(store.source.samples) for store in stores)
    steps = config.steps_per_epoch or -(-labelled // config.batch)
    multiplied_in = choose_precision(precision, torch.device(kind))
    if kind == 'cpu' and multiplied_in == 'bf16':
        fix_depthwise_gradients(network)
    learner = Learner(
        config, network, checkpoint, steps,
        class_weights(stores, shares, len(labels)) if config.loss.class_weights else None,
        teacher if config.loss.distillation_weight else None,
        {f"{name}'s content": short_fingerprint(file) for name in ('baseline', 'teacher')
         if (file := getattr(config, name))})
    trainer = _trainer(config, output, kind, devices, nodes, callbacks, progress,
                       multiplied_in)
    world, rank_number = trainer.world_size, trainer.global_rank
    scored = val_loader(scored_frames, config.batch, rank_number, world, workers)
    trainer.fit(learner, train_loader(triplets, steps, config.batch, rank_number, world, workers),
                scored, ckpt_path=resumed, weights_only=True)
    if trainer.is_global_zero:  # before the scores, which take long and may fail
        _save(output / FINAL, learner, config, {})
    trainer.validate(learner, scored, verbose=False)
    if trainer.is_global_zero:
        _save(output / FINAL, learner, config, learner.scores)
    return learner.scores


def build_network(config: TrainConfig, labels: LabelSet) -> tuple[SplitNetwork, Config]:
    """
    Return the network with its backbone's weights, and the config of its checkpoint.

    Where there is a baseline to start from, the backbone's weights are that one's.

    :raises ValueError, OSError: where the backbone's weights are missing or another network's, or
        the network cannot be cut so.
    """
    options = {**config.network_options, 'shared_levels': max(config.shared_levels)}
    if config.levels != MAX_LEVELS:
        options['levels'] = config.levels
    if config.aligned != 'never':
        options['aligned'] = 1
    if config.mending:
        options['mending'] = 1
    width, height = (side // 32 * 32 for side in config.size)
    checkpoint = Config(config.network_name, labels, (width, height), options)
    network = checkpoint.build()
    for cut in sorted(config.shared_levels):  # the largest, that of ``options``, is last
        network.configure(shared_levels=cut)
    weights = None if config.baseline else config.backbone_weights
    if weights and _is_checkpoint(weights):
        theirs, given = load_checkpoint(weights, shared_levels=0)
        load_state(network.backbone, theirs.backbone.state_dict(),
                   f'the backbone of {weights} is another one')
        return network, replace(checkpoint, mean=given.mean, std=given.std)
    mean, std = network.load_backbone(weights)
    return network, replace(checkpoint, mean=mean, std=std)


def _is_checkpoint(backbone_weights: str) -> bool:
    """Return whether backbone weights are a checkpoint's: its name or a .safetensors file."""
    path = Path(backbone_weights)
    named = len(path.parts) == 1 and not path.suffix and not path.exists()
    return path.suffix == '.safetensors' or (named and backbone_weights != 'imagenet')


def _start_from(network: SplitNetwork, baseline: SplitNetwork, config: TrainConfig,
                baseline_config: Config, labels: LabelSet, checkpoint: Config) -> None:
    """Give the network the baseline's weights, but for a classifier of other classes."""
    theirs, ours = baseline_config.architecture, checkpoint.architecture
    same_classes = baseline_config.labels.names == labels.names
    if (baseline_config.network, theirs) != (config.network_name, ours) \
            or (config.is_sharing and not same_classes):
        raise ValueError(f'the baseline {config.baseline} is a {baseline_config.network}'
                         f'{f" {theirs}" if theirs else ""} of {len(baseline_config.labels)} '
                         f'classes, not a {config.network_name}{f" {ours}" if ours else ""} of '
                         f'these {len(labels)}')
    fresh, state = network.state_dict(), baseline.state_dict()
    # Mendings fit the features that they were trained on: only a network that mends takes them.
    for name in baseline.mending_names - network.mending_names:
        del state[name]
    kept = network.mending_names - baseline.mending_names
    if not same_classes:
        kept |= network.classifier_names
    state.update({name: fresh[name] for name in kept})
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f'the baseline {config.baseline} has other parts than the network: '
                         f'{error}') from error


def _trainer(config: TrainConfig, output: Path, kind: str, devices: int, nodes: int,
             callbacks: tuple[Callback, ...], progress: bool,
             precision: str) -> lightning.Trainer:
    output.mkdir(parents=True, exist_ok=True)
    several = devices * nodes > 1
    # Each cut has a mending of its own; those of cuts that are not learned take part in no step.
    ddp = 'ddp_find_unused_parameters_true' if config.mending else 'ddp'
    mixed: dict[str, Any] = {'fp32': '32-true', 'bf16': 'bf16-mixed', 'fp16': '16-mixed'}
    if kind == 'cuda' and precision != 'fp32':
        torch.set_float32_matmul_precision('high')
    return lightning.Trainer(
        accelerator=kind, devices=devices, num_nodes=nodes, strategy=ddp if several else 'auto',
        precision=mixed[precision], max_epochs=config.epochs, use_distributed_sampler=False,
        sync_batchnorm=several and kind == 'cuda' and config.frozen_norms != 'all',
        gradient_clip_val=config.gradient_clip or None, benchmark=kind == 'cuda',
        # Past the last epoch, where only the end is scored.
        check_val_every_n_epoch=config.validate_every or config.epochs + 1,
        num_sanity_val_steps=0, log_every_n_steps=1,
        enable_progress_bar=progress, enable_model_summary=False,
        plugins=[DurableCheckpoints()],
        logger=loggers(output),
        callbacks=[ModelCheckpoint(output, filename=Path(LAST).stem, save_on_train_epoch_end=True,
                                   enable_version_counter=False),
                   *([] if progress else [Pace()]), *callbacks])


def _save(path: Path, learner: Learner, config: TrainConfig, scores: dict[str, float]) -> None:
    recipe = {'script': 'featshare train', **asdict(config)}
    checkpoint = learner.checkpoint
    save_checkpoint(path, learner.network, Config(
        checkpoint.network, checkpoint.labels, checkpoint.input_size, checkpoint.options,
        checkpoint.mean, checkpoint.std, recipe,
        {name: round(score, 2) for name, score in scores.items()}))
