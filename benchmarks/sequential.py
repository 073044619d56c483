"""Measure by simulation how often looks at a growing study are wrong, and how many runs they save.

The studies are those of `families`. The tables are Markdown. `--page` puts them into a page, between the two comments
that mark their place.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from ablate.analysis.curve_columns import Floats
from ablate.analysis.families import make_family, single_level
from ablate.analysis.looks import BETTER, EQUIVALENT, UNDECIDED, WORSE
from ablate.analysis.peeking import false_positive_rate
from ablate.analysis.simulated_looks import Ends, take_looks
from ablate.analysis.verdicts import ALPHA
from benchmarks.families import SCENARIOS, Scenario, simulate
from benchmarks.verdicts import show

START = "<!-- tables of benchmarks.sequential -->"
DESIGNS = ((3, 6), (3, 12), (3, 30))
"""The fewest and the most seeds of a study."""

ARMS = (1, 2, 3, 6, 13)
EFFECTS = (0.0, 1.0, 2.0, 4.0)  # of equal parts of the arms, in standard deviations of a paired difference
MIXED_ARMS, MIXED_SEEDS, MIXED_SPREADS = (4, 12), (12, 20, 30), (0.0, 0.5)
MARGINS = (1.0, 2.0, 4.0)  # in the same unit, for false equivalence
MOST_FIXED = 45  # seeds of a fixed design
MOST_ERRORS = 0.05
SEED = 3


@dataclass(frozen=True)
class Errors:
    """Rates over all looks: of studies with a wrong arm, and of arms that are falsely called equivalent."""

    family: float
    equivalence: float


def measure_errors(n_arms: int, design: tuple[int, int], scenario: Scenario, n: int, seed: int = SEED) -> Errors:
    """Measure the rates of one cell. The family's rate is measured without equivalence, which could only lower it."""
    at_least, at_most = design
    differences = simulate(n_arms, at_most, scenario, n, seed).differences.astype(np.float64)
    lost = np.arange(n_arms) % 2 == 0 if scenario.has_losses else None
    family = take_looks(differences, at_least, None, lost).verdict != UNDECIDED
    equivalence = 0.0
    for margin in (size * scenario.unit for size in MARGINS):
        ends = take_looks(differences + margin, at_least, margin, lost)
        equivalence = max(equivalence, float((ends.verdict == EQUIVALENT).mean()))
    return Errors(float(family.any(axis=-1).mean()), equivalence)


@dataclass(frozen=True)
class Cost:
    """A mix of arms, judged by looks and by a fixed number of seeds that gives as many right verdicts.

    `seeds` are the mean seeds of arms by their true difference. `joint` is how often all intervals of a study hold at
    the end, and `bias` the mean error of an estimate by true difference (standard deviations).
    """

    right: float
    fixed: float
    seeds: tuple[float, ...]
    baseline: float
    saved_arms: float
    saved_baseline: float
    saved: float
    joint: float
    bias: tuple[float, ...]


