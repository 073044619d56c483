"""The vision transformer: its formulas, nViT, its costs, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import scrambled_model
from reference import enter_vectors, final_norm, rows, stack
from reference_parts import scale, unit
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ablate_model import ConfigError, ViT, ViTConfig, load, save

SIZES: dict[str, Any] = {
    "d_model": 12,
    "n_layers": 2,
    "n_heads": 2,
    "d_ff": 10,
    "image_size": 6,
    "patch_size": 3,
    "n_channels": 2,
    "n_classes": 5,
}
FLOAT64, FLOAT32_OUT, FLOAT32_GRAD = 1e-10, 1e-5, 1e-4
FLOAT32_START = 1e-6  # scales are drawn in float32, so they start one rounding away from 1
CASES: list[dict[str, Any]] = [
    {},
    {"normalization": "ngpt", "attention": "differential"},
    {"normalization": "dyt", "position": "none", "value_residual": "learned", "embedding_shortcut": True},
    {"normalization": "postnorm", "position": "sinusoidal", "attention": "linear_ensemble"},
    {"normalization": "ngpt", "mlp": "simba", "position": "rope", "input_shift": 3.0},
    {"normalization": {"name": "ngpt", "normalize_weights": "parametrize"}, "attention": "exclusive", "bias": True},
    {"topology": "parallel_gpt", "mlp": {"name": "simba", "input_shift": 2.0}, "attention": "gated"},
]


def build(case: Mapping[str, Any], backend: str = "auto") -> ViT:
    return scrambled_model(ViT(ViTConfig(**{**SIZES, **case}), backend=backend))


def images(n: int = 2) -> Tensor:
    shape = (n, SIZES["n_channels"], SIZES["image_size"], SIZES["image_size"])
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def cut(image_cyx: Tensor, size: int) -> Tensor:
    """Patches row after row; a patch has its channels one after the other."""
    n = image_cyx.shape[1] // size
    found = []
    for row in range(n):
        for column in range(n):
            corner = image_cyx[:, row * size : (row + 1) * size, column * size : (column + 1) * size]
            found.append(torch.cat([channel.flatten() for channel in corner]))
    return torch.stack(found)


def naive_logits(model: ViT, image_cyx: Tensor) -> Tensor:
    config, get = model.config, dict(model.named_parameters()).__getitem__
    patches, is_sphere = cut(image_cyx, config.patch_size), config.normalization.name == "ngpt"
    if config.input_shift is not None:
        patches = unit(torch.cat((patches, torch.full((len(patches), 1), config.input_shift)), dim=1))
    weight = get("patches.weight")
    weight = unit(weight, 0) if config.normalization.has_unit_weights_in_forward else weight
    h = patches @ weight.T
    h = unit(h) if is_sphere and config.position.name in ("none", "rope") else h
    h = stack(config, get, enter_vectors(config, get, h))
    mean = final_norm(config, get, "final", h).mean(0)
    z = mean @ rows(config, get, "head.weight").T
    return z * scale(config, get, "final.s_z", "s_z") if is_sphere else z


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_gradients_parameters_and_costs_equal_the_formulas(case: dict[str, Any]) -> None:
    model = build(case, "math")
    parameters = list(model.parameters())
    assert model.config.num_params() == sum(p.numel() for p in parameters)
    expected = torch.stack([naive_logits(model, image) for image in images()])
    with FlopCounterMode(display=False) as counter:
        out = model(images())
    assert counter.get_total_flops() == 2 * model.config.forward_flops() == 2 * model.config.flops_per_image() // 3
    torch.testing.assert_close(out, expected, atol=FLOAT64, rtol=FLOAT64)
    wanted, got = (torch.autograd.grad(z.square().sum(), parameters) for z in (expected, out))
    torch.testing.assert_close(got, wanted, atol=FLOAT64, rtol=FLOAT64)
    assert all(g.any() for g in got)

    out = model.float()(images().float())
    torch.testing.assert_close(out.double(), expected, atol=FLOAT32_OUT, rtol=FLOAT32_OUT)
    rounded = [g.double() for g in torch.autograd.grad(out.square().sum(), parameters)]
    torch.testing.assert_close(rounded, list(wanted), atol=FLOAT32_GRAD, rtol=FLOAT32_GRAD)


def test_ngpt_makes_it_nvit() -> None:
    """Against nViT as its authors write it: q and k scales d_h^(1/4), logits unscaled, head times sqrt(dim)."""
    step = {"init": "1/n_layers"}
    normalization = {"name": "ngpt", "alpha_attn": step, "alpha_mlp": step, "alpha_sign": "free"}
    normalization |= {"normalize_weights": "parametrize", "s_z": {"init": "sqrt(d_model)"}}
    model = ViT(ViTConfig(**SIZES, normalization=normalization), seed=2).double()
    get = {name: p.detach() for name, p in model.named_parameters()}
    d, depth, heads, width = 12, 2, 2, 6

    def rows_of(name: str) -> Tensor:
        return unit(get[f"{name}.weight"], 1)

    def columns_of(name: str) -> Tensor:
        return unit(get[f"{name}.weight"], 0)

    logits = []
    for image in images():
        tokens = unit(cut(image, 3) @ columns_of("patches").T + rows_of("position.table"))
        for layer in range(depth):
            name = f"stack.blocks.{layer}"
            q, k, v = (
                (tokens @ rows_of(f"{name}.attention.{part}").T).view(-1, heads, width)
                for part in ("query", "key", "value")
            )
            q, k = unit(q) * width**0.25, unit(k) * width**0.25
            out = [torch.softmax(q[:, h] @ k[:, h].T, -1) @ v[:, h] for h in range(heads)]
            attended = unit(torch.cat(out, dim=1) @ columns_of(f"{name}.attention.output").T)
            tokens = unit(torch.lerp(tokens, attended, torch.tensor(1 / depth).double()))
            hidden, gate = (tokens @ rows_of(f"{name}.mlp.hidden").T).chunk(2, dim=1)
            fed = unit((hidden * torch.nn.functional.silu(gate * d**0.5)) @ columns_of(f"{name}.mlp.output").T)
            tokens = unit(torch.lerp(tokens, fed, torch.tensor(1 / depth).double()))
        logits.append(tokens.mean(0) @ rows_of("head").T * math.sqrt(d))
    torch.testing.assert_close(model(images()), torch.stack(logits), atol=FLOAT32_START, rtol=FLOAT32_START)


def test_unit_vectors_stay_unit_after_steps() -> None:
    model = ViT(ViTConfig(**SIZES, normalization="ngpt", mlp="simba", input_shift=3.0))
    optimizer = torch.optim.AdamW(model.parameter_groups(0.0), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model.loss(images().float(), torch.tensor([0, 3])).backward()
        optimizer.step()
        model.post_step()
    stream = model.encode(images().float())
    torch.testing.assert_close(stream.norm(dim=-1), torch.ones(stream.shape[:-1]))
    assert model.unit_axes()[model.patches.weight] == 0
    assert model.unit_axes()[model.stack.blocks[0].mlp.output.weight] == 1  # SimbaV2 takes the rows of both matrices
    for weight, axis in model.unit_axes().items():
        torch.testing.assert_close(weight.norm(dim=axis), torch.ones(weight.shape[1 - axis]))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_plain_data_and_a_saved_model_give_the_same_again(case: dict[str, Any], tmp_path: Path) -> None:
    model = build(case)
    assert ViTConfig.parse(model.config.to_dict()) == model.config
    assert not {"vocab_size", "context_length"} & model.config.to_dict().keys()
    save(model, tmp_path)
    loaded = load(tmp_path)
    assert isinstance(loaded, ViT)
    assert loaded(images()).equal(model(images()))
    assert all(not value.is_meta for value in loaded.state_dict().values())


REFUSED = [
    ({"patch_size": 4}, "patch_size: must divide image_size = 6, got 4 (legal: 1, 2, 3, 6)"),
    ({"image_size": 0}, "image_size: must be greater than or equal to 1, got 0"),
    ({"n_classes": "ten"}, "n_classes: must be a valid integer, got 'ten'"),
    ({"vocab_size": 9}, "vocab_size: follows from the images and is 5, not 9; leave it out"),
    ({"attention": "selective"}, "attention: selective cannot be used in both directions"),
    ({"tie_embeddings": True}, "tie_embeddings: a patch embedding has no vectors of classes"),
]


@pytest.mark.parametrize(("case", "message"), REFUSED, ids=str)
def test_what_cannot_be_built_is_refused_at_its_place(case: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        ViTConfig(**{**SIZES, **case})
    assert str(refused.value).startswith(message)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected images of shape \(2, 6, 6\), got \(3, 6, 6\)"):
        build({})(torch.zeros(1, 3, 6, 6, dtype=torch.float64))
