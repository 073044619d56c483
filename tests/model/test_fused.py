"""Triton's kernels against naive float64 code, on a GPU if there is one, else in Triton's interpreter."""

import os

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
pytest.importorskip("triton", reason="Triton is not installed: torch's CPU builds come without it")

from ablate_model import GPT, ModelConfig, layers
from ablate_model.attention import maps
from ablate_model.kernels.fused.map_sum import sum_maps
from ablate_model.kernels.fused.placed_heads import place_heads
from ablate_model.kernels.fused.projection import project_in_place
from ablate_model.kernels.fused.sphere import lerp_norm, lerp_norm_twice
from ablate_model.kernels.fused.swiglu import swiglu
from ablate_model.kernels.unit_vectors import NOISE_NORM, unit
from ablate_model.normalization import sphere_modules
from ablate_model.position.rotation import RopeEncoding, rotate_pairs
from ablate_model.pruning import measure_importance

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUNDING = 1e-6  # for a gradient that is a small difference of large sums: of a scalar, or one that is zero
TOLERANCE = {
    torch.float32: 2e-5,
    torch.bfloat16: 1e-2,
}  # relative to the norm: one rounding of inputs, outputs and gradients


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.to(DEVICE, dtype).requires_grad_()


def compare(fused: Tensor, inputs: list[Tensor], exact: Tensor, exact_inputs: list[Tensor], dtype: torch.dtype) -> None:
    """Outputs, and the gradients of every input under a random direction."""
    direction = draw(*exact.shape, seed=9).detach()
    found = torch.autograd.grad(fused, inputs, direction.to(fused.dtype))
    wanted = torch.autograd.grad(exact, exact_inputs, direction.to(fused.dtype).double())
    for one, other in zip((fused, *found), (exact, *wanted), strict=True):
        assert one.isfinite().all()
        assert (one.double() - other).norm() <= TOLERANCE[dtype] * other.norm()


def widen(inputs: list[Tensor]) -> list[Tensor]:
    return [x.detach().double().requires_grad_() for x in inputs]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("heads", "width"), [(3, 40), (2, 64), (1, 6)])
@pytest.mark.parametrize("has_scale", [True, False])
def test_placed_heads(dtype: torch.dtype, heads: int, width: int, has_scale: bool) -> None:
    fused_bth = draw(2, 37, (heads + 1) * width, seed=1, dtype=dtype)  # as a view into a wider product
    x_bthk = fused_bth[..., width:].unflatten(-1, (heads, width))
    tables = RopeEncoding(10000.0, width).tables(0, 37, torch.device(DEVICE), torch.float32)
    inputs = [fused_bth, *([draw(heads, width, seed=2)] if has_scale else [])]
    out = place_heads(x_bthk, *tables, inputs[1] if has_scale else None)
    exact_inputs = widen(inputs)
    exact = unit(rotate_pairs(exact_inputs[0][..., width:].unflatten(-1, (heads, width)), tables))
    exact = exact * exact_inputs[1] if has_scale else exact
    assert out.dtype == dtype
    compare(out, inputs, exact, exact_inputs, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("rows", "features"), [(70, 24), (64, 256)])
def test_swiglu(dtype: torch.dtype, rows: int, features: int) -> None:
    hidden = draw(rows, 2 * features, seed=1, dtype=dtype)
    out, (exact_hidden,) = swiglu(hidden), widen([hidden])
    u, v = exact_hidden.chunk(2, -1)
    assert out.dtype == dtype
    compare(out, [hidden], u * torch.nn.functional.silu(v), [exact_hidden], dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("rows", "width"), [(37, 24), (16, 96)])
def test_lerp_norm(dtype: torch.dtype, rows: int, width: int) -> None:
    h = unit(draw(rows, width, seed=1)).detach().requires_grad_()
    inputs = [h, draw(rows, width, seed=2, dtype=dtype), draw(width, seed=3)]
    exact_inputs = widen(inputs)
    exact = sphere_modules.lerp_norm(exact_inputs[0], unit(exact_inputs[1]), exact_inputs[2])
    compare(lerp_norm(*inputs), inputs, exact, exact_inputs, dtype)
    moved, copy = lerp_norm_twice(*inputs)
    exact = sphere_modules.lerp_norm(exact_inputs[0], unit(exact_inputs[1]), exact_inputs[2])
    assert moved.dtype == torch.float32 and copy.dtype == dtype
    compare(torch.cat((moved, copy)), inputs, torch.cat((exact, exact)), exact_inputs, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("shape", "weights"), [((2, 19, 3, 2, 40), (2,)), ((1, 70, 2, 3, 64), (1, 70, 2, 3))], ids=str)
