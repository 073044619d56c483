"""What evaluations of language models share: their requirements, held-out text, and the losses of its tokens."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ablate.data import Corpus, validation_batches
from ablate.evaluation.base import Evaluation, Row, Subject
from ablate_model import GPT

Split = Literal["train", "validation"]
CPU_TOKENS, GPU_TOKENS = 1 << 12, 1 << 16  # at once in a forward pass
LOGITS = 1 << 25  # numbers at once: 128 MiB in float32
NOT_FINITE = "not a finite number: the weights may have diverged"


class LanguageModelEvaluation(Evaluation, ABC):
    """An evaluation of a model that predicts the next token. Subclasses implement `measure`."""

    @abstractmethod
    def measure(self, model: GPT, subject: Subject) -> Iterator[Row]:
        """Yield the rows. Gradients are off."""

    def evaluate(self, subject: Subject) -> Iterator[Row]:
        if reason := self._explain_unfit(subject):
            yield from refuse(self.metrics, reason)
            return
        assert isinstance(subject.model, GPT)
        was_training = subject.model.training
        subject.model.eval()
        try:
            with torch.inference_mode():  # whole, because a mode must not leak into the caller between two rows
                rows = list(self.measure(subject.model, subject))
        finally:
            subject.model.train(was_training)
        yield from map(_drop_infinite, rows)

    def _explain_unfit(self, subject: Subject) -> str:
        if not isinstance(subject.model, GPT) or not subject.model.is_causal:
            return f"a model of kind {subject.model.config.kind} does not predict the next token"
        missing = [need for need in sorted(self.needs) if getattr(subject, need) is None]
        if not missing:
            return ""
        verb, them = ("is", "it") if len(missing) == 1 else ("are", "them")
        return f"the {' and the '.join(missing)} of its training {verb} not available, and {self.name} needs {them}"


def refuse(metrics: Iterable[str], reason: str, **within: str | int | float) -> Iterator[Row]:
    """Rows that say why a cell has no value."""
    yield from (Row(metric, None, 0, within, note=reason) for metric in metrics)


def _drop_infinite(row: Row) -> Row:
    if row.value is None or math.isfinite(row.value):
        return row
    return replace(row, value=None, n=0, standard_error=None, note=row.note or NOT_FINITE)


def mean_row(metric: str, values_n: Tensor, chance: float | None = None, /, **within: str | int | float) -> Row:
    """The mean of one value per item, with its standard error."""
    values = values_n.double().flatten()
    n = len(values)
    error = float(values.std() / math.sqrt(n)) if n > 1 else None
    return Row(metric, float(values.mean()), n, within, error, chance)


def share_row(metric: str, hits_n: Tensor, chance: float | None, /, **within: str | int | float) -> Row:
    """The mean of scores from 0 to 1.

    The standard error is that of Agresti and Coull (1998), which is above 0 even where all items have the same score.
    """
    hits = hits_n.double().flatten()
    n = len(hits)
    share = float(hits.mean())
    center = (share * n + 2) / (n + 4)
    return Row(metric, share, n, within, math.sqrt(center * (1 - center) / (n + 4)), chance)


def rows_at_once(device: torch.device, length: int) -> int:
    """The number of sequences of `length` tokens in one forward pass."""
    return max(1, (GPU_TOKENS if device.type == "cuda" else CPU_TOKENS) // length)


def held_out_windows(
    subject: Subject, n_tokens: int, length: int | None = None, split: Split = "validation"
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets [<= batch, length] of a split, as `validation_batches` spaces them.

    `length` is the trained context by default. Yields nothing where the split is shorter than one window.
    """
    corpus, length = subject.corpus, length or subject.context_length
    assert corpus is not None  # the evaluation needs it
    tokens = corpus.train if split == "train" else corpus.validation
    if len(tokens) <= length:
        return
    for batch in validation_batches(tokens, n_tokens, rows_at_once(subject.device, length), length):
        inputs, targets = (torch.from_numpy(part).to(subject.device) for part in batch)
        yield inputs, targets


def explain_short(corpus: Corpus, length: int, split: Split = "validation") -> str:
    """Why there is no window of `length` tokens."""
    n_tokens = len(corpus.train if split == "train" else corpus.validation)
    name = "training" if split == "train" else "validation"
    return f"the {name} split of {n_tokens:,} tokens is shorter than {length:,} and one more"


def score_targets(model: GPT, inputs_bt: Tensor, targets_bt: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of each target in nats, and whether it is the most likely token: both [b, t].

    Where k tokens are equally likely, each of them counts as 1 / k of the most likely one.
    """
    return score_stream(model, model.encode(inputs_bt), targets_bt)


def score_stream(model: GPT, h_btd: Tensor, targets_bt: Tensor) -> tuple[Tensor, Tensor]:
    """Do the same from the stream (..., d) after the last block and the targets (...), at bounded memory."""
    at_once = max(1, LOGITS // model.config.vocab_size)
    losses, hits = [], []
    for h_nd, targets_n in zip(
        torch.split(h_btd.flatten(0, -2), at_once), torch.split(targets_bt.flatten(), at_once), strict=True
    ):
        logits_nv = model.form_logits(h_nd)
        own_n1 = logits_nv.gather(1, targets_n[:, None])
        losses.append(logits_nv.logsumexp(1) - own_n1[:, 0])
        top_n1 = logits_nv.amax(1, keepdim=True)
        hits_n = (own_n1 == top_n1)[:, 0].float()
        (rows,) = hits_n.nonzero(as_tuple=True)  # ties are counted only for hits: a pass over all logits takes long
        hits_n[rows] = 1 / (logits_nv[rows] == top_n1[rows]).sum(1)
        hits.append(hits_n)
    return torch.cat(losses).view(targets_bt.shape), torch.cat(hits).view(targets_bt.shape)


def generator(*key: int) -> np.random.Generator:
    """Random numbers that depend on the key only, so that all arms and seeds see the same items."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
