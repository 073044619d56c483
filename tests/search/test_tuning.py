"""A grid's `tune:`: equal trials for every arm, the matrix at each arm's best, and the facts for the report."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pretended import ALPHA, RATE, quadratic, train
from rich.console import Console

from ablate.cli.inputs import read_plan
from ablate.cli.search import read_trials
from ablate.data import CorpusInfo
from ablate.errors import GridError, ResourceError
from ablate.execution.jobs import make_job, record_study
from ablate.execution.placement import Placement
from ablate.execution.progress import Outcome
from ablate.execution.run import Options, run_study
from ablate.execution.view import View
from ablate.plan import Plan, build_plan
from ablate.plan.estimate import Pace
from ablate.search.conclusions import state_conclusions
from ablate.search.cost import describe_tuning
from ablate.search.follow_up import describe_arm, plan_tuned
from ablate.search.optimizer import JOURNAL
from ablate.search.pose import pose_tuning
from ablate.search.result import summarize
from ablate.search.run import tune_study
from ablate.search.trials import Trials
from ablate.study import load_study
from ablate.tracking.folders import StudyFolder

SPACE = {RATE: {"low": 1e-4, "high": 1e-1, "log": True}, ALPHA: {"low": 0.005, "high": 0.5, "log": True}}


def test_every_arm_gets_the_same_trials_and_trains_at_its_best(
    write_grid, corpus_info: CorpusInfo, tmp_path: Path
) -> None:
    study = load_study(write_grid(seeds=2, tune={"space": SPACE, "trials": 5, "budget": 6}))
    problem = pose_tuning(study, corpus_info)
    assert problem.name == "tiny-tune"
    assert not set(problem.seeds) & set(study.seeds)
    trials = Trials(problem, StudyFolder(tmp_path / "runs" / problem.name))
    assert len(train(trials)) == 4 * 5
    assert {run.arm.train.steps for run in trials.plan.runs} == {6}
    plan = plan_tuned(problem, study, trials)
    assert [arm.name for arm in plan.arms] == [arm.name for arm in build_plan(study, corpus_info).arms]
    for arm in plan.arms:
        tried = [run.arm for run in trials.plan.runs if run.arm.name.startswith(f"{arm.name},trial=")]
        best = min(tried, key=lambda trial: quadratic(next(r for r in trials.plan.runs if r.arm is trial)))
        assert len(tried) == 5
        assert arm.train.learning_rate == best.train.learning_rate
        assert arm.train.steps == 12
        told = plan.tuning["arms"][arm.name]
        assert told["trials"] == 5
        assert set(told["space"]) == ({RATE, ALPHA} if arm.axes["normalization"] == "ngpt" else {RATE})
        job = make_job(plan, plan.runs[0], Placement(1, 0, 1), {})
        assert job.manifest["tuning_trials"] == 5
    assert record_study(plan, "0", "").tuning == plan.tuning


RATES = [1e-3, 3e-3, 1e-2, 3e-2]


def test_a_grid_tries_every_value_once_in_pieces_and_may_become_wider(
    write_grid, corpus_info: CorpusInfo, tmp_path: Path
) -> None:
    def pose(rates: list[float], n_trials: int | None = None) -> Trials:
        tune = {"space": {RATE: rates}, "trials": n_trials or len(rates), "sampler": "GridSampler"}
        problem = pose_tuning(load_study(write_grid(tune=tune)), corpus_info)
        return Trials(problem, StudyFolder(tmp_path / "runs" / "tiny-tune"))

    assert len(train(pose(RATES[:3]), limit=5)) == 5
    assert len(train(pose(RATES[:3]))) == 4 * 3 - 5
    narrow = pose(RATES[:3])
    assert not train(narrow)
    edges = [describe_arm(narrow, search)["at_edge"] for search in narrow.searches]
    assert edges == [[RATE]] * 4  # the best of the three is the last: the optimum is at 1e-2
    ended = train(pose(RATES), limit=1)
    (tmp_path / "runs" / "tiny-tune" / JOURNAL).unlink()  # as on the machine that merged the runs
    ended = [*ended, *train(pose(RATES))]
    assert {run.arm.train.learning_rate for run in ended} == {3e-2}
    assert len(ended) == 4
    wide = pose(RATES)
    assert [sorted(t.params[RATE] for t in search.trials) for search in wide.searches] == [RATES] * 4
    assert describe_arm(wide, wide.searches[0])["at_edge"] == []
    with pytest.raises(GridError, match="with other `space`"):
        pose(RATES[:3])


def test_the_page_of_the_trials_tells_horizons_edges_and_what_comes(
    write_grid, corpus_info: CorpusInfo, tmp_path: Path
) -> None:
    matrix = {"normalization": ["prenorm", "ngpt"], "train.steps": [12, 24]}
    tune = {"space": {RATE: [1e-4, 1e-3, 1e-2]}, "trials": 3, "sampler": "GridSampler"}
    study = load_study(write_grid(matrix=matrix, baseline=None, compare_within=["train.steps"], tune=tune))
    problem = pose_tuning(study, corpus_info)
    trials = Trials(problem, StudyFolder(tmp_path / "runs" / problem.name))
    train(trials)
    sentences = state_conclusions(summarize(problem, trials, trials.store, "0"))
    assert sentences[0].startswith("The study trains each arm with its best settings and other seeds")
    assert "prenorm / 12: trial 2 was the best of 3 (" in sentences[1]
    assert sentences[1].endswith("At the edge of its range: train.learning_rate.")
    assert "12 steps of 4 sequences (768 tokens) and 24 steps of 4 sequences (1,536 tokens)" in sentences[-1]


def test_trials_that_are_over_need_no_machine_for_more(write_grid, corpus_info: CorpusInfo, tmp_path: Path) -> None:
    """As after merging archives from a larger machine. New runs are refused before anything is written."""
    tune = {"space": {RATE: RATES[:2]}, "trials": 2, "sampler": "GridSampler"}
    study = load_study(write_grid(tune=tune, resources={"cpus": 1000}))
    options, console = Options(f"sqlite:///{tmp_path}/mlflow.db"), Console(quiet=True)

    def go_on(runs: Path) -> tuple[Outcome, Plan | None]:
        return tune_study(study, corpus_info, runs, tmp_path, options, console, View(console, quiet=True))

    with pytest.raises(ResourceError, match="1000 CPU and 0 GPU cannot be placed"):
        go_on(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    trials = Trials(pose_tuning(study, corpus_info), StudyFolder(tmp_path / "runs" / "tiny-tune"))
    train(trials)
    del trials
    outcome, plan = go_on(tmp_path / "runs")
    assert outcome.exit_code == 0
    assert plan is not None


def test_a_package_that_the_page_needs_ended_the_run_after_its_trials(
    write_grid, corpus_info: CorpusInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study(write_grid(tune={"space": {RATE: RATES[:2]}, "trials": 2, "sampler": "GridSampler"}))
    trials = Trials(pose_tuning(study, corpus_info), StudyFolder(tmp_path / "runs" / "tiny-tune"))
    train(trials)
    del trials
    monkeypatch.setitem(sys.modules, "altair", None)
    said, quiet = Console(file=io.StringIO(), width=300), Console(quiet=True)
    view = View(quiet, quiet=True)
    outcome, plan = tune_study(study, corpus_info, tmp_path / "runs", tmp_path, Options(""), said, view)
    assert outcome.exit_code == 0 and plan is not None
    (line,) = [line for line in said.file.getvalue().splitlines() if "page" in line]
    assert line.startswith("the page of the trials was not written (import of altair halted")
    assert line.endswith("the same command writes it")
    monkeypatch.undo()
    tune_study(study, corpus_info, tmp_path / "runs", tmp_path, Options(""), said, view)
    assert (tmp_path / "runs" / "tiny-tune" / "report" / "search.html").exists()


def test_trials_are_not_cut_by_the_rule_of_the_matrix(
    write_grid, corpus_info: CorpusInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules: list[str | None] = []

    def run_study(*arguments: Any, **_: object) -> Outcome:
        rules.extend(given.early_stop for given in arguments if isinstance(given, Options))
        return Outcome({}, interrupted=False)

    monkeypatch.setattr("ablate.search.run.run_study", run_study)
    study, console = load_study(write_grid(tune={"space": SPACE, "trials": 2})), Console(quiet=True)
    options = Options("", early_stop="patience=1")
    tune_study(study, corpus_info, tmp_path / "runs", tmp_path, options, console, View(console, quiet=True))
    assert rules == [None]
    with pytest.raises(GridError, match="--early-stop median: no such rule"):
        replace(options, early_stop="median")  # before the trials, not after them


def test_a_trial_that_was_cut_is_over_whatever_the_pruner_is_later(
    write_grid, corpus_info: CorpusInfo, tmp_path: Path
) -> None:
    """Training it to its end would cost time, and its value would never be used."""
    study = load_study(write_grid(tune={"space": SPACE, "trials": 2}, resources={"cpus": 1000}))
    trials = Trials(pose_tuning(study, corpus_info), StudyFolder(tmp_path / "runs" / "tiny-tune"))
    folder = trials.store.run(train(trials)[-1].run_id)
    folder.write_status(replace(folder.read_status(), step=4))
    problem, console = trials.problem, Console(quiet=True)
    arguments = (Options(f"sqlite:///{tmp_path}/mlflow.db"), console, View(console, quiet=True))
    outcome = run_study(trials.plan, trials.store, tmp_path, *arguments, source=Trials(problem, trials.store))
    assert outcome.exit_code == 0  # nothing was placed on the 1000 cores


def test_the_plan_tells_the_cost_of_the_trials_that_are_left(
    write_grid, corpus_info: CorpusInfo, tmp_path: Path
) -> None:
    problem = pose_tuning(load_study(write_grid(tune={"space": SPACE, "trials": 5, "seeds": 2})), corpus_info)
    store = StudyFolder(tmp_path / "runs" / problem.name)

    def describe() -> str:
        return "\n".join(describe_tuning(Trials(problem, store, is_read_only=True), 1, Pace(1e9, 1e9)))

    assert "5 trials for each of 4 arms, 40 more runs, about" in describe()
    assert f"{RATE} 0.0001 to 0.1, log" in describe()
    assert "not for attention=standard,normalization=prenorm" in describe()
    assert not store.path.exists()
    searching = Trials(problem, store)
    train(searching, limit=11)
    before = {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
    assert "5 of 20 are done, 29 more runs, about" in describe()  # and one of two seeds of the sixth trial
    assert {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()} == before
    train(searching)
    assert "20 of 20 are done, none is left; each arm above is at its best" in describe()


def test_the_plan_shows_the_runs_at_the_best_settings_when_the_trials_are_over(write_grid, tmp_path: Path) -> None:
    """Their ids are others than those of the untuned arms, so finished runs would not count as done."""
    grid, runs = write_grid(tune={"space": {RATE: SPACE[RATE]}, "trials": 2}), tmp_path / "runs"
    planned = read_plan(grid, runs, None, None)
    assert read_trials(planned, runs)[1] is planned
    problem = pose_tuning(planned.grid, planned.corpus)
    trials = Trials(problem, StudyFolder(runs / problem.name))
    train(trials)
    best = plan_tuned(problem, planned.grid, trials)
    assert best.runs != planned.runs
    assert read_trials(planned, runs)[1].runs == best.runs


def test_an_arm_that_is_added_is_tuned_alone(write_grid, corpus_info: CorpusInfo, tmp_path: Path) -> None:
    def pose(*levels: str) -> Trials:
        tune = {"space": {RATE: SPACE[RATE]}, "trials": 2}
        grid = write_grid(tune=tune, matrix={"normalization": list(levels)}, baseline=None)
        return Trials(pose_tuning(load_study(grid), corpus_info), StudyFolder(tmp_path / "runs" / "tiny-tune"))

    assert len(train(pose("prenorm"))) == 2
    assert {run.arm.axes["normalization"] for run in train(pose("prenorm", "ngpt"))} == {"ngpt"}


def test_an_arm_that_another_one_stands_for_is_not_trained_untuned(
    write_grid, corpus_info: CorpusInfo, tmp_path: Path
) -> None:
    """AdamW does not read Muon's momentum, so two of the four arms are one, also at the best settings."""
    matrix = {"train.optimizer": ["adamw", "muon"], "train.muon_momentum": [0.9, 0.95]}
    study = load_study(write_grid(matrix=matrix, baseline=None, tune={"space": {RATE: SPACE[RATE]}, "trials": 3}))
    trials = Trials(pose_tuning(study, corpus_info), StudyFolder(tmp_path / "runs" / "tiny-tune"))
    train(trials)
    plan = plan_tuned(trials.problem, study, trials)
    untuned = build_plan(study, corpus_info)
    assert [arm.name for arm in plan.arms] == [arm.name for arm in untuned.arms] == [*plan.tuning["arms"]]
    assert plan.stands_for == untuned.stands_for
    assert len(plan.arms) == 3


