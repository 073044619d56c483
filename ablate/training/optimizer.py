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


def _muon(model: GPT, train: TrainConfig, weight_decay: float) -> tuple[torch.optim.Optimizer, ...]:
    """Muon (Jordan et al., 2024) for hidden matrices: Nesterov momentum, orthogonalised by 5 Newton-Schulz steps.

    AdamW steps everything else. Both follow the same schedule, Muon's multiplied by muon_learning_rate / learning_rate;
    each decays by its own rate times weight_decay. torch's Muon keeps the momentum as a running mean, which is the
    published sum times a constant that the normalisation before Newton-Schulz takes out.
    """
    roles = model.parameter_roles()
    is_matrix = {id(p): roles[name] == "matrix" and p.dim() == 2 for name, p in model.named_parameters()}
    matrices = [p for p in model.parameters() if is_matrix[id(p)]]
    others = [
        {**group, "params": [p for p in group["params"] if not is_matrix[id(p)]]}
        for group in model.parameter_groups(weight_decay)
    ]
    muon = torch.optim.Muon(
        [{"params": matrices, "lr_ratio": train.muon_learning_rate / train.learning_rate}],
        weight_decay=weight_decay,
        momentum=train.muon_momentum,
        adjust_lr_fn=_MUON_SCALES[train.muon_scale],
    )
    return muon, _make_adamw(others, train)


_MUON_SCALES = {"spectral": "original", "adamw_rms": "match_rms_adamw"}


def _make_adamw(groups: list[dict[str, Any]], train: TrainConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(groups, betas=(train.beta1, train.beta2), eps=train.adam_eps, fused=True)


OPTIMIZERS: Mapping[str, Callable[[GPT, TrainConfig, float], tuple[torch.optim.Optimizer, ...]]] = {
    "adamw": _adamw,
    "muon": _muon,
}
