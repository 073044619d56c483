"""Seeds that are added by hand: `ablate run --seeds +N`, and what the report says about looks in between."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ablate.analysis import read_results
from ablate.analysis.peeking import false_positive_rate, find_larger_looks, find_peeks
from ablate.data import CorpusInfo
from ablate.errors import AblateError, GridError
from ablate.execution.jobs import record_study
from ablate.plan import build_plan
from ablate.report import ReportOptions
from ablate.report.report import make_report
from ablate.report.summary import summarize
from ablate.sequential.added_seeds import choose_seeds, extend, parse_added
from ablate.study import load_study
from ablate.tracking.folders import StudyFolder
from ablate.tracking.history import continue_history, list_added, note_look
from ablate.tracking.study_record import HistoryEvent, StudyRecord
from benchmarks.synthetic import SyntheticArm, write_study

Ablate = Callable[..., tuple[int, str, str]]


def event(what: str, n_seeds: int) -> HistoryEvent:
    return HistoryEvent(what, "2026-01-01T00:00:00+00:00", n_seeds)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("history", "peeks", "larger"),
    [
        ([("seeds", 3), ("look", 3)], (), ()),
        ([("seeds", 3), ("look", 2), ("look", 3), ("seeds", 6)], (2, 3), ()),
        ([("seeds", 3), ("look", 3), ("seeds", 6), ("look", 6), ("seeds", 9)], (3, 6), ()),
        ([("seeds", 3), ("seeds", 6), ("look", 6)], (), ()),
        ([("seeds", 6), ("look", 6), ("seeds", 3)], (), (6,)),
        ([("seeds", 3), ("look", 3), ("seeds", 4), ("look", 4), ("seeds", 3), ("look", 3)], (), (4,)),
        ([("seeds", 3), ("look", 3), ("seeds", 6), ("look", 6), ("seeds", 4), ("look", 4)], (3,), (6,)),
        ([("seeds", 4), ("look", 4), ("seeds", 3), ("seeds", 6)], (4,), ()),
        ([("until decided", 12)], (), ()),
        ([("seeds", 3), ("look", 3), ("until decided", 12)], (3,), ()),
        ([("until decided", 12), ("look", 4), ("seeds", 20)], (), ()),
        ([("seeds", 3), ("look", 3), ("until decided", 12), ("seeds", 3)], (), ()),
    ],
)
def test_a_look_counts_if_the_number_of_seeds_changes_after_it(
    history: list[tuple[str, int]], peeks: tuple[int, ...], larger: tuple[int, ...], tmp_path: Path
) -> None:
    record = write_study(StudyFolder(tmp_path / "s"), [SyntheticArm("baseline"), SyntheticArm("b")])
    record = replace(record, history=tuple(event(*entry) for entry in history))
    assert (find_peeks(record), find_larger_looks(record)) == (peeks, larger)


def test_looks_by_hand_find_more_differences_where_there_are_none() -> None:
    once, twice, often = (false_positive_rate(3, looks) for looks in ((6,), (3, 6), (3, 4, 5, 6)))
    assert 0.03 < once < 0.065 < twice < often < 0.15
    assert false_positive_rate(3, (3, 6)) == twice  # a fixed generator
    assert false_positive_rate(3, (1,)) == 0.0


def test_added_seeds_are_new_to_the_study_and_to_its_tuning_and_stay(
    write_grid: Callable[..., Path], corpus_info: CorpusInfo, tmp_path: Path
) -> None:
    tune = {"space": {"train.learning_rate": [1e-3, 1e-2]}, "trials": 2, "seeds": 2}
    plan, store = build_plan(load_study(write_grid(seeds=3, tune=tune)), corpus_info), StudyFolder(tmp_path / "tiny")
    store.write_study(continue_history(record_study(plan, "0", ""), store))
    new = choose_seeds(plan, store, parse_added(plan, "+2"))
    assert new == (5, 6)  # 3 and 4 are those of the trials
    longer = extend(plan, new)
    assert longer.runs[: len(plan.runs)] == plan.runs
    assert [run.seed for run in longer.runs[len(plan.runs) :]] == [5] * 4 + [6] * 4
    store.write_study(continue_history(record_study(longer, "0", ""), store, new))
    assert list_added(store) == (5, 6)
    assert choose_seeds(plan, store, 3) == ()  # these two are trained first
    assert [entry.what for entry in store.read_study().history] == ["seeds", "seeds"]
    record = continue_history(record_study(longer, "0", ""), store)
    assert record.history == store.read_study().history  # the same command again changes nothing
    assert StudyRecord.from_dict(json.loads(json.dumps(record.to_dict()))).history == record.history


@pytest.mark.parametrize("text", ["3", "+0", "+x", "-1", "+", "+ 3", "+99999999"])
def test_what_is_no_number_of_seeds_to_add_is_refused(
    text: str, write_grid: Callable[..., Path], corpus_info: CorpusInfo
) -> None:
    plan = build_plan(load_study(write_grid()), corpus_info)
    with pytest.raises(AblateError, match=r"--seeds .*: write the number of seeds to add as \+N"):
        parse_added(plan, text)


def test_a_grid_with_a_rule_takes_no_seeds_by_hand(write_grid: Callable[..., Path], corpus_info: CorpusInfo) -> None:
    rule = {"at_least": 3, "at_most": 5, "until": "decided"}
    plan = build_plan(load_study(write_grid(seeds=rule)), corpus_info)
    with pytest.raises(GridError, match="seeds: --seeds cannot be used: looks decide"):
        parse_added(plan, "+3")


def test_the_report_says_that_seeds_followed_a_look(
    call_ablate: Ablate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arms = [SyntheticArm("a=x", {"a": "x"}, "a=x"), SyntheticArm("a=y", {"a": "y"}, "a=x", speedup=1.01)]
    store = StudyFolder(tmp_path / "runs" / "made-up")
    first = write_study(store, arms, seeds=range(3), noise=0.02)
    store.write_study(continue_history(first, store))
    assert "Seeds were added" not in call_ablate("report", "made-up", "--no-attach")[1]
    history = store.read_study().history
    assert [(entry.what, entry.n_seeds) for entry in history] == [("seeds", 3), ("look", 3)]
    note_look(store, 3)  # the same look again
    assert store.read_study().history == history
    more = replace(write_study(store, arms, seeds=range(6), noise=0.02), history=history)
    store.write_study(more)
    store.write_study(continue_history(more, store))
    report = make_report(read_results(store), ReportOptions())
    rate, once = 100 * false_positive_rate(1, (3, 6)), 100 * false_positive_rate(1, (6,))
    told = " ".join(report.answer)
    assert "Seeds were added after a look at the results of 3 seeds. Verdicts, intervals" in told
    assert f"{rate:.1f} % of simulated studies that have none, instead of {once:.1f} %" in told
    assert summarize(report)["peeks"] == [3]
    fewer = write_study(store, arms, seeds=range(3), noise=0.02)
    store.write_study(replace(fewer, history=(*more.history, event("seeds", 6), event("look", 6))))
    store.write_study(continue_history(fewer, store))
    told = " ".join(make_report(read_results(store), ReportOptions()).answer)
    assert "A report of 6 seeds was seen before. This one has 3: it leaves some out. Verdicts, intervals" in told
    assert "Seeds were added" not in told
    rate, once = 100 * false_positive_rate(1, (3, 6)), 100 * false_positive_rate(1, (3,))
    assert f"{rate:.1f} % of simulated studies that have none, instead of {once:.1f} %" in told
