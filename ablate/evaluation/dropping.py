"""Loss after leaving out the least important sub-layers or blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field

from ablate.data import validation_batches
from ablate.evaluation.base import Row, Subject
from ablate.evaluation.language_model import (
    LanguageModelEvaluation,
    explain_short,
    held_out_windows,
    mean_row,
    refuse,
    rows_at_once,
    score_targets,
)
from ablate.metrics import Direction
from ablate_model import GPT, ConfigError, drop
from ablate_model.contracts import Part

Parts = Literal["attention", "mlp", "joint", "block"]
PARTS: Mapping[Parts, tuple[Part, ...]] = {
    "attention": ("attention",),
    "mlp": ("mlp",),
    "joint": ("attention", "mlp"),
    "block": ("block",),
}


class Dropping(LanguageModelEvaluation):
    """The loss without the n attention layers, MLPs, sub-layers of both kinds, or blocks that change the stream least.

    Importance is 1 minus the mean cosine between the stream before and after the part, on text of the training split.
    `loss_increase` is the loss minus that of the whole model on the same windows.
    """

    name: ClassVar[str] = "dropping"
    metrics: ClassVar[Mapping[str, Direction | None]] = {"loss_increase": "lower", "loss": None}
    source: ClassVar[str] = "LLM-Drop, arXiv 2406.15786"
    needs = frozenset({"corpus"})

    parts: tuple[Parts, ...] = Field(("attention", "mlp", "joint", "block"), description="what to leave out")
    counts: tuple[int, ...] = Field(
        (), description="how many to leave out; by default 1, a quarter and a half of the layers"
    )
    calibration_tokens: int = Field(32_768, ge=1, description="tokens of the training split that rank the parts")
    tokens: int = Field(65_536, ge=1, description="tokens of the validation split, at most all of it")

    def measure(self, model: GPT, subject: Subject) -> Iterator[Row]:
        corpus, length = subject.corpus, subject.context_length
        assert corpus is not None
        whole = self._score(model, subject)
        if whole is None or len(corpus.train) <= length:
            yield from refuse(self.metrics, explain_short(corpus, length))
            return
        yield mean_row("loss", whole, part="none", dropped=0)
        rows = rows_at_once(subject.device, length)
        batches = validation_batches(corpus.train, self.calibration_tokens, rows, length)
        calibration = [torch.from_numpy(inputs).to(subject.device) for inputs, _ in batches]
        n_layers = model.config.n_layers
        for part in self.parts:
            for count in self.counts or sorted({1, n_layers // 4, n_layers // 2} - {0}):
                within: dict[str, str | int | float] = {"part": part, "dropped": count}
                try:
                    smaller = drop(model, PARTS[part], count, calibration)
                except ConfigError as error:  # too few are left, or the model needs this one
                    yield from refuse(self.metrics, error.message, **within)
                    continue
                losses = self._score(smaller, subject)
                assert losses is not None
                yield mean_row("loss_increase", losses - whole, **within)
                yield mean_row("loss", losses, **within)

    def _score(self, model: GPT, subject: Subject) -> torch.Tensor | None:
        """The mean loss of every window."""
        losses = [score_targets(model, *window)[0] for window in held_out_windows(subject, self.tokens)]
        return torch.cat([loss_bt.double().mean(1).cpu() for loss_bt in losses]) if losses else None
