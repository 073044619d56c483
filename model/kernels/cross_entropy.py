"""The loss of a language model's head, without all logits, or float32 logits, in memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from ..numerics import HAS_TRITON

IGNORED_TARGET = -100  # targets of this value do not count in the loss

# Logits that exist at once, in bytes. The limit keeps 16,384 tokens x 50,304 entries in one piece (1.6 GB in bfloat16),
# which saves sums of partial gradients; a few thousand rows already keep a GPU busy. Without Triton or compilation each
# entry is copied several times in float32, so the limit is lower.
BYTES_AT_ONCE, BYTES_AT_ONCE_EAGER = 2**31, 2**27

OfLogits = Callable[[Tensor, Tensor, Tensor, float | None], tuple[Tensor, Tensor]]


def linear_cross_entropy(
    h_nd: Tensor, weight_vd: Tensor, targets_n: Tensor, softcap: float | None = None, *, is_compiled: bool = False
) -> Tensor:
    """Compute the mean cross-entropy (nats, a scalar in at least float32) of c tanh(logits / c), logits = h W^T.

    Targets equal to IGNORED_TARGET do not count; without any other target the loss is NaN, as in torch. The matrix
    products run in autocast's type, everything else in at least float32. Gradients, if needed, are computed together
    with the loss of each piece, while its logits exist: d loss / d logits = (softmax - one_hot) / n.
    `is_compiled` compiles the operations on the logits.
    """
    kind = h_nd.device.type
    dtype = (
        torch.get_autocast_dtype(kind)
        if torch.is_autocast_enabled(kind)
        else torch.promote_types(h_nd.dtype, weight_vd.dtype)
    )
    inputs = h_nd.to(dtype), weight_vd, targets_n, softcap, is_compiled
    if torch.is_grad_enabled() and (h_nd.requires_grad or weight_vd.requires_grad):
        return cast(Tensor, _LossWithGradients.apply(*inputs))  # type: ignore[no-untyped-call]
    return _sum_pieces(*inputs, wants_gradients=False)[0]


def _sum_pieces(
    h_nd: Tensor,
    wide_weight_vd: Tensor,
    targets_n: Tensor,
    softcap: float | None,
    is_compiled: bool,
    *,
    wants_gradients: bool,
) -> tuple[Tensor, list[Tensor], Tensor | None]:
    """Return the loss, its gradient by h in pieces of rows, and its gradient by W, in at least float32."""
    weight_vd = wide_weight_vd.to(h_nd.dtype)
    is_lean = is_compiled or (h_nd.is_cuda and HAS_TRITON)
    bytes_at_once = BYTES_AT_ONCE if is_lean else BYTES_AT_ONCE_EAGER
    rows = max(1, bytes_at_once // (len(weight_vd) * h_nd.dtype.itemsize))
    of_logits = _choose(h_nd, softcap, is_compiled, wants_gradients)
    n_counted = (targets_n != IGNORED_TARGET).sum()
    loss, pieces, by_weight_vd = torch.zeros((), device=h_nd.device, dtype=_wide(h_nd)), [], None
    for piece_nd, piece_n in zip(torch.split(h_nd, rows), torch.split(targets_n, rows), strict=True):
        piece_loss, by_logits_nv = of_logits(piece_nd @ weight_vd.mT, piece_n, n_counted, softcap)
        loss = loss + piece_loss
        if wants_gradients:
            pieces.append(by_logits_nv @ weight_vd)
            by_piece_vd = _multiply_wide(by_logits_nv.mT, piece_nd)
            by_weight_vd = by_piece_vd if by_weight_vd is None else by_weight_vd + by_piece_vd
    return loss, pieces, by_weight_vd


def _of_logits(logits_nv: Tensor, targets_n: Tensor, n_counted: Tensor, softcap: float | None) -> tuple[Tensor, Tensor]:
    """Return the piece's share of the loss, and its gradient by the logits in their own type."""
    z_nv = logits_nv.to(_wide(logits_nv))
    capped_nv = z_nv if softcap is None else softcap * torch.tanh(z_nv / softcap)
    share_n1 = (targets_n != IGNORED_TARGET)[:, None].to(z_nv.dtype) / n_counted
    is_target_nv = torch.arange(logits_nv.shape[1], device=logits_nv.device) == targets_n[:, None]
    log_normalizer_n1 = capped_nv.logsumexp(-1, keepdim=True)
    at_target_n1 = capped_nv.gather(-1, targets_n.clamp_min(0)[:, None])
    loss = ((log_normalizer_n1 - at_target_n1) * share_n1).sum()
    by_logits_nv = ((capped_nv - log_normalizer_n1).exp() - is_target_nv.to(z_nv.dtype)) * share_n1
    if softcap is not None:
        by_logits_nv = by_logits_nv * (1 - (capped_nv / softcap).square())
    return loss, by_logits_nv.to(logits_nv.dtype)


def _choose(h_nd: Tensor, softcap: float | None, is_compiled: bool, wants_gradients: bool) -> OfLogits:
    """Return `_of_logits`, or a function that computes the same with fewer passes over the logits."""
    if h_nd.is_cuda and h_nd.dtype != torch.float64 and softcap is None and HAS_TRITON:
        from .fused.head_loss import differentiate_in_place

        def differentiate(
            logits_nv: Tensor, targets_n: Tensor, n_counted: Tensor, _softcap: float | None
        ) -> tuple[Tensor, Tensor]:
            return differentiate_in_place(logits_nv, targets_n, n_counted, IGNORED_TARGET, wants_gradients)

        return differentiate
    return _compiled() if is_compiled else _of_logits


@functools.cache
def _compiled() -> OfLogits:
    return torch.compile(_of_logits, dynamic=False)


def _multiply_wide(a: Tensor, b: Tensor) -> Tensor:
    """Compute a b in at least float32, so that a sum over all tokens is not rounded to bfloat16."""
    if a.is_cuda and a.dtype.itemsize == 2:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.to(_wide(a)) @ b.to(_wide(b))


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


class _LossWithGradients(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h_nd: Tensor, weight_vd: Tensor, targets_n: Tensor, softcap: float | None, is_compiled: bool
    ) -> Tensor:
        loss, pieces, by_weight_vd = _sum_pieces(h_nd, weight_vd, targets_n, softcap, is_compiled, wants_gradients=True)
        ctx.save_for_backward(torch.cat(pieces), by_weight_vd)
        return loss

    @staticmethod
    def backward(ctx: Any, by_loss: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        by_h_nd, by_weight_vd = ctx.saved_tensors
        return by_h_nd * by_loss.to(by_h_nd.dtype), by_weight_vd * by_loss.to(by_weight_vd.dtype), None, None, None
