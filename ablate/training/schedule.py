"""The learning rate of each step: linear warm-up, then a shape that falls from the peak to the minimum."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ablate.study.schema import TrainConfig

Shape = Callable[[float, TrainConfig], float]


def _cosine(progress: float, _: TrainConfig) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _linear(progress: float, _: TrainConfig) -> float:
    return 1 - progress


def _constant(_progress: float, _: TrainConfig) -> float:
    return 1.0


def _wsd(progress: float, train: TrainConfig) -> float:
    """Warm-up, stable, decay: at the peak until the last `decay_fraction`, then linear."""
    return min(1.0, (1 - progress) / train.decay_fraction)


def _logarithmic(progress: float, train: TrainConfig) -> float:
    """1 - ln(1 + r / rho) / ln(1 + 1 / rho) (arXiv 2608.01284); a large rho makes it linear."""
    rho = train.logarithmic_rho
    return 1 - math.log1p(progress / rho) / math.log1p(1 / rho)


SHAPES: Mapping[str, Shape] = {
    "cosine": _cosine,
    "linear": _linear,
    "constant": _constant,
    "wsd": _wsd,
    "logarithmic": _logarithmic,
}
"""Each maps the progress after warm-up, from 0 to below 1, to a height between the minimum (0) and the peak (1)."""


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
    height = SHAPES[train.schedule](progress, train)
    return train.min_learning_rate + (train.learning_rate - train.min_learning_rate) * height
