"""The contract of an optimizer."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ablate.recipes.variant import Variant

if TYPE_CHECKING:
    import torch

    from ablate_model.gpt import HeadedModel


@dataclass(frozen=True)
class CommonSettings:
    """The settings that every optimizer can use. `learning_rate` is the peak of the schedule.

    With `is_graphed`, a step is captured as a CUDA graph, so the rate has to be a tensor.
    """

    learning_rate: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    is_graphed: bool = False


class OptimizerVariant(Variant):
    """An optimizer: one or more of torch's that are stepped together under one schedule."""

    n_moments: ClassVar[int] = 2  # numbers that it keeps per parameter, at least
    can_be_graphed: ClassVar[bool] = False  # whether a CUDA graph can capture its step
    can_be_stacked: ClassVar[bool] = False  # whether it updates each number by itself, so that models can be stacked
    learning_rates: ClassVar[tuple[str, ...]] = ()  # its knobs that are learning rates

    def check(self) -> None:
        """Raises `ValueError` where it cannot be used."""

    @abstractmethod
    def build(self, model: HeadedModel, common: CommonSettings) -> tuple[torch.optim.Optimizer, ...]:
        """Make the optimizers of the model's parameters; each parameter belongs to exactly one.

        The `lr_ratio` of a parameter group, 1 by default, multiplies the rate of the schedule.
        """
