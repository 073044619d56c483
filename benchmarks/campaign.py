"""Measure by simulation how often campaigns of tries without any effect find better or worse arms.

Each try is a study of simulated arms (`families`), judged as `ablate campaign` judges it. Beside it stand two ways that
would be wrong: every try at 5 %, and the campaign's levels with moderated tests, whose degrees of freedom were derived
for 5 %. The table is Markdown; `--page` puts it into a page.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ablate.analysis.families import Family, make_family
from ablate.analysis.looks import judge_look
from ablate.analysis.stricter import find_levels
from ablate.analysis.verdicts import ALPHA, VERDICTS
from ablate.campaign.levels import level_of
from benchmarks.families import Scenario, simulate
from benchmarks.verdicts import show

START = "<!-- table of benchmarks.campaign -->"
TRIES, SEED = 20, 5
CASES = ((1, 3), (1, 6), (3, 3), (3, 5), (6, 5))  # arms and seeds per try
SCENARIOS = (
    Scenario(0.0),
    Scenario(1.0),
    Scenario(1.0, 0.6),
    Scenario(1.0, has_losses=True),
    Scenario(1.0, diverges=True),
)
BETTER, WORSE, *_ = VERDICTS


@dataclass(frozen=True)
class Rates:
    """The share of campaigns in which any try finds a better or worse arm, by how the tries are judged."""

    campaign: float
    moderated: float
    each_at_5_percent: float


def measure(n_arms: int, n_seeds: int, scenario: Scenario, n: int, tries: int = TRIES, seed: int = SEED) -> Rates:
    """Simulate `n` campaigns of null tries."""
    wrong = np.zeros((3, n), np.bool_)
    for k in range(1, tries + 1):
        studies = simulate(n_arms, n_seeds, scenario, n, 1000 * seed + k)
        plain = Family(studies.mean, np.sqrt(studies.variance / studies.n_pairs), studies.n_pairs - 1.0)
        moderated = make_family(studies.mean, studies.variance, studies.n_pairs)
        for place, (family, alpha) in enumerate(((plain, level_of(k)), (moderated, level_of(k)), (moderated, ALPHA))):
            wrong[place] |= _is_wrong(family, alpha)
    return Rates(*wrong.mean(axis=1).tolist())


def _is_wrong(family: Family, alpha: float) -> NDArray[np.bool_]:
    """Tell whether a study finds a better or worse arm [study]."""
    level, level_of_equivalence = find_levels(family.n_arms, alpha)
    verdicts = judge_look(family, level, level_of_equivalence, None)
    found: NDArray[np.bool_] = ((verdicts == BETTER) | (verdicts == WORSE)).any(axis=-1)
    return found


def write_table(n: int) -> str:
    lines = [
        "| Arms | Seeds | `ablate campaign` | moderated tests | every try at 5 % |",
        "| --- | --- | --- | --- | --- |",
    ]
    for n_arms, n_seeds in CASES:
        found = [measure(n_arms, n_seeds, scenario, n) for scenario in SCENARIOS]
        columns = [[rates.campaign for rates in found], [rates.moderated for rates in found]]
        columns.append([rates.each_at_5_percent for rates in found])
        lines.append(f"| {n_arms} | {n_seeds} | {' | '.join(f'{max(column):.3f}' for column in columns)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.campaign", description=__doc__)
    parser.add_argument("--simulations", type=int, default=50_000, metavar="N", help="simulated campaigns per cell")
    parser.add_argument("--page", type=Path, help="page that gets the table; without it, the table is printed")
    options = parser.parse_args()
    if options.simulations < 100:
        parser.error("--simulations must be at least 100")
    show([write_table(options.simulations)], options.page, START)


if __name__ == "__main__":
    main()
