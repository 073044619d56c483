"""Retrieval of facts from a long context: multi-needle retrieval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate.evaluation.base import Row, Subject
from ablate.evaluation.haystack import Filler, Haystack, Language, hide, write_pairs, write_sentences
from ablate.evaluation.language_model import (
    LanguageModelEvaluation,
    generator,
    mean_row,
    refuse,
    rows_at_once,
    score_stream,
    share_row,
)
from ablate.metrics import Direction
from ablate_model import GPT
from ablate_model.attention_maps import LayerCall, watch_attention

Form = Literal["text", "pairs"]
MEANS = ("accuracy", "choice_accuracy", "loss", "needle_mass", "noise_mass")  # over depths


class Needle(LanguageModelEvaluation):
    """N facts in filler, R of them asked for, the first of these at a given depth.

    `accuracy` is the share of answers that the model would write word for word (greedy decoding). `choice_accuracy`
    compares the first token of the answer with the other possible values, in the form of pairs only. `loss` is that of
    the answer in nats per byte. `needle_mass` and `noise_mass` are the attention, where the answer begins, to the fact
    that holds it and to the filler: sums over the effective map, whose rows are divided by the sum of their absolute
    weights, averaged over heads and layers. Differential maps have negative entries, so masses can be negative. These
    are means over all depths; `accuracy_at_depth` and so on are for each depth. The latter get no verdict, because
    correcting for that many tests would hide the former.

    The form of text is the published one. Pairs are for models of bytes and for short contexts: two
    letters, a colon and a capital letter. `auto` takes pairs where the tokenizer is that of bytes, or is missing.
    """

    name: ClassVar[str] = "needle"
    version: ClassVar[int] = 2  # 1 took the effective maps at their own scale
    metrics: ClassVar[Mapping[str, Direction | None]] = {
        "accuracy": "higher",
        "choice_accuracy": "higher",
        "loss": "lower",
        "needle_mass": "higher",
        "noise_mass": "lower",
        **{f"{metric}_at_depth": None for metric in MEANS},
    }
    source: ClassVar[str] = "Differential Transformer, arXiv 2410.05258, section 3.4; LWM, arXiv 2402.08268"

    cells: tuple[tuple[int, int], ...] = Field(
        ((1, 1), (2, 2), (4, 2), (6, 2)), min_length=1, description="(facts, questions) of each cell"
    )
    depths: tuple[float, ...] = Field(
        (0.0, 0.25, 0.5, 0.75, 1.0), min_length=1, description="places of the first fact, as shares of the filler"
    )
    samples: int = Field(50, ge=1, le=1_000_000, description="sequences per cell and depth")
    length: int | None = Field(None, ge=2, description="tokens per sequence; null is the trained context")
    form: Literal["auto", "text", "pairs"] = Field("auto", description="how facts are written")

    def choose_form(self, subject: Subject) -> Form:
        if self.form != "auto":
            return self.form
        return "pairs" if subject.tokenizer is None or subject.tokenizer.identity == "bytes" else "text"

    def measure(self, model: GPT, subject: Subject) -> Iterator[Row]:
        form = self.choose_form(subject)
        if form == "text" and subject.tokenizer is None:
            yield from refuse(self.metrics, "facts in words need the tokenizer of the training")
            return
        if form == "text" and subject.tokenizer is not None:
            language = write_sentences(subject.tokenizer)
        else:
            language = write_pairs(subject.tokenizer, model.config.vocab_size)
        filler = Filler(subject)
        for n_facts, n_queries in self.cells:
            yield from self._measure_cell(model, subject, language, filler, (n_facts, n_queries))

    def _measure_cell(
        self, model: GPT, subject: Subject, language: Language, filler: Filler, cell: tuple[int, int]
    ) -> Iterator[Row]:
        length = min(self.length or subject.context_length, subject.context_length)
        within: dict[str, float] = {"needles": cell[0], "queries": cell[1]}
        scores: list[dict[str, Tensor]] = []
        for depth in self.depths:
            stacks = self.build(language, filler, cell, depth, length)
            if not stacks:
                why = f"{cell[0]} needles and {cell[1]} questions do not fit {length} tokens with some filler"
                yield from refuse(MEANS, why, **within)
                return
            scores.append(score_haystacks(model, subject.device, stacks, language.values))
        for metric in MEANS:
            columns = [found[metric] for found in scores if metric in found]
            if not columns:
                continue
            yield _row(metric, torch.cat(columns), model.config.vocab_size, language, within)
            for depth, column in zip(self.depths, columns, strict=True):
                row = _row(metric, column, model.config.vocab_size, language, {**within, "depth": depth})
                yield replace(row, metric=f"{metric}_at_depth")

    def build(
        self, language: Language, filler: Filler, cell: tuple[int, int], depth: float, length: int
    ) -> list[Haystack]:
        """The sequences of a cell, of one token more than the model reads; none if one of them does not fit."""
        n_facts, n_queries = cell
        if not 1 <= n_queries <= n_facts:
            return []
        draw, found = generator(n_facts, n_queries, round(1e6 * depth)), []
        for _ in range(self.samples):
            try:
                facts = language.draw_facts(draw, n_facts)
            except ValueError:  # more facts than different keys or values
                return []
            if (stack := hide(draw, facts, n_queries, depth, length + 1, language, filler)) is None:
                return []
            found.append(stack)
        return found


def _row(metric: str, column: Tensor, n_tokens: int, language: Language, place: Mapping[str, float]) -> Row:
    if metric == "accuracy":
        return share_row(metric, column, language.chance, **place)
    if metric == "choice_accuracy":
        return share_row(metric, column, 1 / len(language.values), **place)
    return mean_row(metric, column, math.log(n_tokens) if metric == "loss" and language.values else None, **place)


def score_haystacks(
    model: GPT, device: torch.device, stacks: Sequence[Haystack], values: Sequence[int]
) -> dict[str, Tensor]:
    """Score each sequence, as the mean over its questions: {metric: [n]}. All sequences have the same length."""
    at_once = rows_at_once(device, len(stacks[0].ids))
    found = [
        _score_batch(model, device, stacks[first : first + at_once], values) for first in range(0, len(stacks), at_once)
    ]
    return {metric: torch.cat([part[metric] for part in found]) for metric in found[0]}


def _score_batch(
    model: GPT, device: torch.device, stacks: Sequence[Haystack], values: Sequence[int]
) -> dict[str, Tensor]:
    ids_bt = torch.tensor([stack.ids for stack in stacks], device=device)
    starts_br = torch.tensor([[question.start for question in stack.questions] for stack in stacks], device=device)
    masses = Masses(stacks, device)
    with watch_attention(model, masses.see):
        h_btd = model.encode(ids_bt[:, :-1])
    tokens = [  # sequence, question, position
        (b, r, position)
        for b, stack in enumerate(stacks)
        for r, question in enumerate(stack.questions)
        for position in range(question.start, question.end)
    ]
    b_n, r_n, position_n = torch.tensor(tokens, device=device).unbind(1)
    losses_n, hits_n = score_stream(model, h_btd[b_n, position_n - 1], ids_bt[b_n, position_n])
    n_bytes = torch.tensor([[question.n_bytes for question in stack.questions] for stack in stacks], device=device)
    b, r = starts_br.shape
    losses_br = losses_n.new_zeros(b * r).index_add(0, b_n * r + r_n, losses_n).view(b, r) / n_bytes
    hits_br = hits_n.new_zeros(b * r).index_add(0, b_n * r + r_n, hits_n.log()).exp().view(b, r)  # all of an answer's
    found = {"accuracy": hits_br.mean(1), "loss": losses_br.mean(1), **masses.means()}
    if values:
        which_b1, values_v = torch.arange(b, device=device)[:, None], torch.tensor(values, device=device)
        logits_brv = model.form_logits(h_btd[which_b1, starts_br - 1])[..., values_v]
        is_own_brv = values_v == ids_bt[which_b1, starts_br][..., None]
        top_br1 = logits_brv.amax(-1, keepdim=True)
        is_top_brv = logits_brv == top_br1
        found["choice_accuracy"] = ((is_top_brv & is_own_brv).sum(-1) / is_top_brv.sum(-1).clamp_min(1)).mean(1)
    return {metric: values_b.double().cpu() for metric, values_b in found.items()}


class Masses:
    """The attention to needle and filler where answers begin, summed over the layers that it sees."""

    def __init__(self, stacks: Sequence[Haystack], device: torch.device) -> None:
        n_read = len(stacks[0].ids) - 1
        self.queries_br = torch.tensor([[q.start - 1 for q in stack.questions] for stack in stacks], device=device)
        spans = torch.tensor([[(q.needle_start, q.needle_end) for q in stack.questions] for stack in stacks])
        places_s = torch.arange(n_read)
        needle_brs = (places_s >= spans[..., :1]) & (places_s < spans[..., 1:])
        filler_bs = torch.tensor([stack.is_filler[:n_read] for stack in stacks])
        filler_brs = filler_bs[:, None].expand_as(needle_brs)
        self.targets = {"needle_mass": needle_brs.to(device), "noise_mass": filler_brs.to(device)}
        self.sums = {name: torch.zeros(len(stacks), dtype=torch.float64, device=device) for name in self.targets}
        self.n_layers = 0

    def see(self, layer: LayerCall) -> None:
        maps_bhrs = layer.select(self.queries_br).effective_shares()
        for name, is_there_brs in self.targets.items():
            mass_bhr = (maps_bhrs * is_there_brs[:, None]).sum(-1)
            self.sums[name] += mass_bhr.double().mean((1, 2))
        self.n_layers += 1

    def means(self) -> dict[str, Tensor]:
        """The masses per sequence [n]; nothing where no layer called a kernel."""
        return {name: total / self.n_layers for name, total in self.sums.items()} if self.n_layers else {}
