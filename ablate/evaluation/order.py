"""Whether recall depends on the order in which the context presents its pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from ablate.data.recall import RecallBatch, draw_recall
from ablate.evaluation.base import Row, Subject
from ablate.evaluation.language_model import LanguageModelEvaluation, generator, mean_row, refuse, share_row
from ablate.evaluation.recall import explain_unfit, find_alphabet, score_recall
from ablate.metrics import Direction
from ablate_model import GPT

CLEAR = 2.0  # standard errors
SPREAD = 131  # keeps these draws apart from those of other evaluations


class Order(LanguageModelEvaluation):
    """Recall from the same key-value pairs in several orders. The queries stay as they are.

    - `inconsistency`: the share of queries that are answered right in some orders and wrong in others. The paper gives
      the range of the accuracy over orders; here a query asks for one pair, so the range is that of each query.
    - `loss_spread`: the standard deviation of a query's loss over the orders, in nats, averaged over queries.
    - `accuracy`: over the vocabulary. A model that never recalls is consistent, too, and one that guesses is not.
      So there is no inconsistency unless the accuracy is above chance by `CLEAR` standard errors.
    """

    name: ClassVar[str] = "order"
    version: ClassVar[int] = 2
    metrics: ClassVar[Mapping[str, Direction | None]] = {
        "inconsistency": "lower",
        "loss_spread": None,
        "accuracy": None,
    }
    source: ClassVar[str] = "Differential Transformer, arXiv 2410.05258, section 3.5, on associative recall"

    pairs: tuple[int, ...] = Field((4, 8), min_length=1, description="numbers of key-value pairs, each at least 2")
    orders: int = Field(10, ge=2, le=1000, description="orders of the pairs; the paper: 10")
    samples: int = Field(100, ge=1, le=1_000_000, description="sequences per number of pairs")
    length: int | None = Field(None, ge=3, description="tokens per sequence; null is the trained context")

    def measure(self, model: GPT, subject: Subject) -> Iterator[Row]:
        length = min(self.length or subject.context_length, subject.context_length)
        alphabet = find_alphabet(subject)
        for n_pairs in self.pairs:
            why = explain_unfit(n_pairs, length, alphabet) or ("one pair has one order" if n_pairs == 1 else "")
            if why:
                yield from refuse(self.metrics, why, pairs=n_pairs)
                continue
            draw = generator(SPREAD, n_pairs)
            batch = draw_recall(draw, self.samples, n_pairs, length, alphabet)
            scores = [score_recall(model, subject.device, reorder(batch, draw)) for _ in range(self.orders)]
            hits_obn = torch.stack([hits_bn for hits_bn, _, _ in scores])
            losses_obn = torch.stack([losses_bn for _, _, losses_bn in scores])
            accuracy = share_row("accuracy", hits_obn.mean((0, 2)), 1 / model.config.vocab_size, pairs=n_pairs)
            if _is_above_chance(accuracy):
                yield share_row("inconsistency", (hits_obn.amax(0) - hits_obn.amin(0)).mean(1), None, pairs=n_pairs)
            else:
                yield from refuse(("inconsistency",), "the accuracy is not clearly above chance", pairs=n_pairs)
            yield mean_row("loss_spread", losses_obn.std(0).mean(1), pairs=n_pairs)
            yield accuracy


def _is_above_chance(row: Row) -> bool:
    assert row.value is not None and row.standard_error is not None and row.chance is not None
    return row.value > row.chance + CLEAR * row.standard_error


def reorder(batch: RecallBatch, draw: np.random.Generator) -> RecallBatch:
    """Present the pairs of each sequence in a random order of its own."""
    n_rows, n_pairs = batch.values.shape
    order = draw.permuted(np.tile(np.arange(n_pairs), (n_rows, 1)), axis=1)
    pairs = batch.ids[:, : 2 * n_pairs].reshape(n_rows, n_pairs, 2)
    moved = np.take_along_axis(pairs, order[..., None], axis=1).reshape(n_rows, -1)
    ids = np.concatenate((moved, batch.ids[:, 2 * n_pairs :]), axis=1)
    return replace(batch, ids=ids)
