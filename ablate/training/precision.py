"""What numbers a run is computed in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from ablate_model import GPT, ModelConfig


@dataclass(frozen=True)
class Precision:
    """`masters` is what parameters are converted to (None: as the model made them); `autocast` what matmuls run in."""

    masters: torch.dtype | None = None
    autocast: torch.dtype | None = None

    def build(self, config: ModelConfig, backend: str, seed: int) -> GPT:
        """The model with its masters, initialised in their precision."""
        model = GPT(config, "auto" if backend == "fastest" else backend, seed)
        if self.masters is not None:
            model.to(self.masters)
            model.initialize(seed)
        return model

    def context(self, device: torch.device) -> AbstractContextManager[object]:
        """Surrounds the forward pass and the loss."""
        return nullcontext() if self.autocast is None else torch.autocast(device.type, self.autocast)


PRECISIONS: Mapping[str, Precision] = {
    "float32": Precision(),
    "bfloat16": Precision(autocast=torch.bfloat16),
    "float64": Precision(masters=torch.float64),
}


def forbid_tf32() -> None:
    """float32 means float32: on CUDA no matmul is rounded to TF32's 10 bits."""
    torch.set_float32_matmul_precision("highest")
