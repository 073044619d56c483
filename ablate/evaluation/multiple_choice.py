"""Multiple choice from local files, scored as EleutherAI's harness scores it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from ablate.data import Tokenizer
from ablate.errors import DataError
from ablate.evaluation.base import Row, Subject
from ablate.evaluation.choice_items import Item, read_items
from ablate.evaluation.language_model import LanguageModelEvaluation, mean_row, refuse, share_row
from ablate.evaluation.scoring import NO_START, Request, Score, encode_pair, fit, score_requests
from ablate.metrics import Direction
from ablate_model import GPT

CHUNK = 2_000  # items at once: enough contexts of each length for full batches, and little memory


class MultipleChoice(LanguageModelEvaluation):
    """The choice with the highest log-likelihood after the context.

    `acc` takes the sum over tokens, `acc_norm` divides it by the characters of the choice, and `gold_bits_per_byte` is
    the loss of the right answer, which says more where accuracies are at chance. Contexts are cut at the front to fit
    the trained context. Items with a choice that does not fit are left out, and the note counts them.
    """

    name: ClassVar[str] = "multiple_choice"
    metrics: ClassVar[Mapping[str, Direction | None]] = {
        "acc": "higher",
        "acc_norm": "higher",
        "gold_bits_per_byte": "lower",
    }
    source: ClassVar[str] = "EleutherAI's lm-evaluation-harness"
    needs = frozenset({"tokenizer"})
    paths: ClassVar[frozenset[str]] = frozenset({"path"})

    path: str = Field(description="a JSON Lines file of items, a folder of them, or a tar archive of them")
    tasks: tuple[str, ...] = Field((), description="names of files in the folder or archive, without their endings")
    limit: int | None = Field(None, ge=1, description="items per task, from the first on")

    def describe(self) -> dict[str, Any]:
        described = {**super().describe(), "data": hash_files(Path(self.path))}
        del described["path"]  # the same files elsewhere are the same evaluation
        return described

    def measure(self, model: GPT, subject: Subject) -> Iterator[Row]:
        assert subject.tokenizer is not None
        for task, items in read_items(Path(self.path), self.tasks, self.limit):
            try:
                scored = score_items(model, subject.device, subject.tokenizer, items, subject.context_length)
            except ValueError:
                yield from refuse(self.metrics, NO_START, task=task)
                continue
            fitting = [(item, scores) for item, scores in zip(items, scored, strict=True) if scores is not None]
            if not fitting:
                why = f"none of {len(items):,} items fits a context of {subject.context_length:,} tokens"
                yield from refuse(self.metrics, why, task=task)
                continue
            yield from summarize(task, fitting, len(items) - len(fitting))


def summarize(task: str, scored: Sequence[tuple[Item, Sequence[Score]]], n_left_out: int) -> Iterator[Row]:
    """The rows of a task."""
    note = f"{n_left_out:,} items do not fit the trained context" if n_left_out else ""
    is_cloze = all(len(item.choices) == 1 for item, _ in scored)
    chance = None if is_cloze else float(np.mean([1 / len(item.choices) for item, _ in scored]))
    hits = torch.tensor([judge(*pair) for pair in scored], dtype=torch.float64)
    rows = [share_row("acc", hits[:, 0], chance, task=task)]
    rows += [] if is_cloze else [share_row("acc_norm", hits[:, 1], chance, task=task)]
    bits = [
        -scores[item.gold].log_likelihood / math.log(2) / len(item.continuations[item.gold].encode())
        for item, scores in scored
    ]
    rows.append(mean_row("gold_bits_per_byte", torch.tensor(bits, dtype=torch.float64), task=task))
    for row in rows:
        yield Row(row.metric, row.value, row.n, row.within, row.standard_error, row.chance, note)


def judge(item: Item, scores: Sequence[Score]) -> tuple[float, float]:
    """Whether the item is right by the sum over tokens, and by that per character of the choice."""
    if len(item.choices) == 1:
        return float(scores[0].is_greedy), float(scores[0].is_greedy)
    sums = np.array([score.log_likelihood for score in scores])
    lengths = np.array([max(len(choice), 1) for choice in item.choices], dtype=float)
    return float(sums.argmax() == item.gold), float((sums / lengths).argmax() == item.gold)


def score_items(
    model: GPT, device: torch.device, tokenizer: Tokenizer, items: Sequence[Item], context_length: int
) -> list[list[Score] | None]:
    """Score every choice of every item; None for an item with a choice that does not fit.

    Raises `ValueError` for an empty context where the tokenizer has no separator.
    """
    found: list[list[Score] | None] = []
    for first in range(0, len(items), CHUNK):
        some: list[list[Request] | None] = []
        for item in items[first : first + CHUNK]:
            pairs = zip(item.contexts, item.continuations, strict=True)
            requests = [fit(encode_pair(tokenizer, *pair), context_length) for pair in pairs]
            whole = [request for request in requests if request is not None]
            some.append(whole if len(whole) == len(requests) else None)
        scores = iter(score_requests(model, device, [request for group in some if group for request in group]))
        found += [None if group is None else [next(scores) for _ in group] for group in some]
    return found


def hash_files(path: Path) -> str:
    """The SHA-256 of the files. Raises `DataError` for a path that does not exist."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
