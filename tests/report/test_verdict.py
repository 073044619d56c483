"""The verdict is one sentence, and wall-clock time gets another one only if it says something else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ablate.report import Report, ReportOptions
from ablate.report.report import make_report
from ablate.report.text_plot import plot_differences
from ablate.report.write import read_study
from ablate.tracking.folders import StudyFolder
from benchmarks.synthetic import SyntheticArm, write_study


def report_on(folder: Path, *arms: tuple[str, float, float], seeds: Sequence[int] = range(3)) -> Report:
    """A study of arms, each with its name, speedup and seconds per step, against a baseline of 0.1 s per step."""
    baseline = SyntheticArm("baseline", {"kind": "base"})
    others = [SyntheticArm(name, {"kind": name}, speedup=speedup, step_s=step_s) for name, speedup, step_s in arms]
    write_study(StudyFolder(folder / "s"), [baseline, *others], seeds, noise=0.005)
    return make_report(read_study(StudyFolder(folder / "s")), ReportOptions())


def test_one_arm_that_is_better_and_slower(tmp_path: Path) -> None:
    verdict, time = report_on(tmp_path, ("new", 1.5, 0.3)).verdict
    assert verdict.startswith("Better: new ends at a clearly lower final loss than base: -0.1")
    assert time.startswith("In wall-clock time, new is clearly slower: 0.50x [")


@pytest.mark.parametrize(
    ("arms", "sentence"),
    [
        ([("a", 1.5, 0.1), ("b", 1.4, 0.1)], None),
        ([("a", 1.5, 0.2), ("b", 1.4, 0.2)], "In wall-clock time, none of the 2 arms is clearly faster."),
        ([("a", 1.5, 0.1), ("b", 1.4, 0.2)], "In wall-clock time, 1 of 2 arms is clearly faster: a, 1.5"),
        (
            [("a", 1.5, 0.1), ("b", 1.6, 0.1), ("c", 1.4, 0.2)],
            "In wall-clock time, 2 of 3 arms are clearly faster; the fastest is b, 1.6",
        ),
    ],
)
def test_several_arms(tmp_path: Path, arms: list[tuple[str, float, float]], sentence: str | None) -> None:
    report = report_on(tmp_path, *arms)
    assert (
        f"In final loss, {'both' if len(arms) == 2 else 'all 3'} arms are better than the baseline; the best is "
        in (report.verdict[0])
    )
    assert report.verdict[1:] == () if sentence is None else report.verdict[1].startswith(sentence)


def test_an_arm_that_is_not_better_is_not_called_the_best(tmp_path: Path) -> None:
    report = report_on(tmp_path, ("a", 0.8, 0.2), ("b", 0.7, 0.2))
    first = report.verdict[0]
    assert "the best estimate, of a, is +" in first and "the best is" not in first


def test_one_seed_and_no_comparison_are_no_claims(tmp_path: Path) -> None:
    (verdict,) = report_on(tmp_path / "one", ("new", 1.5, 0.1), seeds=(0,)).verdict
    assert verdict.endswith("One pair of runs gives no interval and decides nothing.")
    assert report_on(tmp_path / "none").verdict == (
        "The only arm, base, ends at a validation loss of 4.1442 (3 seeds).",
    )


def test_the_plot_in_the_terminal_puts_each_interval_where_it_is(tmp_path: Path) -> None:
    report = report_on(tmp_path, ("better", 1.5, 0.1), ("worse", 0.8, 0.1))
    first, second, ends = plot_differences(report, 60)
    assert [line.split()[0] for line in (first, second)] == ["better", "worse"]
    assert first.index("●") < first.index("│") == second.index("│") < second.index("●")
    low, _, high = ends.split()
    assert float(low) == pytest.approx(report.differences[0].low_simultaneous, rel=0.01)
    assert float(high) == pytest.approx(report.differences[1].high_simultaneous, rel=0.01)
    assert plot_differences(report, 20) == []
