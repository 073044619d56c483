"""Associative recall: sequences of key-value pairs, then queries (MQAR of Zoology, arXiv 2312.04927).

Both the task that trains it and the evaluation use these sequences.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Alphabet:
    """The tokens of keys, of values and of the space between queries."""

    keys: Ids
    values: Ids
    filler: Ids

    @classmethod
    def halves(cls, vocab_size: int) -> Alphabet:
        """The first half of the vocabulary but token 0 for keys, the second for values, and 0 as filler."""
        half = vocab_size // 2
        return cls(np.arange(1, half), np.arange(half, vocab_size), np.zeros(1, dtype=np.int64))

    @property
    def most_pairs(self) -> int:
        return min(len(self.keys), len(self.values))


@dataclass(frozen=True)
class RecallBatch:
    """`ids` [b, length]; the key at `queries[b, i]` is asked for, and the next token must be `answers[b, i]`.

    The values of the pairs are `values` [b, n_pairs]; `answers[b, i]` is one of them.
    """

    ids: Ids
    queries: Ids
    answers: Ids
    values: Ids


def shortest_length(n_pairs: int) -> int:
    """Tokens that the pairs and one query of each need: a key and its value, twice, without the last value."""
    return 4 * n_pairs - 1


def draw_recall(
    draw: np.random.Generator, n_sequences: int, n_pairs: int, length: int, alphabet: Alphabet
) -> RecallBatch:
    """Draw sequences of `n_pairs` distinct keys, each with its own value, and then each key once more, in random order.

    Every query is followed by its value, unless it ends the sequence. Filler, which holds no key, stands between pairs
    of query and value at random, so that distances vary.

    Raises `ValueError` if the length or the alphabet is too small.
    """
    if length < shortest_length(n_pairs) or n_pairs > alphabet.most_pairs or n_pairs < 1:
        raise ValueError(f"{n_pairs} pairs do not fit {length} tokens and {alphabet.most_pairs} keys and values")
    shape = (n_sequences, n_pairs)
    keys, values = (_draw_distinct(draw, of, shape) for of in (alphabet.keys, alphabet.values))
    ids = draw.choice(alphabet.filler, (n_sequences, length + 1))
    ids[:, 0 : 2 * n_pairs : 2], ids[:, 1 : 2 * n_pairs : 2] = keys, values
    order = draw.permuted(np.tile(np.arange(n_pairs), (n_sequences, 1)), axis=1)
    asked, answers = np.take_along_axis(keys, order, 1), np.take_along_axis(values, order, 1)
    n_free = length + 1 - 4 * n_pairs  # tokens of filler, cut into parts before each query and after the last
    cuts = np.sort(draw.integers(0, n_free + 1, shape), axis=1)
    queries = 2 * n_pairs + 2 * np.arange(n_pairs) + cuts
    np.put_along_axis(ids, queries, asked, 1)
    np.put_along_axis(ids, queries + 1, answers, 1)
    return RecallBatch(ids[:, :length], queries, answers, values)


def _draw_distinct(draw: np.random.Generator, of: Ids, shape: tuple[int, int]) -> Ids:
    """Draw rows of distinct entries."""
    order = draw.random((shape[0], len(of))).argsort(axis=1)[:, : shape[1]]
    return of[order].astype(np.int64)
