"""Loss per byte of text, which models with different tokenizers can be compared by."""

from __future__ import annotations

import math
import re
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


class BitsPerByte(LanguageModelEvaluation):
    """Bits per UTF-8 byte of the validation split: loss x tokens / bytes / ln 2. Separators have no bytes.

    `loss` is the same in nats per token, as during training. With `words`, `word_perplexity` is exp(nats per word),
    where words are separated by white space, as in WikiText's files of tokens.
    """

    name: ClassVar[str] = "bits_per_byte"
    metrics: ClassVar[Mapping[str, Direction | None]] = {
        "bits_per_byte": "lower",
        "loss": "lower",
        "word_perplexity": "lower",
    }
    source: ClassVar[str] = "validation loss x tokens / bytes / ln 2"
    needs = frozenset({"corpus", "tokenizer"})

    tokens: int = Field(65_536, ge=1, description="tokens of the validation split to score, at most all of it")
    words: bool = Field(False, description="also report the perplexity per word, where white space separates words")

    def measure(self, model: GPT, subject: Subject) -> Iterator[Row]:
        assert subject.tokenizer is not None and subject.corpus is not None
        nats, losses, sizes, n_words = [], [], [], 0
        for inputs_bt, targets_bt in held_out_windows(subject, self.tokens):
            loss_bt = score_targets(model, inputs_bt, targets_bt)[0].double()
            nats.append(loss_bt.sum(1))
            losses.append(loss_bt.mean(1))
            for targets_t in targets_bt.cpu().numpy():
                sizes.append(subject.tokenizer.count_bytes(targets_t.astype(subject.tokenizer.dtype)))
                n_words += len(re.findall(r"\S+", subject.tokenizer.decode(targets_t))) if self.words else 0
        if not nats or not sum(sizes):
            yield from refuse(self.metrics, explain_short(subject.corpus, subject.context_length))
            return
        bits_n, bytes_n = torch.cat(nats).cpu() / math.log(2), torch.tensor(sizes, dtype=torch.float64)
        n, value = len(bits_n), float(bits_n.sum() / bytes_n.sum())
        # of a ratio of sums, to first order
        spread = float((bits_n - value * bytes_n).square().sum().sqrt() / bytes_n.sum())
        yield Row("bits_per_byte", value, n, standard_error=spread * math.sqrt(n / (n - 1)) if n > 1 else None)
        yield mean_row("loss", torch.cat(losses).cpu())
        if self.words:
            yield Row("word_perplexity", math.exp(float(bits_n.sum()) * math.log(2) / max(n_words, 1)), n_words)