def measure_costs(
    n_arms: int, spread: float, margin: float | None, n: int, at_mosts: Sequence[int] = MIXED_SEEDS, seed: int = SEED
) -> list[Cost]:
    """Compare looks at up to each of `at_mosts` seeds with fixed designs, in the same simulated studies."""
    scenario = next(known for known in SCENARIOS if known == Scenario(spread))
    truth = np.repeat(EFFECTS, n_arms // len(EFFECTS))
    noise = simulate(n_arms, MOST_FIXED, scenario, n, seed).differences.astype(np.float64) / scenario.unit
    differences = noise + truth[:, None]
    sums, squares = differences.cumsum(axis=-1), (differences**2).cumsum(axis=-1)
    fixed = [_judge_fixed(sums, squares, k, truth, margin) for k in range(3, MOST_FIXED + 1)]
    costs = []
    for at_most in at_mosts:
        ends = take_looks(differences[..., :at_most], 3, margin)
        right = _share_right(ends.verdict, truth, margin)
        same = float(np.interp(right, np.maximum.accumulate(fixed), np.arange(3, MOST_FIXED + 1)))
        costs.append(_compare(ends, truth, right, same))
    return costs


def _compare(ends: Ends, truth: Floats, right: float, fixed: float) -> Cost:
    baseline, n_arms = float(ends.baseline_seeds.mean()), truth.size
    covers = np.abs(ends.mean - truth) <= ends.half_width
    runs = float(ends.seeds.sum(axis=-1).mean())
    return Cost(
        right=right,
        fixed=fixed,
        seeds=tuple(float(ends.seeds[:, truth == size].mean()) for size in EFFECTS),
        baseline=baseline,
        saved_arms=1 - runs / (n_arms * fixed),
        saved_baseline=1 - baseline / fixed,
        saved=1 - (runs + baseline) / ((n_arms + 1) * fixed),
        joint=float(covers.all(axis=-1).mean()),
        bias=tuple(float((ends.mean - truth)[:, truth == size].mean()) for size in EFFECTS),
    )


def _judge_fixed(sums: Floats, squares: Floats, k: int, truth: Floats, margin: float | None) -> float:
    """The share of right verdicts of a fixed design with `k` seeds: those of `judge`, but without p-values."""
    mean = sums[..., k - 1] / k
    variance = (squares[..., k - 1] - k * mean**2) / (k - 1)
    family = make_family(mean, variance, np.full(truth.size, float(k)))
    is_clear = np.abs(mean) > family.half_width(single_level(truth.size))
    room = stdtrit(family.df if family.equivalence_df is None else family.equivalence_df, 1 - ALPHA)
    is_equivalent = np.abs(mean) + room * family.standard_error < (margin or 0.0)
    verdict = np.select([is_clear & (mean > 0), is_clear, is_equivalent], [WORSE, BETTER, EQUIVALENT], UNDECIDED)
    return _share_right(verdict, truth, margin)


def _share_right(verdict: NDArray[np.str_], truth: Floats, margin: float | None) -> float:
    """The share of right verdicts, among the arms that can have one: without a margin, no arm without a difference."""
    right = (verdict == WORSE) & (truth > 0)
    if margin is None:
        return float(right[:, truth > 0].mean())
    return float((right | ((verdict == EQUIVALENT) & (truth < margin))).mean())


def write_tables(n: int) -> Iterator[str]:
    """Write all tables, each with a sentence above it."""
    errors = {
        (design, arms): [measure_errors(arms, design, scenario, n) for scenario in SCENARIOS]
        for design in DESIGNS
        for arms in ARMS
    }
    worst = max(max(rates.family, rates.equivalence) for cells in errors.values() for rates in cells)
    slack = 2 * float(np.sqrt(MOST_ERRORS * (1 - MOST_ERRORS) / n))
    verdict = "Every rate is" if worst <= MOST_ERRORS + slack else "Not every rate is"
    yield (
        f"{n:,} simulated studies per cell in each of {len(SCENARIOS)} scenarios. {verdict} at most {MOST_ERRORS}, to "
        f"within two standard errors of the simulation ({slack:.4f})."
    )
    header = ("Arms", *(f"{least} to {most} seeds" for least, most in DESIGNS))

    def tabulate_errors(name: str) -> str:
        rows = [
            (str(arms), *(f"{max(getattr(rates, name) for rates in errors[design, arms]):.4f}" for design in DESIGNS))
            for arms in ARMS
        ]
        return _tabulate(header, rows)

    yield "**Family-wise error rate over all looks**, worst scenario."
    yield tabulate_errors("family")
    yield "**False equivalence over all looks**, of an arm that differs by exactly the smallest effect, worst scenario."
    yield tabulate_errors("equivalence")
    yield from _write_costs(n)
    yield (
        "**Peeking by hand**: how often at least one arm of a study without any difference looks better or worse, at "
        "looks that nothing accounts for."
    )
    peeks = ((3,), (3, 6), (3, 6, 9), (3, 4, 5, 6), (5, 10), tuple(range(3, 13)))
    yield _tabulate(
        (
            "Arms",
            *(
                f"after {', '.join(map(str, looks[:4]))}{' and so on to 12' if len(looks) > 4 else ''}"
                for looks in peeks
            ),
        ),
        [(str(arms), *(f"{false_positive_rate(arms, looks):.3f}" for looks in peeks)) for arms in ARMS],
    )


def _write_costs(n: int) -> Iterator[str]:
    rows, ends = [], []
    for arms, spread, margin in itertools.product(MIXED_ARMS, MIXED_SPREADS, (None, 1.0)):
        for at_most, cost in zip(MIXED_SEEDS, measure_costs(arms, spread, margin, n), strict=True):
            start = (str(arms), f"{spread:g}", "none" if margin is None else f"{margin:g}", str(at_most))
            rows.append((*start, *_write_cost(cost)))
            ends.append((*start, f"{cost.joint:.3f}", *(f"{bias:+.2f}" for bias in cost.bias)))
    yield (
        "**Runs**, for arms with true differences of 0, 1, 2 and 4 standard deviations in equal parts, looks from 3 "
        "seeds on. The fixed design has as many right verdicts; it is interpolated between numbers of seeds."
    )
    seeds = tuple(f"Seeds at {size:g} SD" for size in EFFECTS)
    names = ("Arms", "Spread", "Smallest effect", "At most")
    saved = ("Saved by arms", "by the baseline", "of all runs")
    yield _tabulate((*names, "Right verdicts", "Fixed seeds", *seeds, "Baseline", *saved), rows)
    yield "**At the end** of these studies: how often all intervals of a study hold, and the mean error of an estimate."
    yield _tabulate((*names, "Intervals hold", *(f"Error at {size:g} SD" for size in EFFECTS)), ends)


def _write_cost(cost: Cost) -> Iterator[str]:
    yield f"{cost.right:.3f}"
    yield f"{cost.fixed:.1f}"
    yield from (f"{seeds:.1f}" for seeds in (*cost.seeds, cost.baseline))
    yield from (f"{100 * share:.0f} %" for share in (cost.saved_arms, cost.saved_baseline, cost.saved))


def _tabulate(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ("---",) * len(header), *rows))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sequential", description=__doc__)
    parser.add_argument("--simulations", type=int, default=20_000, metavar="N", help="simulated studies per cell")
    parser.add_argument("--page", type=Path, help="page that gets the tables, which are also printed")
    options = parser.parse_args()
    if options.simulations < 100:
        parser.error("--simulations must be at least 100")
    parts = []
    for part in write_tables(options.simulations):
        parts.append(part)
        print(f"{part}\n", flush=True)
    if options.page:
        show(parts, options.page, START)


if __name__ == "__main__":
    main()
