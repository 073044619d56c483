"""Log-likelihoods of continuations. Contexts that several continuations share are read once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ablate.data import Tokenizer
from ablate.evaluation.language_model import rows_at_once, score_stream
from ablate_model import GPT, Cache

Tokens = tuple[int, ...]
CACHE_BYTES = 4 << 30  # of keys and values, about
NO_START = "its tokenizer has no token that starts a document, so the context must not be empty"


@dataclass(frozen=True)
class Request:
    """A context, of at least one token, and what continues it."""

    context: Tokens
    continuation: Tokens


@dataclass(frozen=True)
class Score:
    """The log-likelihood in nats, and whether every token of the continuation was the most likely one."""

    log_likelihood: float
    is_greedy: bool


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> Request:
    """Encode a pair as EleutherAI's harness does: as one text, of which the context's tokens are cut off.

    Spaces at the end of the context go to the continuation. Without a context, the separator is the context. Raises
    `ValueError` if the tokenizer has none.
    """
    n_spaces = len(context) - len(context.rstrip())
    if context and n_spaces:
        context, continuation = context[:-n_spaces], context[-n_spaces:] + continuation
    if not context:
        if tokenizer.separator is None:
            raise ValueError(NO_START)
        tokens = _encode(tokenizer, continuation)
        is_started = tokens[:1] == (tokenizer.separator,)
        return Request(tokens[:1], tokens[1:]) if is_started else Request((tokenizer.separator,), tokens)
    start = _encode(tokenizer, context)
    return Request(start, _encode(tokenizer, context + continuation)[len(start) :])


@lru_cache(maxsize=8)  # all choices of an item have the same context, as a rule
def _encode(tokenizer: Tokenizer, text: str) -> Tokens:
    return tuple(tokenizer.encode(text).tolist())


def fit(request: Request, limit: int) -> Request | None:
    """Drop tokens at the front so that the model reads at most `limit`; None if the continuation does not fit."""
    if len(request.continuation) > limit or not request.continuation:
        return None
    return Request(request.context[-(limit + 1 - len(request.continuation)) :], request.continuation)


@torch.inference_mode()
def score_requests(model: GPT, device: torch.device, requests: Sequence[Request]) -> list[Score]:
    """Score requests that fit the model, in their order.

    Contexts of equal length are read together. Their keys and values then serve all their continuations.
    """
    numbers: dict[Tokens, list[int]] = defaultdict(list)
    for number, request in enumerate(requests):
        numbers[request.context].append(number)
    by_length: dict[int, list[Tokens]] = defaultdict(list)
    for context in numbers:
        by_length[len(context)].append(context)
    found: dict[int, Score] = {}
    for length, contexts in sorted(by_length.items(), reverse=True):  # the largest first, so that memory is found early
        for some in _cut(model, device, length, contexts, numbers, requests):
            chosen = [number for context in some for number in numbers[context]]
            rows = [row for row, context in enumerate(some) for _ in numbers[context]]
            continuations = [requests[number].continuation for number in chosen]
            found.update(zip(chosen, _score_batch(model, device, some, rows, continuations), strict=True))
    return [found[number] for number in range(len(requests))]


def _cut(
    model: GPT,
    device: torch.device,
    length: int,
    contexts: Sequence[Tokens],
    numbers: dict[Tokens, list[int]],
    requests: Sequence[Request],
) -> Iterator[list[Tokens]]:
    """Cut contexts of one length into batches of about as many tokens as a forward pass and the cache take."""
    config = model.config
    most = min(rows_at_once(device, 1), CACHE_BYTES // (8 * config.n_layers * config.d_model))
    batch: list[Tokens] = []
    n_tokens = 0
    # continuations of similar length together, because the shorter ones are padded
    longest = {c: max(len(requests[number].continuation) for number in numbers[c]) for c in contexts}
    for context in sorted(contexts, key=longest.__getitem__, reverse=True):
        size = len(numbers[context]) * (length + longest[context])
        if batch and n_tokens + size > most:
            yield batch
            batch, n_tokens = [], 0
        batch.append(context)
        n_tokens += size
    yield batch


def _score_batch(
    model: GPT, device: torch.device, contexts: Sequence[Tokens], rows: Sequence[int], continuations: Sequence[Tokens]
) -> Iterator[Score]:
    """Score continuation i after context `rows[i]`."""
    cache = Cache(model.config.n_layers)
    rows_n = torch.tensor(rows, device=device)
    longest = max(map(len, continuations))
    padded = [(*continuation, *[0] * (longest - len(continuation))) for continuation in continuations]
    targets_nt = torch.tensor(padded, device=device)
    h_nd = model.encode(torch.tensor(contexts, device=device), cache)[:, -1][rows_n]
    streams = [h_nd[:, None]]
    if longest > 1:  # the padding stands behind the tokens that count, which do not see it
        cache.select(rows_n)
        streams.append(model.encode(targets_nt[:, :-1], cache))
    lengths_n = torch.tensor([len(continuation) for continuation in continuations], device=device)
    is_real_nt = torch.arange(longest, device=device) < lengths_n[:, None]
    losses_m, is_top_m = _score_tokens(model, torch.cat(streams, dim=1)[is_real_nt], targets_nt[is_real_nt])
    which_m = is_real_nt.nonzero()[:, 0]
    totals_n = losses_m.new_zeros(len(rows)).index_add(0, which_m, losses_m)
    misses_n = losses_m.new_zeros(len(rows)).index_add(0, which_m, (~is_top_m).to(losses_m.dtype))
    for total, n_misses in zip(totals_n.tolist(), misses_n.tolist(), strict=True):
        yield Score(-total, n_misses == 0)


def _score_tokens(model: GPT, h_md: Tensor, targets_m: Tensor) -> tuple[Tensor, Tensor]:
    losses_m, shares_m = score_stream(model, h_md, targets_m)
    return losses_m.double(), shares_m > 0
