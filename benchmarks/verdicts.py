"""Measure by simulation how often verdicts on arms are wrong, and how often they find a difference.

The tables are Markdown. `--page` puts them into a page, between the two comments that mark their place.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ablate.analysis.earned_df import BORROWED_DF, SEEDS
from ablate.analysis.moderated import earned_df
from benchmarks.derive import derive, derive_loan
from benchmarks.families import (
    COVERAGE,
    EARLIER_SEEDS,
    EFFECT,
    EVERY_SCENARIO,
    JOINT,
    MOST_ERRORS,
    MOST_FALSE_EQUIVALENCE,
    SPREADS,
    Cell,
    Rates,
    Scenario,
    measure,
    measure_plan,
    measure_unmatched,
)

ARMS = (*range(1, 14), 20)
EARLIER, LOAN_ARMS, LOAN_SEEDS = (1, 2, 3, 6, 13), range(1, 7), range(2, 6)  # where arms of earlier studies may help
SHOWN_ARMS, SHOWN_SEEDS = (1, 3, 6, 13), (2, 3, 5, 10)
SEED, DERIVING_SEED = 2, 1  # the table is derived and checked by different simulations
START, END = "<!-- tables of benchmarks.verdicts -->", "<!-- end of the tables -->"


def measure_all(n: int) -> dict[tuple[int, int], list[Cell]]:
    """Measure each number of arms and seeds in every scenario."""
    return {
        (arms, seeds): [measure(arms, seeds, scenario, n, SEED) for scenario in EVERY_SCENARIO]
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
        place = EVERY_SCENARIO.index(scenario)
        return tabulate_all(lambda group: f"{group[place].holm_power:.2f} / {group[place].power:.2f}")

    yield "**Degrees of freedom that moderation adds.** An empty cell uses the ordinary t."
    yield _tabulate(ARMS, SEEDS, lambda arms, seeds: f"{earned_df(arms, seeds) or ''}".removesuffix(".0"))
    yield "**Family-wise error rate**, worst scenario. The joint coverage of simultaneous intervals is one minus it."
    yield tabulate_all(lambda group: f"{max(cell.error for cell in group):.3f}")
    yield "**Coverage of plain 95 % intervals**, lowest and highest of the scenarios."
    yield tabulate_all(lambda group: _span([cell.coverage for cell in group]))
    yield "**False equivalence**: how often an arm that differs by exactly the smallest effect is called equivalent."
    yield tabulate_all(lambda group: f"{max(cell.false_equivalence for cell in group):.3f}")
    yield from _write_loans(n)
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


def _write_loans(n: int) -> Iterator[str]:
    """The tables of tests that use arms of earlier studies, over all numbers of them that are used."""
    cells = {
        (arms, seeds): {
            earlier: [measure(arms, seeds, scenario, n, SEED, earlier) for scenario in EVERY_SCENARIO]
            for earlier in (0, *BORROWED_DF[arms][seeds])
        }
        for arms in LOAN_ARMS
        for seeds in LOAN_SEEDS
    }
    used = {key: [cell for e, group in found.items() if e for cell in group] for key, found in cells.items()}
    failed = [cell for group in used.values() for cell in group if not cell.passes]

    def tabulate(write: Callable[[tuple[int, int]], str]) -> str:
        return _tabulate(LOAN_ARMS, LOAN_SEEDS, lambda arms, seeds: write((arms, seeds)))

    def average(cells: Sequence[Cell]) -> float:
        return sum(cell.power for cell in cells if cell.scenario in map(Scenario, SPREADS)) / len(SPREADS)

    listed = ", ".join(map(str, EARLIER))
    yield (
        f"**With the noise floor of {listed} arms of earlier studies**, each with {EARLIER_SEEDS} seeds: how many of "
        f"these numbers are used. {f'{len(failed)} measurements break' if failed else 'Every cell keeps'} the limits."
    )
    yield from (f"Fails: {cell}" for cell in failed)
    yield tabulate(lambda key: ", ".join(map(str, BORROWED_DF[key[0]][key[1]])) or "none")
    yield "**Noise floor**: family-wise error rate, worst scenario and number of earlier arms."
    yield tabulate(lambda key: f"{max(cell.error for cell in used[key]):.3f}" if used[key] else "")
    yield "**Noise floor**: coverage of plain 95 % intervals, lowest and highest."
    yield tabulate(lambda key: _span([cell.coverage for cell in used[key]]) if used[key] else "")
    yield "**Noise floor**: false equivalence, worst scenario and number of earlier arms."
    yield tabulate(lambda key: f"{max(cell.false_equivalence for cell in used[key]):.3f}" if used[key] else "")
    yield (
        f"**Noise floor**: power for a difference of {EFFECT:g} standard deviations, mean of the spreads, without it / "
        "with the fewest / with the most earlier arms."
    )
    yield tabulate(lambda key: " / ".join(f"{average(cells[key][e]):.2f}" for e in _find_ends(cells[key])))


def _find_ends(known: Iterable[int]) -> list[int]:
    """0, the smallest other number, and the largest."""
    zero, *others = sorted(known)
    return [zero, *([others[0], others[-1]] if others else [])]


def _write_rates(rates: Rates) -> str:
    return f"{rates.error:.3f} / {rates.coverage:.3f}"


def _describe_limits(n: int, n_failed: int) -> str:
    low, high = COVERAGE
    return (
        f"{n:,} simulated studies per cell in each of {len(EVERY_SCENARIO)} scenarios. "
        f"{f'{n_failed} measurements break' if n_failed else 'Every cell keeps'} the limits: at most {MOST_ERRORS} "
        f"family-wise errors, a coverage of {low} to {high} for plain intervals, and of at least {JOINT} for "
        f"simultaneous ones, and at most {MOST_FALSE_EQUIVALENCE} false equivalence: 5 % and simulation error."
    )


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.3f} to {max(values):.3f}"


def _tabulate(arms: Iterable[int], seeds: Iterable[int], write: Callable[[int, int], str]) -> str:
    """Write a Markdown table with one row per number of arms and one column per number of seeds."""
    seeds = tuple(seeds)
    lines = [("Arms", *(f"{n} seeds" for n in seeds)), ("---",) * (len(seeds) + 1)]
    lines += [(str(k), *(write(k, n) for n in seeds)) for k in arms]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def print_derived(n: int) -> None:
    """Print the tables of `earned_df`."""
    found = {arms: [derive(arms, seeds, n, DERIVING_SEED) for seeds in SEEDS] for arms in ARMS}
    for place, name in enumerate(("EARNED_DF", "EQUIVALENCE_DF")):
        print(f"{name}: Mapping[int, tuple[float, ...]] = {{")
        print(*(f"    {arms}: {tuple(cell[place] for cell in row)}," for arms, row in found.items()), "}", sep="\n")
    loans = {
        arms: {
            seeds: {
                earlier: loan
                for earlier in EARLIER
                if (loan := derive_loan(arms, seeds, earlier, n, DERIVING_SEED)) is not None
            }
            for seeds in LOAN_SEEDS
        }
        for arms in LOAN_ARMS
    }
    print(f"BORROWED_DF: Mapping[int, Mapping[int, Mapping[int, tuple[float, float, float]]]] = {loans}")


def put_into(page: str, tables: str, start: str = START, end: str = END) -> str:
    """Replace what is between the comment `start` and the next `end`. Raises `ValueError` if the page lacks them."""
    before, _, rest = page.partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"the page lacks {start} and {end}")
    return f"{before}{start}\n\n{tables}\n\n{end}{after}"


def show(tables: Iterable[str], page: Path | None, start: str = START) -> None:
    """Write tables to their place in a page, or print them without one."""
    text = "\n\n".join(tables)
    if page is None:
        print(text)
    else:
        page.write_text(put_into(page.read_text(), text, start))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdicts", description=__doc__)
    parser.add_argument("--simulations", type=int, default=20_000, metavar="N", help="simulated studies per cell")
    parser.add_argument("--derive", action="store_true", help="print the table of ablate/analysis/earned_df.py instead")
    parser.add_argument("--page", type=Path, help="page that gets the tables; without it they are printed")
    options = parser.parse_args()
    if options.simulations < 100:
        parser.error("--simulations must be at least 100")
    if options.derive:
        print_derived(options.simulations)
        return
    show(write_tables(options.simulations), options.page)


if __name__ == "__main__":
    main()
