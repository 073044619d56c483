"""Proxies of hallucination that need no judge: facts of the context that the model contradicts, and names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from ablate.data import Tokenizer
from ablate.evaluation.base import Row, Subject
from ablate.evaluation.language_model import (
    LanguageModelEvaluation,
    generator,
    held_out_windows,
    mean_row,
    refuse,
    score_targets,
)
from ablate.evaluation.scoring import Request, encode_pair, fit, score_requests
from ablate.metrics import Direction
from ablate_model import GPT

CAPITALS = {
    "Austria": "Vienna",
    "Belgium": "Brussels",
    "Canada": "Ottawa",
    "Chile": "Santiago",
    "China": "Beijing",
    "Cuba": "Havana",
    "Denmark": "Copenhagen",
    "Egypt": "Cairo",
    "England": "London",
    "Finland": "Helsinki",
    "France": "Paris",
    "Germany": "Berlin",
    "Greece": "Athens",
    "Hungary": "Budapest",
    "Ireland": "Dublin",
    "Italy": "Rome",
    "Japan": "Tokyo",
    "Norway": "Oslo",
    "Peru": "Lima",
    "Poland": "Warsaw",
    "Portugal": "Lisbon",
    "Russia": "Moscow",
    "Spain": "Madrid",
    "Sweden": "Stockholm",
}
SEED = 13
NAME = re.compile(r"(?<=\w)(?<![.!?])[ ,;(]+([A-Z][a-z]{2,})\b")  # inside a sentence


class Hallucination(LanguageModelEvaluation):
    """Two proxies. The papers' own tests need a judge of free text, which ablate does not have.

    - `contradicting_share`: the context states false capitals of two countries ("The capital of France is Oslo.") and
      repeats the beginning of one statement. The metric is the share of the probability of four completions that falls
      on the three that contradict it: the true capital, the one stated of the other country, and a third.
    - `repeated_name_loss` and `first_name_loss`: nats per token of capitalized words inside sentences of held-out text
      that the window holds before, and of those that it does not.
    """

    name: ClassVar[str] = "hallucination"
    metrics: ClassVar[Mapping[str, Direction | None]] = {
        "contradicting_share": "lower",
        "repeated_name_loss": "lower",
        "first_name_loss": "lower",
    }
    source: ClassVar[str] = "proxies of our own for Differential Transformer, arXiv 2410.05258, section 3.6"
    needs = frozenset({"corpus", "tokenizer"})

    samples: int = Field(200, ge=1, le=1_000_000, description="false statements to ask about")
    tokens: int = Field(65_536, ge=1, description="tokens of the validation split to look for names in")

    def measure(self, model: GPT, subject: Subject) -> Iterator[Row]:
        assert subject.tokenizer is not None
        yield from self._contradict(model, subject, subject.tokenizer)
        repeated, first = [], []
        for inputs_bt, targets_bt in held_out_windows(subject, self.tokens):
            loss_bt = score_targets(model, inputs_bt, targets_bt)[0].cpu()
            for losses, targets_t in zip(loss_bt, targets_bt.tolist(), strict=True):
                places = find_names(subject.tokenizer, targets_t)
                repeated.append(losses[places[0]])
                first.append(losses[places[1]])
        for metric, parts in (("repeated_name_loss", repeated), ("first_name_loss", first)):
            found = torch.cat(parts) if parts else torch.zeros(0)
            if len(found):
                yield mean_row(metric, found)
            else:
                yield from refuse([metric], "the held-out text has no such name")

    def _contradict(self, model: GPT, subject: Subject, tokenizer: Tokenizer) -> Iterator[Row]:
        requests: list[Request] = []
        for context, completions in draw_statements(generator(SEED), self.samples):
            pairs = [encode_pair(tokenizer, context, text) for text in completions]
            if any(pair != fit(pair, subject.context_length) for pair in pairs):
                why = f"two statements and a question do not fit {subject.context_length} tokens"
                yield from refuse(["contradicting_share"], why)
                return
            requests += pairs
        scores = score_requests(model, subject.device, requests)
        likelihoods = torch.tensor([score.log_likelihood for score in scores], dtype=torch.float64).view(
            self.samples, -1
        )
        shares = 1 - likelihoods.softmax(1)[:, 0]
        yield mean_row("contradicting_share", shares, 1 - 1 / likelihoods.shape[1])


def draw_statements(draw: np.random.Generator, n: int) -> Iterator[tuple[str, list[str]]]:
    """Yield a context of two false statements and a question, and four completions, of which the first is stated."""
    countries = list(CAPITALS)
    for _ in range(n):
        asked, other = (countries[i] for i in draw.choice(len(countries), 2, replace=False))
        wrong = [city for country, city in CAPITALS.items() if country not in (asked, other)]
        stated, told, third = (wrong[i] for i in draw.choice(len(wrong), 3, replace=False))
        facts = [f"The capital of {asked} is {stated}.", f"The capital of {other} is {told}."]
        if draw.integers(2):
            facts.reverse()
        context = f"{' '.join(facts)} The capital of {asked} is"
        yield context, [f" {city}." for city in (stated, CAPITALS[asked], told, third)]


def find_names(tokenizer: Tokenizer, tokens: Sequence[int]) -> tuple[list[int], list[int]]:
    """The places of the tokens of names that stand before in the text, and of those that do not."""
    pieces = [tokenizer.decode([token]) for token in tokens]
    owners = [place for place, piece in enumerate(pieces) for _ in piece]
    known: set[str] = set()
    repeated: list[int] = []
    first: list[int] = []
    for match in NAME.finditer("".join(pieces)):
        places = sorted(set(owners[match.start(1) : match.end(1)]))
        (repeated if match[1] in known else first).extend(places)
        known.add(match[1])
    return repeated, first
