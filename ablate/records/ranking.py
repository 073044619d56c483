"""Rank entries so that none stands above another without a verdict.

Each pair of entries is tested: paired by seed if at least two seeds match, by Welch's test otherwise. The scatter of a
difference is moderated by those of the other pairs with the same first entry. Intervals and p-values hold for all pairs
together, by the method of Šidák, so they agree with each other.

An entry gets a range of ranks: from one more than the number of entries that are shown to be better, to the number of
entries that are not shown to be worse. All ranges contain the true ranks with at least 95 % probability. If two ranges
do not overlap, there is a verdict between the two entries, or one between each of them and a third entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ablate.analysis.families import adjust_sidak, single_level
from ablate.analysis.samples import Sample, estimate_family, pair_values
from ablate.analysis.verdicts import ALPHA


@dataclass(frozen=True)
class Pair:
    """The entry `second` minus the entry `first`, which has the lower mean. Both are places in the input.

    The interval from `low` to `high` and the p-value hold for all pairs together. They are None if an entry has one
    run. `is_clear` is the verdict that `first` is better.
    """

    first: int
    second: int
    estimate: float
    low: float | None
    high: float | None
    p_value: float | None

    @property
    def is_clear(self) -> bool:
        return self.p_value is not None and self.p_value < ALPHA and self.estimate > 0


@dataclass(frozen=True)
class Ranking:
    """`order` has the places of the entries, the lowest mean first. It is no ranking: the ranges of ranks are."""

    order: tuple[int, ...]
    pairs: tuple[Pair, ...]

    def better_than(self, entry: int) -> Sequence[int]:
        """The entries that an entry is shown to be better than."""
        return self._beaten[entry]

    def range_of(self, entry: int) -> tuple[int, int]:
        """The best and the worst rank that an entry may have."""
        return 1 + self._n_better[entry], len(self.order) - len(self._beaten[entry])

    @cached_property
    def _beaten(self) -> Mapping[int, Sequence[int]]:
        found: dict[int, list[int]] = {entry: [] for entry in self.order}
        for pair in self.pairs:
            if pair.is_clear:
                found[pair.first].append(pair.second)
        return found

    @cached_property
    def _n_better(self) -> Counter[int]:
        return Counter(pair.second for pair in self.pairs if pair.is_clear)


def rank(values: Sequence[Mapping[int, float]]) -> Ranking:
    """Rank entries by their values per seed, of which lower is better."""
    means = [float(np.mean(list(by_seed.values()))) for by_seed in values]
    order = sorted(range(len(values)), key=means.__getitem__)
    n_pairs = len(order) * (len(order) - 1) // 2
    pairs = [pair for i, first in enumerate(order) for pair in _compare(values, first, order[i + 1 :], n_pairs)]
    return Ranking(tuple(order), tuple(pairs))


def _compare(values: Sequence[Mapping[int, float]], first: int, others: Sequence[int], n_pairs: int) -> list[Pair]:
    """Compare entries with `first`, with intervals and p-values that hold for `n_pairs` pairs together."""
    samples = [_pair(values, first, other) for other in others]
    testable = [sample for sample in samples if sample.is_testable]
    known = {}
    if testable:
        family, _ = estimate_family(testable)
        found = family.plain(single_level(n_pairs))
        columns = (found.low, found.high, adjust_sidak(found.p_value, n_pairs))
        known = dict(
            zip([sample.name for sample in testable], zip(*(c.tolist() for c in columns), strict=True), strict=True)
        )
    return [
        Pair(first, other, sample.estimate, *known.get(sample.name, (None, None, None)))
        for other, sample in zip(others, samples, strict=True)
    ]


def _pair(values: Sequence[Mapping[int, float]], first: int, other: int) -> Sample:
    sample = pair_values(str(other), str(first), values[other], values[first])
    assert sample is not None  # both have runs
    return sample
