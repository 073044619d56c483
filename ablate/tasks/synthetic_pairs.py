"""Made-up pairs of sequences: reverse, sort, and copy with distractors. Training data never repeats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ablate.tasks.epochs import Words, draw_words

Ids = npt.NDArray[np.int64]
Synthetic = Literal["reverse", "sort", "copy_with_distractors"]

PADDING, START, STOP, MARK = range(4)
FIRST_SYMBOL = 4
VALIDATION = 2**64 - 1  # no seed of a run is as large, so no run trains on the stream of the validation pairs


@dataclass(frozen=True)
class SyntheticPairs:
    """A source of pairs. A target has `shortest` to `longest` symbols, all equally likely.

    reverse and sort: the source has the symbols of the target, in another order. copy_with_distractors: each symbol of
    the target follows a MARK in the source, in order, and other symbols without a mark stand among them; they are the
    share `noise` of the symbols of the source.
    """

    kind: Synthetic
    n_symbols: int
    shortest: int
    longest: int
    noise: float = 0.0

    @property
    def source_length(self) -> int:
        """Tokens of the longest source."""
        return self.n_slots + (self.longest if self.kind == "copy_with_distractors" else 0)

    @property
    def n_slots(self) -> int:
        """Symbols of the longest source."""
        return self.longest + int(self._count_distractors(np.array(self.longest)))

    def _count_distractors(self, n: Ids) -> Ids:
        if self.kind != "copy_with_distractors":
            return np.zeros_like(n)
        found: Ids = np.rint(n * self.noise / (1 - self.noise)).astype(np.int64)
        return found

    def draw(self, seed: int, number: int, n_rows: int) -> tuple[Ids, Ids]:
        """Draw sources (n_rows, source_length) and targets (n_rows, longest), filled up with PADDING."""
        words = draw_words(seed, number, n_rows * (1 + 2 * self.n_slots)).reshape(n_rows, -1)
        lengths = self.shortest + (words[:, 0] % np.uint64(self.longest - self.shortest + 1)).astype(np.int64)
        symbols, keys = np.split(words[:, 1:], 2, axis=1)
        ids = FIRST_SYMBOL + (symbols % np.uint64(self.n_symbols)).astype(np.int64)
        if self.kind == "copy_with_distractors":
            return self._hide(lengths, ids, keys)
        places = np.arange(self.longest)
        is_there = places < lengths[:, None]
        source = np.where(is_there, ids, PADDING)
        if self.kind == "reverse":
            order = np.where(is_there, lengths[:, None] - 1 - places, places)
            return source, np.take_along_axis(source, order, axis=1)
        ordered = np.sort(np.where(is_there, ids, FIRST_SYMBOL + self.n_symbols), axis=1)
        return source, np.where(is_there, ordered, PADDING)

    def _hide(self, lengths: Ids, ids: Ids, keys: Words) -> tuple[Ids, Ids]:
        """Mark `lengths` of the symbols at random, and leave the others as distractors."""
        n_rows = len(ids)
        places = np.arange(self.n_slots)
        is_there = places < (lengths + self._count_distractors(lengths))[:, None]
        order = np.argsort(np.where(is_there, keys >> np.uint64(1), VALIDATION), axis=1, kind="stable")
        ranks = np.argsort(order, axis=1, kind="stable")
        is_marked = is_there & (ranks < lengths[:, None])
        n_marks = np.cumsum(is_marked, axis=1)
        rows = np.broadcast_to(np.arange(n_rows)[:, None], ids.shape)
        source = np.full((n_rows, self.source_length), PADDING)
        source[rows[is_there], (places + n_marks)[is_there]] = ids[is_there]
        source[rows[is_marked], (places + n_marks - 1)[is_marked]] = MARK
        target = np.full((n_rows, self.longest), PADDING)
        target[rows[is_marked], n_marks[is_marked] - 1] = ids[is_marked]
        return source, target
