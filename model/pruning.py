"""Drop the sub-layers of a model that change the stream least (LLM-Drop, arXiv 2406.15786), or tokens of its cache."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention_maps import watch_residual
from .cache import Cache
from .config import ModelConfig
from .contracts import Part
from .errors import ConfigError
from .gpt import GPT
from .residual import Residual
from .wrapped import plain_weights, unwrap


@dataclass
class _Cosine:
    """The mean over tokens of cos(x, y)."""

    total: float = 0.0
    n_tokens: int = 0

    def add(self, x_btd: Tensor, y_btd: Tensor) -> None:
        self.total += F.cosine_similarity(x_btd.double(), y_btd.double(), dim=-1).sum().item()
        self.n_tokens += x_btd.shape[0] * x_btd.shape[1]


@torch.no_grad()
def measure_importance(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, float]:
    """Measure 1 - mean cos(x, y) of every attention/LAYER, mlp/LAYER and block/LAYER on the ids (b, t) in `batches`.

    x is the residual stream before the part and y after it, so norms (and nGPT's update) belong to the part.
    The model may be wrapped as for `save`. Raises ConfigError if it contains no GPT.
    """
    model = unwrap(model)
    cosines: dict[str, _Cosine] = defaultdict(_Cosine)
    was_training = model.training
    model.eval()
    with ExitStack() as watches, torch.compiler.set_stance("force_eager"):
        for layer, block in enumerate(model.stack.blocks):
            if not model.config.keeps("block", layer):
                continue
            cosine = cosines[f"block/{layer}"]
            handle = block.register_forward_hook(lambda _block, x, y, cosine=cosine: cosine.add(x[0], y))
            watches.callback(handle.remove)
            for part, residual in (("attention", block.attention_residual), ("mlp", block.mlp_residual)):
                if isinstance(residual, Residual):
                    cosine = cosines[f"{part}/{layer}"]
                    watches.enter_context(
                        watch_residual(residual, "write", lambda h, _y, out, cosine=cosine: cosine.add(h, out[0]))
                    )
        for ids_bt in batches:
            model(ids_bt)
    model.train(was_training)
    return {name: 1 - cosine.total / cosine.n_tokens for name, cosine in cosines.items()}


def measure_cache(model: nn.Module, ids_bt: Tensor, budget: int | None) -> dict[str, float]:
    """Read ids (b, t) token by token with a pruned cache: the loss of the next tokens, and the memory that it saves.

    Returns "loss" in nats per token, "bytes" of keys and values at the end, "bytes_unpruned", and the share "saved".
    Without a budget nothing is pruned. Raises ConfigError for an attention that cannot prune.
    """
    losses_bt, cache = score_cached(model, ids_bt, budget)
    kept, whole = cache.count_bytes()
    return {"loss": losses_bt.mean().item(), "bytes": kept, "bytes_unpruned": whole, "saved": 1 - kept / whole}


@torch.no_grad()
def score_cached(model: nn.Module, ids_bt: Tensor, budget: int | None) -> tuple[Tensor, Cache]:
    """Read ids (b, t) token by token: the losses of the next tokens (b, t - 1) in nats, and the cache at the end.

    The model is read in evaluation mode and may be wrapped as for `save`. Raises as `measure_cache` does.
    """
    model = unwrap(model)
    was_training = model.training
    model.eval()
    cache = Cache(model.config.n_layers, budget)
    try:
        logits_btv = torch.cat([model(ids_bt[:, t : t + 1], cache) for t in range(ids_bt.shape[1])], dim=1)
    finally:
        model.train(was_training)
    return F.cross_entropy(logits_btv[:, :-1].transpose(1, 2), ids_bt[:, 1:], reduction="none"), cache


def drop(
    model: nn.Module, parts: Sequence[Part], n_dropped: int, batches: Sequence[Tensor], *, iterative: bool = False
) -> GPT:
    """Return the model without its `n_dropped` least important sub-layers or blocks; weights are shared.

    `parts` is ("attention",), ("mlp",) or both, ranked together, or ("block",). Importance is measured once, or, with
    `iterative`, again after each drop. The model may be wrapped as for `save`. Raises ConfigError if fewer parts are
    left, or if the model contains no whole GPT.
    """
    smaller = unwrap(model)
    for count in [1] * n_dropped if iterative else [n_dropped]:
        importance = {n: i for n, i in measure_importance(smaller, batches).items() if n.split("/")[0] in parts}
        if len(importance) < count:
            raise ConfigError("dropped", f"only {len(importance)} {' and '.join(parts)} parts are left to drop")
        least = sorted(importance, key=importance.__getitem__)[:count]
        names = [name for part in least for name in _expand(part)]
        smaller = _without(smaller, names)
    return smaller


def _expand(name: str) -> list[str]:
    part, layer = name.split("/")
    return [f"attention/{layer}", f"mlp/{layer}"] if part == "block" else [name]


def _without(model: GPT, names: Sequence[str]) -> GPT:
    data = model.config.to_dict()
    smaller = GPT(ModelConfig.parse({**data, "dropped": [*model.config.dropped, *names]}), backend=model.backend)
    kept = smaller.state_dict().keys()
    smaller.load_state_dict({name: value for name, value in plain_weights(model).items() if name in kept}, assign=True)
    # constants that are computed, not loaded, start on the CPU
    return smaller.to(model.embedding.weight.device).train(model.training)
