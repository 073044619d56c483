"""Greedy and beam decoding of the encoder-decoder, with a cache."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cache import Cache
from ..context import Padding
from .encoder_decoder import EncoderDecoder, Memory


@torch.no_grad()
def translate(
    model: EncoderDecoder,
    source_bs: Tensor,
    *,
    start: int,
    stop: int,
    max_new_tokens: int,
    n_beams: int = 1,
    length_penalty: float = 0.0,
    padding: Padding = None,
    use_cache: bool = True,
) -> Tensor:
    """Return the most likely target ids (b, 1 + n) found, in eval mode, each from `start` to its first `stop`.

    `n_beams` 1 is greedy. A beam search keeps the `n_beams` best beginnings by log-probability / length^length_penalty,
    `stop` included in the length. Finished targets are filled up with `stop`. An integer `padding` is never chosen,
    because a loss does not count it. Without a cache, each step computes the whole target again, with the same result.
    Raises ValueError for logits that are not finite, for numbers below 1 and for an unknown token.
    """
    for name, number in (("n_beams", n_beams), ("max_new_tokens", max_new_tokens)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    for name, token in (("start", start), ("stop", stop)):
        if not 0 <= token < model.config.vocab_size:
            raise ValueError(f"{name} must be a token from 0 to {model.config.vocab_size - 1}, got {token}")
    was_training = model.training
    model.eval()
    try:
        memory = model.encode(source_bs, padding).repeat(n_beams)
        cache = Cache(model.config.n_layers) if use_cache else None
        banned = padding if isinstance(padding, int) and padding != stop else None
        return _search(model, memory, cache, start, stop, banned, max_new_tokens, n_beams, length_penalty)
    finally:
        model.train(was_training)


def _search(
    model: EncoderDecoder,
    memory: Memory,
    cache: Cache | None,
    start: int,
    stop: int,
    banned: int | None,
    max_new_tokens: int,
    n_beams: int,
    length_penalty: float,
) -> Tensor:
    n_rows, device = len(memory.states_bsd), memory.states_bsd.device
    n_sources, n_tokens = n_rows // n_beams, model.config.vocab_size
    ids_nt = torch.full((n_rows, 1), start, device=device)
    # the beams of a source start equal, so only the first may be continued
    total_n = torch.tensor([0.0] + [-torch.inf] * (n_beams - 1), device=device).repeat(n_sources)
    length_n = torch.zeros(n_rows, device=device)
    has_ended_n = torch.zeros(n_rows, dtype=torch.bool, device=device)
    first_row_b1 = torch.arange(0, n_rows, n_beams, device=device)[:, None]
    for _ in range(max_new_tokens):
        unread_nt = ids_nt if cache is None else ids_nt[:, cache.length :]
        logits_nv = model.form_logits(model.decode(unread_nt, memory, cache)[:, -1])
        if not logits_nv.isfinite().all():
            raise ValueError("the model's logits are not finite: its weights may have diverged")
        if banned is not None:
            logits_nv[:, banned] = -torch.inf
        log_nv = logits_nv.log_softmax(-1)
        log_nv = log_nv.masked_fill(has_ended_n[:, None], -torch.inf)
        log_nv[:, stop] = torch.where(has_ended_n, 0.0, log_nv[:, stop])  # an ended target continues only with stop
        length_n = length_n + ~has_ended_n
        score_nv = (total_n[:, None] + log_nv) / length_n[:, None] ** length_penalty
        best_bk = score_nv.view(n_sources, -1).topk(n_beams).indices
        rows_n = (first_row_b1 + best_bk // n_tokens).flatten()
        tokens_n = (best_bk % n_tokens).flatten()
        total_n, length_n = total_n[rows_n] + log_nv[rows_n, tokens_n], length_n[rows_n]
        ids_nt = torch.cat((ids_nt[rows_n], tokens_n[:, None]), dim=1)
        has_ended_n = has_ended_n[rows_n] | (tokens_n == stop)
        if cache is not None and n_beams > 1:
            cache.select(rows_n)
        if has_ended_n.all():
            break
    return ids_nt[::n_beams]  # topk sorts the beams of a source
