"""The precisions of training."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from ablate_model import ModelConfig
from ablate_model.gpt import HeadedModel
from ablate_model.kinds import build_model


@dataclass(frozen=True)
class Precision:
    """`masters` is the dtype of parameters (None: as the model made them), `autocast` that of matrix products."""

    masters: torch.dtype | None = None
    autocast: torch.dtype | None = None

    def build(self, config: ModelConfig, backend: str, seed: int) -> HeadedModel:
        """Build a model and initialize it in the precision of its parameters."""
        model = build_model(config, "auto" if backend == "fastest" else backend, seed)
        if self.masters is not None:
            model.to(self.masters)
            model.initialize(seed)
        return model

    def context(self, device: torch.device) -> AbstractContextManager[object]:
        """The context of the forward pass and the loss."""
        return nullcontext() if self.autocast is None else torch.autocast(device.type, self.autocast)


PRECISIONS: Mapping[str, Precision] = {
    "float32": Precision(),
    "bfloat16": Precision(autocast=torch.bfloat16),
    "float64": Precision(masters=torch.float64),
}


def forbid_tf32() -> None:
    """Keep float32 products exact on CUDA, instead of rounding their inputs to TF32's 10 bits."""
    torch.set_float32_matmul_precision("highest")
