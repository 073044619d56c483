"""Loss and memory with a pruned cache of keys and values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from ablate.evaluation.base import Row, Subject
from ablate.evaluation.language_model import (
    LOGITS,
    LanguageModelEvaluation,
    explain_short,
    held_out_windows,
    mean_row,
    refuse,
)
from ablate.metrics import Direction
from ablate_model import GPT, ConfigError
from ablate_model.pruning import score_cached

FEWEST = 2  # tokens that a cache can keep: the first and the newest


class PrunedCache(LanguageModelEvaluation):
    """The loss when every layer keeps only the share `kept` of the context's keys and values, token by token.

    `loss_increase` is the loss minus that of the whole cache on the same windows. `saving` is the size of the whole
    cache over that of the smallest one whose loss increases by at most `tolerance`, among the shares tried, or 1
    if none qualifies. Only attentions that can prune have these. All have `loss` with the whole cache.
    """

    name: ClassVar[str] = "pruned_cache"
    version: ClassVar[int] = 3
    metrics: ClassVar[Mapping[str, Direction | None]] = {
        "saving": "higher",
        "loss_increase": "lower",
        "loss": None,  # tested as its increase
    }
    source: ClassVar[str] = "Selective Attention, arXiv 2410.02703"
    needs = frozenset({"corpus"})

    kept: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.5, 0.25, 0.125, 0.0625, 0.03125), min_length=1, description="shares of the context to keep, below 1"
    )
    tolerance: float = Field(0.01, ge=0, description="nats per token that count as an equal loss")
    tokens: int = Field(16_384, ge=1, description="tokens of the validation split, at most all of it")

    def measure(self, model: GPT, subject: Subject) -> Iterator[Row]:
        length = subject.context_length
        whole = self._score(model, subject, None)
        if whole is None:
            assert subject.corpus is not None
            yield from refuse(self.metrics, explain_short(subject.corpus, length))
            return
        yield mean_row("loss", whole[0], kept=1.0)
        savings: list[float] = []  # of the shares that were tried; 1 where the loss increases too much
        for kept in self.kept:
            budget = math.floor(kept * length)
            if budget < FEWEST:
                why = f"a cache keeps at least {FEWEST} tokens, and {kept:g} of {length} are {budget}"
                yield from refuse(("loss_increase", "loss"), why, kept=kept)
                continue
            try:
                pruned = self._score(model, subject, budget)
            except ConfigError as error:
                yield from refuse(("saving", "loss_increase"), error.message)
                return
            assert pruned is not None
            increases, smaller = pruned[0] - whole[0], whole[1] / pruned[1]
            yield mean_row("loss_increase", increases, kept=kept)
            yield mean_row("loss", pruned[0], kept=kept)
            savings.append(smaller if float(increases.mean()) <= self.tolerance else 1.0)
        if savings:
            yield Row("saving", max(savings), len(whole[0]), is_factor=True)
        else:
            yield from refuse(("saving",), "no share of the context is large enough to be tried")

    def _score(self, model: GPT, subject: Subject, budget: int | None) -> tuple[torch.Tensor, float] | None:
        """The mean loss of every window, and the bytes of a window's cache at its end. None if there is no window."""
        at_once = max(1, LOGITS // (subject.context_length * model.config.vocab_size))
        losses, n_bytes = [], 0
        for inputs_bt, _ in held_out_windows(subject, self.tokens):
            for ids_bt in torch.split(inputs_bt, at_once):
                losses_bt, cache = score_cached(model, ids_bt, budget)
                losses.append(losses_bt.double().mean(1).cpu())
                n_bytes += cache.count_bytes()[0]
        return (torch.cat(losses), n_bytes / sum(map(len, losses))) if losses else None
