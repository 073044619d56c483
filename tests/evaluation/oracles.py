"""Models whose answers are known, and subjects made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ablate.data import Corpus, CorpusInfo, Tokenizer
from ablate.data.tokenizers import ByteTokenizer
from ablate.evaluation.base import Evaluation, Row, Subject
from ablate_model import GPT, Cache, ModelConfig

SURE = 30.0  # the logit of the token that an oracle predicts, where the others have 0


def build(**settings: Any) -> GPT:
    """A small model of bytes with random weights."""
    sizes = {"d_model": 16, "n_layers": 2, "n_heads": 2, "vocab_size": 256, "context_length": 64}
    return GPT(ModelConfig(**{**sizes, **settings}), seed=3)


class KnownModel(GPT):
    """A model without attention. Its stream holds the logits."""

    def __init__(self, vocab_size: int = 256) -> None:
        super().__init__(ModelConfig(d_model=8, n_layers=1, n_heads=1, vocab_size=vocab_size, context_length=8))

    def form_logits(self, h_btd: Tensor) -> Tensor:
        return h_btd


class UniformModel(KnownModel):
    """Knows nothing."""

    def encode(self, ids_bt: Tensor, cache: Cache | None = None, padding: object = None) -> Tensor:  # noqa: ARG002
        return torch.zeros(*ids_bt.shape, self.config.vocab_size)


class RandomModel(KnownModel):
    """Guesses again at every token."""

    def encode(self, ids_bt: Tensor, cache: Cache | None = None, padding: object = None) -> Tensor:  # noqa: ARG002
        generator = torch.Generator().manual_seed(int(ids_bt.sum()))
        return torch.randn(*ids_bt.shape, self.config.vocab_size, generator=generator)


class RecallModel(KnownModel):
    """Recalls perfectly: it predicts what followed the longest match of the text before, the latest of equal ones."""

    def encode(self, ids_bt: Tensor, cache: Cache | None = None, padding: object = None) -> Tensor:  # noqa: ARG002
        assert cache is None
        predicted = torch.tensor([recall(row) for row in ids_bt.tolist()])
        return F.one_hot(predicted, self.config.vocab_size).float() * SURE


def recall(ids: list[int]) -> list[int]:
    """The prediction at each position."""
    tokens, n = np.array(ids), len(ids)
    lengths, predictions = np.zeros(n, dtype=int), []
    for i in range(n):
        is_same = tokens[:i] == tokens[i]
        lengths = np.where(is_same, np.concatenate(([0], lengths[: i - 1]))[:i] + 1, 0) if i else np.zeros(0, dtype=int)
        best = i - 1 - int(np.argmax(lengths[::-1])) if i and lengths.any() else None
        predictions.append(ids[best + 1] if best is not None else ids[i])
    return predictions


def write_corpus(folder: Path, train: bytes | np.ndarray[Any, Any], validation: bytes | np.ndarray[Any, Any]) -> Corpus:
    """A corpus of these tokens: bytes, or numbers of 16 bits."""
    dtype = "<u1" if isinstance(train, bytes) else "<u2"
    sizes = []
    for name, part in (("train", train), ("validation", validation)):
        tokens = np.frombuffer(part, dtype=dtype) if isinstance(part, bytes) else part.astype(dtype)
        (folder / f"{name}.bin").write_bytes(tokens.tobytes())
        sizes.append(len(tokens))
    info = CorpusInfo("hash", sizes[0], sizes[1], 256)
    return Corpus(info, folder / "train.bin", folder / "validation.bin", dtype)


def find(rows: list[Row], metric: str, **within: Any) -> Row:
    (row,) = [row for row in rows if row.metric == metric and dict(row.within) == within]
    return row


def measure(evaluation: Evaluation, asked: Subject) -> list[Row]:
    rows = list(evaluation.evaluate(asked))
    assert {row.metric for row in rows} <= evaluation.metrics.keys()
    assert all((row.value is None) == (row.n == 0) and (row.n > 0 or row.note) for row in rows)
    return rows


def subject(
    model: GPT, corpus: Corpus | None = None, tokenizer: Tokenizer | None = None, context_length: int = 64
) -> Subject:
    return Subject(model, torch.device("cpu"), context_length, tokenizer or ByteTokenizer(), corpus)


def without_text(model: GPT, context_length: int = 64) -> Subject:
    """A subject as the task `recall` leaves it: without a tokenizer and a corpus."""
    return Subject(model, torch.device("cpu"), context_length)
