"""AdamW."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ablate.recipes.optimizers.base import CommonSettings, OptimizerVariant

if TYPE_CHECKING:
    import torch

    from ablate_model.gpt import HeadedModel


class AdamW(OptimizerVariant):
    """AdamW (arXiv 1711.05101). Only parameters of two or more dimensions decay."""

    name: ClassVar[str] = "adamw"
    can_be_graphed: ClassVar[bool] = True
    can_be_stacked: ClassVar[bool] = True

    def build(self, model: HeadedModel, common: CommonSettings) -> tuple[torch.optim.Optimizer, ...]:
        return (make_adamw(model.parameter_groups(common.weight_decay), common),)


def make_adamw(groups: list[dict[str, Any]], common: CommonSettings) -> torch.optim.AdamW:
    """torch's fused AdamW over these parameter groups."""
    import torch

    rate: float | torch.Tensor = common.learning_rate
    if common.is_graphed:
        rate = torch.tensor(rate, device=groups[0]["params"][0].device)
    return torch.optim.AdamW(groups, rate, common.betas, common.eps, fused=True, capturable=common.is_graphed)
