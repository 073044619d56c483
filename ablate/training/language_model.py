"""Language modeling as a task of the training loop: the next token of windows of a corpus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ablate.data import Corpus, training_batch, validation_batches
from ablate.data.corpora import SequenceInfo
from ablate.data.phases import find_ends, phase_of
from ablate.training.contract import Batch, Metrics, TrainingTask
from ablate.training.phases import summarize_phases
from ablate_model import ModelConfig

# Tokens at once in an evaluation. It is fixed, so that the micro-batch size does not change a validation loss.
EVALUATION_TOKENS = 8192


class LanguageModelling(TrainingTask):
    """Batches of (inputs, targets), both [b, t]. `eval_tokens` is the number of validation tokens per evaluation.

    With a sequence of corpora, each phase trains on the next one and measures it. Raises `DataError` if the shards of
    the corpus are missing, and if the phases do not fit the number of steps.
    """

    n_sums = 2
    measures_on_device = True

    def __init__(self, model: ModelConfig, corpus: Corpus, eval_tokens: int, n_steps: int = 1) -> None:
        self.model, self.eval_tokens = model, eval_tokens
        self.tokens = [(part.train, part.validation) for part in corpus.parts]
        self.ends = find_ends(corpus.info.lengths, n_steps) if isinstance(corpus.info, SequenceInfo) else (n_steps,)
        self.tokens_per_row = model.context_length

    def batch(self, seed: int, step: int, n_rows: int) -> Batch:
        training_tokens, _ = self.tokens[phase_of(step, self.ends)]
        return training_batch(training_tokens, seed, step, n_rows, self.tokens_per_row)

    def loss(self, model: Any, *batch: Tensor) -> Tensor:
        loss: Tensor = model.loss(*batch)
        return loss

    def validation_batches(self, seed: int, step: int) -> Iterator[Batch]:  # noqa: ARG002 - always the same windows
        rows = max(1, EVALUATION_TOKENS // self.tokens_per_row)
        _, validation_tokens = self.tokens[phase_of(step, self.ends)]
        yield from validation_batches(validation_tokens, self.eval_tokens, rows, self.tokens_per_row)

    def validation_key(self, step: int) -> int:
        return phase_of(step, self.ends)

    def measure(self, model: Any, *batch: Tensor) -> Tensor:
        n_rows = len(batch[0])
        total: Tensor = model.loss(*batch) * n_rows
        return torch.stack((total, torch.full_like(total, n_rows)))

    def conclude(self, sums: Sequence[float]) -> dict[str, float]:
        total, n_rows = sums
        return {"val_loss": total / n_rows}

    def ends_phase(self, step: int) -> bool:
        return len(self.ends) > 1 and step in self.ends

    def summarize(self, step: int, metrics: Mapping[str, float], reached: list[float], *, is_last: bool) -> Metrics:
        if not self.ends_phase(step):
            return {}
        reached.append(metrics["val_loss"])
        return summarize_phases("loss", reached, is_last=is_last)
