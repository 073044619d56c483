"""nGPT's invariants."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import tiny, tokens
from torch import Tensor

from ablate_model import GPT
from ablate_model.normalization.sphere_modules import lerp_norm, riemann, slerp

FLOAT32 = 1e-6  # a few ulps of 1
BFLOAT16 = 3e-3  # an ulp of 1 is 2^-8; a norm averages many of them


def step(model: GPT) -> None:
    optimizer = torch.optim.AdamW(model.parameter_groups(0.0), lr=0.05)
    model.loss(tokens(), tokens().flip(0)).backward()
    optimizer.step()


def stream_axes(model: GPT) -> dict[str, int]:
    return {name: spec.axis for name, _, spec in model.walk_parameters() if spec.axis is not None}


def norms(model: GPT) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach().float().norm(dim=axis) for name, axis in stream_axes(model).items()}


@pytest.mark.parametrize("attention", ["standard", "differential"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", FLOAT32), ("bfloat16", BFLOAT16)])
def test_matrices_are_unit_along_d_model_after_a_step(attention: str, dtype: str, tolerance: float) -> None:
    model = GPT(tiny(attention=attention, normalization="ngpt", weight_dtype=dtype))
    assert all((n - 1).abs().max() < tolerance for n in norms(model).values())
    step(model)
    assert all((n - 1).abs().max() > 10 * FLOAT32 for n in norms(model).values())
    model.post_step()
    assert all((n - 1).abs().max() < tolerance for n in norms(model).values())


def test_what_reads_the_stream_has_unit_rows_and_what_writes_it_unit_columns() -> None:
    axes = stream_axes(GPT(tiny(normalization="ngpt")))
    last = {
        name.removeprefix("stack.blocks.1."): axis
        for name, axis in axes.items()
        if not name.startswith("stack.blocks.0")
    }
    assert last == {
        "embedding.weight": 1,
        "head.weight": 1,
        "attention.query.weight": 1,
        "attention.key.weight": 1,
        "attention.value.weight": 1,
        "attention.output.weight": 0,
        "mlp.hidden.weight": 1,
        "mlp.output.weight": 0,
    }


@pytest.mark.parametrize("update", ["lerp_norm", "slerp", "riemann"])
@pytest.mark.parametrize("weights", ["post_step", "parametrize", "both", "off"])
def test_the_stream_stays_on_the_sphere(update: str, weights: str) -> None:
    model = GPT(tiny(normalization={"name": "ngpt", "update": update, "normalize_weights": weights}))
    step(model)
    model.post_step()
    seen: list[Tensor] = []
    for block in model.stack.blocks:
        block.register_forward_hook(lambda _module, inputs, out: seen.extend((inputs[0], out)))
    model(tokens())
    assert len(seen) == 4
    assert all((h.norm(dim=-1) - 1).abs().max() < FLOAT32 for h in seen)


def test_post_step_leaves_other_normalizations_alone() -> None:
    model = GPT(tiny())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.post_step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_three_updates_agree_for_small_steps_and_the_arc_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    h, target = (
        torch.nn.functional.normalize(torch.randn(5, 16, generator=generator, dtype=torch.float64)) for _ in range(2)
    )
    small = torch.tensor([1e-4], dtype=torch.float64)
    for update in (slerp, riemann):  # riemann and lerp move alpha sin(w) along the arc, slerp moves alpha w
        moved, straight = update(h, target, small) - h, lerp_norm(h, target, small) - h
        cosine = torch.nn.functional.cosine_similarity(moved, straight)
        assert (cosine > 1 - 1e-6).all()
    half = torch.tensor([0.5], dtype=torch.float64)
    torch.testing.assert_close(slerp(h, target, half), torch.nn.functional.normalize(h + target), atol=1e-12, rtol=0)
    assert torch.isfinite(slerp(h, h.clone(), half)).all()
    torch.testing.assert_close(slerp(h, h.clone(), half), h, atol=1e-6, rtol=0)


def test_alpha_is_positive_unless_its_sign_is_free() -> None:
    outputs = []
    for sign in ("abs", "free"):
        model = GPT(tiny(normalization={"name": "ngpt", "alpha_sign": sign}))
        flipped = GPT(tiny(normalization={"name": "ngpt", "alpha_sign": sign}))
        with torch.no_grad():
            for name, parameter in flipped.named_parameters():
                if "alpha" in name:
                    parameter.neg_()
        outputs.append(torch.equal(model(tokens()), flipped(tokens())))
    assert outputs == [True, False]


def test_diagnostics_are_effective_values() -> None:
    diagnostics: dict[str, Any] = GPT(tiny(normalization="ngpt", attention="differential")).diagnostics()
    assert diagnostics["alpha_attn/0"] == pytest.approx(0.05)
    assert diagnostics["alpha_mlp/1"] == pytest.approx(0.05)
    assert [diagnostics[name] for name in ("s_qk/1", "s_uv/0", "s_z")] == pytest.approx([1.0] * 3)
    assert {"lambda/0", "lambda/1"} <= diagnostics.keys()


def test_the_scale_sets_adams_relative_step() -> None:
    """Adam moves every raw value by lr, so the effective value moves by lr * init / scale."""
    moved = {}
    for scale in (0.25, 1.0):
        model = GPT(tiny(normalization={"name": "ngpt", "s_z": {"scale": scale}}))
        before = model.final.s_z().detach().clone()
        step(model)
        moved[scale] = (model.final.s_z() - before).abs().mean().item()
    assert moved[0.25] == pytest.approx(4 * moved[1.0], rel=0.05)
