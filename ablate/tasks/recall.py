"""Associative recall: a GPT learns to continue a key with the value that it had before (MQAR, arXiv 2312.04927)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from ablate.data.recall import Alphabet, draw_recall, shortest_length
from ablate.metrics import Direction
from ablate.tasks.task import DataInfo, Task
from ablate.training.contract import Batch, TrainingTask
from ablate_model import ConfigError, ModelConfig

IGNORED = -100  # answer of a query that a sequence of fewer pairs does not have
VALIDATION = 2**64 - 1  # seed of the sequences to validate, which no run has
EVALUATION_SEQUENCES = 256  # at once; fixed, so that no other setting changes a metric
WORDS = 2**64

Ids = npt.NDArray[np.int64]


class Recall(Task):
    """Learn to recall the values of keys within a sequence.

    A sequence has key-value pairs, then each key again, in random order; only the values after these queries are
    learned. Each number of pairs has the same share of the sequences. Every step draws new ones. `accuracy` is the mean
    over the numbers of pairs.
    """

    name: ClassVar[str] = "recall"
    summary: ClassVar[str] = "associative recall: key-value pairs, then queries; accuracy by number of pairs"
    source_of_idea: ClassVar[str] = "Arora et al. 2023, Zoology: multi-query associative recall (arXiv 2312.04927)"
    rows: ClassVar[str] = "sequences"
    config_class: ClassVar[type[ModelConfig]] = ModelConfig

    metric: Literal["accuracy", "loss"] = Field("accuracy", description="metric that compares arms")
    pairs: tuple[int, ...] = Field((2, 4, 8), min_length=1, description="numbers of key-value pairs of the sequences")
    vocab_size: int = Field(64, ge=4, le=1 << 20, description="tokens: the first half are keys, the second values")
    n_validation: int = Field(256, ge=1, le=1 << 20, description="sequences to validate per number of pairs")

    @model_validator(mode="after")
    def _is_possible(self) -> Recall:
        most = Alphabet.halves(self.vocab_size).most_pairs
        if min(self.pairs) < 1 or len({*self.pairs}) < len(self.pairs):
            raise ConfigError("pairs", f"must be different numbers of at least 1, got {list(self.pairs)}")
        if max(self.pairs) > most:
            raise ConfigError(
                "pairs", f"{max(self.pairs)} pairs need as many keys; a vocabulary of this size has {most}"
            )
        return self

    @property
    def measures(self) -> Mapping[str, Direction]:
        by_pairs: dict[str, Direction] = {name_accuracy(n): "higher" for n in self.pairs}
        return {"val_accuracy": "higher", "val_loss": "lower", **by_pairs}

    def describe(self, base: Path) -> DataInfo:  # noqa: ARG002 - nothing is read
        described = {"pairs": self.pairs, "vocab_size": self.vocab_size}
        name, validation = (
            hashlib.sha256(json.dumps([self.name, self.version, what], sort_keys=True).encode()).hexdigest()
            for what in (described, {**described, "n_validation": self.n_validation})
        )
        settings = {"vocab_size": self.vocab_size, "context_length": shortest_length(max(self.pairs))}
        return DataInfo(name, validation, None, self.n_validation * len(self.pairs), settings)

    def check_model(self, config: ModelConfig, data: DataInfo) -> None:
        if config.vocab_size != self.vocab_size:
            raise ConfigError("vocab_size", f"must be that of the task, {self.vocab_size}", [self.vocab_size])
        if config.context_length < (least := data.settings["context_length"]):
            raise ConfigError(
                "context_length", f"{max(self.pairs)} pairs need {least} tokens, got {config.context_length}"
            )

    def open(self, config: ModelConfig, base: Path) -> TrainingTask:  # noqa: ARG002 - nothing is read
        return RecallTraining(self, config)


def name_accuracy(n_pairs: int) -> str:
    """The metric of the sequences with this number of pairs."""
    return f"val_accuracy_{n_pairs}_pairs"


class RecallTraining(TrainingTask):
    """Batches of (ids [b, t], positions of the queries [b, n], answers [b, n], which of `pairs` [b])."""

    def __init__(self, task: Recall, config: ModelConfig) -> None:
        self.task, self.model = task, config
        self.tokens_per_row = config.context_length
        self.n_sums = 3 * len(task.pairs)
        self.alphabet = Alphabet.halves(task.vocab_size)

    def _draw(self, draw: np.random.Generator, kinds: Ids) -> Batch:
        """Draw one sequence for each of `kinds`, which are indices into `pairs`."""
        most, length = max(self.task.pairs), self.tokens_per_row
        ids = np.zeros((len(kinds), length), dtype=np.int64)
        queries, answers = np.zeros((len(kinds), most), np.int64), np.full((len(kinds), most), IGNORED, np.int64)
        for kind, n_pairs in enumerate(self.task.pairs):
            rows = np.flatnonzero(kinds == kind)
            if not rows.size:
                continue
            drawn = draw_recall(draw, rows.size, n_pairs, length, self.alphabet)
            ids[rows], queries[rows, :n_pairs], answers[rows, :n_pairs] = drawn.ids, drawn.queries, drawn.answers
        return ids, queries, answers, kinds

    def batch(self, seed: int, step: int, n_rows: int) -> Batch:
        draw = np.random.Generator(np.random.Philox(key=np.array([seed % WORDS, step], dtype=np.uint64)))
        first = (step - 1) * n_rows  # so that batches smaller than the numbers of pairs have all of them in turn
        return self._draw(draw, (first + np.arange(n_rows)) % len(self.task.pairs))

    def _answer(self, model: Any, ids_bt: Tensor, queries_bn: Tensor) -> Tensor:
        """Compute the logits after the queries [b, n, v]."""
        h_btd = model.encode(ids_bt)
        logits_bnv: Tensor = model.form_logits(h_btd.gather(1, queries_bn[..., None].expand(-1, -1, h_btd.shape[-1])))
        return logits_bnv

    def loss(self, model: Any, *batch: Tensor) -> Tensor:
        """The mean over sequences of the mean loss of their answers, in nats."""
        ids_bt, queries_bn, answers_bn, _ = batch
        losses_bn = _losses(self._answer(model, ids_bt, queries_bn), answers_bn)
        loss: Tensor = model.add_penalties((losses_bn.sum(1) / (answers_bn != IGNORED).sum(1)).mean())
        return loss

    def validation_batches(self, seed: int, step: int) -> Iterator[Batch]:  # noqa: ARG002 - always the same sequences
        draw = np.random.Generator(np.random.Philox(key=np.array([VALIDATION, 0], dtype=np.uint64)))
        kinds = np.repeat(np.arange(len(self.task.pairs)), self.task.n_validation)
        whole = self._draw(draw, kinds)
        for start in range(0, len(kinds), EVALUATION_SEQUENCES):
            yield tuple(part[start : start + EVALUATION_SEQUENCES] for part in whole)

    def measure(self, model: Any, *batch: Tensor) -> Tensor:
        """Return, for each number of pairs, the right answers, the loss (nats) and the number of answers."""
        ids_bt, queries_bn, answers_bn, kinds_b = batch
        logits_bnv = self._answer(model, ids_bt, queries_bn)
        is_answer_bn = answers_bn != IGNORED
        hits_b = ((logits_bnv.argmax(-1) == answers_bn) & is_answer_bn).sum(1).double()
        losses_b = _losses(logits_bnv, answers_bn).double().sum(1)
        sums_pk = torch.zeros(len(self.task.pairs), 3, dtype=torch.float64, device=ids_bt.device)
        sums_pk.index_add_(0, kinds_b, torch.stack([hits_b, losses_b, is_answer_bn.sum(1).double()], 1))
        return sums_pk.flatten()

    def conclude(self, sums: Sequence[float]) -> dict[str, float]:
        by_pairs = np.array(sums, np.float64).reshape(-1, 3)
        accuracies, losses = by_pairs[:, 0] / by_pairs[:, 2], by_pairs[:, 1] / by_pairs[:, 2]
        found = {name_accuracy(n): float(value) for n, value in zip(self.task.pairs, accuracies, strict=True)}
        return {"val_accuracy": float(accuracies.mean()), "val_loss": float(losses.mean()), **found}


def _losses(logits_bnv: Tensor, answers_bn: Tensor) -> Tensor:
    """The loss of each answer in nats; 0 in place of a missing answer."""
    return F.cross_entropy(logits_bnv.float().transpose(1, 2), answers_bn, ignore_index=IGNORED, reduction="none")
