"""Dropping sub-layers by cosine importance."""

from __future__ import annotations

import pytest
import torch
from cases import scrambled, tiny, tokens
from torch.nn import functional as F

from ablate_model import GPT, ConfigError, drop, measure_importance

FLOAT64 = 1e-9


def model_of_four_layers(normalization: str = "prenorm") -> GPT:
    return scrambled(tiny(n_layers=4, normalization=normalization))


@pytest.mark.parametrize("normalization", ["prenorm", "ngpt"])
def test_importance_is_one_minus_the_mean_cosine(normalization: str) -> None:
    """Importance computed by hand along the residual stream."""
    model = model_of_four_layers(normalization)
    batches = [tokens(7, 2), tokens(5, 3)]
    totals: dict[str, list[torch.Tensor]] = {}
    for ids in batches:
        h, context = model.embed(ids)
        for layer, block in enumerate(model.stack.blocks):
            start = h
            for part in ("attention", "mlp"):
                residual = getattr(block, f"{part}_residual")
                x = residual.read(h)
                y = block.attention(x, context) if part == "attention" else block.mlp(x)
                after, _ = residual.write(h, y)
                totals.setdefault(f"{part}/{layer}", []).append(F.cosine_similarity(h, after, dim=-1).flatten())
                h = after
            totals.setdefault(f"block/{layer}", []).append(F.cosine_similarity(start, h, dim=-1).flatten())
    expected = {name: 1 - torch.cat(values).mean().item() for name, values in totals.items()}
    assert measure_importance(model, batches) == pytest.approx(expected, abs=FLOAT64)


def test_the_least_important_are_dropped_and_the_rest_stays() -> None:
    model, batches = model_of_four_layers(), [tokens()]
    importance = measure_importance(model, batches)
    ranked = sorted((n for n in importance if n.startswith(("attention", "mlp"))), key=importance.__getitem__)
    smaller = drop(model, ("attention", "mlp"), 3, batches)
    assert set(smaller.config.dropped) == set(ranked[:3])
    kept = smaller.state_dict()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in kept.items())
    assert smaller.config.num_params() == sum(p.numel() for p in smaller.parameters()) < model.config.num_params()
    assert not torch.equal(smaller(tokens()), model(tokens()))


def test_a_block_is_both_of_its_sub_layers() -> None:
    model, batches = model_of_four_layers("ngpt"), [tokens()]
    importance = measure_importance(model, batches)
    layer = min(range(4), key=lambda i: importance[f"block/{i}"])
    assert drop(model, ("block",), 1, batches).config.dropped == (f"attention/{layer}", f"mlp/{layer}")


def test_dropping_one_by_one_measures_again() -> None:
    model, batches = model_of_four_layers(), [tokens()]
    first = drop(model, ("mlp",), 1, batches)
    second = drop(first, ("mlp",), 1, batches)
    assert drop(model, ("mlp",), 2, batches, iterative=True).config == second.config


def test_measuring_leaves_no_trace() -> None:
    model = model_of_four_layers()
    before = model(tokens())
    measure_importance(model, [tokens()])
    assert model.training
    assert torch.equal(model(tokens()), before)
    assert all("write" not in block.mlp_residual.__dict__ for block in model.stack.blocks)
    assert all(not block._forward_hooks for block in model.stack.blocks)


def test_more_than_there_is_cannot_be_dropped() -> None:
    with pytest.raises(ConfigError, match="dropped: only 4 mlp parts are left to drop"):
        drop(model_of_four_layers(), ("mlp",), 5, [tokens()])
