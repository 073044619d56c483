"""Decoding with a cache: every option of every attention with every other one, in prompts and steps of any size."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from cases import scrambled, tokens
from knob_pairs import LENGTH, MORE_NUMBERS, Factors, cover, knob_factors, model_factors, parse
from torch import Tensor

from ablate_model import Cache, ModelConfig
from ablate_model.config import TABLES
from ablate_model.kernels.call import DecayBias
from ablate_model.kernels.functional import attention
from ablate_model.linear import bitnet_b158

FLOAT64 = 1e-9
CHUNKS = [
    [1, 1, 2, 6, 3]
]  # single steps below and at a window, then several tokens at once, after few and after many tokens
EVERY_CHUNK = [*CHUNKS, *([size] * (LENGTH // size) + [LENGTH % size] * (LENGTH % size > 0) for size in range(1, 14))]
BACKENDS = {"backend": ["auto", "math"]}


@pytest.fixture(autouse=True)
def no_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ratios of ternary sums are often exactly between two levels, so the last bit decides."""
    monkeypatch.setattr(bitnet_b158, "quantize_activations", lambda x: x)


def rest_of_model(*axes: str) -> Factors:
    return {path: values for path, values in model_factors().items() if path not in {f"{axis}.name" for axis in axes}}


@torch.no_grad()
def assert_chunks_agree(row: dict[str, Any], chunkings: list[list[int]]) -> None:
    config = parse({path: value for path, value in row.items() if path not in BACKENDS})
    assert isinstance(config, ModelConfig)
    model, ids = scrambled(config, backend=row["backend"]).eval(), tokens(LENGTH, 1)
    whole = model(ids)
    for sizes in chunkings:
        cache = Cache(config.n_layers)
        pieces = [model(piece, cache) for piece in ids.split(sizes, dim=1)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=FLOAT64, rtol=FLOAT64, msg=f"{sizes} {row}")


@pytest.mark.parametrize("attention", list(TABLES["attention"]))
def test_two_options_together_broke_decoding(attention: str) -> None:
    factors = {**rest_of_model("attention"), **knob_factors("attention", attention)}
    for row in cover(factors, {"attention.name": attention}, BACKENDS):
        assert_chunks_agree(row, CHUNKS)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("normalization", list(TABLES["normalization"]))
@pytest.mark.parametrize("attention", list(TABLES["attention"]))
def test_every_option_of_both_axes_in_chunks_of_every_size(attention: str, normalization: str) -> None:
    chosen = {"attention": attention, "normalization": normalization}
    factors = dict(rest_of_model(*chosen))
    for axis, name in chosen.items():
        factors |= knob_factors(axis, name, MORE_NUMBERS)
    for row in cover(factors, {f"{axis}.name": name for axis, name in chosen.items()}, BACKENDS):
        assert_chunks_agree(row, EVERY_CHUNK)


def random_heads(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


def test_a_sink_and_a_window_that_hides_nothing_broke_a_single_step() -> None:
    """Every option of the kernel call with every other, against the formula."""
    s = 12
    for t, n_kv, window, kind, has_sink, is_causal in itertools.product(
        (1, 3), (1, 4), (None, 5, 20), ("none", "one", "key", "row", "dense", "decay"), (0, 1), (0, 1)
    ):
        bias = {
            "none": None,
            "one": random_heads(1, 1, 1, 1),
            "key": random_heads(1, 1, 1, s),
            "row": random_heads(1, 1, t, 1),
            "dense": random_heads(2, 4, t, s),
            "decay": DecayBias(random_heads(2, 4, t), random_heads(2, 4, s)),
        }[kind]
        q, k, v = random_heads(2, t, 4, 5), random_heads(2, s, n_kv, 5), random_heads(2, s, n_kv, 7)
        settings = {"window": window, "causal": bool(is_causal), "bias": bias}
        settings["sink"] = random_heads(4) if has_sink else None
        out, exact = (attention(q, k, v, backend=name, **settings) for name in ("sdpa", "math"))
        torch.testing.assert_close(out, exact, atol=FLOAT64, rtol=FLOAT64, msg=f"{t} {n_kv} {kind} {settings}")
