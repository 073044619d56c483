"""Selective attention's memory: the pruned cache, what it saves, and the loss that asks for less."""

from __future__ import annotations

import pytest
import torch
from cases import scrambled, tiny, tokens
from torch import Tensor

from ablate_model import Cache, ConfigError, generate, measure_cache

FLOAT64 = 1e-12
LENGTH = 8


def heads(x: Tensor, width: int) -> Tensor:
    """(t, h * k) to (h, t, k)."""
    return x.view(len(x), -1, width).transpose(0, 1)


def hidden(z_ts: Tensor, evicted: dict[int, int]) -> Tensor:
    """F[i, j]: the votes of queries before i against key j; a key casts and collects none once it is evicted."""
    length = len(z_ts)
    f = torch.zeros(length + 1, length, dtype=z_ts.dtype)
    for i in range(length):
        for j in range(length):
            votes = 0 < j < i and evicted.get(j, length) >= i
            f[i + 1, j] = f[i, j] + (z_ts[i, j].relu() if votes else 0.0)
    return f


def test_a_pruned_cache_drops_the_most_hidden_token_at_each_step() -> None:
    """One layer, written out: at each step the budget keeps the first token and those with the smallest F."""
    model, ids, budget = (
        scrambled(tiny(attention="selective", n_layers=1, position="none")).eval(),
        tokens(LENGTH, 1),
        3,
    )
    block = model.stack.blocks[0]
    x = block.attention_residual.read(model.embedding(ids)[0])
    q, k, v = (heads(getattr(block.attention, name)(x), 6) for name in ("query", "key", "value"))
    z = q @ k.mT / 6**0.5
    kept, evicted, rows = [], {}, []
    for i in range(LENGTH):
        kept.append(i)
        f = hidden(z[0], evicted)
        weights = torch.softmax(z[:, i, kept] - f[i, kept], -1)
        rows.append(torch.cat(list(torch.einsum("hs,hsv->hv", weights, v[:, kept]))))
        if len(kept) > budget:
            gone = max(kept[1:], key=lambda j: (f[i + 1, j].item(), -j))
            kept.remove(gone)
            evicted[gone] = i
    assert evicted
    h = model.embedding(ids)[0] + block.attention.output(torch.stack(rows))
    expected = model.form_logits(block.transform(h, h))
    cache = Cache(1, budget)
    out = torch.cat([model(ids[:, t : t + 1], cache) for t in range(LENGTH)], dim=1)
    torch.testing.assert_close(out[0], expected, atol=FLOAT64, rtol=FLOAT64)
    assert cache.layers[0].n_dropped == LENGTH - budget
    assert (out - model(ids)).abs().max() > 1e-6


def test_a_budget_that_is_never_reached_changes_nothing() -> None:
    model, ids = scrambled(tiny(attention="selective")), tokens(LENGTH)
    cache = Cache(2, LENGTH)
    pieces = [model(piece, cache) for piece in ids.split([3, 1, 2, 2], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids), atol=1e-10, rtol=1e-10)
    assert cache.layers[0].n_dropped == 0


def test_the_memory_saved_is_reported_with_its_price() -> None:
    model, ids = scrambled(tiny(attention={"name": "selective", "n_kv_heads": 2})), tokens(LENGTH)
    whole, pruned = (measure_cache(model, ids, budget) for budget in (None, 4))
    assert whole["bytes"] == whole["bytes_unpruned"] == pruned["bytes_unpruned"] == 2 * 2 * LENGTH * 2 * 2 * 6 * 8
    assert pruned["saved"] == pytest.approx(1 - 4 / LENGTH)
    assert whole["loss"] == pytest.approx(model.loss(ids[:, :-1], ids[:, 1:]).item(), abs=1e-10)
    assert pruned["loss"] != whole["loss"]
    found = generate(model, ids[:, :3], 4, cache_budget=3)
    assert found.shape == (2, 7)


def test_budgets_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^attention: standard cannot drop tokens from its cache; selective"):
        measure_cache(scrambled(tiny()), tokens(), 3)
    with pytest.raises(ConfigError, match=r"^attention: selective cannot drop"):
        measure_cache(scrambled(tiny(attention={"name": "selective", "window": 3})), tokens(), 3)
    with pytest.raises(ValueError, match="a budget of at least 2 tokens, the first and the newest, got 1"):
        Cache(2, 1)


def test_the_memory_loss_is_its_formula_in_training_only() -> None:
    knobs = {"name": "selective", "memory_weight": 0.5, "memory_tau": 0.2}
    model, plain = (
        scrambled(tiny(attention=knobs, position="none")),
        scrambled(tiny(attention="selective", position="none")),
    )
    ids, targets, shares = tokens(), tokens().roll(-1, 1), []
    handles = [
        block.attention.register_forward_pre_hook(lambda layer, args: shares.append(share(layer, args[0])))
        for block in model.stack.blocks
    ]
    loss = model.train().loss(ids, targets)
    expected = plain.loss(ids, targets) + 0.5 * (shares[0] + shares[1]) / 2
    torch.testing.assert_close(loss, expected, atol=FLOAT64, rtol=FLOAT64)
    names = [f"stack.blocks.{i}.attention.query.weight" for i in (0, 1)]
    assert all(dict(model.named_parameters())[name] is not None for name in names)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(model.eval().loss(ids, targets), plain.loss(ids, targets), atol=FLOAT64, rtol=FLOAT64)
    assert not {"memory_weight", "memory_tau"} & plain.config.to_dict()["attention"].keys()


def share(layer: torch.nn.Module, x_btd: Tensor) -> Tensor:
    found = []
    for x in x_btd:
        z = heads(layer.query(x), 6)[0] @ heads(layer.key(x), 6)[0].T / 6**0.5
        f = hidden(z, {})
        needed = [sum(1 - min(f[i, j], 0.2) / 0.2 for j in range(i + 1)) for i in range(len(x))]
        found.append(max(needed) / len(x))
    return sum(found) / len(found)
