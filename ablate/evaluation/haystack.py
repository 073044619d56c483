"""Sequences with needles: facts in filler text, and questions about some of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ablate.data import Tokenizer
from ablate.data.recall import Alphabet
from ablate.evaluation.base import Subject

_CITIES = """
Amsterdam Athens Auckland Baghdad Bangkok Barcelona Berlin Bogota Boston Brussels Budapest Cairo Chicago Copenhagen
Dallas Delhi Denver Dublin Geneva Hamburg Havana Helsinki Istanbul Jakarta Lagos Lima Lisbon London Madrid Manila
Melbourne Miami Milan Montreal Moscow Mumbai Munich Nairobi Oslo Paris Prague Rome Santiago Seattle Seoul Shanghai
Singapore Stockholm Sydney Tokyo Toronto Vienna Warsaw Zurich
"""
CITIES = _CITIES.split()
DIGITS = 7
HAYSTACK = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
KEY_SIGNS, VALUE_SIGNS = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Question:
    """A queried needle. Its answer is `ids[start:end]` of the sequence, its needle `ids[needle_start:needle_end]`.

    The model predicts the first token of the answer at position `start - 1`.
    """

    start: int
    end: int
    needle_start: int
    needle_end: int
    n_bytes: int


@dataclass(frozen=True)
class Haystack:
    """A sequence, its questions, and which of its tokens are filler."""

    ids: list[int]
    questions: list[Question]
    is_filler: list[bool]


@dataclass(frozen=True)
class Fact:
    """A key and its value as tokens: a needle is `lead + value + end`, a question `break + lead`."""

    lead: list[int]
    value: list[int]
    n_bytes: int


@dataclass(frozen=True)
class Language:
    """How facts are written. `values` are the tokens of all possible values, if each is one token."""

    draw_facts: Callable[[np.random.Generator, int], list[Fact]]
    end: list[int]
    line_break: list[int]
    values: list[int]
    chance: float | None


def write_sentences(tokenizer: Tokenizer) -> Language:
    """Facts in English: the magic number for CITY is NUMBER."""

    def encode(text: str) -> list[int]:
        return [int(token) for token in tokenizer.encode(text)]

    def draw_facts(draw: np.random.Generator, n: int) -> list[Fact]:
        cities = draw.choice(CITIES, n, replace=False)
        numbers = draw.integers(10 ** (DIGITS - 1), 10**DIGITS, n)
        return [
            Fact(encode(f" The magic number for {city} is"), encode(f" {number}"), DIGITS + 1)
            for city, number in zip(cities, numbers, strict=True)
        ]

    return Language(draw_facts, encode("."), encode("\n"), [], 1 / (9 * 10 ** (DIGITS - 1)))


def write_pairs(tokenizer: Tokenizer | None, vocab_size: int) -> Language:
    """Facts as short as possible: two letters, a colon and a capital letter, or, without a tokenizer, two tokens."""
    if tokenizer is None:
        halves = Alphabet.halves(vocab_size)
        values = [int(token) for token in halves.values]

        def draw_tokens(draw: np.random.Generator, n: int) -> list[Fact]:
            keys, drawn = (draw.choice(part, n, replace=False) for part in (halves.keys, halves.values))
            return [Fact([int(key)], [int(value)], 1) for key, value in zip(keys, drawn, strict=True)]

        return Language(draw_tokens, [], [], values, 1 / vocab_size)
    encoded = [[int(token) for token in tokenizer.encode(sign)] for sign in VALUE_SIGNS]
    signs = [tokens for tokens in encoded if len(tokens) == 1]

    def draw_letters(draw: np.random.Generator, n: int) -> list[Fact]:
        numbers = draw.choice(len(KEY_SIGNS) ** 2, n, replace=False)
        keys = [KEY_SIGNS[number // len(KEY_SIGNS)] + KEY_SIGNS[number % len(KEY_SIGNS)] for number in numbers]
        drawn = draw.choice(len(signs), n, replace=False)
        return [
            Fact([int(token) for token in tokenizer.encode(f"\n{key}:")], signs[value], 1)
            for key, value in zip(keys, drawn, strict=True)
        ]

    return Language(draw_letters, [], [], [tokens[0] for tokens in signs], 1 / vocab_size)


class Filler:
    """Text to hide needles in: the validation split, or else sentences without meaning, or else token 0."""

    def __init__(self, subject: Subject) -> None:
        self.tokens = np.zeros(1, dtype=np.int64)
        if subject.corpus is not None:
            self.tokens = np.asarray(subject.corpus.validation)
        elif subject.tokenizer is not None:
            self.tokens = np.asarray(subject.tokenizer.encode(HAYSTACK))

    def cut(self, draw: np.random.Generator, n: int) -> list[int]:
        start = int(draw.integers(len(self.tokens)))
        return [int(token) for token in np.take(self.tokens, np.arange(start, start + n), mode="wrap")]


def hide(
    draw: np.random.Generator,
    facts: Sequence[Fact],
    n_queries: int,
    depth: float,
    length: int,
    language: Language,
    filler: Filler,
) -> Haystack | None:
    """Hide facts in filler and ask for the first `n_queries` of them: a sequence of exactly `length` tokens.

    The first fact stands after the share `depth` of the filler, the others at random places. Returns None where there
    is less filler than needles.
    """
    needles = [[*fact.lead, *fact.value, *language.end] for fact in facts]
    asked = facts[:n_queries]
    n_question = sum(len(language.line_break) + len(fact.lead) + len(fact.value) for fact in asked)
    n_filler = length - sum(map(len, needles)) - n_question - len(language.end) * (n_queries - 1)
    if n_filler < len(facts):
        return None
    places = [round(depth * n_filler), *draw.integers(0, n_filler + 1, len(facts) - 1)]
    own_rank = -1 if depth < 0.5 else 1  # among needles at the same place
    order = sorted(range(len(facts)), key=lambda i: (places[i], own_rank if i == 0 else 0))
    text, ids, starts, n_used = filler.cut(draw, n_filler), [], {}, 0
    is_filler: list[bool] = []
    for i in order:
        ids += text[n_used : places[i]]
        is_filler += [True] * (int(places[i]) - n_used) + [False] * len(needles[i])
        starts[i], n_used = len(ids), int(places[i])
        ids += needles[i]
    ids += text[n_used:]
    is_filler += [True] * (n_filler - n_used)
    questions = []
    for i, fact in enumerate(asked):
        ids += [*(language.end if i else []), *language.line_break, *fact.lead]
        question = Question(len(ids), len(ids) + len(fact.value), starts[i], starts[i] + len(needles[i]), fact.n_bytes)
        questions.append(question)
        ids += fact.value
    return Haystack(ids, questions, is_filler + [False] * (len(ids) - len(is_filler)))
