"""Synthetic associative recall by number of pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from ablate.data.recall import Alphabet, RecallBatch, draw_recall, shortest_length
from ablate.evaluation.base import Row, Subject
from ablate.evaluation.language_model import (
    LanguageModelEvaluation,
    generator,
    mean_row,
    refuse,
    rows_at_once,
    score_stream,
    share_row,
)
from ablate.metrics import Direction
from ablate_model import GPT

COUNTED_TOKENS = 1 << 20  # of the validation split, to find the most frequent ones
MOST_FREQUENT = 128
SPREAD = 97  # keeps the draws of different numbers of pairs apart


class Recall(LanguageModelEvaluation):
    """Key-value pairs, then every key once more: does the model continue it with its value?

    `accuracy` is over the whole vocabulary, `choice_accuracy` over the values in the sequence, `loss` is that of the
    value in nats. A model without a corpus is asked with both halves of its vocabulary, as the task `recall` trains
    it. A language model is asked zero-shot, with the most frequent tokens of its corpus: the most frequent one is the
    filler, the others are keys and values in turn.
    """

    name: ClassVar[str] = "recall"
    metrics: ClassVar[Mapping[str, Direction | None]] = {
        "accuracy": "higher",
        "choice_accuracy": "higher",
        "loss": "lower",
    }
    source: ClassVar[str] = "MQAR, Zoology, arXiv 2312.04927"

    pairs: tuple[int, ...] = Field((2, 4, 8, 16), min_length=1, description="numbers of key-value pairs")
    samples: int = Field(200, ge=1, le=1_000_000, description="sequences per number of pairs")
    length: int | None = Field(None, ge=3, description="tokens per sequence; null is the trained context")

    def measure(self, model: GPT, subject: Subject) -> Iterator[Row]:
        length = min(self.length or subject.context_length, subject.context_length)
        alphabet = find_alphabet(subject)
        for n_pairs in self.pairs:
            if why := explain_unfit(n_pairs, length, alphabet):
                yield from refuse(self.metrics, why, pairs=n_pairs)
            else:
                batch = draw_recall(generator(SPREAD, n_pairs), self.samples, n_pairs, length, alphabet)
                yield from self._ask(model, subject, batch, n_pairs)

    def _ask(self, model: GPT, subject: Subject, batch: RecallBatch, n_pairs: int) -> Iterator[Row]:
        hits, choices, losses = (scores_bn.mean(1) for scores_bn in score_recall(model, subject.device, batch))
        n_tokens = model.config.vocab_size
        yield share_row("accuracy", hits, 1 / n_tokens, pairs=n_pairs)
        yield share_row("choice_accuracy", choices, 1 / n_pairs, pairs=n_pairs)
        yield mean_row("loss", losses, math.log(n_tokens), pairs=n_pairs)


def explain_unfit(n_pairs: int, length: int, alphabet: Alphabet) -> str:
    """Say why a sequence cannot hold this number of pairs; empty if it can."""
    if n_pairs < 1 or shortest_length(n_pairs) > length:
        return f"{n_pairs} pairs need {shortest_length(n_pairs)} tokens; the sequence has {length}"
    if n_pairs > alphabet.most_pairs:
        return f"{n_pairs} pairs need as many keys and values; there are {alphabet.most_pairs}"
    return ""


def score_recall(
    model: GPT, device: torch.device, batch: RecallBatch
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Score every query: right over the vocabulary, right among the values of the sequence, and loss: each (b, n)."""
    whole = [torch.from_numpy(part) for part in (batch.ids, batch.queries, batch.answers, batch.values)]
    found: list[list[torch.Tensor]] = [[], [], []]
    for parts in zip(*(torch.split(part, rows_at_once(device, batch.ids.shape[1])) for part in whole), strict=True):
        ids_bt, queries_bn, answers_bn, values_bm = (part.to(device) for part in parts)
        h_btd = model.encode(ids_bt)
        h_bnd = h_btd.gather(1, queries_bn[..., None].expand(-1, -1, h_btd.shape[-1]))
        losses_bn, hits_bn = score_stream(model, h_bnd, answers_bn)
        logits_bnm = model.form_logits(h_bnd).gather(2, values_bm[:, None].expand(-1, queries_bn.shape[1], -1))
        top_bn1 = logits_bnm.amax(-1, keepdim=True)
        is_own_bnm = values_bm[:, None] == answers_bn[..., None]
        own_bn1 = logits_bnm.masked_fill(~is_own_bnm, -torch.inf).amax(-1, keepdim=True)
        choices_bn = (own_bn1 == top_bn1)[..., 0] / (logits_bnm == top_bn1).sum(-1).clamp_min(1)
        for column, values_bn in zip(found, (hits_bn, choices_bn, losses_bn), strict=True):
            column.append(values_bn.double().cpu())
    hits_bn, choices_bn, losses_bn = map(torch.cat, found)
    return hits_bn, choices_bn, losses_bn


def find_alphabet(subject: Subject) -> Alphabet:
    """The tokens that a subject is asked with."""
    if subject.corpus is None:
        return Alphabet.halves(subject.model.config.vocab_size)
    counts = np.bincount(subject.corpus.validation[:COUNTED_TOKENS])
    frequent = np.argsort(-counts, kind="stable")[: min(MOST_FREQUENT + 1, int((counts > 0).sum()))]
    return Alphabet(frequent[1::2], frequent[2::2], frequent[:1])
