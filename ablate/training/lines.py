"""The lines of a run's curve."""

from __future__ import annotations

import math

from ablate.study.schema import TrainConfig
from ablate.training.checkpoint import Progress
from ablate.training.contract import Metrics, Recorder, TrainingTask
from ablate.training.schedule import learning_rate


class Lines:
    """Writes the lines of runs that train alike. `train` of the loop says what they hold."""

    def __init__(self, task: TrainingTask, train: TrainConfig) -> None:
        self.task, self.train = task, train
        self.tokens_per_step = train.batch_size * task.tokens_per_row
        self.flops_per_step = self.tokens_per_step * task.model.flops_per_token()

    def log(
        self,
        recorder: Recorder,
        progress: Progress,
        loss_sum: float,
        grad_norm: float,
        measured: Metrics,
        diagnostics: Metrics,
    ) -> bool:
        """Write a line of a run's curve, and return whether its losses and metrics are finite.

        `loss_sum` is over the steps since the last line. Without an evaluation, `measured` is empty.
        """
        n_steps = progress.step - progress.line_step
        losses = {"train_loss": loss_sum / n_steps, **measured}
        if measured:
            is_last = progress.step == self.train.steps
            losses |= self.task.summarize(progress.step, measured, progress.reached, is_last=is_last)
        recorder.log(
            {
                "step": progress.step,
                "tokens": progress.step * self.tokens_per_step,
                "flops": progress.step * self.flops_per_step,
                "wall_s": progress.wall_s,
                **losses,
                "learning_rate": learning_rate(progress.step, self.train),
                "grad_norm": grad_norm,
                "tokens_per_s": n_steps * self.tokens_per_step / (progress.wall_s - progress.line_wall_s),
                **diagnostics,
            }
        )
        progress.line_step, progress.line_wall_s = progress.step, progress.wall_s
        return all(map(math.isfinite, losses.values()))