@pytest.mark.parametrize("has_norm", [True, False])
@pytest.mark.parametrize("gain", [None, 0.3])
def test_summed_maps(
    dtype: torch.dtype, shape: tuple[int, ...], weights: tuple[int, ...], has_norm: bool, gain: float | None
) -> None:
    inputs = [draw(*shape, seed=1, dtype=dtype), draw(*weights, seed=2)]
    scale = None if gain is None else torch.tensor(gain, dtype=torch.float64, device=DEVICE)
    out, (maps, exact_weights) = sum_maps(*inputs, scale, has_norm), widen(inputs)
    exact = (maps * exact_weights[..., None]).sum(3)
    exact = (unit(exact) * shape[-1] ** 0.5 if has_norm else exact) * (gain or 1.0)
    assert out.dtype == dtype
    compare(out, inputs, exact, [maps, exact_weights], dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("dim", "shape"),
    [(1, (5, 70)), *[(0, shape) for shape in [(5, 7), (1, 130), (130, 1), (64, 128), (129, 65), (280, 66), (1057, 3)]]],
    ids=str,
)
def test_projected_vectors(dtype: torch.dtype, dim: int, shape: tuple[int, int]) -> None:
    """Tiles that end at the last column and beyond it. From 1,057 rows on, a program has several tiles."""
    matrix = draw(*shape, seed=1, dtype=dtype).detach()
    (matrix if dim else matrix.T)[1:2] = 1e-3 * NOISE_NORM
    exact = matrix.double()
    exact /= exact.norm(dim=dim, keepdim=True).clamp(min=NOISE_NORM)
    project_in_place(matrix, dim, NOISE_NORM)
    torch.testing.assert_close(matrix.double(), exact, rtol=TOLERANCE[dtype], atol=0)


def test_vectors_of_noise_become_zero() -> None:
    x_bthk, tables = draw(1, 4, 1, 8, seed=1), RopeEncoding(1e4, 8).tables(0, 4, torch.device(DEVICE), torch.float32)
    noise = (x_bthk.detach() * 1e-8).requires_grad_()
    placed = place_heads(noise, *tables, None)
    (by_x,) = torch.autograd.grad(placed.sum(), noise)
    assert not placed.any() and not by_x.any()
    h, y, alpha = draw(2, 8, seed=1), (draw(2, 8, seed=2).detach() * 1e-8).requires_grad_(), draw(8, seed=3)
    moved = lerp_norm(h, y, alpha)
    (by_y,) = torch.autograd.grad(moved.sum(), y)
    assert moved.isfinite().all() and not by_y.any()


SCALARS = {"name": "ngpt", "s_qk": {"mode": "scalar"}, "s_uv": {"mode": "scalar"}, "alpha_attn": {"mode": "fixed"}}
FUSED_MODELS = [
    {"normalization": "ngpt"},
    {"normalization": SCALARS},
    {"normalization": "ngpt", "attention": {"name": "linear_ensemble", "num_maps": 3}, "n_heads": 2},
    {"normalization": "prenorm", "attention": {"name": "standard", "n_kv_heads": 2}},
    *[
        {"normalization": "ngpt", "attention": attention, "n_heads": 2}
        for attention in (
            {"name": "differential"},
            {"name": "differential_v2", "n_kv_heads": 1},
            {"name": "differential_v2", "lambda_gate": "one"},
            {"name": "linear_ensemble", "num_maps": 2, "scope": "token", "head_norm": "none"},
        )
    ],
]


@pytest.mark.parametrize("changes", FUSED_MODELS, ids=str)
def test_a_model_of_fused_operations_equals_the_naive_one(changes: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(
        **{"d_model": 48, "n_layers": 2, "n_heads": 4, "vocab_size": 61, "context_length": 24} | changes
    )
    ids_bt = torch.randint(0, 61, (2, 25), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    seen: dict[bool, list[Tensor]] = {}
    for is_fused in (True, False):
        for module in (sphere_modules, layers, maps):
            monkeypatch.setattr(module, "is_fusible", lambda _, answer=is_fused: answer)
        model = GPT(config, seed=3).to(DEVICE)
        loss = model.loss(ids_bt[:, :-1], ids_bt[:, 1:])
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        seen[is_fused] = [loss, *(g for g in gradients if g is not None), *model.parameters()]
    for fused, naive in zip(seen[True], seen[False], strict=True):
        assert (fused - naive).norm() <= TOLERANCE[torch.float32] * naive.norm() + ROUNDING


@pytest.mark.parametrize(("linear", "dtype"), [("dense", torch.bfloat16), ("bitnet_b158", torch.float32)])
def test_the_mlp_reads_the_stream_in_the_type_of_its_products(
    linear: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that quantizes its input reads float32, also under autocast. So does its attention's output layer."""
    for module in (sphere_modules, maps):
        monkeypatch.setattr(module, "is_fusible", lambda _: True)
    shapes = {"d_model": 16, "n_layers": 1, "n_heads": 2, "vocab_size": 32, "context_length": 8}
    model = GPT(ModelConfig(**shapes, normalization="ngpt", attention="differential_v2", linear=linear)).to(DEVICE)
    (block,) = model.stack.blocks
    seen: list[torch.dtype] = []
    for layer in (block.attention.output, block.mlp):
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with torch.autocast(DEVICE, torch.bfloat16):
        model(torch.zeros(1, 8, dtype=torch.long, device=DEVICE))
    assert seen == [dtype, dtype]


def test_importance_is_measured_where_kernels_write(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for is_fused in (True, False):
        monkeypatch.setattr(sphere_modules, "is_fusible", lambda _, answer=is_fused: answer)
        shapes = {"d_model": 16, "n_layers": 2, "n_heads": 2, "vocab_size": 32, "context_length": 8}
        model = GPT(ModelConfig(**shapes, normalization="ngpt")).to(DEVICE)
        found.append(measure_importance(model, [torch.arange(8, device=DEVICE)[None]]))
        assert "write" not in model.stack.blocks[0].attention_residual.__dict__
    assert found[0] == pytest.approx(found[1], abs=TOLERANCE[torch.float32])
