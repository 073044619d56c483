"""Which runs are left to train, their order, and their estimated time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ablate.data import CorpusInfo, describe
from ablate.execution.jobs import (
    config_of,
    count_states,
    estimate_seconds,
    explain_unused,
    find_unfinished,
    order,
    record_study,
)
from ablate.execution.run import Options, run_study
from ablate.execution.view import View
from ablate.plan import Plan, build_plan
from ablate.plan.estimate import Pace
from ablate.study import load_study
from ablate.tracking.folders import StudyFolder
from ablate.tracking.json_files import write_json
from ablate.tracking.study_record import Status

PACE = Pace(flops_per_s=1e9, bytes_per_s=1e9)


@pytest.fixture
def plan(write_grid: Callable[..., Path], tmp_path: Path) -> Plan:
    study = load_study(write_grid(matrix={"model.n_layers": [1, 3, 2]}, baseline={}, seeds=2))
    return build_plan(study, describe(study.data, tmp_path))


def write(store: StudyFolder, run_id: str, status: Status) -> None:
    store.run(run_id).path.mkdir(parents=True, exist_ok=True)
    store.run(run_id).write_status(status)


def test_longest_first_within_a_seed_and_seeds_one_after_another(plan: Plan, tmp_path: Path) -> None:
    runs = order(plan.runs, estimate_seconds(plan, StudyFolder(tmp_path), PACE))
    assert [(run.seed, run.arm.model.n_layers) for run in runs] == [(0, 3), (0, 2), (0, 1), (1, 3), (1, 2), (1, 1)]
    equal = order(plan.runs, dict.fromkeys((arm.name for arm in plan.arms), 1.0))
    assert equal == list(plan.runs)


def test_the_level_that_is_held_out_is_trained_last(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    study = load_study(
        write_grid(
            matrix={"normalization": ["prenorm", "ngpt"], "model.n_layers": [1, 3, 2]},
            baseline={"normalization": "prenorm"},
            compare_within=["model.n_layers"],
            predict={"axis": "model.n_layers", "held_out": "largest"},
            seeds=2,
        )
    )
    plan = build_plan(study, describe(study.data, tmp_path))
    runs = order(plan.runs, estimate_seconds(plan, StudyFolder(tmp_path), PACE), plan.held_out)
    assert [run.arm.model.n_layers for run in runs] == [2, 2, 1, 1, 2, 2, 1, 1, 3, 3, 3, 3]


def test_estimates_come_from_finished_runs(plan: Plan, tmp_path: Path) -> None:
    store = StudyFolder(tmp_path)
    guessed = estimate_seconds(plan, store, PACE)
    one, three, two = (arm.name for arm in plan.arms)
    for run in plan.runs:
        if run.arm.name == three:
            took = 30.0 + run.seed
            write(store, run.run_id, Status("finished", step=12, n_steps=12, took_s=took))
    measured = estimate_seconds(plan, store, PACE)
    assert measured[three] == 30.5
    for name in (one, two):  # not measured: its estimate is off by the same factor as the measured arm's
        assert measured[name] == pytest.approx(guessed[name] * 30.5 / guessed[three])


def test_a_run_that_was_cut_says_nothing_of_the_time(plan: Plan, tmp_path: Path) -> None:
    store = StudyFolder(tmp_path)
    write(store, plan.runs[0].run_id, Status("finished", step=3, n_steps=12, took_s=1000.0))
    assert estimate_seconds(plan, store, PACE) == estimate_seconds(plan, StudyFolder(tmp_path / "none"), PACE)


def test_finished_runs_under_other_settings_are_named(
    plan: Plan, write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    store = StudyFolder(tmp_path / "study")
    assert explain_unused(plan, store) == ""
    for run in plan.runs[:2]:
        write(store, run.run_id, Status("finished", step=12, n_steps=12))
        write_json(store.run(run.run_id).config, config_of(plan, run))
    store.write_study(record_study(plan, "1", ""))
    assert explain_unused(plan, store) == ""

    def plan_with(**grid: Any) -> Plan:
        study = load_study(write_grid(baseline={}, **grid))
        return build_plan(study, describe(study.data, tmp_path))

    assert explain_unused(plan_with(matrix={"model.n_layers": [1, 4]}, seeds=[7]), store) == ""
    other = plan_with(
        matrix={"model.n_layers": [3, 2, 1]}, seeds=2, train={**plan.study.settings["train"], "steps": 13}
    )
    assert explain_unused(other, store) == (
        "2 finished runs of this study do not count under the settings of this grid: train.steps was 12 and is 13"
    )


def test_what_is_left(plan: Plan, tmp_path: Path) -> None:
    store = StudyFolder(tmp_path)
    states = (
        Status("finished", step=12, n_steps=12),
        Status("diverged", step=3, n_steps=12),
        Status("failed"),
        Status("running"),
        Status("finished", step=3, n_steps=12),
    )
    for run, status in zip(plan.runs, states, strict=False):
        write(store, run.run_id, status)
    assert find_unfinished(plan, store) == list(plan.runs[2:])
    assert find_unfinished(plan, store, keeps_cut=lambda _: True) == [*plan.runs[2:4], plan.runs[5]]
    assert find_unfinished(plan, store, failed_only=True) == [plan.runs[2]]


def test_where_nothing_failed_the_states_are_told_as_they_are(plan: Plan, tmp_path: Path) -> None:
    store = StudyFolder(tmp_path / "runs" / "s")
    for run, state in zip(plan.runs, ("finished", "diverged", "queued"), strict=False):
        write(store, run.run_id, Status(state, step=12, n_steps=12))
    options = Options(f"sqlite:///{tmp_path}/none.db", retry_failed=True)
    mirrored: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ablate.execution.run.MlflowMirror", lambda uri, *_: mirrored.append(uri) or Mirrored())
        outcome = run_study(plan, store, tmp_path, options, Console(quiet=True), View(Console(quiet=True)))
    assert outcome.states == {"finished": 1, "diverged": 1, "queued": 4}
    assert not outcome.interrupted
    assert mirrored == [options.tracking_uri]


class Mirrored:
    """Replaces an MLflow that already has everything."""

    behind = None

    def close(self) -> None: ...


def test_the_record_tells_arms_apart_by_what_decides_their_results(write_grid, corpus_info: CorpusInfo) -> None:
    """A merge of two parts with different seeds has no other way to see that a rule differs."""

    def identities(**changes: Any) -> list[str]:
        plan = build_plan(load_study(write_grid(**changes)), corpus_info)
        return [arm.identity for arm in record_study(plan, "0", "").arms]

    rule = {"when": "normalization == 'ngpt'", "set": {"train.learning_rate": 3e-2}}
    plain, ruled = identities(), identities(seeds=[7], rules=[rule])
    assert [one == other for one, other in zip(plain, ruled, strict=True)] == [True, False, True, False]
    assert identities(rules=[{**rule, "set": {"train.compile": True}}]) == plain


def test_runs_that_a_rule_cut_were_counted_as_finished(tmp_path: Path) -> None:
    store = StudyFolder(tmp_path)
    write(store, "whole", Status("finished", step=12, n_steps=12))
    write(store, "cut", Status("finished", step=5, n_steps=12))
    write(store, "lost", Status("running", step=5, n_steps=12))
    assert count_states(store, ["whole", "cut", "lost"], {"lost"}) == {"finished": 1, "stopped early": 1, "failed": 1}
