"""On a GPU in bfloat16: every variant on every backend against the float64 reference, and three optimizer steps.

`pytest -m gpu tests/model -s` prints the errors as a table.
"""

from __future__ import annotations

import copy
import functools
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from cases import describe, kinds, variants
from torch import Tensor

from ablate_model import GPT, ModelConfig
from ablate_model.attention_backend import report_attention
from ablate_model.kernels.call import BackendError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]
SIZES = {"d_model": 512, "n_layers": 2, "n_heads": 4, "vocab_size": 512, "context_length": 256}
BATCH, DRAWS = 4, 8
OUT_RATIO, GRAD_RATIO, FLOOR = 2.0, 3.0, 1e-5  # times the error of a bfloat16 reference
NEGLIGIBLE = 1e-4  # relative to the largest gradient: less than bfloat16 resolves next to it
LEARNT = 0.9  # largest final share of the first loss, so that the compared models learn
DRIFT = 0.1  # nats: fusion drops bfloat16 roundings, which shift the steep part of a curve


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """Lines collected by the tests, printed at the end."""
    heads = ("case", "backend", "kernel", "out", "x math", "grad", "x math")
    lines = ["{:<88} {:<7} {:<20} {:>9} {:>7} {:>9} {:>7}".format(*heads)]
    yield lines
    print("\n" + torch.cuda.get_device_name(), torch.__version__, *lines, sep="\n")


def cases() -> list[Any]:
    """Every attention case under pre-norm and nGPT, and every variant of the other axes with standard attention."""
    found: list[dict[str, Any]] = []
    for attention in variants("attention"):
        for name in ("prenorm", "ngpt"):
            if not ("qk_norm" in attention and name == "ngpt"):
                knobs = {key: value for key, value in attention.items() if key != "qk_head_dim"}
                found.append({"attention": knobs, "normalization": {"name": name}})
    for axis in ("normalization", "mlp", "position", "linear", "topology"):
        found.extend({axis: case} for case in variants(axis)[1:])
    return [pytest.param(case, id=describe(case)) for case in found]


def ids(draw: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(draw)
    return torch.randint(SIZES["vocab_size"], (BATCH, SIZES["context_length"]), generator=generator).cuda()


def build(case: Mapping[str, Any], backend: str) -> GPT:
    return GPT(ModelConfig(**SIZES, **case), backend=backend).cuda()


def measure(model: GPT, dtype: torch.dtype, draw: int) -> dict[str, Tensor]:
    """Logits and the gradient of every parameter of one training loss, on one of the random batches."""
    with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = model(ids(draw))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).double(), ids(draw).roll(-1, 1).flatten())
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    found = {n: g.double() for n, g in zip(names, gradients, strict=True) if g is not None}
    return {"logits": logits.detach().double(), **found}


@functools.cache
def exact(case: str, draw: int) -> dict[str, Tensor]:
    return measure(build(json.loads(case), "math").double(), torch.float64, draw)


@functools.cache
def math_errors(case: str) -> tuple[float, float]:
    return errors(build(json.loads(case), "math"), case)


def errors(model: GPT, case: str) -> tuple[float, float]:
    """The largest error of the logits on all batches, and of any gradient relative to its largest entry on all batches.

    Gradients that are zero up to rounding, because a norm cancels the factor, are measured against the largest of all.
    Comparing two backends on one batch would be a lottery. The gradients of a layer's lambda or map weights are a few
    numbers, each a sum over all tokens that nearly cancels, so their size or error is sometimes small by chance. On a
    CPU, one backend has relative errors of 0.009 to 0.16 from batch to batch; those of the matrices are 0.010 to 0.012.
    """
    wrong, sizes = defaultdict(float), defaultdict(float)
    for draw in range(DRAWS):
        got = measure(model, torch.bfloat16, draw)
        for name, right in exact(case, draw).items():
            wrong[name] = max(wrong[name], (got[name] - right).abs().max().item())
            sizes[name] = max(sizes[name], right.abs().max().item())
    out = wrong.pop("logits")
    floor = NEGLIGIBLE * max(size for name, size in sizes.items() if name != "logits")
    return out, max(error / max(sizes[name], floor) for name, error in wrong.items())


@pytest.mark.parametrize("backend", ["sdpa", "flash", "flex", "auto"])
@pytest.mark.parametrize("case", cases())
def test_bfloat16_errors_and_three_steps(case: Mapping[str, Any], backend: str, table: list[str]) -> None:
    math_out, math_grad = math_errors(json.dumps(case))
    model = build(case, backend)
    try:
        report = report_attention(model, torch.bfloat16)
        out, grad = errors(model, json.dumps(case))
    except BackendError as refusal:
        pytest.skip(f"refused by name, as promised: {refusal}")
    ratios = (out / math_out, grad / max(math_grad, 1e-30))
    table.append(
        f"{describe(case):<88} {report['backend']:<7} {report['kernel']:<20} "
        f"{out:9.2e} {ratios[0]:7.2f} {grad:9.2e} {ratios[1]:7.2f}"
    )
    optimizer = torch.optim.AdamW(model.parameter_groups(0.0), lr=1e-3, fused=True)
    losses = []
    for _ in range(3):
        with torch.autocast("cuda", torch.bfloat16):
            loss = model.loss(ids(), ids().roll(-1, 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.post_step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert out <= OUT_RATIO * math_out + FLOOR
    assert grad <= GRAD_RATIO * math_grad + FLOOR


def train(model: GPT, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The losses of 100 steps on sequences of 192 tokens, because scans over more than 128 are compiled differently."""
    optimizer = torch.optim.AdamW(model.parameter_groups(0.0), lr=1e-3, fused=True)
    generator, losses = torch.Generator().manual_seed(0), []
    for _ in range(100):
        start = torch.randint(SIZES["vocab_size"], (BATCH, 1), generator=generator)
        batch = ((start + 3 * torch.arange(193)) % SIZES["vocab_size"]).cuda()
        with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model.loss(batch[:, :-1], batch[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.post_step()
        losses.append(loss.item())
    return torch.tensor(losses)


def distance(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()


@pytest.mark.parametrize("kind", kinds(), ids=str)
def test_compiled_blocks_train_as_eager_ones_in_bfloat16(kind: Mapping[str, str]) -> None:
    model = build(kind, "auto")
    compiled, in_float32, compiled_in_float32 = (copy.deepcopy(model) for _ in range(3))
    compiled.compile_blocks()
    eager_curve, compiled_curve = train(model), train(compiled)
    assert eager_curve[-1] < LEARNT * eager_curve[0]
    is_peri = kind.get("normalization") == "peri"
    if kind.get("linear") == "bitnet_b158" or is_peri:
        # With weights of three levels, a rounding becomes a jump between two levels: eager bfloat16 itself is 0.47
        # nats from float32 on a CPU, and 0.26 with peri's norms on an H200. Beyond its error times the ratio is a
        # bug.
        exact_curve = train(in_float32, torch.float32)
        assert distance(compiled_curve, exact_curve) <= OUT_RATIO * distance(eager_curve, exact_curve)
        if is_peri:  # 0.0016 in float32 on an H200, so the cause is rounding and not compilation
            compiled_in_float32.compile_blocks()
            assert distance(train(compiled_in_float32, torch.float32), exact_curve) < DRIFT
    else:
        assert distance(compiled_curve, eager_curve) < DRIFT
