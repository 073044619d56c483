"""Question answering: a language model reads a story and writes the answers to questions about it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ablate.data.records import Conversation, read_conversations
from ablate.data.tokenizers import Tokenizer
from ablate.metrics import Direction
from ablate.tasks.answer_scores import best_score, exact_match, f1
from ablate.tasks.epochs import pick_rows
from ablate.tasks.questions import EVALUATION_TOKENS, QuestionFiles, QuestionTask
from ablate.tasks.scored_tokens import Scored, Tokens, fill, log_probabilities
from ablate.training.contract import Batch, TrainingTask
from ablate_model import ModelConfig
from ablate_model.kernels.cross_entropy import IGNORED_TARGET

FORMAT = 1
"""Raise this number when the same files would give other batches."""

STOP = "\n"  # ends an answer


@dataclass(frozen=True)
class EncodedTurn:
    """The tokens of `Q: ...\\nA:` and of the answer with the end of its line, and the texts of all right answers."""

    question: Tokens
    answer: Tokens
    golds: tuple[str, ...]

    @property
    def n_tokens(self) -> int:
        return len(self.question) + len(self.answer)


@dataclass(frozen=True)
class Story:
    """A story and its turns as tokens."""

    ids: Tokens
    turns: tuple[EncodedTurn, ...]

    def prompt(self, number: int, length: int, n_new: int) -> Tokens:
        """The story, as many of the turns before a turn as fit, and its question, with room for `n_new` tokens.

        The beginning of a story that is too long is cut.
        """
        turn, room = self.turns[number], length - n_new
        parts = [turn.question]
        n_tokens = len(turn.question)
        for before in reversed(self.turns[:number]):
            if len(self.ids) + n_tokens + before.n_tokens > room:
                break
            parts[:0] = [before.question, before.answer]
            n_tokens += before.n_tokens
        return np.concatenate([self.ids, *parts])[-room:]

    def pack(self, length: int) -> Iterator[Scored]:
        """Sequences of the story and some of its turns, so that each turn is in one of them."""
        turns: list[EncodedTurn] = []
        for turn in self.turns:
            if turns and len(self.ids) + sum(t.n_tokens for t in turns) + turn.n_tokens > length:
                yield self._join(turns, length)
                turns = []
            turns.append(turn)
        yield self._join(turns, length)

    def _join(self, turns: Sequence[EncodedTurn], length: int) -> Scored:
        parts = [(ids, counts) for turn in turns for ids, counts in ((turn.question, False), (turn.answer, True))]
        return Scored.join([(self.ids, False), *parts]).keep_end(length)


@dataclass(frozen=True)
class Stories:
    """The stories of both splits."""

    train: tuple[Story, ...]
    validation: tuple[Story, ...]
    tokenizer: Tokenizer
    digests: tuple[str, str]
    sequences_per_row: int = 1

    def count_rows(self, length: int) -> int:
        return len(self.pack(length))

    def pack(self, length: int) -> list[Scored]:
        """The rows of the training split."""
        return [row for story in self.train for row in story.pack(length)]

    @property
    def n_validation(self) -> int:
        return sum(len(story.turns) for story in self.validation)

    @cached_property
    def longest(self) -> int:
        stories = (*self.train, *self.validation)
        return max(len(story.ids) + sum(turn.n_tokens for turn in story.turns) for story in stories)

    @cached_property
    def least(self) -> int:
        return 1 + max(turn.n_tokens for story in (*self.train, *self.validation) for turn in story.turns)


@lru_cache(maxsize=4)
def read_stories(files: QuestionFiles, base: Path) -> Stories:
    """Read and tokenize all stories. Raises `DataError`."""
    return Stories(*files.tokenize(base, read_conversations, lambda item: item.story, _encode, FORMAT))


def _encode(item: Conversation, tokenizer: Tokenizer) -> Story:
    """Tokenize each part by itself, so that an answer is the same tokens in training and when it is written."""
    turns = tuple(
        EncodedTurn(
            tokenizer.encode(f"Q: {turn.question}\nA:").astype(np.int32),
            tokenizer.encode(f" {turn.answers[0].strip()}{STOP}").astype(np.int32),
            turn.answers,
        )
        for turn in item.turns
    )
    return Story(tokenizer.encode(f"{item.story.strip()}\n\n").astype(np.int32), turns)


class QuestionAnswering(QuestionTask):
    """Conversations about stories, such as CoQA (arXiv 1808.07042).

    A training row is a story with its turns, `Q: ...` and `A: ...`, and only the tokens of answers count. In an
    evaluation, the model reads the story, the earlier turns with their right answers, and a question, and writes the
    most probable answer. It is compared with all right answers by exact match and F1, as CoQA does.
    """

    name: ClassVar[str] = "question_answering"
    rows: ClassVar[str] = "sequences"
    summary: ClassVar[str] = "a language model writes the answers to questions about a story"
    source_of_idea: ClassVar[str] = "CoQA: A Conversational Question Answering Challenge (arXiv 1808.07042)"

    max_answer_tokens: int = Field(
        default=48, ge=1, le=10_000, description="most tokens that are written for an answer"
    )
    metric: Literal["f1", "exact_match", "loss"] = Field(
        default="f1", description="the metric by which arms are compared; it does not change the runs"
    )

    @property
    def measures(self) -> Mapping[str, Direction]:
        return {"val_f1": "higher", "val_exact_match": "higher", "val_loss": "lower"}

    def encode(self, base: Path) -> Stories:
        return read_stories(self.files, base)

    def open(self, config: ModelConfig, base: Path) -> TrainingTask:
        stories = self.encode(base)
        return AnswerTraining(config, stories, self.length_of(stories), self.eval_items, self.max_answer_tokens)


class AnswerTraining(TrainingTask):
    """Batches of (ids [b, t], places [b, a], targets [b, a]), where a is the largest number of answer tokens of a row.

    A batch of an evaluation also has the length of each prompt [b] and the number of its question [b].
    """

    n_sums = 4

    def __init__(self, model: ModelConfig, stories: Stories, length: int, eval_items: int, n_new: int) -> None:
        self.model, self.tokenizer, self.length = model, stories.tokenizer, length
        self.tokens_per_row = length
        self.n_new = min(n_new, length // 2)
        self.train = stories.pack(length)
        self.n_scored = max(row.n_scored for row in self.train)
        self.stops = {int(ids[-1]) for ids in [stories.tokenizer.encode(STOP)] if len(ids)}
        self.held_out = _choose(stories.validation, eval_items)

    def batch(self, seed: int, step: int, n_rows: int) -> Batch:
        rows = [self.train[row] for row in pick_rows(seed, step, n_rows, len(self.train))]
        return fill(rows, self.length, self.n_scored)

    def loss(self, model: Any, *batch: Tensor) -> Tensor:
        """The mean over rows of the mean loss (nats) of the answer tokens of a row."""
        loss: Tensor = model.add_penalties(_row_losses(model, *batch).mean())
        return loss

    def validation_batches(self, seed: int, step: int) -> Iterator[Batch]:  # noqa: ARG002 - always the same questions
        n_rows = max(1, EVALUATION_TOKENS // self.length)
        for start in range(0, len(self.held_out), n_rows):
            chosen = self.held_out[start : start + n_rows]
            prompts = [story.prompt(number, self.length, self.n_new) for story, number in chosen]
            answers = [story.turns[number].answer[: self.n_new] for story, number in chosen]
            rows = [Scored.join([(p, False), (a, True)]) for p, a in zip(prompts, answers, strict=True)]
            lengths = np.array([len(prompt) for prompt in prompts], np.int64)
            yield (*fill(rows, self.length, self.n_new), lengths, np.arange(start, start + len(chosen)))

    def measure(self, model: Any, *batch: Tensor) -> Tensor:
        """Return the sums of F1, exact match and loss (nats per token of an answer), and the number of questions."""
        ids_bt, places_ba, targets_ba, lengths_b, numbers_b = batch
        losses_b = _row_losses(model, ids_bt, places_ba, targets_ba).double()
        scores = torch.zeros(2, dtype=torch.float64, device=losses_b.device)
        for ids, number in zip(self.write(model, ids_bt, lengths_b), numbers_b.tolist(), strict=True):
            story, turn = self.held_out[number]
            text, golds = self.tokenizer.decode(ids).strip(), story.turns[turn].golds
            scores += torch.tensor([best_score(score, text, golds) for score in (f1, exact_match)]).to(scores)
        return torch.stack((*scores, losses_b.sum(), torch.full_like(losses_b[0], len(losses_b))))

    def write(self, model: Any, ids_bt: Tensor, lengths_b: Tensor) -> list[list[int]]:
        """The most probable token after each prompt, one after another, up to the end of the line: ids per row.

        Every attention can do this without a cache, and rows of different lengths need no padding in front.
        """
        ids_bt, rows_b = ids_bt.clone(), torch.arange(len(ids_bt), device=ids_bt.device)
        written: list[list[int]] = [[] for _ in rows_b]
        is_open = [True] * len(written)
        for offset in range(self.n_new):
            ends_b = lengths_b + offset
            stream_btd = model.encode(ids_bt)  # of one shape, so that compiled blocks are compiled once
            next_b = model.form_logits(stream_btd[rows_b, ends_b - 1]).argmax(-1)
            ids_bt[rows_b, ends_b] = next_b
            for row, token in enumerate(next_b.tolist()):
                is_open[row] = is_open[row] and token not in self.stops
                if is_open[row]:
                    written[row].append(token)
            if not any(is_open):
                break
        return written

    def conclude(self, sums: Sequence[float]) -> dict[str, float]:
        *totals, n_questions = sums
        return dict(zip(("val_f1", "val_exact_match", "val_loss"), (t / n_questions for t in totals), strict=True))


def _row_losses(model: Any, ids_bt: Tensor, places_ba: Tensor, targets_ba: Tensor) -> Tensor:
    """The mean loss (nats) of the tokens that count, per row: [b]."""
    n_scored_b = (targets_ba != IGNORED_TARGET).sum(1).clamp(min=1)
    return -log_probabilities(model, ids_bt, places_ba, targets_ba).sum(1) / n_scored_b


def _choose(stories: Sequence[Story], n_items: int) -> list[tuple[Story, int]]:
    """Some questions, from many stories: the first ones in an order by hash."""
    every = [(story, number) for story in stories for number in range(len(story.turns))]
    keys = [hashlib.sha256(f"{index}".encode()).digest() for index in range(len(every))]
    order = sorted(range(len(every)), key=keys.__getitem__)
    return [every[index] for index in sorted(order[:n_items])]
