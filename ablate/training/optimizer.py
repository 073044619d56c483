"""Optimizers by name. Each is one or more of torch's, stepped together under one schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ablate.study.schema import TrainConfig
from ablate_model import GPT


@dataclass(frozen=True)
class Optimizer:
    """A group's `lr_ratio` says by what its rate is a multiple of the schedule's; 1 where it is not there."""

    parts: tuple[torch.optim.Optimizer, ...]

    def step(self, learning_rate: float) -> None:
        """Update the parameters at a rate and forget their gradients."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = learning_rate * group.get("lr_ratio", 1.0)
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def make_optimizer(model: GPT, train: TrainConfig) -> Optimizer:
    """Raises `ValueError` where `train.weight_decay` is not resolved."""
    if train.weight_decay is None:
        raise ValueError("weight_decay must be resolved before training")
    return Optimizer(OPTIMIZERS[train.optimizer](model, train, train.weight_decay))


def _adamw(model: GPT, train: TrainConfig, weight_decay: float) -> tuple[torch.optim.Optimizer, ...]:
    """AdamW (arXiv 1711.05101); only parameters of two or more dimensions decay."""
    return (_make_adamw(model.parameter_groups(weight_decay), train),)


def _make_adamw(groups: list[dict[str, Any]], train: TrainConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(groups, betas=(train.beta1, train.beta2), eps=train.adam_eps, fused=True)


OPTIMIZERS: Mapping[str, Callable[[GPT, TrainConfig, float], tuple[torch.optim.Optimizer, ...]]] = {"adamw": _adamw}
