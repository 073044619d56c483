"""The data of a comparison: differences of final values between an arm and its baseline, and their scatter."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ablate.analysis.curve_columns import Floats
from ablate.analysis.families import Family, make_family
from ablate.analysis.intervals import ROUNDING, welch_error
from ablate.analysis.moderated import SMALLEST_SHARE, find_loan
from ablate.analysis.noise import Lender, collect_earlier, name_lenders
from ablate.analysis.repeats import take_numbers
from ablate.analysis.results import Results

PAIRED, MODERATED, WELCH = "paired t", "moderated paired t", "Welch's t, because the seeds do not match"
IDENTICAL = "none: both train alike"


@dataclass(frozen=True, eq=False)
class Sample:
    """The final values of an arm and its baseline: differences paired by seed, or the values of both sides.

    `item_variance` is the variance of a difference that comes from the choice of an evaluation's items. It is used if
    every seed has the same difference: a rounded metric then only looks free of noise. `is_identical` means that both
    logged exactly the same losses for every seed, so that the difference is 0 without any doubt.
    """

    name: str
    baseline: str
    pairs: Floats
    arm: Floats
    base: Floats
    item_variance: float = 0.0
    is_identical: bool = False

    @property
    def variance(self) -> float:
        """The variance of a paired difference (ddof 1); nan if nothing is paired."""
        found = float(self.pairs.var(ddof=1)) if self.pairs.size else np.nan
        return self.item_variance if np.sqrt(found) <= ROUNDING < self.item_variance else found

    @property
    def estimate(self) -> float:
        return float(self.pairs.mean() if self.pairs.size else self.arm.mean() - self.base.mean())

    @property
    def n(self) -> int:
        """The number of pairs, or of the arm's runs if nothing is paired."""
        return self.pairs.size or self.arm.size

    @property
    def is_testable(self) -> bool:
        return self.pairs.size > 1 or (not self.pairs.size and min(self.arm.size, self.base.size) > 1)


def collect_sample(results: Results, name: str, seeds: Collection[int] | None = None) -> Sample | None:
    """Pair the final values of an arm with its baseline's by seed. None if one side has none.

    If fewer than two seeds match although both sides have two, nothing is paired. With `seeds`, only these count, and
    only pairs.
    """
    base = results.baseline_of(name)
    mine, theirs = (
        {
            run.seed: run
            for run in results.runs_of(side)
            if np.isfinite(run.final_loss) and (seeds is None or run.seed in seeds)
        }
        for side in (name, base)
    )
    ends, base_ends = ({seed: run.final_loss for seed, run in side.items()} for side in (mine, theirs))
    sample = pair_values(name, base, ends, base_ends, only_pairs=seeds is not None)
    if sample is None or not sample.pairs.size or sample.pairs.any():
        return sample
    both = [(take_numbers(run), take_numbers(theirs[seed])) for seed, run in mine.items() if seed in theirs]
    return replace(sample, is_identical=all(one and one == other for one, other in both))


def pair_values(
    name: str,
    base: str,
    mine: Mapping[int, float],
    theirs: Mapping[int, float],
    item_variance: float = 0.0,
    *,
    only_pairs: bool = False,
) -> Sample | None:
    """Pair the values of an arm and its baseline by seed. None if one side has none.

    If fewer than two seeds match although both sides have two, nothing is paired, unless `only_pairs` count.
    """
    pairs = np.array([value - theirs[seed] for seed, value in mine.items() if seed in theirs], np.float64)
    if not only_pairs and pairs.size < 2 <= min(len(mine), len(theirs)):
        pairs = pairs[:0]
    if not mine or not theirs or (only_pairs and not pairs.size):
        return None
    values, base_values = (np.array(list(side.values()), np.float64) for side in (mine, theirs))
    return Sample(name, base, pairs, values, base_values, item_variance)


def estimate_family(members: Sequence[Sample], lenders: Sequence[Lender] = ()) -> tuple[Family, list[str]]:
    """Estimate the arms of one baseline together. Returns the family, and the name of each arm's test.

    `lenders` are arms of earlier studies whose scatter may count.
    """
    mean = np.array([sample.estimate for sample in members])
    (error, df, equivalence_df), methods = np.empty((3, mean.size)), [WELCH] * mean.size
    earlier = collect_earlier(lenders)
    n_pairs = np.array([float(sample.pairs.size) for sample in members])
    variance = np.array([sample.variance for sample in members])
    paired = np.flatnonzero(n_pairs)
    identical = np.array([sample.is_identical for sample in members])
    for places, borrowed in _group(paired, variance, identical):
        chosen = [*borrowed, *places]
        family = make_family(mean[chosen], variance[chosen], n_pairs[chosen], earlier)
        kept = slice(len(borrowed), None)
        error[places], df[places] = family.standard_error[kept], family.df[kept]
        equivalence_df[places] = (family.df if family.equivalence_df is None else family.equivalence_df)[kept]
        for place in places:
            loan = find_loan(len(chosen), int(n_pairs[place]), len(lenders))
            methods[place] = MODERATED if df[place] > n_pairs[place] - 1 else PAIRED
            if loan is not None:
                methods[place] += f", {name_lenders(lenders[: loan.n_earlier])}"
    for place, sample in enumerate(members):
        if not sample.pairs.size:
            error[place], df[place] = welch_error(sample.arm, sample.base)
            equivalence_df[place] = df[place]
        if sample.is_identical:
            methods[place] = IDENTICAL
    return Family(mean, error, df, equivalence_df), methods


def _group(
    paired: NDArray[np.intp], variance: Floats, identical: NDArray[np.bool_]
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield arms to be tested together, and the arms that only lend them their scatter.

    Rounded metrics, such as accuracies, can differ by the same in every seed. An arm without scatter would lower the
    prior of all others to nearly 0, so it borrows from them and lends them nothing. One that is identical to its
    baseline borrows nothing, either.
    """
    if not paired.size:
        return
    scatters = variance[paired] > SMALLEST_SHARE * np.median(variance[paired])
    lenders = paired[scatters].tolist()
    if lenders:
        yield lenders, []
    for still in paired[~scatters].tolist():
        yield [still], [] if identical[still] else lenders
