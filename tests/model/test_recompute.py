"""Recomputed blocks: the same gradients with less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import scrambled, tiny, tokens
from torch import Tensor

from ablate_model.config import TABLES

CASES: list[dict[str, Any]] = [
    *({"attention": name, "normalization": "ngpt"} for name in TABLES["attention"]),
    {"value_residual": "learned", "n_layers": 3},
    {"value_residual": "half", "topology": "parallel_gpt", "n_layers": 4, "embedding_shortcut": True},
    {"dropout": 0.3},
]


def differentiate(recomputes: bool, **settings: Any) -> tuple[list[Tensor], int]:
    """Gradients, and the bytes besides parameters that autograd kept for them."""
    model = scrambled(tiny(**settings))
    if recomputes:
        model.recompute_blocks()
    kept: dict[int, int] = {}
    parameters = {p.data_ptr() for p in model.parameters()}

    def keep(x: Tensor) -> Tensor:
        if x.data_ptr() not in parameters:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = model.loss(tokens(), tokens().roll(-1, 1))
    n_bytes = sum(kept.values())
    return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)), n_bytes


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_gradients_stay_and_memory_shrinks(settings: dict[str, Any]) -> None:
    (kept, all_bytes), (recomputed, few_bytes) = (differentiate(flag, **settings) for flag in (False, True))
    torch.testing.assert_close(recomputed, kept, atol=0, rtol=0)
    assert few_bytes < 0.5 * all_bytes
