"""One or more of torch's optimizers, stepped together under one schedule."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ablate.recipes.optimizers.base import CommonSettings
from ablate.study.schema import TrainConfig
from ablate_model.gpt import HeadedModel
from ablate_model.numerics import is_fusible

# Options of a group that stay as they are here, whatever the loaded state has.
OWN = ("lr", "capturable")


@dataclass(frozen=True)
class Optimizer:
    """The rate of a parameter group is the schedule's, times the group's `lr_ratio` if it has one.

    A rate that is a tensor is changed in place, because a CUDA graph reads it.
    """

    parts: tuple[torch.optim.Optimizer, ...]

    def set_rate(self, learning_rate: float) -> None:
        for part in self.parts:
            for group in part.param_groups:
                rate = learning_rate * group.get("lr_ratio", 1.0)
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    @torch.no_grad()
    def step_matrices(self, clip: Tensor, unit_axes: Mapping[Tensor, int]) -> AbstractSet[Tensor]:
        """Clip, update and normalize the weights that have a fused kernel in one pass, and return them.

        `clip` multiplies their gradients, which are then reset, so that `step` skips these weights. `unit_axes` is the
        model's. `step` creates torch's state; a weight without a state is left to it.
        """
        counts: dict[Tensor, Tensor] = {}
        for part in self.parts:
            for group in part.param_groups if type(part) is torch.optim.AdamW else ():
                for weight in group["params"]:
                    state = part.state.get(weight)
                    if state and _step_in_one_pass(weight, state, group, clip, unit_axes.get(weight)):
                        counts[weight] = state["step"]
        if counts:
            torch._foreach_add_(list(counts.values()), 1)
        return counts.keys()

    def step(self) -> None:
        """Update the parameters and reset their gradients."""
        for part in self.parts:
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            own = [{key: group[key] for key in OWN if key in group} for group in part.param_groups]
            part.load_state_dict(state)
            for group, kept in zip(part.param_groups, own, strict=True):
                group.update(kept)


def _step_in_one_pass(
    weight: Tensor, state: Mapping[str, Tensor], group: Mapping[str, Any], clip: Tensor, axis: int | None
) -> bool:
    """Update a weight if there is a kernel for it, and return whether there is. Its step count does not change."""
    if weight.grad is None or not is_fusible(weight):
        return False
    from ablate_model.kernels.fused.adamw import can_step, step_in_place

    if not can_step(weight, axis):
        return False
    moments = weight.grad, state["exp_avg"], state["exp_avg_sq"]
    scalars = state["step"], group["lr"], clip
    step_in_place(weight, moments, scalars, group["betas"], group["eps"], group["weight_decay"], axis)
    weight.grad = None
    return True


def clip_coefficient(norm: Tensor, max_norm: float) -> Tensor:
    """The factor by which torch's clip_grads_with_norm_ multiplies gradients of this norm; 1 if max_norm is 0."""
    return (max_norm / (norm + 1e-6)).clamp(max=1.0) if max_norm else torch.ones_like(norm)


def make_optimizer(model: HeadedModel, train: TrainConfig) -> Optimizer:
    """Raises `ValueError` if `train.weight_decay` is not resolved."""
    return Optimizer(train.optimizer_variant.build(model, common_settings(train, next(model.parameters()).device)))


def common_settings(train: TrainConfig, device: torch.device) -> CommonSettings:
    """The settings of an optimizer beside its own knobs, for parameters on `device`."""
    if train.weight_decay is None:
        raise ValueError("weight_decay must be resolved before training")
    is_graphed = train.cuda_graph and device.type == "cuda"
    betas = (train.beta1, train.beta2)
    return CommonSettings(train.learning_rate, train.weight_decay, betas, train.adam_eps, is_graphed)
