"""flash-attn, if it is installed: flash-attn-4 (flash_attn.cute) on Hopper and newer, or flash-attn 2.

Both are optional. `import flash_attn` succeeds even if only flash-attn-4 is there, so the functions are probed.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .call import BackendError, Call
from .masks import prepend_sink

WIDTH_STEP = 8  # head widths come in multiples of this
MAX_WIDTH = {"flash-attn-4": 128, "flash-attn": 256}
Probed = tuple[str, Callable[..., Any]]


def cache_folder() -> Path:
    """Return the folder where this user keeps what was compiled and measured on this machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ablate"


def _keep_compiled() -> None:
    """Let flash-attn-4 keep its compiled kernels on disk, if the folder for them is writable.

    By default, each process compiles them again, which takes seconds. It reads these settings when it is imported.
    """
    try:
        folder = cache_folder() / "flash-attn-4"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # without a home directory
        return
    if os.access(folder, os.W_OK):
        os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", "1")
        os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_DIR", str(folder))


@functools.cache
def find_flash() -> Probed | None:
    """Return (package, function) of the newest flash-attn that can be imported, or None."""
    if torch.cuda.is_available():
        _keep_compiled()
    try:
        from flash_attn.cute import flash_attn_func as function

        return "flash-attn-4", function
    except ImportError:
        pass
    try:
        from flash_attn import flash_attn_func as function

        return "flash-attn", function
    except ImportError:
        return None


def explain_refusal(call: Call) -> str | None:
    """Explain why flash-attn cannot compute this call here, or return None."""
    found = find_flash()
    if found is None:
        return "neither flash-attn-4 nor flash-attn can be imported"
    if call.q.device.type != "cuda" or call.v.dtype not in (torch.bfloat16, torch.float16):
        return f"it takes bfloat16 or float16 on a CUDA device, not {call.v.dtype} on {call.q.device.type}"
    if call.bias is not None:
        return "it takes no bias; use flex, sdpa or math"
    if call.seen is not None:
        return "it takes no mask of hidden keys; use flex, sdpa or math"
    if call.sink is not None and call.window is not None:
        return "a window would hide the sink, which is passed as the oldest key; use flex, sdpa or math"
    width = _common_width(call) + (WIDTH_STEP if call.sink is not None else 0)
    if width > MAX_WIDTH[found[0]]:
        return f"{found[0]} takes heads of at most {MAX_WIDTH[found[0]]} features, not {width}"
    return None


def attend_flash(call: Call) -> Tensor:
    """Compute the call with flash-attn. Different widths are padded with zeros, which costs only time.

    Raises BackendError for a call that flash-attn cannot compute.
    """
    refusal = explain_refusal(call)
    if refusal is not None:
        raise BackendError(f"flash: {refusal}")
    if call.sink is not None:
        return attend_flash(prepend_sink(call, call.sink))
    width = _common_width(call)
    q, k, v = (F.pad(x, (0, width - x.shape[-1])) for x in (call.q, call.k, call.v))
    window = -1 if call.window is None else call.window - 1
    softcap = 0.0 if call.softcap is None else call.softcap
    package, function = find_flash() or ("", None)
    if function is None:
        raise BackendError("flash: the package was removed after it was probed")
    if package == "flash-attn-4":
        out: Tensor = flash4(q, k, v, call.scale, call.causal, window, softcap, call.deterministic)[0]
    else:
        out = function(
            q,
            k,
            v,
            softmax_scale=call.scale,
            causal=call.causal,
            window_size=(window, 0 if call.causal and window >= 0 else -1),
            softcap=softcap,
            deterministic=call.deterministic,
        )
    return out[..., : call.v.shape[-1]]


def _common_width(call: Call) -> int:
    widest = max(call.q.shape[-1], call.v.shape[-1])
    return -(-widest // WIDTH_STEP) * WIDTH_STEP


# torch.compile does not know flash-attn-4, so it becomes an operator here, with its shapes and its backward pass.


def _windows(causal: bool, window: int) -> tuple[int | None, int | None]:
    return (None, None) if window < 0 else (window, 0 if causal else None)


@torch.library.custom_op("ablate::flash4", mutates_args=())
def flash4(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, window: int, softcap: float, deterministic: bool
) -> tuple[Tensor, Tensor]:
    """Run flash-attn-4 on (b, t, h, d): the output and the log-sum-exp (b, h, t); window -1 means no window."""
    from flash_attn.cute import flash_attn_func

    with torch.no_grad():
        out, lse = flash_attn_func(
            q,
            k,
            v,
            softmax_scale=scale,
            causal=causal,
            window_size=_windows(causal, window),
            softcap=softcap,
            deterministic=deterministic,
            return_lse=True,
        )
    return out, lse


@flash4.register_fake
def _(q: Tensor, _k: Tensor, v: Tensor, *_settings: Any) -> tuple[Tensor, Tensor]:
    b, t, h, _d = q.shape
    return q.new_empty(b, t, h, v.shape[-1]), q.new_empty((b, h, t), dtype=torch.float32)


@torch.library.custom_op("ablate::flash4_backward", mutates_args=())
def flash4_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    d_out: Tensor,
    lse: Tensor,
    scale: float,
    causal: bool,
    window: int,
    softcap: float,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    from flash_attn.cute.interface import _flash_attn_bwd

    left, right = _windows(causal, window)
    dq, dk, dv = _flash_attn_bwd(
        q,
        k,
        v,
        out,
        d_out.contiguous(),
        lse,
        scale,
        causal,
        softcap,
        window_size_left=left,
        window_size_right=right,
        deterministic=deterministic,
    )
    return dq, dk, dv


@flash4_backward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *_rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, *ctx.settings = inputs
    ctx.save_for_backward(q, k, v, *output)


def _differentiate(ctx: Any, d_out: Tensor, _d_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    """The log-sum-exp stays inside the operator, so it has no gradient."""
    q, k, v, out, lse = ctx.saved_tensors
    gradients: tuple[Tensor, Tensor, Tensor] = flash4_backward(q, k, v, out, d_out, lse, *ctx.settings)
    return (*gradients, None, None, None, None, None)


flash4.register_autograd(_differentiate, setup_context=_remember)
