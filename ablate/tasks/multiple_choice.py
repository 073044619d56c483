"""Multiple choice: a language model gives the right answer the highest probability."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ablate.data.records import ChoiceItem, read_choices
from ablate.data.tokenizers import Tokenizer
from ablate.metrics import Direction
from ablate.tasks.epochs import pick_rows
from ablate.tasks.questions import EVALUATION_TOKENS, QuestionFiles, QuestionTask
from ablate.tasks.scored_tokens import Scored, fill, log_probabilities
from ablate.training.contract import Batch, TrainingTask
from ablate_model import ModelConfig

FORMAT = 1
"""Raise this number when the same files would give other batches."""


@dataclass(frozen=True)
class Question:
    """One sequence per choice, in which the tokens of the choice count, and the number of the right one."""

    choices: tuple[Scored, ...]
    gold: int


@dataclass(frozen=True)
class ChoiceQuestions:
    """The questions of both splits."""

    train: tuple[Question, ...]
    validation: tuple[Question, ...]
    tokenizer: Tokenizer
    digests: tuple[str, str]

    def count_rows(self, length: int) -> int:  # noqa: ARG002 - a row is a question
        return len(self.train)

    @property
    def n_validation(self) -> int:
        return len(self.validation)

    @cached_property
    def _choices(self) -> list[Scored]:
        return [choice for question in (*self.train, *self.validation) for choice in question.choices]

    @cached_property
    def sequences_per_row(self) -> int:
        return max(len(question.choices) for question in (*self.train, *self.validation))

    @cached_property
    def longest(self) -> int:
        return max(len(choice.ids) for choice in self._choices)

    @cached_property
    def n_scored(self) -> int:
        """Tokens of the longest choice."""
        return max(choice.n_scored for choice in self._choices)

    @property
    def least(self) -> int:
        return self.n_scored + 1


@lru_cache(maxsize=4)
def read_questions(files: QuestionFiles, base: Path) -> ChoiceQuestions:
    """Read and tokenize all questions. Raises `DataError`."""
    return ChoiceQuestions(*files.tokenize(base, read_choices, lambda item: item.context, _encode, FORMAT))


def _encode(item: ChoiceItem, tokenizer: Tokenizer) -> Question:
    """Tokenize context and choice together, as EleutherAI's harness does, so that merges cross the border."""
    n_context = len(tokenizer.encode(item.context))
    sequences = []
    for choice in item.choices:
        ids = tokenizer.encode(f"{item.context} {choice}").astype(np.int32)
        start = min(n_context, len(ids) - 1)
        sequences.append(Scored.join([(ids[:start], False), (ids[start:], True)]))
    return Question(tuple(sequences), item.gold)


class MultipleChoice(QuestionTask):
    """Questions with a few choices each, such as CommonsenseQA (arXiv 1811.00937).

    The score of a choice is the log-probability (nats) of its tokens after the question. The loss is the cross-entropy
    of the softmax over these scores, as in the fine-tuning of the first GPT. `val_accuracy` is the share of questions
    whose right choice has the highest score, which EleutherAI's harness calls `acc`.
    """

    name: ClassVar[str] = "multiple_choice"
    summary: ClassVar[str] = "a language model chooses the most probable of several answers"
    source_of_idea: ClassVar[str] = "Improving Language Understanding by Generative Pre-Training (Radford et al., 2018)"

    metric: Literal["accuracy", "loss"] = Field(
        default="accuracy", description="the metric by which arms are compared; it does not change the runs"
    )

    @property
    def measures(self) -> Mapping[str, Direction]:
        return {"val_accuracy": "higher", "val_loss": "lower"}

    def encode(self, base: Path) -> ChoiceQuestions:
        return read_questions(self.files, base)

    def open(self, config: ModelConfig, base: Path) -> TrainingTask:
        questions = self.encode(base)
        return ChoiceTraining(config, questions, self.length_of(questions), self.eval_items)


class ChoiceTraining(TrainingTask):
    """Batches of (ids [b, c, t], places [b, c, a], targets [b, c, a], number of choices [b], right choice [b]).

    c is the number of choices, t the length of a sequence, and a the length of the longest choice.
    """

    n_sums = 3

    def __init__(self, model: ModelConfig, questions: ChoiceQuestions, length: int, eval_items: int) -> None:
        self.model, self.questions, self.length = model, questions, length
        self.tokens_per_row = questions.sequences_per_row * length
        self.held_out = questions.validation[:eval_items]

    def batch(self, seed: int, step: int, n_rows: int) -> Batch:
        rows = pick_rows(seed, step, n_rows, len(self.questions.train))
        return self._stack([self.questions.train[row] for row in rows])

    def _stack(self, questions: Sequence[Question]) -> Batch:
        n_choices, empty = self.questions.sequences_per_row, Scored.join([(np.zeros(1, np.int32), False)])
        rows = [
            choice.keep_end(self.length)
            for question in questions
            for choice in (*question.choices, *[empty] * (n_choices - len(question.choices)))
        ]
        arrays = fill(rows, self.length, self.questions.n_scored)
        counts = np.array([len(question.choices) for question in questions], np.int64)
        golds = np.array([question.gold for question in questions], np.int64)
        return (*(array.reshape(len(questions), n_choices, -1) for array in arrays), counts, golds)

    def loss(self, model: Any, *batch: Tensor) -> Tensor:
        loss: Tensor = model.add_penalties(F.cross_entropy(self.score(model, *batch[:-1]), batch[-1]))
        return loss

    def score(self, model: Any, ids_bct: Tensor, places_bca: Tensor, targets_bca: Tensor, counts_b: Tensor) -> Tensor:
        """The log-probability (nats) of each choice: [b, c], -inf where a question has fewer choices."""
        flat = (part.flatten(0, 1) for part in (ids_bct, places_bca, targets_bca))
        scores_bc = log_probabilities(model, *flat).sum(-1).view(ids_bct.shape[:2])
        numbers_c = torch.arange(scores_bc.shape[1], device=scores_bc.device)
        return scores_bc.masked_fill(numbers_c >= counts_b[:, None], -torch.inf)

    def validation_batches(self, seed: int, step: int) -> Iterator[Batch]:  # noqa: ARG002 - always the same questions
        n_rows = max(1, EVALUATION_TOKENS // self.tokens_per_row)
        for start in range(0, len(self.held_out), n_rows):
            yield self._stack(self.held_out[start : start + n_rows])

    def measure(self, model: Any, *batch: Tensor) -> Tensor:
        """Return the sum of the losses (nats), the number of right answers, and the number of questions."""
        scores_bc, golds_b = self.score(model, *batch[:-1]).double(), batch[-1]
        loss = F.cross_entropy(scores_bc, golds_b, reduction="sum")
        n_right = (scores_bc.argmax(1) == golds_b).sum()
        return torch.stack((loss, n_right.double(), torch.full_like(loss, len(golds_b))))

    def conclude(self, sums: Sequence[float]) -> dict[str, float]:
        loss, n_right, n_questions = sums
        return {"val_accuracy": n_right / n_questions, "val_loss": loss / n_questions}
