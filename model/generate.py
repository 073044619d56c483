"""Sampling from a model."""

from __future__ import annotations

import torch
from torch import Tensor

from .cache import Cache
from .gpt import GPT


@torch.no_grad()
def generate(model: GPT, prompt_bt: Tensor, max_new_tokens: int, *, seed: int = 0) -> Tensor:
    """The prompt (b, t) continued by `max_new_tokens` sampled tokens: (b, t + max_new_tokens)."""
    generator = torch.Generator(device=prompt_bt.device).manual_seed(seed)
    cache, ids_bt, newest_bt = Cache(model.config.n_layers), prompt_bt, prompt_bt
    for _ in range(max_new_tokens):
        logits_bv = model(newest_bt, cache)[:, -1]
        newest_bt = torch.multinomial(logits_bv.softmax(-1), 1, generator=generator)
        ids_bt = torch.cat((ids_bt, newest_bt), dim=1)
    return ids_bt
