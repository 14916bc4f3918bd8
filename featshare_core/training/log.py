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
"""What a training run says while it runs: the loss of every step, the rate, the remaining time."""
from __future__ import annotations

from importlib.util import find_spec
import logging
from pathlib import Path
import sys
from typing import Any

from featshare_core.progress import reporter
import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger


def loggers(output: Path) -> list[Logger]:
    """
    Return the logs of a run: ``metrics.csv``, and TensorBoard's where that is installed.

    Each start of a run has a folder of its own, ``output/metrics-N``.
    """
    folder = f'metrics-{len(list(output.glob("metrics-*")))}'
    found: list[Logger] = [CSVLogger(output, name='', version=folder)]
    if find_spec('tensorboard'):
        found.append(TensorBoardLogger(output, name='', version=folder))
    return found


def silence_tips() -> None:
    """Keep Lightning's tips on its other products out of the output."""
    for part in ('pytorch', 'fabric'):
        logging.getLogger(f'lightning.{part}.utilities.rank_zero').addFilter(_is_no_tip)


def _is_no_tip(record: logging.LogRecord) -> bool:
    return 'Tip: ' not in record.getMessage()


class Pace(Callback):
    """Says on stderr how many steps are done, at which rate, and how long the rest will take."""

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Count from the step that the run starts or resumes at."""
        if trainer.is_global_zero:
            steps = int(trainer.estimated_stepping_batches)
            self._show = reporter('training', 'steps', steps, trainer.global_step)
            # The first step can take a minute.
            print(f'training: starting at step {trainer.global_step} of {steps}', file=sys.stderr,
                  flush=True)

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *_: Any) -> None:
        """Report the number of steps done."""
        if trainer.is_global_zero:
            self._show(trainer.global_step)
