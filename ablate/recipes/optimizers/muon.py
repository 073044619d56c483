"""Muon, with AdamW for the parameters that are not hidden matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ablate.recipes.optimizers.adamw import make_adamw
from ablate.recipes.optimizers.base import CommonSettings, OptimizerVariant

if TYPE_CHECKING:
    import torch

    from ablate_model.gpt import HeadedModel

TORCH_NAMES: Mapping[str, str] = {"spectral": "original", "adamw_rms": "match_rms_adamw"}  # of torch's adjust_lr_fn


class Muon(OptimizerVariant):
    """Muon (Jordan et al., 2024) for hidden matrices: Nesterov momentum, orthogonalized by 5 Newton-Schulz steps.

    AdamW updates everything else. Both follow the same schedule; Muon's rate is scaled by muon_learning_rate /
    learning_rate. The weight decay of each is its own rate times weight_decay. torch's Muon keeps the momentum as a
    running mean. That is the published sum times a constant, which the normalization before Newton-Schulz removes.
    The iteration runs in bfloat16, as published, whatever the precision of the training. A matrix that combines
    several projections (the heads of an attention, SwiGLU's value and gate) is orthogonalized as one matrix.
    """

    name: ClassVar[str] = "muon"
    summary: ClassVar[str] = "for hidden matrices, with adamw for embeddings, head, gates and vectors"
    n_moments: ClassVar[int] = 1
    learning_rates: ClassVar[tuple[str, ...]] = ("muon_learning_rate",)

    muon_learning_rate: float = Field(0.02, gt=0, le=1e30, description="peak learning rate of Muon's matrices")
    muon_momentum: float = Field(0.95, ge=0, lt=1, description="Nesterov momentum of Muon")
    muon_scale: Literal["spectral", "adamw_rms"] = Field(
        "spectral",
        description="a step's factor by shape; spectral: max(1, rows / columns)^0.5; "
        "adamw_rms: 0.2 max(rows, columns)^0.5, as large as AdamW's steps, so give it AdamW's learning rate",
    )

    def build(self, model: HeadedModel, common: CommonSettings) -> tuple[torch.optim.Optimizer, ...]:
        import torch

        roles = model.parameter_roles()
        is_matrix = {id(p): roles[name] == "matrix" and p.dim() == 2 for name, p in model.named_parameters()}
        matrices = [p for p in model.parameters() if is_matrix[id(p)]]
        others = [
            {**group, "params": [p for p in group["params"] if not is_matrix[id(p)]]}
            for group in model.parameter_groups(common.weight_decay)
        ]
        muon = torch.optim.Muon(
            [{"params": matrices, "lr_ratio": self.muon_learning_rate / common.learning_rate}],
            weight_decay=common.weight_decay,
            momentum=self.muon_momentum,
            adjust_lr_fn=TORCH_NAMES[self.muon_scale],
        )
        return muon, make_adamw(others, common)
