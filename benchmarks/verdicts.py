"""Measure by simulation how often verdicts on arms are wrong, and how often they find a difference.

The tables are Markdown. `--page` puts them into a page, between the two comments that mark their place.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ablate.analysis.earned_df import SEEDS
from ablate.analysis.moderated import earned_df
from benchmarks.families import (
    COVERAGE,
    EFFECT,
    JOINT,
    MOST_ERRORS,
    SCENARIOS,
    SPREADS,
    Cell,
    Rates,
    Scenario,
    derive,
    measure,
    measure_plan,
    measure_unmatched,
)

ARMS = (*range(1, 14), 20)
SHOWN_ARMS, SHOWN_SEEDS = (1, 3, 6, 13), (2, 3, 5, 10)
SEED, DERIVING_SEED = 2, 1  # the table is derived and checked by different simulations
START, END = "<!-- tables of benchmarks.verdicts -->", "<!-- end of the tables -->"


def measure_all(n: int) -> dict[tuple[int, int], list[Cell]]:
    """Measure each number of arms and seeds in every scenario."""
    return {
        (arms, seeds): [measure(arms, seeds, scenario, n, SEED) for scenario in SCENARIOS]
        for arms in ARMS
        for seeds in SEEDS
    }


def write_tables(n: int) -> Iterator[str]:
    """Write all tables, each with a sentence above it."""
    cells = measure_all(n)
    failed = [cell for group in cells.values() for cell in group if not cell.passes]
    yield _describe_limits(n, len(failed))
    yield from (f"Fails: {cell}" for cell in failed)

    def tabulate_all(write: Callable[[list[Cell]], str]) -> str:
        return _tabulate(ARMS, SEEDS, lambda arms, seeds: write(cells[arms, seeds]))

    def compare_power(scenario: Scenario) -> str:
        place = SCENARIOS.index(scenario)
        return tabulate_all(lambda group: f"{group[place].holm_power:.2f} / {group[place].power:.2f}")

    yield "**Degrees of freedom that moderation adds.** An empty cell uses the ordinary t."
    yield _tabulate(ARMS, SEEDS, lambda arms, seeds: f"{earned_df(arms, seeds) or ''}".removesuffix(".0"))
    yield "**Family-wise error rate**, worst scenario. The joint coverage of simultaneous intervals is one minus it."
    yield tabulate_all(lambda group: f"{max(cell.error for cell in group):.3f}")
    yield "**Coverage of plain 95 % intervals**, lowest and highest of the scenarios."
    yield tabulate_all(lambda group: _span([cell.coverage for cell in group]))
    yield "**False equivalence**: how often an arm that differs by exactly the smallest effect is called equivalent."
    yield tabulate_all(lambda group: f"{max(cell.false_equivalence for cell in group):.3f}")
    for spread in SPREADS:
        yield (
            f"**Power** for a difference of {EFFECT:g} standard deviations, spread {spread:g}: paired t with Holm's "
            "method / the verdicts of this page."
        )
        yield compare_power(Scenario(spread))
    yield (
        "**Plans**: power at the difference that a plan says is found in 80 % of studies, spread 0 / 0.5. Above 0.80, "
        "the plan is cautious."
    )
    yield _tabulate(
        SHOWN_ARMS,
        SHOWN_SEEDS,
        lambda arms, seeds: " / ".join(f"{measure_plan(arms, seeds, spread, n, SEED):.2f}" for spread in SPREADS[:2]),
    )
    yield "**Seeds that do not match** (Welch's t, spread 0.5): family-wise error rate / coverage of plain intervals."
    yield _tabulate(
        SHOWN_ARMS,
        SHOWN_SEEDS,
        lambda arms, seeds: _write_rates(measure_unmatched(arms, seeds, n, SEED)),
    )


def _write_rates(rates: Rates) -> str:
    return f"{rates.error:.3f} / {rates.coverage:.3f}"


def _describe_limits(n: int, n_failed: int) -> str:
    low, high = COVERAGE
    return (
        f"{n:,} simulated studies per cell in each of {len(SCENARIOS)} scenarios. "
        f"{f'{n_failed} measurements break' if n_failed else 'Every cell keeps'} the limits: at most {MOST_ERRORS} "
        f"family-wise errors, a coverage of {low} to {high} for plain intervals, and of at least {JOINT} for "
        "simultaneous ones."
    )


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.3f} to {max(values):.3f}"


def _tabulate(arms: Iterable[int], seeds: Iterable[int], write: Callable[[int, int], str]) -> str:
    """Write a Markdown table with one row per number of arms and one column per number of seeds."""
    seeds = tuple(seeds)
    lines = [("Arms", *(f"{n} seeds" for n in seeds)), ("---",) * (len(seeds) + 1)]
    lines += [(str(k), *(write(k, n) for n in seeds)) for k in arms]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def put_into(page: str, tables: str, start: str = START) -> str:
    """Replace what is between the comment `start` and the next `END`. Raises `ValueError` if the page lacks them."""
    before, _, rest = page.partition(start)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the page lacks {start} and {END}")
    return f"{before}{start}\n\n{tables}\n\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdicts", description=__doc__)
    parser.add_argument("--simulations", type=int, default=20_000, metavar="N", help="simulated studies per cell")
    parser.add_argument("--derive", action="store_true", help="print the table of ablate/analysis/earned_df.py instead")
    parser.add_argument("--page", type=Path, help="page that gets the tables; without it they are printed")
    options = parser.parse_args()
    if options.simulations < 100:
        parser.error("--simulations must be at least 100")
    if options.derive:
        for arms in ARMS:
            earned = tuple(derive(arms, seeds, options.simulations, DERIVING_SEED) for seeds in SEEDS)
            print(f"    {arms}: {earned},", flush=True)
        return
    tables = "\n\n".join(write_tables(options.simulations))
    if options.page:
        options.page.write_text(put_into(options.page.read_text(), tables))
    else:
        print(tables)


if __name__ == "__main__":
    main()
