"""Every attention with every normalization learns: 10 steps, no NaN, a falling loss."""

from __future__ import annotations

import math

import pytest
import torch
from cases import tiny

from ablate_model import GPT
from ablate_model.config import TABLES

STEPS = 10
LEARNT = 0.9  # largest share of the first loss after 10 steps, in the slowest cell


@pytest.mark.parametrize("normalization", list(TABLES["normalization"]))
@pytest.mark.parametrize("attention", list(TABLES["attention"]))
def test_a_cell_learns(attention: str, normalization: str) -> None:
    model = GPT(tiny(d_model=32, attention=attention, normalization=normalization))
    optimizer = torch.optim.AdamW(model.parameter_groups(model.config.recipe()["weight_decay"]), lr=2e-2)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(STEPS):
        first = torch.randint(11, (8, 1), generator=generator)
        ids = (first + torch.arange(9)) % 11  # each token follows from the previous one
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
        optimizer.step()
        model.post_step()
        losses.append(loss.item())
    assert all(math.isfinite(loss) for loss in losses)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert losses[-1] < LEARNT * losses[0]
    assert all(math.isfinite(value) for value in model.diagnostics().values())
