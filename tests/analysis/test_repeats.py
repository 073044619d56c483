"""A program that ignores its seed trains one run several times; its intervals had a width of nothing. And reruns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from by_hand import make_results, make_run

from ablate.analysis.curves_parquet import read_archive, write_archive
from ablate.analysis.differences import find_differences
from ablate.analysis.repeats import find_reruns
from ablate.analysis.results import read_results
from ablate.analysis.speedup import speed_ups
from ablate.report import ReportOptions
from ablate.report.report import collect_versions, make_report
from ablate.tracking.folders import StudyFolder
from ablate.tracking.reruns import Rerun
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


def rerun(end: float, step: int = 800, state: str = "finished", deterministic: bool | None = None) -> Rerun:
    return Rerun((1, round(end * 1e6)), state, step, {"step": step, "val_loss": end}, "gpu", deterministic)


def test_reruns_of_an_id_are_compared_at_their_ends() -> None:
    base = replace(
        make_run("base", 0, [9, 8, 7, 3.0]),
        reruns=(rerun(3.024), rerun(2.99), rerun(5, step=400), rerun(9, 800, "failed")),
    )
    found = find_reruns([base, make_run("arm", 0, [9, 8, 7, 2.0])])
    assert found is not None
    assert (found.n_runs, found.n_reruns, found.is_deterministic) == (1, 2, False)
    assert (found.largest, found.mean) == pytest.approx((0.024, 0.017))
    assert find_reruns([make_run("base", 0, [9, 8, 7, 3.0])]) is None


def test_compared_studies_can_have_reruns_too_but_copies_are_none() -> None:
    one = make_run("s: base", 0, [9, 8, 7, 3.0])
    copy, again = replace(one, arm="t: base"), replace(make_run("u: base", 0, [9, 8, 7, 3.01]), run_id=one.run_id)
    assert find_reruns([one, copy]) is None
    found = find_reruns([one, copy, again])
    assert found is not None and found.largest == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("reruns", "words"),
    [
        ((rerun(3.024),), "differs by up to 0.024 nats, because kernels add up in any order"),
        ((rerun(3.0),), "1 run was trained again under the same id, with the same final loss"),
        ((), None),
    ],
)
def test_the_answer_says_how_far_reruns_differ(reruns: tuple[Rerun, ...], words: str | None, tmp_path: Path) -> None:
    runs = [make_run(arm, seed, [9, 8, 7, 3.0 + seed]) for arm in ("base", "arm") for seed in range(2)]
    made = make_report(make_results(replace(runs[0], reruns=reruns), *runs[1:]), ReportOptions())
    text = " ".join(made.answer)
    assert words in text if words else "same id" not in text
    path = tmp_path / "curves.parquet"
    with path.open("wb") as file:
        write_archive(made.results, file)
    assert read_archive(path).runs[0].reruns == reruns


@pytest.mark.parametrize(("mode", "told"), [(True, "yes"), (False, "no"), (None, None)])
def test_the_page_says_whether_gpu_runs_were_deterministic(mode: bool | None, told: str | None) -> None:
    manifest = {"device": {"kind": "cuda", "name": "one"}, **({} if mode is None else {"deterministic": mode})}
    runs = [make_run(arm, seed, [9, 8, 7, 3.0], manifest=manifest) for arm in ("base", "arm") for seed in range(2)]
    assert collect_versions(make_results(*runs)).get("deterministic") == told
