"""Measure by simulation how often `ablate verify` confirms or refutes a published verdict, rightly or wrongly.

One arm and its baseline, with normal paired differences of standard deviation 1. Only studies with the verdict in
question count, as only those are published, so their estimates have the winner's curse. The tables are Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ablate.analysis.families import Family, make_family
from ablate.analysis.replication import judge_replication
from ablate.analysis.verdicts import ALPHA, Verdict, judge, p_of_equivalence
from ablate.tracking.verifications import Measured

SEEDS = ((3, 3), (3, 10), (5, 5), (10, 10))  # of the report, and of the verification
EFFECTS = (0.1, 0.5, 1.0, 2.0)  # standard deviations of a paired difference
MARGIN = 1.0


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
    there = _simulate(rng.normal(effect_there, 1, (n_studies, n_there)), margin)
    here = _simulate(rng.normal(effect_here, 1, (n_studies, n_here)), margin)
    outcomes = [
        judge_replication(one, other, margin).outcome
        for one, other in zip(there, here, strict=True)
        if one.verdict == verdict
    ]
    n = len(outcomes)
    return Rates(outcomes.count("confirmed") / max(n, 1), outcomes.count("refuted") / max(n, 1), n)


def _simulate(difference_sn: np.ndarray, margin: float | None) -> list[Measured]:
    """Judge one arm in each of many studies by its paired differences [study, pair]."""
    n = difference_sn.shape[-1]
    mean, variance = difference_sn.mean(-1, keepdims=True), difference_sn.var(-1, ddof=1, keepdims=True)
    family: Family = make_family(mean, variance, np.array([float(n)]))
    estimate, verdicts = family.simultaneous(), judge(family, margin)
    small = np.zeros_like(mean, bool) if margin is None else p_of_equivalence(family, margin) < ALPHA
    columns = (verdicts, small, mean, estimate.low, estimate.high)
    return [
        Measured(verdict=v, is_small=s, estimate=m, low=low, high=high, n_pairs=n, method="paired t")
        for v, s, m, low, high in zip(*(column[:, 0].tolist() for column in columns), strict=True)
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100_000, help="simulated reports per cell")
    for text in write_tables(parser.parse_args().studies):
        print(f"{text}\n")


if __name__ == "__main__":
    main()
