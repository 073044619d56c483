"""The contract of every attention with every normalization; registered variants are included automatically."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from cases import describe, scrambled, settings, tiny, tokens
from reference import logits as naive_logits
from torch import Tensor

from ablate_model import GPT, Cache, ModelConfig

CASES = pytest.mark.parametrize("case", [pytest.param(case, id=describe(case)) for case in settings()])
FLOAT64 = 1e-10  # sums of a few thousand float64 products, with room for cancellation
FLOAT32_OUT, FLOAT32_GRAD = 1e-5, 1e-4  # tolerances for float32 on a CPU
BFLOAT16 = 0.05  # logits are at most 1 after two layers of 8-bit mantissas; BitNet's values can round the other way
INIT_SLACK = 0.15  # nats; initial logits are small but not zero


def gradients(model: GPT, out: Tensor) -> dict[str, Tensor]:
    """Gradients of a fixed random projection of `out` with respect to every parameter."""
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found = torch.autograd.grad((out * weights).sum() / out.numel(), list(model.parameters()), allow_unused=True)
    return {n: g for (n, _), g in zip(model.named_parameters(), found, strict=True) if g is not None}


@CASES
def test_outputs_and_gradients_equal_the_naive_model(case: Mapping[str, Any]) -> None:
    """Exact up to rounding in float64, and within the tolerance in float32."""
    config = tiny(**case)
    fast = scrambled(config)
    parameters = dict(fast.named_parameters())
    expected = naive_logits(config, parameters, tokens())
    out = fast(tokens())
    torch.testing.assert_close(out, expected, atol=FLOAT64, rtol=FLOAT64)
    wanted, got = gradients(fast, expected), gradients(fast, out)
    assert wanted.keys() == got.keys() == parameters.keys()
    torch.testing.assert_close(got, wanted, atol=FLOAT64, rtol=FLOAT64)

    rounded = fast.float()
    out = rounded(tokens())
    got = {name: gradient.double() for name, gradient in gradients(rounded, out).items()}
    torch.testing.assert_close(out.double(), expected, atol=FLOAT32_OUT, rtol=FLOAT32_OUT)
    torch.testing.assert_close(got, wanted, atol=FLOAT32_GRAD, rtol=FLOAT32_GRAD)


@CASES
def test_logits_do_not_depend_on_later_tokens(case: Mapping[str, Any]) -> None:
    """By gradient: the logits at t depend on the token vectors up to t, and on no later one."""
    model = scrambled(tiny(**case))
    vectors = model.embedding(tokens(batch=1)).detach().requires_grad_()
    model.embedding.forward = lambda _ids: vectors
    out = model(tokens(batch=1))
    for t in range(out.shape[1]):
        (gradient,) = torch.autograd.grad(out[0, t].square().sum(), vectors, retain_graph=True)
        moved = gradient[0].abs().sum(-1) > 0
        assert not moved[t + 1 :].any(), f"the logits at {t} look into the future"
        assert moved[t]


@CASES
def test_parameter_formula_shapes_and_dtypes(case: Mapping[str, Any]) -> None:
    config = tiny(**case)
    model = GPT(config)
    assert config.num_params() == sum(p.numel() for p in model.parameters())
    out = model(tokens())
    assert out.shape == (2, 7, config.vocab_size)
    assert out.dtype == torch.float32
    assert model(tokens(batch=0)).shape == (0, 7, config.vocab_size)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(tokens(), tokens())
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    halved = model.to(torch.bfloat16)(tokens())
    torch.testing.assert_close(halved, out, atol=BFLOAT16, rtol=0)


@CASES
def test_cached_decoding_equals_the_full_pass(case: Mapping[str, Any]) -> None:
    config = tiny(**case)
    model, ids = scrambled(config), tokens()
    cache = Cache(config.n_layers)
    pieces = [model(piece, cache) for piece in ids.split([3, 1, 2, 1], dim=1)]  # a prompt, then steps of 1 and 2
    assert cache.length == ids.shape[1]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids), atol=FLOAT64, rtol=FLOAT64)


@CASES
def test_loss_starts_near_the_log_of_the_vocabulary(case: Mapping[str, Any]) -> None:
    config = tiny(**case)
    loss = GPT(config).loss(tokens(8, 8), tokens(8, 8).flip(0)).item()
    assert loss == pytest.approx(math.log(config.vocab_size), abs=INIT_SLACK + _start_size(config))


def _start_size(config: ModelConfig) -> float:
    """Unit vectors of few features have cosines far from 0, which s_z multiplies, so allow for their variance."""
    s_z = getattr(config.normalization, "s_z", None)
    return 0.0 if s_z is None else s_z.init**2 / config.d_model
