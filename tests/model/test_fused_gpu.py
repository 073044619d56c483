"""Triton's kernels against the same operations in torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ablate_model.kernels.cross_entropy import IGNORED_TARGET, linear_cross_entropy
from ablate_model.kernels.unit_vectors import project
from ablate_model.numerics import HAS_TRITON

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (torch.cuda.is_available() and HAS_TRITON), reason="needs a CUDA device and Triton"),
]
ROUNDING_32 = 1e-6  # relative, of a float32 norm
BFLOAT16_RATIO = 1.2  # times the error of autocast on full logits, which rounds the weight's gradient once more


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("shape", [(50304, 1024), (1000, 84), (7, 5000), (1024, 4096)])
def test_projected_vectors_are_those_of_torch(shape: tuple[int, int], dim: int) -> None:
    matrix = torch.randn(shape, device="cuda")
    matrix.select(1 - dim, 0).zero_()
    expected = F.normalize(matrix.double(), dim=dim, eps=1e-6)
    project(matrix, dim)
    torch.testing.assert_close(matrix.double(), expected, rtol=ROUNDING_32, atol=0)
    stored = torch.randn(64, 96, device="cuda").bfloat16()
    expected = F.normalize(stored.double(), dim=dim)
    project(stored, dim)
    torch.testing.assert_close(stored.double(), expected, rtol=2**-8, atol=0)


def losses(x: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    with torch.autocast("cuda", torch.bfloat16, enabled=x.dtype == torch.float32):
        fused = linear_cross_entropy(x, weight, targets)
        whole = F.cross_entropy(F.linear(x, weight), targets, ignore_index=IGNORED_TARGET)
    return fused, whole


@pytest.mark.parametrize("vocab_size", [97, 4096, 50304])
def test_the_loss_and_its_gradients_in_bfloat16(vocab_size: int) -> None:
    x, weight = (torch.randn(n, 128, device="cuda").mul_(0.5).requires_grad_() for n in (512, vocab_size))
    targets = torch.randint(vocab_size, (512,), device="cuda")
    targets[::3] = IGNORED_TARGET
    exact_inputs = [y.detach().double().requires_grad_() for y in (x, weight)]
    exact = losses(*exact_inputs, targets)[1]
    truth = torch.autograd.grad(exact, exact_inputs)
    fused, whole = losses(x, weight, targets)
    assert (fused - exact).abs() <= BFLOAT16_RATIO * (whole - exact).abs() + 2**-9 * exact
    found, usual = (torch.autograd.grad(loss, (x, weight)) for loss in (fused, whole))
    for one, other, right in zip(found, usual, truth, strict=True):
        assert (one - right).norm() <= BFLOAT16_RATIO * (other - right).norm()
    with torch.no_grad():
        assert torch.equal(losses(x, weight, targets)[0], fused)
    assert losses(x, weight, targets.fill_(IGNORED_TARGET))[0].isnan()
