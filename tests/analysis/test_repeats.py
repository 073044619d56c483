"""A program that ignores its seed trains one run several times; its intervals had a width of nothing."""

from __future__ import annotations

import json
from pathlib import Path

from ablate.analysis.differences import find_differences
from ablate.analysis.results import read_results
from ablate.analysis.speedup import speed_ups
from ablate.report import ReportOptions
from ablate.report.report import make_report
from ablate.tracking.folders import StudyFolder
from benchmarks.synthetic import SyntheticArm, write_study


def make_study(folder: Path, *, reads_seed: bool) -> StudyFolder:
    """A baseline and a faster arm, three seeds each, as the runs of a program."""
    store = StudyFolder(folder)
    write_study(
        store, [SyntheticArm("a", {"x": "a"}, "a"), SyntheticArm("b", {"x": "b"}, "a", speedup=1.5)], noise=0.02
    )
    for run in store.read_study().runs:
        config = store.run(run.run_id).config
        config.write_text(json.dumps({"program": {"command": ["train"]}, "seed": run.seed}))
    first: dict[str, Path] = {}
    for run in () if reads_seed else store.read_study().runs:
        curve = store.run(run.run_id).curve
        curve.write_bytes(first.setdefault(run.arm, curve).read_bytes())
    return store


def test_three_seeds_that_gave_the_same_numbers_were_three_pieces_of_evidence(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", reads_seed=False)
    results = read_results(store)
    assert [run.state for run in results.runs_of("b")] == ["finished", "repeated", "repeated"]
    (row,) = (row for row in speed_ups(results, ["final"]) if row.axis == "steps")
    (difference,) = find_differences(results)
    assert row.ratio is not None
    assert (row.n_pairs, row.low, row.p_value, difference.n, difference.low, difference.p_value) == (
        1,
        *[None] * 2,
        1,
        *[None] * 2,
    )
    said = " ".join(make_report(results, ReportOptions()).answer)
    assert "4 runs with the numbers of another seed are left out" in said


def test_runs_that_read_their_seed_all_count(tmp_path: Path) -> None:
    results = read_results(make_study(tmp_path / "s", reads_seed=True))
    assert {run.state for run in results.runs} == {"finished"}
    (difference,) = find_differences(results)
    assert difference.n == 3
    assert difference.p_value is not None
