"""Which outputs of a layer depend on which inputs: by gradient, and by changing inputs where gradients are cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Reach = Literal["causal", "token"]  # an output may read its own and earlier inputs, or only its own
Forward = Callable[[Tensor], Tensor]

MAX_POSITIONS = 6  # outputs whose gradient is taken in a long sequence
WHOLE = 9  # in sequences up to this length, every position is looked at
# Relative to the largest effect. Masks that add -1e4 leave exactly 0; a convolution by FFT leaves rounding errors.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


@dataclass(frozen=True)
class Leak:
    """An effect that must not be; `sequence` tells that the input belongs to another sequence of the batch."""

    output: int
    input: int
    length: int
    effect: float
    is_gradient: bool
    sequence: bool = False

    def __str__(self) -> str:
        how = "gradient" if self.is_gradient else "change"
        where = " of another sequence in the batch" if self.sequence else ""
        size = f"{self.effect:.1g} of the largest {how}"
        count = f"counted from 0, {self.length} tokens"
        return f"output {self.output} depends on input {self.input}{where} ({count}; {size})"


class OutputError(ValueError):
    """The layer returns something else than a finite tensor of its input's shape."""


def find_leak(
    module: nn.Module, forward: Forward, x_btd: Tensor, reach: Reach, *, is_brief: bool = False
) -> Leak | None:
    """Return the first effect that `reach` forbids, in training and in evaluation mode. Raises OutputError.

    A brief search, for long sequences, takes only the gradient in training mode. Every call starts from the same
    buffers, because a layer may update them while it trains.
    """
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}

    def from_same_buffers(x_btd: Tensor) -> Tensor:
        for name, buffer in buffers.items():
            module.get_buffer(name).copy_(buffer)
        return forward(x_btd)

    if is_brief:
        module.train()
        return _by_gradient(from_same_buffers, x_btd, reach)
    for is_training in (True, False):
        module.train(is_training)
        for search in (_by_gradient, _by_change):
            leak = search(from_same_buffers, x_btd, reach)
            if leak is not None:
                return leak
    return None


def check_tensor(out: object) -> Tensor:
    """Return a layer's output. Raises OutputError if it is not a tensor."""
    if not isinstance(out, Tensor):
        raise OutputError(f"it returns {'nothing' if out is None else f'a {type(out).__name__}'} instead of a tensor")
    return out


def run_seeded(forward: Forward, x_btd: Tensor, seed: int = 0) -> Tensor:
    """Call a layer with the same random numbers each time, and check what it returns and that its input stays."""
    kept_btd = x_btd.detach().clone()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        out = check_tensor(forward(x_btd))
    if not torch.equal(x_btd.detach(), kept_btd):
        raise OutputError("it changes its input in place, which other layers read too: work on a copy")
    if out.shape != x_btd.shape:
        raise OutputError(f"it maps {tuple(x_btd.shape)} to {tuple(out.shape)}; the shape must stay (b, t, d)")
    if out.dtype != x_btd.dtype and not torch.is_autocast_enabled("cpu"):
        before, after = (str(tensor.dtype).removeprefix("torch.") for tensor in (x_btd, out))
        raise OutputError(f"it maps {before} to {after}; return its output in the type of its input (`.to(x.dtype)`)")
    if not out.isfinite().all():
        raise OutputError(f"its output is not finite (for {x_btd.shape[1]} tokens from N(0, 1))")
    return out


def positions(length: int) -> list[int]:
    """Return the positions to look at."""
    if length <= WHOLE:
        return list(range(length))
    return sorted({0, 1, length // 3, length // 2, length - 2, length - 1})[:MAX_POSITIONS]


def _by_gradient(forward: Forward, x_btd: Tensor, reach: Reach) -> Leak | None:
    x_btd = x_btd.detach().requires_grad_()
    with torch.enable_grad():
        out_btd = run_seeded(forward, x_btd)
        if not out_btd.requires_grad:
            return None  # the change tells
        weights_btd = torch.randn(out_btd.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        projected_bt = (out_btd * weights_btd.to(out_btd)).sum(-1)
    effects_tbs = x_btd.new_zeros(x_btd.shape[1], *x_btd.shape[:2])
    for t in positions(x_btd.shape[1]):
        (gradient_btd,) = torch.autograd.grad(projected_bt[0, t], x_btd, retain_graph=True, allow_unused=True)
        if gradient_btd is None:
            continue
        if not gradient_btd.isfinite().all():
            raise OutputError(f"the gradient of output {t} is not finite")
        effects_tbs[t] = gradient_btd.abs().amax(-1)
    return _judge(effects_tbs, reach, TOLERANCE[x_btd.dtype], is_gradient=True)


@torch.no_grad()
def _by_change(forward: Forward, x_btd: Tensor, reach: Reach) -> Leak | None:
    base_btd = run_seeded(forward, x_btd)
    drift_btd = (run_seeded(forward, x_btd) - base_btd).abs()
    if drift_btd.max() > TOLERANCE[x_btd.dtype] * base_btd.abs().max():  # it would look like an effect of the input
        raise OutputError(
            "its output changes between two calls with the same input and the same seed: "
            "draw with torch's random numbers, and keep what training changes in a buffer"
        )
    effects_tbs = x_btd.new_zeros(x_btd.shape[1], *x_btd.shape[:2])  # of sequence 0 on sequence b
    for s in positions(x_btd.shape[1]):
        for sign in (1.0, -3.0):  # a maximum or a sign may not notice one of them
            changed_btd = x_btd.clone()
            changed_btd[0, s] = sign * changed_btd[0, s].flip(0) + sign
            moved_tb = (run_seeded(forward, changed_btd) - base_btd).abs().amax(-1).mT
            effects_tbs[:, :, s] = torch.maximum(effects_tbs[:, :, s], moved_tb)
    return _judge(effects_tbs, reach, TOLERANCE[x_btd.dtype], is_gradient=False)


def _judge(effects_tbs: Tensor, reach: Reach, tolerance: float, *, is_gradient: bool) -> Leak | None:
    """Return the first forbidden effect between an output and an input of sequence 0, or between two sequences."""
    length = len(effects_tbs)
    shares_tbs = effects_tbs / effects_tbs.max().clamp(min=1e-30)
    own_ts = torch.eye(length, dtype=torch.bool)
    allowed_ts = own_ts if reach == "token" else torch.ones(length, length, dtype=torch.bool).tril()
    forbidden_bts = torch.stack([~allowed_ts, torch.ones_like(allowed_ts)])
    found = (forbidden_bts & (shares_tbs.transpose(0, 1) > tolerance)).nonzero().tolist()
    if not found:
        return None
    b, t, s = found[0]
    return Leak(t, s, length, float(shares_tbs[t, b, s]), is_gradient, sequence=bool(b))
