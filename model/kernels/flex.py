"""torch's FlexAttention: windows, softcaps, sinks and biases without a T x T tensor, compiled with Triton on a GPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention

from ..numerics import upcast
from .call import BackendError, Call, DecayBias

# A dense bias needs another block in shared memory per pipeline stage. With Inductor's blocks for Hopper, the backward
# pass would exceed the shared memory of a multiprocessor.
DENSE_BIAS_BLOCKS = {
    "bwd_BLOCK_M1": 32,
    "bwd_BLOCK_N1": 64,
    "bwd_BLOCK_M2": 64,
    "bwd_BLOCK_N2": 32,
    "bwd_num_stages": 1,
}

MIN_WIDTH = 16  # of a head, for torch's GPU kernel

Index = Tensor
ScoreMod = Callable[[Tensor, Index, Index, Index, Index], Tensor]


def attend_flex(call: Call) -> Tensor:
    """Compute the call with FlexAttention. Narrow heads are padded with zeros, which costs only time.

    Raises BackendError because torch's kernels lack gradients on a CPU, float64 on a GPU, and deterministic gradients
    of a bias.
    """
    if call.deterministic and _has_learned_bias(call):
        raise BackendError(
            "flex adds up the gradients of a bias in any order, so reruns would differ; use sdpa or math"
        )
    q, k, v = (_widen(x.transpose(1, 2)) for x in (call.q, call.k, call.v))
    if not q.is_cuda:
        if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
            raise BackendError("flex has no gradients on a CPU; use sdpa or math")
        q, k, v = (
            q.detach(),
            k.detach(),
            v.detach(),
        )  # torch refuses tensors that require gradients, even if it computes none
    elif q.dtype == torch.float64:
        raise BackendError("flex takes no float64 on a GPU; use sdpa or math")
    shape = (q.shape[2], k.shape[2], call.causal, call.window, str(q.device))
    # while compiling, the mask becomes part of the graph, which a cached mask cannot
    mask = _form_block_mask.__wrapped__(*shape) if torch.compiler.is_compiling() else _form_block_mask(*shape)
    run: Callable[..., Any] = flex_attention
    if q.is_cuda and not torch.compiler.is_compiling():
        run = _compiled()
    is_gqa = q.shape[1] != k.shape[1]
    blocks = DENSE_BIAS_BLOCKS if q.is_cuda and isinstance(call.bias, Tensor) else None
    settings = {"block_mask": mask, "scale": call.scale, "enable_gqa": is_gqa, "kernel_options": blocks}
    run = functools.partial(run, score_mod=_form_score_mod(call), **settings)
    if call.sink is None:
        out = run(q, k, v)
    else:  # the sink scales every weight by exp(lse) / (exp(lse) + exp(sink))
        out, aux = run(q, k, v, return_aux=AuxRequest(lse=True))
        out = (upcast(out) * (aux.lse - call.sink[:, None]).sigmoid()[..., None]).to(v.dtype)
    out_bthv: Tensor = out[..., : call.v.shape[-1]].transpose(1, 2)
    return out_bthv


def _has_learned_bias(call: Call) -> bool:
    factors = call.bias if isinstance(call.bias, DecayBias) else (call.bias,)
    return any(factor is not None and factor.requires_grad for factor in factors)


def _widen(x: Tensor) -> Tensor:
    return x if x.shape[-1] >= MIN_WIDTH else F.pad(x, (0, MIN_WIDTH - x.shape[-1]))


@functools.cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention)


@functools.lru_cache(maxsize=32)
def _form_block_mask(n_queries: int, n_keys: int, causal: bool, window: int | None, device: str) -> BlockMask | None:
    offset = n_keys - n_queries

    def is_seen(_batch: Index, _head: Index, query: Index, key: Index) -> Tensor:
        seen = key >= 0
        if causal:
            seen = seen & (key <= query + offset)
        return seen if window is None else seen & (key > query + offset - window)

    if not causal and window is None:
        return None
    return create_block_mask(is_seen, None, None, n_queries, n_keys, device=device)


def _form_score_mod(call: Call) -> ScoreMod | None:
    if call.softcap is None and call.bias is None and call.seen is None:
        return None
    # A tensor, because torch compiles the second softcap as a symbol, which the lowering of flex_attention rejects.
    dtype = torch.promote_types(call.q.dtype, torch.float32)
    softcap = None if call.softcap is None else torch.full((), call.softcap, dtype=dtype, device=call.q.device)
    bias, seen = call.bias, call.seen
    if isinstance(bias, Tensor):
        bias = bias.expand(call.q.shape[0], call.q.shape[2], call.q.shape[1], call.k.shape[1])

    def modify(score: Tensor, batch: Index, head: Index, query: Index, key: Index) -> Tensor:
        if softcap is not None:
            score = softcap * torch.tanh(score / softcap)
        if isinstance(bias, DecayBias):
            score = score + bias.query_bht[batch, head, query] - bias.key_bhs[batch, head, key]
        elif bias is not None:
            score = score + bias[batch, head, query, key]
        return score if seen is None else torch.where(seen[batch, key], score, -torch.inf)

    return modify