def test_the_record_tells_the_trials_that_an_arm_had(write_grid, corpus_info: CorpusInfo, tmp_path: Path) -> None:
    """The file asks for fewer trials than before. An arm added now has fewer, and the fairness panel must see it."""

    def pose(n_trials: int, *levels: str) -> Trials:
        tune = {"space": {RATE: SPACE[RATE]}, "trials": n_trials}
        grid = write_grid(tune=tune, matrix={"normalization": list(levels)}, baseline=None)
        return Trials(pose_tuning(load_study(grid), corpus_info), StudyFolder(tmp_path / "runs" / "tiny-tune"))

    train(pose(5, "prenorm"))
    later = pose(2, "prenorm", "ngpt")
    train(later)
    assert [describe_arm(later, search)["trials"] for search in later.searches] == [5, 2]


def test_named_seeds_let_the_matrix_grow_without_new_trials(
    write_grid, corpus_info: CorpusInfo, tmp_path: Path
) -> None:
    def pose(seeds: list[int], of_trials: object) -> Trials:
        tune = {"space": {RATE: SPACE[RATE]}, "trials": 2, "seeds": of_trials}
        study = load_study(write_grid(tune=tune, seeds=seeds))
        return Trials(pose_tuning(study, corpus_info), StudyFolder(tmp_path / "runs" / "tiny-tune"))

    assert {run.seed for run in train(pose([0, 1], 1))} == {2}
    assert not train(pose([0, 1, 3, 4], [2]))
    with pytest.raises(GridError, match=r"tune.seeds: \[2\]: trials need seeds that the matrix does not use"):
        pose([0, 1, 2], [2])


