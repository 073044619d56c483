"""The learning rate of each step: linear warm-up, then a shape that falls from the peak to the minimum."""

from __future__ import annotations

from ablate.study.schema import TrainConfig


def learning_rate(step: int, train: TrainConfig) -> float:
    """The learning rate of optimizer step `step`, from 1 to `train.steps`.

    With w warm-up steps out of n, the rate of step s <= w is s / (w + 1) of the peak, and step w + 1 has the peak.
    After that, the shape depends on the progress (s - 1 - w) / (n - w). As in nanoGPT, the minimum would be reached one
    step after the last, so no step has a rate of 0. Raises `ValueError` if `train.warmup_steps` is not resolved.
    """
    if train.warmup_steps is None:
        raise ValueError("warmup_steps must be resolved before training")
    schedule = train.schedule_variant
    return schedule.rate(step, train.steps, train.warmup_steps, train.learning_rate, train.min_learning_rate)
