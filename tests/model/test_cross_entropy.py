"""The fused head loss against torch's cross-entropy on full logits."""

import pytest
import torch
from cases import scrambled, tiny, tokens
from torch import Tensor
from torch.nn import functional as F

from ablate_model.kernels import cross_entropy
from ablate_model.kernels.cross_entropy import IGNORED_TARGET, linear_cross_entropy

FLOAT64_TOLERANCE = 1e-13  # the same sums in another order
BFLOAT16_RATIO = 1.1  # both round the same logits and the same gradients to bfloat16


def naive(h_nd: Tensor, weight_vd: Tensor, targets_n: Tensor, softcap: float | None) -> Tensor:
    logits_nv = F.linear(h_nd, weight_vd)
    wide_nv = logits_nv.to(torch.promote_types(logits_nv.dtype, torch.float32))
    if softcap is not None:
        wide_nv = softcap * torch.tanh(wide_nv / softcap)
    return F.cross_entropy(wide_nv, targets_n, ignore_index=IGNORED_TARGET)


def draw(n: int, v: int, d: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n * v + d)
    h_nd = torch.randn(n, d, generator=generator, dtype=torch.float64, requires_grad=True)
    weight_vd = torch.randn(v, d, generator=generator, dtype=torch.float64, requires_grad=True)
    targets_n = torch.randint(0, v, (n,), generator=generator)
    targets_n[::3] = IGNORED_TARGET
    return h_nd, weight_vd, targets_n


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("entries_at_once", [2**30, 7 * 3, 1])
def test_loss_and_gradients_equal_those_of_whole_logits(
    softcap: float | None, entries_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "BYTES_AT_ONCE_EAGER", 8 * entries_at_once)
    h_nd, weight_vd, targets_n = draw(10, 7, 5)
    loss = linear_cross_entropy(h_nd, weight_vd, targets_n, softcap)
    expected = naive(h_nd, weight_vd, targets_n, softcap)
    factor = 0.25  # scaled as in gradient accumulation
    found = torch.autograd.grad(loss * factor, (h_nd, weight_vd))
    wanted = torch.autograd.grad(expected * factor, (h_nd, weight_vd))
    for one, other in zip((loss, *found), (expected, *wanted), strict=True):
        torch.testing.assert_close(one, other, rtol=FLOAT64_TOLERANCE, atol=FLOAT64_TOLERANCE)
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(h_nd, weight_vd, targets_n, softcap), expected)


def test_targets_that_all_are_ignored_have_no_mean() -> None:
    h_nd, weight_vd, targets_n = draw(4, 7, 5)
    assert linear_cross_entropy(h_nd, weight_vd, targets_n.fill_(IGNORED_TARGET)).isnan()


@pytest.mark.parametrize("is_compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_bfloat16_is_as_exact_as_autocast_over_whole_logits(is_compiled: bool) -> None:
    h_nd, weight_vd, targets_n = draw(64, 97, 32)
    exact = torch.autograd.grad(naive(h_nd, weight_vd, targets_n, None), (h_nd, weight_vd))
    h_nd, weight_vd = (x.detach().float().requires_grad_() for x in (h_nd, weight_vd))
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(
            linear_cross_entropy(h_nd, weight_vd, targets_n, None, is_compiled=is_compiled), (h_nd, weight_vd)
        )
        usual = torch.autograd.grad(naive(h_nd, weight_vd, targets_n, None), (h_nd, weight_vd))
    for one, other, truth in zip(found, usual, exact, strict=True):
        assert one.dtype == torch.float32
        assert (one - truth).norm() <= BFLOAT16_RATIO * (other - truth).norm()


@pytest.mark.parametrize(
    "settings",
    [
        {"normalization": "ngpt"},
        {"normalization": {"name": "ngpt", "s_z": {"mode": "scalar", "init": 2.0}}, "tie_embeddings": True},
        {"normalization": {"name": "ngpt", "s_z": {"mode": "fixed", "init": 3.0}}},
        {"normalization": "prenorm", "logit_softcap": 0.5},
    ],
    ids=str,
)
def test_what_a_gpu_computes_is_the_loss_of_the_logits(settings: dict[str, object]) -> None:
    """Apply s_z to the rows of the matrix instead of to the logits, as on a GPU."""
    model = scrambled(tiny(**settings))
    ids, targets = tokens(), tokens().roll(-1, 1)
    h_btd, weight_vd = model.read_end(model.encode(ids))
    fused = linear_cross_entropy(h_btd.flatten(0, 1), weight_vd, targets.flatten(), model.config.logit_softcap)
    whole = model.loss(ids, targets)
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in (fused, whole)]
    for one, other in zip((fused, *gradients[0]), (whole, *gradients[1]), strict=True):
        torch.testing.assert_close(one, other, rtol=FLOAT64_TOLERANCE, atol=FLOAT64_TOLERANCE)
