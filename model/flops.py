"""FLOPs of a user's module: counted by torch at a few short lengths, and fitted in the length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

LENGTHS = (16, 32, 48, 64)  # multiples of 16, for modules that work in chunks
N_FITTED = 3  # a constant, a linear and a square term

Run = Callable[[int], object]  # a forward pass over one sequence of that many tokens


@dataclass(frozen=True)
class ForwardFlops:
    """The matmul FLOPs of one layer over a sequence of T tokens: `terms` of 1, T and T^2.

    Half of a causal layer's square of tokens is masked, so half of the T^2 term counts, as for built-in attentions. A
    layer whose FLOPs are not such a polynomial is `counted` at one length, as executed.
    """

    terms: tuple[Fraction, ...] = ()
    counted: Mapping[int, int] = field(default_factory=dict)
    count: Callable[[int], int] | None = field(default=None, compare=False)
    ignored: tuple[str, ...] = ()  # operations without a formula

    @property
    def is_fitted(self) -> bool:
        return bool(self.terms)

    def per_token(self, context_length: int) -> int:
        """Return the FLOPs per token, averaged over a causal context."""
        if self.terms:
            constant, linear, square = self.terms
            return round(constant / context_length + linear + square * context_length / 2)
        if context_length in self.counted or self.count is None:
            return round(Fraction(self.counted[context_length], context_length))
        return round(Fraction(self.count(context_length), context_length))


def measure_flops(run: Run, context_length: int) -> ForwardFlops:
    """Count the FLOPs of `run` at short lengths and at `context_length`, and fit them if the fit is exact."""
    ignored: dict[str, None] = {}

    def count(length: int) -> int:
        n_flops, others = _count(run, length)
        ignored.update(dict.fromkeys(others))
        return n_flops

    lengths = [n for n in LENGTHS if n < context_length]
    if len(lengths) < N_FITTED:
        lengths = sorted({max(1, context_length * share // 8) for share in (2, 4, 6)} - {context_length})
    counted = {length: count(length) for length in (*lengths, context_length)}
    if len(lengths) >= N_FITTED:
        terms = _fit({length: counted[length] for length in lengths[:N_FITTED]})
        fits = all(n == terms[0] + terms[1] * t + terms[2] * t * t for t, n in counted.items())
        if fits and min(terms) >= 0:
            return ForwardFlops(terms, ignored=tuple(ignored))
    return ForwardFlops(counted=counted, count=count, ignored=tuple(ignored))


def _fit(counted: Mapping[int, int]) -> tuple[Fraction, ...]:
    """Return the coefficients of 1, T and T^2 of the polynomial through three points, exactly."""
    (t0, n0), (t1, n1), (t2, n2) = ((Fraction(t), Fraction(n)) for t, n in counted.items())
    first, second = (n1 - n0) / (t1 - t0), (n2 - n1) / (t2 - t1)
    square = (second - first) / (t2 - t0)
    linear = first - square * (t0 + t1)
    return n0 - linear * t0 - square * t0 * t0, linear, square


def _count(run: Run, length: int) -> tuple[int, list[str]]:
    watch = _Watch()
    was_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it hides the products of nn.MultiheadAttention from the counter
    try:
        return _count_calls(run, length, watch)
    finally:
        torch.backends.mha.set_fastpath_enabled(was_fast)


def _count_calls(run: Run, length: int, watch: _Watch) -> tuple[int, list[str]]:
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), watch, FlopCounterMode(display=False) as counter:
        run(length)
    return int(counter.get_total_flops()), watch.foreign


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes operations that are not torch's own, which the counter takes for free."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.foreign: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func.name())
        if name.partition("::")[0] not in ("aten", "prim", "prims", "profiler") or "fft" in name:
            self.foreign.append(name)
        return func(*args, **(kwargs or {}))
