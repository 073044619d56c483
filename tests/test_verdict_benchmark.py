"""The verdicts keep their error rates in simulated studies, and the tables on the page come from the benchmark."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from ablate.analysis.earned_df import EARNED_DF, SEEDS
from benchmarks.families import COVERAGE, EVERY_SCENARIO, MOST_ERRORS, MOST_FALSE_EQUIVALENCE, Cell, Scenario, measure
from benchmarks.verdicts import ARMS, END, START, put_into

PAGE = Path(__file__).parents[1] / "docs" / "statistics.md"
N = 4_000
SLACK = 3 * math.sqrt(0.065 * 0.935 / N)  # three standard errors of a rate


def check(n_arms: int, n_seeds: int, scenario: Scenario, n_earlier: int = 0) -> Cell:
    cell = measure(n_arms, n_seeds, scenario, N, 11, n_earlier)
    assert cell.error <= MOST_ERRORS + SLACK, cell
    assert COVERAGE[0] - SLACK <= cell.coverage <= COVERAGE[1] + SLACK, cell
    assert cell.false_equivalence <= MOST_FALSE_EQUIVALENCE + SLACK / 2, cell
    return cell


@pytest.mark.parametrize(("n_arms", "n_seeds"), [(1, 3), (2, 3), (3, 3), (6, 2), (6, 3), (13, 3), (13, 5)])
def test_verdicts_hold_their_level_at_every_spread(n_arms: int, n_seeds: int) -> None:
    for scenario in EVERY_SCENARIO:
        check(n_arms, n_seeds, scenario)


def test_three_seeds_and_13_arms_find_three_times_as_much_as_holms_paired_t() -> None:
    cell = check(13, 3, Scenario(0.5))
    assert cell.power >= 3 * cell.holm_power > 0


def test_the_table_covers_what_was_simulated() -> None:
    assert tuple(EARNED_DF) == ARMS
    assert all(len(row) == len(SEEDS) for row in EARNED_DF.values())


def test_the_page_has_the_table_of_the_code_and_every_cell_keeps_the_limits() -> None:
    page = PAGE.read_text()
    assert "Every cell keeps the limits" in page and "20,000 simulated studies" in page
    _, _, table = page.partition("Degrees of freedom that moderation adds")
    rows = re.findall(r"^\| (\d+) \|(.*)\|$", table, re.MULTILINE)[: len(ARMS)]
    told = {int(arms): tuple(float(cell.strip() or 0) for cell in cells.split("|")) for arms, cells in rows}
    assert told == dict(EARNED_DF)


def test_tables_go_between_the_two_comments() -> None:
    assert put_into(f"a\n{START}\nold\n{END}\nb", "new") == f"a\n{START}\n\nnew\n\n{END}\nb"
    with pytest.raises(ValueError, match="lacks"):
        put_into("a", "new")


def test_earlier_studies_help_a_single_arm_and_keep_its_level() -> None:
    for scenario in EVERY_SCENARIO:
        check(1, 2, scenario, 3)
    assert check(1, 3, Scenario(0.5), 2).power > check(1, 3, Scenario(0.5)).power + 0.1
