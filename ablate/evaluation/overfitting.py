"""The loss on text that a model was trained on, and on text that was held out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from pydantic import Field

from ablate.evaluation.base import Row, Subject
from ablate.evaluation.language_model import (
    LanguageModelEvaluation,
    Split,
    explain_short,
    held_out_windows,
    mean_row,
    refuse,
    score_targets,
)
from ablate.metrics import Direction
from ablate_model import GPT

SPLITS: Mapping[str, Split] = {"train_loss": "train", "held_out_loss": "validation"}


class Overfitting(LanguageModelEvaluation):
    """`gap` is the held-out loss minus the loss on the training split, in nats per token.

    Both come from the same weights, in windows that are spaced evenly over each split. An arm that has learned less has
    a smaller gap too, so read it beside both losses.
    """

    name: ClassVar[str] = "overfitting"
    metrics: ClassVar[Mapping[str, Direction | None]] = {"gap": "lower", "train_loss": None, "held_out_loss": None}
    source: ClassVar[str] = "the generalization gap, as in arXiv 1609.04836"
    needs = frozenset({"corpus"})

    tokens: int = Field(65_536, ge=1, description="tokens of each split, at most all of it")

    def measure(self, model: GPT, subject: Subject) -> Iterator[Row]:
        corpus, length = subject.corpus, subject.context_length
        assert corpus is not None
        rows: dict[str, Row] = {}
        for metric, split in SPLITS.items():
            windows = held_out_windows(subject, self.tokens, split=split)
            losses = [score_targets(model, *window)[0].double().mean(1).cpu() for window in windows]
            if not losses:
                yield from refuse(self.metrics, explain_short(corpus, length, split))
                return
            rows[metric] = mean_row(metric, torch.cat(losses))
        train, held_out = rows.values()
        assert train.value is not None and held_out.value is not None
        errors = [row.standard_error for row in rows.values() if row.standard_error is not None]
        error = math.hypot(*errors) if len(errors) == 2 else None
        yield Row("gap", held_out.value - train.value, min(train.n, held_out.n), standard_error=error)
        yield from rows.values()
