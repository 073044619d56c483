"""The attention backend of a whole model: choose the fastest, and report which one runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.nn.attention import SDPBackend

from .kernels.attention import choose
from .kernels.call import Call
from .kernels.fastest import choose_fastest, default_cache
from .kernels.sdpa import form_arguments
from .kernels.watch import watch_calls

logger = logging.getLogger(__name__)


class _Model(Protocol):
    """The parts of a model that are needed here."""

    config: Any
    backend: str
    measured_ms: dict[str, float]

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...

    def probe(self, n_sequences: int) -> None: ...


def choose_backend(
    model: _Model, n_sequences: int, dtype: torch.dtype = torch.float32, cache: str | Path | None = None
) -> None:
    """Give the model the attention backend that is fastest for `n_sequences` at once under autocast to `dtype`.

    Backends are measured once per shape and machine. `cache` remembers the times, by default a file of this user.
    Raises torch.OutOfMemoryError if no backend has enough memory.
    """
    calls = collect_calls(model, n_sequences, dtype)
    if calls:
        model.measured_ms = choose_fastest(calls, Path(cache or default_cache()))
        model.backend = next(iter(model.measured_ms))


def report_attention(model: _Model, dtype: torch.dtype = torch.float32) -> dict[str, str]:
    """{"requested", "backend", "reason", "kernel"} of the model's attention, from one pass over a full context.

    `dtype` is that of autocast. The kernel is the one that SDPA picks ("cudnn_attention", "math", ...), or the name of
    the backend. Logs a warning when SDPA falls back to its math kernel on a GPU.
    """
    device, nothing = next(model.parameters()).device, "every attention is dropped"
    if model.config.count_kept("attention"):
        nothing = f"{model.config.attention.name} calls no kernel of ablate"
    requested = "fastest" if model.measured_ms else model.backend
    report = {"requested": requested, "backend": "none", "reason": nothing, "kernel": "none"}
    for call, name in _collect(model, 1, dtype):
        reason = choose(call)[1] if model.backend == "auto" else "asked for by name"
        if model.measured_ms:
            reason = "measured: " + ", ".join(
                f"{other} {float(f'{ms:.3g}'):g} ms" for other, ms in model.measured_ms.items()
            )
        report.update({"backend": name, "reason": reason, "kernel": _name_kernel(call) if name == "sdpa" else name})
    if device.type == "cuda" and report["kernel"] == SDPBackend.MATH.name.lower():
        logger.warning("SDPA falls back to its math kernel for %s", model.config.attention.name)
    return report


@torch.no_grad()
def collect_calls(model: _Model, n_sequences: int, dtype: torch.dtype) -> list[Call]:
    """Collect the attention calls of a forward pass over `n_sequences` full contexts under autocast to `dtype`."""
    return [call for call, _ in _collect(model, n_sequences, dtype)]


def _name_kernel(call: Call) -> str:
    """The kernel that SDPA picks for this call: "cudnn_attention", "flash_attention", "efficient_attention", "math"."""
    q, k, v, mask, is_causal, is_gqa = form_arguments(call)
    picked = torch._fused_sdp_choice(q, k, v, mask, 0.0, is_causal, scale=call.scale, enable_gqa=is_gqa)
    return SDPBackend(picked).name.lower()


def _collect(model: _Model, n_sequences: int, dtype: torch.dtype) -> list[tuple[Call, str]]:
    found: list[tuple[Call, str]] = []

    def watch(call: Call, name: str) -> None:
        found.append((call, name))

    device = next(model.parameters()).device
    autocast = torch.autocast(device.type, dtype, enabled=dtype.itemsize < 4)
    with torch.compiler.set_stance("force_eager"), autocast, watch_calls(watch):
        model.probe(n_sequences)
    return found


class BackendMethods:
    """The functions above as methods of a model."""

    choose_backend = choose_backend
    report_attention = report_attention
