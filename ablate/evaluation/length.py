"""Loss beyond the trained context."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from pydantic import Field

from ablate.evaluation.base import Row, Subject
from ablate.evaluation.language_model import (
    LanguageModelEvaluation,
    explain_short,
    held_out_windows,
    mean_row,
    refuse,
    score_targets,
)
from ablate.metrics import Direction
from ablate_model import GPT


class Length(LanguageModelEvaluation):
    """The loss of the same tokens, read in windows of 1, 2 and 4 trained contexts.

    `end_loss` is that of the last trained context's worth of positions in each window, which are the new ones.
    """

    name: ClassVar[str] = "length"
    metrics: ClassVar[Mapping[str, Direction | None]] = {"loss": "lower", "end_loss": "lower"}
    source: ClassVar[str] = "nGPT, arXiv 2410.01131, figure 13"
    needs = frozenset({"corpus"})

    multiples: tuple[int, ...] = Field((1, 2, 4), min_length=1, description="window lengths, in trained contexts")
    tokens: int = Field(65_536, ge=1, description="tokens of the validation split, at most all of it")

    def measure(self, model: GPT, subject: Subject) -> Iterator[Row]:
        assert subject.corpus is not None
        context, n_available = subject.context_length, len(subject.corpus.validation) - 1
        fitting = [multiple for multiple in self.multiples if 1 <= multiple * context <= n_available]
        for multiple in sorted({*self.multiples} - {*fitting}):
            yield from refuse(self.metrics, explain_short(subject.corpus, multiple * context), multiple=multiple)
        longest = max(fitting, default=0)
        for multiple in fitting:
            if longest % multiple:
                why = f"windows of {longest} contexts cannot be cut into windows of {multiple}"
                yield from refuse(self.metrics, why, multiple=multiple)
                continue
            try:
                yield from self._measure(model, subject, multiple, longest)
            except ValueError as error:  # positions that were never learned
                yield from refuse(self.metrics, str(error), multiple=multiple)

    def _measure(self, model: GPT, subject: Subject, multiple: int, longest: int) -> Iterator[Row]:
        context, losses, ends = subject.context_length, [], []
        for inputs_bt, targets_bt in held_out_windows(subject, self.tokens, longest * context):
            short = (-1, multiple * context)  # each long window as several short ones
            loss_bt, _ = score_targets(model, inputs_bt.reshape(short), targets_bt.reshape(short))
            losses.append(loss_bt.view(inputs_bt.shape).double().mean(1).cpu())
            ends.append(loss_bt[:, -context:].reshape(len(inputs_bt), -1).double().mean(1).cpu())
        yield mean_row("loss", torch.cat(losses), multiple=multiple)
        yield mean_row("end_loss", torch.cat(ends), multiple=multiple)