def test_trials_have_the_size_that_the_study_matches(write_grid, corpus_info: CorpusInfo) -> None:
    wide = {"model": {"d_model": 64, "n_layers": 2, "n_heads": 2, "context_length": 16}, "match": "parameters"}
    study = load_study(write_grid(tune={"space": {RATE: SPACE[RATE]}, "trials": 2}, **wide))
    sizes = {arm.name: arm.n_params for arm in build_plan(study, corpus_info).arms}
    for arm in pose_tuning(study, corpus_info).arms:
        assert arm.default.model.num_params() == sizes[arm.label]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tune": {"space": {ALPHA: SPACE[ALPHA]}, "trials": 2}}, ("tune.space", "has none of the settings")),
        ({"tune": {"space": {"train.beta1": [0.8, 0.9]}, "trials": 2}}, ("tune.space", "learning rate")),
        ({"tune": {"space": {"train.learning_rte": SPACE[RATE]}, "trials": 2}}, ("tune.space", "learning_rate'")),
        ({"tune": {"space": SPACE, "trials": 2, "budget": {"setps": 1}}}, ("tune.budget.setps", "'steps'")),
        ({"tune": {"space": SPACE}}, ("tune", "trials")),
        (
            {
                "tune": {"space": SPACE, "trials": 2, "budget": 6},
                "matrix": {"normalization": ["prenorm", "ngpt"], "train.steps": [12, 24]},
                "baseline": None,
            },
            ("tune.budget.steps", "differ in train.steps"),
        ),
        (
            {"tune": {"space": SPACE, "trials": 3, "finalists": 2, "screen": 0.7}},
            ("tune.screen", "after 70% of the steps", "lower screen, or train.eval_every"),
        ),
        ({"tune": {"space": SPACE, "trials": 2, "sampler": "GridSampler"}}, ("tune.space", "list the values")),
        (
            {"tune": {"space": {RATE: [1e-3, 1e-2]}, "trials": 3, "sampler": "GridSampler"}},
            ("tune.trials", "set trials to 2"),
        ),
        (
            {"tune": {"space": {RATE: [1e-3]}, "trials": 1, "sampler": {"name": "GridSampler", "seed": 1}}},
            ("tune.sampler", "'seed'"),
        ),
        ({"tune": {"space": SPACE, "trials": 2}, "matrix": {RATE: [1e-3, 2e-3]}, "baseline": None}, ("arms differ",)),
        (
            {"match": "parameters", "tune": {"space": {**SPACE, "model.d_ff": [32, 64]}, "trials": 2}},
            ("match", "d_ff"),
        ),
        (
            {
                "matrix": {"attention": ["standard", {"name": "gated", RATE: 1e-3}]},
                "baseline": None,
                "tune": {"space": SPACE, "trials": 2},
            },
            ("matrix.attention.1", "varied by tune.space"),
        ),
        (
            {"match": "parameters", "tune": {"space": {**SPACE, "model.n_layers": [1, 2]}, "trials": 2}},
            ("match", "one size in parameters", "model.n_layers would change it"),
        ),
        (
            {
                "tune": {"space": SPACE, "trials": 2, "budget": {"tokens": 640}},
                "rules": [{"when": "normalization == 'ngpt'", "set": {"train.batch_size": 8}}],
            },
            ("tune.budget.tokens", "128 tokens instead of 64"),
        ),
        (
            {
                "tune": {"space": SPACE, "trials": 2},
                "rules": [{"when": f"{RATE} > 0.01", "set": {"train.beta1": 0.5}}],
            },
            ("rules.0.when", f"it reads {RATE}, which the trials vary"),
        ),
        ({"tune": {"space": SPACE, "trials": 2}, "exclude": [f"{RATE} > 0.01"]}, ("exclude.0", "the trials vary")),
        (
            {
                "tune": {"space": SPACE, "trials": 2},
                "matrix": {"normalization": ["prenorm", "ngpt"], "train.beta1": [0.5, 0.9]},
                "conditions": {"train.beta1": f"{RATE} < 0.01"},
                "baseline": None,
            },
            ("conditions.train.beta1", "the trials vary"),
        ),
    ],
)
def test_a_wrong_tune_is_refused_with_its_place(write_grid, corpus_info: CorpusInfo, changes, words) -> None:
    with pytest.raises(GridError) as refusal:
        pose_tuning(load_study(write_grid(**changes)), corpus_info)
    for word in ("grid.yaml", *words):
        assert word in str(refusal.value)
