"""Sampling from a model, with a cache for every attention."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .cache import Cache
from .gpt import GPT
from .wrapped import unwrap

COLDEST = 1e-30  # lower temperatures count as 0, because logits divided by them are not finite in float32


@dataclass(frozen=True)
class Sampling:
    """How to draw the next token. Filters apply in the order of the fields; each keeps at least the most likely token.

    `temperature` divides the logits; 0 takes the most likely token. `top_k` keeps the k most likely tokens, `top_p` the
    fewest tokens whose probabilities sum to p, and `min_p` tokens with at least p times the highest probability.
    Raises ValueError for values out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be at least 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        for name in ("top_p", "min_p"):
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {share}")

    def draw(self, logits_bv: Tensor, generator: torch.Generator) -> Tensor:
        """Draw token ids (b, 1) from logits (b, v)."""
        if self.temperature < COLDEST:
            return logits_bv.argmax(-1, keepdim=True)
        return torch.multinomial(self.probabilities(logits_bv), 1, generator=generator)

    def probabilities(self, logits_bv: Tensor) -> Tensor:
        """Return the probabilities (b, v) that `draw` samples from at a temperature above 0."""
        logits_bv = logits_bv / self.temperature
        if self.top_k is not None:
            kth_b1 = logits_bv.topk(min(self.top_k, logits_bv.shape[-1])).values[:, -1:]
            logits_bv = logits_bv.masked_fill(logits_bv < kth_b1, -torch.inf)
        if self.top_p is not None:
            sorted_bv, order_bv = logits_bv.softmax(-1).sort(-1, descending=True)
            is_surplus_bv = sorted_bv.cumsum(-1) - sorted_bv >= self.top_p  # those before it already reach top_p
            logits_bv = logits_bv.masked_fill(is_surplus_bv.scatter(-1, order_bv, is_surplus_bv), -torch.inf)
        if self.min_p is not None:
            likely_bv = logits_bv.softmax(-1)
            is_unlikely_bv = likely_bv < self.min_p * likely_bv.amax(-1, keepdim=True)
            logits_bv = logits_bv.masked_fill(is_unlikely_bv, -torch.inf)
        return logits_bv.softmax(-1)


@torch.no_grad()
def generate(
    model: nn.Module,
    prompt_bt: Tensor,
    max_new_tokens: int,
    *,
    sampling: Sampling = Sampling(),
    stop: Collection[int] = (),
    seed: int = 0,
    cache_budget: int | None = None,
) -> Tensor:
    """Continue the prompt (b, t) by at most `max_new_tokens` tokens: (b, t + n), in eval mode.

    A sequence ends with the first token of `stop`, which is repeated up to the end of the longest sequence. When the
    context is full, generation restarts from its newest half. With `cache_budget`, selective attention keeps only that
    many tokens per layer (see `measure_cache`). The model may be wrapped as for `save`. Raises ValueError for an empty
    prompt and for logits that are not finite, and ConfigError if the model contains no GPT or cannot keep the budget.
    """
    model = unwrap(model)
    if prompt_bt.shape[1] == 0:
        raise ValueError("the prompt is empty: a model needs at least one token to continue")
    was_training = model.training
    model.eval()
    try:
        return _continue(model, prompt_bt, max_new_tokens, sampling, stop, seed, cache_budget)
    finally:
        model.train(was_training)


def _continue(
    model: GPT,
    ids_bt: Tensor,
    max_new_tokens: int,
    sampling: Sampling,
    stop: Collection[int],
    seed: int,
    budget: int | None,
) -> Tensor:
    generator = torch.Generator(device=ids_bt.device).manual_seed(seed)
    stops = torch.tensor(sorted(stop), device=ids_bt.device, dtype=ids_bt.dtype)
    limit = model.config.context_length
    has_ended_b1 = torch.zeros(ids_bt.shape[0], 1, dtype=torch.bool, device=ids_bt.device)
    cache, unread_bt = Cache(model.config.n_layers, budget), ids_bt[:, -limit:]
    for _ in range(max_new_tokens):
        if cache.length + unread_bt.shape[1] > limit:
            cache, unread_bt = Cache(model.config.n_layers, budget), ids_bt[:, -max(limit // 2, 1) :]
        logits_bv = model(unread_bt, cache)[:, -1]
        if not logits_bv.isfinite().all():
            raise ValueError("the model's logits are not finite: its weights may have diverged")
        drawn_b1 = sampling.draw(logits_bv, generator)
        unread_bt = torch.where(has_ended_b1, ids_bt[:, -1:], drawn_b1)
        ids_bt = torch.cat((ids_bt, unread_bt), dim=1)
        has_ended_b1 = has_ended_b1 | torch.isin(unread_bt, stops)
        if has_ended_b1.all():
            break
    return ids_bt
