"""Initialization, and the model's parameter groups for optimizers."""

from __future__ import annotations

import math

import pytest
import torch
from cases import tiny, tokens

from ablate_model import GPT


def test_shared_parameters_start_equal_in_every_arm() -> None:
    standard, differential = (
        GPT(tiny(d_model=32, attention=name)).state_dict() for name in ("standard", "differential")
    )
    shared = [name for name in standard if name in differential and standard[name].shape == differential[name].shape]
    assert "stack.blocks.1.attention.query.weight" in shared
    assert len(shared) == len(standard)
    assert all(torch.equal(standard[name], differential[name]) for name in shared)


def test_seeds_and_names_give_different_numbers() -> None:
    model = GPT(tiny())
    first = {name: value.clone() for name, value in model.state_dict().items() if name.endswith("weight")}
    model.initialize(1)
    assert all(not torch.equal(model.state_dict()[name], value) for name, value in first.items())
    model.initialize(0)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in first.items())
    layers = [first[f"stack.blocks.{layer}.mlp.hidden.weight"] for layer in (0, 1)]
    assert not torch.equal(*layers)


def test_standard_deviations() -> None:
    model = GPT(tiny(d_model=128, n_layers=2, vocab_size=400, d_ff=None))
    blocks = model.stack.blocks
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert blocks[0].mlp.hidden.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert blocks[0].mlp.output.weight.std().item() == pytest.approx(0.02 / math.sqrt(4), rel=0.03)
    assert blocks[1].attention.output.weight.std().item() == pytest.approx(0.02 / math.sqrt(4), rel=0.03)
    lambdas = GPT(tiny(d_model=1024, n_heads=2, attention="differential")).stack.blocks[0].attention.lambda_q1
    assert lambdas.std().item() == pytest.approx(0.1, rel=0.15)


def test_matrices_decay_and_vectors_do_not() -> None:
    model = GPT(tiny(normalization="ngpt", attention="differential"))
    decayed, rest = model.parameter_groups(0.1)
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert {p.dim() for p in decayed["params"]} == {2}
    assert {p.dim() for p in rest["params"]} == {1}
    assert len(decayed["params"]) + len(rest["params"]) == len(list(model.parameters()))


def test_roles_tell_hidden_matrices_from_the_rest() -> None:
    roles = GPT(tiny(normalization="ngpt", attention="differential")).parameter_roles()
    assert roles["embedding.weight"] == "embedding"
    assert roles["head.weight"] == "head"
    assert roles["stack.blocks.0.attention.output.weight"] == "matrix"
    assert roles["stack.blocks.0.attention.lambda_q1"] == "vector"
    assert roles["final.s_z.raw"] == "vector"


def test_targets_can_be_ignored() -> None:
    model, ids = GPT(tiny()), tokens()
    targets = ids.roll(-1, dims=1)
    masked = targets.clone()
    masked[:, 2:] = -100
    expected = torch.nn.functional.cross_entropy(model(ids)[:, :2].flatten(0, 1), targets[:, :2].flatten())
    torch.testing.assert_close(model.loss(ids, masked), expected)
