"""A study of more arms than a chart or a terminal can show."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.analysis import read_results
from ablate.report import ReportOptions, format_table
from ablate.report.chart_parts import MOST_LINES, choose_lines
from ablate.report.curve_charts import chart_curves
from ablate.report.evaluation_tables import MOST_ROWS
from ablate.report.ratio_charts import chart_ladder
from ablate.report.report import Report, make_report
from ablate.report.tables import tabulate_speedups
from ablate.tracking.folders import StudyFolder
from benchmarks.synthetic import BASELINE, SyntheticArm, write_study

N_ARMS = MOST_LINES + 3


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Arms of which each is better than the one before it."""
    store = StudyFolder(Path(tmp_path_factory.mktemp("many")) / "many")
    others = [SyntheticArm(f"kind={i}", {"kind": i}, speedup=1 + i / 10) for i in range(1, N_ARMS)]
    write_study(store, [SyntheticArm(BASELINE, {"kind": 0}), *others], seeds=(0, 1), n_steps=40, noise=0.001)
    return make_report(read_results(store), ReportOptions())


def test_charts_show_the_best_arms_and_their_baselines(report: Report) -> None:
    best = {BASELINE, *(f"kind={i}" for i in range(N_ARMS - MOST_LINES, N_ARMS))}
    results, note = choose_lines(report)
    assert set(results.arms) == best and len(results.runs) == 2 * len(best)
    for chart, expected in ((chart_curves(report), best), (chart_ladder(report), best - {BASELINE})):
        rows = [row for rows in chart.data.values() for row in rows]
        assert {row["arm"] for row in rows if "arm" in row} == expected
        assert note and chart.caption.endswith(note)


def test_the_terminal_shows_the_first_rows_and_the_page_all(report: Report) -> None:
    assert len(tabulate_speedups(report).rows) == N_ARMS - 1
    shown = format_table(report)
    assert f"kind={MOST_ROWS}" in shown and f"kind={MOST_ROWS + 1}" not in shown
    assert f"Not shown: {N_ARMS - 1 - MOST_ROWS} rows. The page has them all." in " ".join(shown.split())
