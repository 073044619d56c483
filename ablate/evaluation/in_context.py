"""How much a model uses its context: loss by position, on repeated n-grams, and on repeated random tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from ablate.evaluation.base import Row, Subject
from ablate.evaluation.language_model import (
    LanguageModelEvaluation,
    explain_short,
    generator,
    held_out_windows,
    mean_row,
    refuse,
    rows_at_once,
    score_targets,
)
from ablate.evaluation.recall import find_alphabet
from ablate.metrics import Direction
from ablate_model import GPT
from ablate_model.attention_maps import LayerCall, watch_attention

LONGEST_PART = 256  # tokens of a random sequence before it repeats
BYTES_NGRAM, WORDS_NGRAM = 5, 2


class InContext(LanguageModelEvaluation):
    """Losses in nats per token, by what the context offers.

    - `loss` within ranges of positions, which double in length.
    - `in_context_score`: the loss of the last quarter of the context minus that of the first.
    - `ar_hit_loss` on tokens that complete an n-gram that the window already holds, `other_loss` on the others.
    - `repeat_loss` on the second half of sequences of random tokens that repeat their first half.
    - `induction_score` on the same sequences: the attention from a token to the one after its earlier occurrence, in
      the head where it is highest, as a share of the absolute weights of its row.
    """

    name: ClassVar[str] = "in_context"
    version: ClassVar[int] = 2  # 1 took the effective maps at their own scale
    metrics: ClassVar[Mapping[str, Direction | None]] = {
        "in_context_score": "lower",
        "ar_hit_loss": "lower",
        "other_loss": "lower",
        "repeat_loss": "lower",
        "induction_score": "higher",
        "loss": None,
    }
    source: ClassVar[str] = "AR-hit: Zoology, arXiv 2312.04927; induction: Olsson et al., arXiv 2209.11895"
    needs = frozenset({"corpus"})

    tokens: int = Field(65_536, ge=1, description="tokens of the validation split to score, at most all of it")
    ngram: int | None = Field(
        None, ge=2, le=64, description="tokens of a repeated n-gram; null is 5 for bytes, 2 for other tokens"
    )
    samples: int = Field(32, ge=1, le=100_000, description="sequences of random tokens")

    def measure(self, model: GPT, subject: Subject) -> Iterator[Row]:
        yield from self._measure_text(model, subject)
        yield from self._measure_repeats(model, subject)

    def _measure_text(self, model: GPT, subject: Subject) -> Iterator[Row]:
        length, assumed = subject.context_length, subject.tokenizer is None or subject.tokenizer.identity == "bytes"
        ngram = self.ngram or (BYTES_NGRAM if assumed else WORDS_NGRAM)
        losses, hits = [], []
        for inputs_bt, targets_bt in held_out_windows(subject, self.tokens):
            losses.append(score_targets(model, inputs_bt, targets_bt)[0].double().cpu())
            tokens = torch.cat((inputs_bt, targets_bt[:, -1:]), dim=1).cpu().numpy()
            hits.append(torch.from_numpy(find_repeats(tokens, ngram)[:, 1:]))
        if not losses:
            assert subject.corpus is not None
            text = ("in_context_score", "ar_hit_loss", "other_loss", "loss")
            yield from refuse(text, explain_short(subject.corpus, length))
            return
        loss_bt, is_hit_bt = torch.cat(losses), torch.cat(hits)
        quarter = max(length // 4, 1)
        yield mean_row("in_context_score", loss_bt[:, -quarter:].mean(1) - loss_bt[:, :quarter].mean(1))
        for metric, chosen in (("ar_hit_loss", loss_bt[is_hit_bt]), ("other_loss", loss_bt[~is_hit_bt])):
            if len(chosen):
                yield mean_row(metric, chosen, ngram=ngram)
            else:
                yield from refuse([metric], "no such token in the windows", ngram=ngram)
        first = 0
        while first < length:
            last = min(2 * first + 1, length) if first else 1
            yield mean_row("loss", loss_bt[:, first:last].mean(1), positions=f"{first}-{last - 1}")
            first = last

    def _measure_repeats(self, model: GPT, subject: Subject) -> Iterator[Row]:
        part = min(subject.context_length // 2, LONGEST_PART)
        alphabet = find_alphabet(subject)
        letters = np.concatenate((alphabet.keys, alphabet.values))
        if part < 2 or len(letters) < 2:
            yield from refuse(("repeat_loss", "induction_score"), "there is no room, or no token, to repeat")
            return
        half_bt = generator(part).choice(letters, (self.samples, part))
        ids_bt = torch.from_numpy(np.tile(half_bt, 2)).to(subject.device)
        scores, losses = Induction(part), []
        for some_bt in torch.split(ids_bt, rows_at_once(subject.device, 2 * part)):
            with watch_attention(model, scores.see):
                losses.append(score_targets(model, some_bt[:, :-1], some_bt[:, 1:])[0][:, part:].mean(1).cpu())
        yield mean_row("repeat_loss", torch.cat(losses))
        if scores.sums:
            queries = torch.arange(part, 2 * part - 1)
            yield Row("induction_score", scores.best(), self.samples, chance=float((1 / (queries + 1.0)).mean()))
        else:
            yield from refuse(["induction_score"], f"{model.config.attention.name} has no maps that ablate can see")


def find_repeats(tokens_bt: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.bool_]:
    """Whether the n-gram that ends at a token stands in the same row before: [b, t]."""
    is_repeat = np.zeros(tokens_bt.shape, dtype=np.bool_)
    if tokens_bt.shape[1] < n:
        return is_repeat
    grams = np.lib.stride_tricks.sliding_window_view(tokens_bt, n, axis=1)
    for row, found in zip(grams, is_repeat, strict=True):
        _, first, which = np.unique(row, axis=0, return_index=True, return_inverse=True)
        found[n - 1 :] = first[which.reshape(-1)] < np.arange(len(row))
    return is_repeat


class Induction:
    """The attention of each head from the second occurrence of a token to the token after the first."""

    def __init__(self, part: int) -> None:
        self.part, self.n_seen = part, 0
        self.sums: dict[int, Tensor] = {}

    def see(self, layer: LayerCall) -> None:
        queries_n = torch.arange(self.part, layer.x_btd.shape[1], device=layer.x_btd.device)
        maps_bhns = layer.select(queries_n).effective_shares()
        keys_n = queries_n - self.part + 1
        score_bhn = maps_bhns.gather(-1, keys_n[:, None].expand(*maps_bhns.shape[:3], 1))[..., 0]
        total_h = score_bhn.double().mean(-1).sum(0)
        self.sums[layer.layer] = self.sums.get(layer.layer, torch.zeros_like(total_h)) + total_h
        self.n_seen += len(layer.x_btd) if layer.layer == min(self.sums) else 0

    def best(self) -> float:
        """The highest mean of a head."""
        return max(float(total_h.max()) for total_h in self.sums.values()) / self.n_seen
