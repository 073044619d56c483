"""Eager against torch.compile: the same training, within rounding."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from cases import kinds, tiny

from ablate_model import GPT

# torch triggers its own warnings: dynamo reads .grad of every input, and Inductor still uses TorchScript
pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor", "ignore:.*torch.jit:DeprecationWarning"
)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
STEPS = 100
DRIFT = 2e-3  # nats: float32 rounding, reordered by fusion and amplified by 100 steps of Adam


def train(model: GPT, blocks_compiled: bool) -> list[float]:
    if blocks_compiled:
        model.compile_blocks()
    optimizer = torch.optim.AdamW(model.parameter_groups(0.0), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(STEPS):
        ids = torch.randint(11, (4, 1), generator=generator) + torch.arange(9)
        loss = model.loss(ids[:, :-1] % 11, ids[:, 1:] % 11)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.post_step()
        losses.append(loss.item())
    return losses


def compare(**settings: Any) -> None:
    eager, compiled = (train(GPT(tiny(**settings)), is_compiled) for is_compiled in (False, True))
    assert eager[-1] < 0.8 * eager[0]
    assert max(abs(a - b) for a, b in zip(eager, compiled, strict=True)) < DRIFT


@needs_compiler
@pytest.mark.parametrize(("attention", "normalization"), [("standard", "prenorm"), ("differential", "ngpt")])
@pytest.mark.slow
def test_compiled_blocks_train_as_eager_ones(attention: str, normalization: str) -> None:
    compare(attention=attention, normalization=normalization)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("settings", kinds(), ids=str)
def test_every_kind_trains_compiled_as_eager(settings: dict[str, str]) -> None:
    compare(**settings)


@needs_compiler
def test_layers_of_different_depth_share_one_graph() -> None:
    """lambda_init differs by layer. If it were a number, each layer would be compiled again."""
    torch._dynamo.reset()
    model = GPT(tiny(n_layers=6, attention="differential"))
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    for block in model.stack.blocks:
        block.compile(backend=counter)
    model(torch.zeros(1, 8, dtype=torch.long))
    assert counter.frame_count == 1
