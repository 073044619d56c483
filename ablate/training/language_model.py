"""Language modelling as a task of the training loop: the next token of windows of a corpus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ablate.data import Corpus, training_batch, validation_batches
from ablate.training.contract import Batch, TrainingTask
from ablate_model import ModelConfig

# Tokens at once in an evaluation. It is fixed, so that the micro-batch size does not change a validation loss.
EVALUATION_TOKENS = 8192


class LanguageModelling(TrainingTask):
    """Batches of (inputs, targets), both [b, t]. `eval_tokens` is the number of validation tokens per evaluation.

    Raises `DataError` if the shards of the corpus are missing.
    """

    n_sums = 2

    def __init__(self, model: ModelConfig, corpus: Corpus, eval_tokens: int) -> None:
        self.model, self.eval_tokens = model, eval_tokens
        self.training_tokens, self.validation_tokens = corpus.train, corpus.validation
        self.tokens_per_row = model.context_length

    def batch(self, seed: int, step: int, n_rows: int) -> Batch:
        return training_batch(self.training_tokens, seed, step, n_rows, self.tokens_per_row)

    def loss(self, model: Any, *batch: Tensor) -> Tensor:
        loss: Tensor = model.loss(*batch)
        return loss

    def validation_batches(self, seed: int, step: int) -> Iterator[Batch]:  # noqa: ARG002 - always the same windows
        rows = max(1, EVALUATION_TOKENS // self.tokens_per_row)
        yield from validation_batches(self.validation_tokens, self.eval_tokens, rows, self.tokens_per_row)

    def measure(self, model: Any, *batch: Tensor) -> Tensor:
        n_rows = len(batch[0])
        total: Tensor = model.loss(*batch) * n_rows
        return torch.stack((total, torch.full_like(total, n_rows)))

    def conclude(self, sums: Sequence[float]) -> dict[str, float]:
        total, n_rows = sums
        return {"val_loss": total / n_rows}
