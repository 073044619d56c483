"""The learning rate of each step: linear warm-up, then a shape that falls from the peak to the minimum."""

from __future__ import annotations

from ablate.study.schema import TrainConfig


def learning_rate(step: int, train: TrainConfig) -> float:
    """The rate of the update that finishes optimizer step `step`, from 1 to `train.steps`.

    With w warm-up steps out of n, step s <= w has s / (w + 1) of the peak, step w + 1 the peak, and then the shape goes
    by the progress (s - 1 - w) / (n - w). The minimum would be reached one step after the last, as in nanoGPT: no step
    is spent at a rate of 0. Raises `ValueError` where `train.warmup_steps` is not resolved.
    """
    if train.warmup_steps is None:
        raise ValueError("warmup_steps must be resolved before training")
    if step <= train.warmup_steps:
        return train.learning_rate * step / (train.warmup_steps + 1)
    progress = (step - 1 - train.warmup_steps) / (train.steps - train.warmup_steps)
    height = train.schedule_variant.height(progress)
    return train.min_learning_rate + (train.learning_rate - train.min_learning_rate) * height
