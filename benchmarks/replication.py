"""Measure by simulation how often `ablate verify` confirms or refutes a published verdict, rightly or wrongly.

One arm and its baseline, with normal paired differences of standard deviation 1. Only studies with the verdict in
question count, because only those are published: their estimates have the winner's curse. The tables are Markdown, and
`--page` puts them into a page.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ablate.analysis.families import Family, make_family
from ablate.analysis.replication import judge_replication
from ablate.analysis.verdicts import ALPHA, Verdict, judge, p_of_equivalence
from ablate.tracking.verifications import Measured
from benchmarks.verdicts import show

SEEDS = ((3, 3), (3, 10), (5, 5), (10, 10))  # of the report, and of the verification
EFFECTS = (0.1, 0.5, 1.0, 2.0)  # standard deviations of a paired difference
START = "<!-- tables of benchmarks.replication -->"


class Rates(NamedTuple):
    """Shares of the published verdicts, of which `n` were simulated."""

    confirmed: float
    refuted: float
    n: int


def measure(
    verdict: Verdict,
    effect_there: float,
    effect_here: float,
    n_there: int,
    n_here: int,
    n_studies: int,
    margin: float | None = None,
    seed: int = 0,
) -> Rates:
    """Simulate reports with this `verdict` on an arm, and their verifications.

    The arm differs by `effect_there` in the reports and by `effect_here` in the fresh runs. The two are the same if
    the study can be repeated.
    """
    rng = np.random.default_rng([seed, n_there, n_here])
    families = [
        _make_family(rng.normal(effect, 1, (n_studies, n)))
        for effect, n in ((effect_there, n_there), (effect_here, n_here))
    ]
    is_counted = judge(families[0], margin)[:, 0] == verdict
    there, here = (_list_measured(family, is_counted, margin) for family in families)
    outcomes = [judge_replication(one, other, margin).outcome for one, other in zip(there, here, strict=True)]
    n = len(outcomes)
    return Rates(outcomes.count("confirmed") / max(n, 1), outcomes.count("refuted") / max(n, 1), n)


def _make_family(difference_sn: np.ndarray) -> Family:
    """One arm in each of many studies, from its paired differences [study, pair]."""
    mean, variance = difference_sn.mean(-1, keepdims=True), difference_sn.var(-1, ddof=1, keepdims=True)
    return make_family(mean, variance, np.array([float(difference_sn.shape[-1])]))


def _list_measured(family: Family, is_counted: np.ndarray, margin: float | None) -> list[Measured]:
    """What the studies that count have measured."""
    estimate, n = family.simultaneous(), int(family.df[0]) + 1
    is_small = np.zeros_like(family.mean, bool) if margin is None else p_of_equivalence(family, margin) < ALPHA
    columns = (judge(family, margin), is_small, family.mean, estimate.low, estimate.high)
    return [
        Measured(verdict=verdict, is_small=small, estimate=mean, low=low, high=high, n_pairs=n, method="paired t")
        for verdict, small, mean, low, high in zip(*(column[is_counted, 0].tolist() for column in columns), strict=True)
    ]


def write_tables(n_studies: int) -> Iterator[str]:
    """Write both tables, each with a sentence above it."""
    header = "| effect | " + " | ".join(f"{there} and {here} seeds" for there, here in SEEDS) + " |"
    rule = "| --- " * (len(SEEDS) + 1) + "|"
    yield "**Published as worse, and true**: share of verdicts that are confirmed / refuted, by the true difference."
    yield "\n".join([header, rule, *(_row(effect, effect, n_studies) for effect in EFFECTS)])
    yield "**Published as worse, and not true here**: the same shares if the arm does not differ in the fresh runs."
    yield "\n".join([header, rule, *(_row(effect, 0.0, n_studies) for effect in EFFECTS)])


def _row(there: float, here: float, n_studies: int) -> str:
    cells = []
    for n_there, n_here in SEEDS:
        rates = measure("worse", there, here, n_there, n_here, n_studies)
        cells.append(f"{rates.confirmed:.2f} / {rates.refuted:.3f}")
    return f"| {there:g} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.replication",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--studies", type=int, default=100_000, help="simulated reports per cell")
    parser.add_argument("--page", type=Path, help="page that gets the tables; without it they are printed")
    options = parser.parse_args()
    show(write_tables(options.studies), options.page, START)


if __name__ == "__main__":
    main()
