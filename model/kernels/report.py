"""Which backend and which kernel a model's attention really runs on, for a run's manifest."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend

from .attention import WATCHERS, choose
from .call import Call
from .sdpa import name_kernel

if TYPE_CHECKING:
    from ..gpt import GPT

Seen = list[tuple[Call, str]]
logger = logging.getLogger(__name__)


def report_attention(model: GPT, dtype: torch.dtype = torch.float32) -> dict[str, str]:
    """{"requested", "backend", "reason", "kernel"} of the model's attention, from one pass over a full context.

    `dtype` is that of autocast. The kernel is the one that SDPA picks by itself ("cudnn_attention", "math", ...), or
    the backend's own. A GPU that would silently run SDPA's math kernel is reported with a logged warning.
    """
    device, nothing = model.embedding.weight.device, "every attention is dropped"
    requested = "fastest" if model.measured_ms else model.backend
    seen = {"requested": requested, "backend": "none", "reason": nothing, "kernel": "none"}
    for call, name in _collect(model, 1, dtype):
        reason = choose(call)[1] if model.backend == "auto" else "asked for by name"
        if model.measured_ms:
            reason = "measured: " + ", ".join(
                f"{other} {float(f'{ms:.3g}'):g} ms" for other, ms in model.measured_ms.items()
            )
        seen.update({"backend": name, "reason": reason, "kernel": name_kernel(call) if name == "sdpa" else name})
    if device.type == "cuda" and seen["kernel"] == SDPBackend.MATH.name.lower():
        logger.warning("SDPA falls back to its math kernel for %s", model.config.attention.name)
    return seen


def collect_calls(model: GPT, n_sequences: int, dtype: torch.dtype) -> list[Call]:
    """The attention calls of a forward pass over `n_sequences` full contexts under autocast to `dtype`."""
    with torch.no_grad():
        return [call for call, _ in _collect(model, n_sequences, dtype)]


def _collect(model: GPT, n_sequences: int, dtype: torch.dtype) -> Seen:
    seen: Seen = []

    def watch(call: Call, name: str) -> None:
        seen.append((call, name))

    device = model.embedding.weight.device
    ids_bt = torch.zeros(n_sequences, model.config.context_length, dtype=torch.long, device=device)
    WATCHERS.append(watch)
    try:
        with torch.compiler.set_stance("force_eager"), torch.autocast(device.type, dtype, enabled=dtype.itemsize < 4):
            model.encode(ids_bt)
    finally:
        WATCHERS.remove(watch)
    return seen
