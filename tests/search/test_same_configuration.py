"""Combinations that give the same configuration share a trial, and all others are trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from pretended import RATE, Pose, end_run, train

from ablate.data import CorpusInfo
from ablate.errors import GridError
from ablate.plan.identity import canonical_json
from ablate.search.arm_search import ARM, best_of
from ablate.search.conclusions import count_open, state_conclusions
from ablate.search.follow_up import describe_arm, plan_tuned
from ablate.search.optimizer import DECLARATION, JOURNAL
from ablate.search.page import write_pages
from ablate.search.pose import pose_tuning
from ablate.search.result import summarize
from ablate.search.trials import Trials
from ablate.study import load_study
from ablate.tracking.folders import StudyFolder

HEAD_NORM = "model.attention.head_norm"
SCALE = "model.normalization.s_qk.scale"
DIFFERENTIAL, NGPT = {"attention": "differential"}, {"normalization": "ngpt"}


@pytest.fixture
def store(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "runs" / "tiny")


def pose_lists(pose_search: Pose, space: dict[str, Any], trials: int, **changes: Any):
    return pose_search(space=space, trials=trials, sampler="GridSampler", **changes)


@pytest.mark.parametrize(
    ("arm", "space", "n_listed", "n_trained", "read", "wanted"),
    [
        (DIFFERENTIAL, {HEAD_NORM: ["auto", "rms", "l2", "none"]}, 4, 3, "attention.head_norm", {"rms", "l2", "none"}),
        (DIFFERENTIAL, {HEAD_NORM: ["l2", "none", "auto"]}, 4, 3, "attention.head_norm", {"rms", "l2", "none"}),
        (NGPT, {SCALE: ["1/sqrt(d_model)", 0.25, 1, 2.0]}, 4, 3, "normalization.s_qk.scale", {0.25, 1.0, 2.0}),
        (NGPT, {"train.decay_fraction": [0.2, 0.5], RATE: [1e-3, 2e-3]}, 4, 2, "learning_rate", {1e-3, 2e-3}),
        (NGPT, {"train.compile": [False, True], RATE: [1e-3, 2e-3]}, 4, 2, "learning_rate", {1e-3, 2e-3}),
        (NGPT, {"train.grad_clip": [0, 1, 2.5]}, 3, 3, "grad_clip", {0.0, 1.0, 2.5}),
        (NGPT, {"train.decay_fraction": [0.3, 0.5], RATE: [2e-3, 4e-3]}, 5, 3, "learning_rate", {1e-3, 2e-3, 4e-3}),
    ],
)
def test_a_grid_trains_every_configuration_of_the_lists_once(
    pose_search: Pose, store: StudyFolder, arm, space, n_listed: int, n_trained: int, read: str, wanted: set
) -> None:
    for trials in (n_trained - 1, n_listed + 1):
        with pytest.raises(GridError, match=f"trials: .*set trials to {n_trained}"):
            pose_lists(pose_search, space, trials, arm=arm)
    problem = pose_lists(pose_search, space, n_listed, arm=arm)
    assert problem.n_trials == n_trained
    runs = [*train(Trials(problem, store), limit=2), *train(Trials(problem, store))]
    assert len({run.run_id for run in runs}) == len(runs) == n_trained

    def value(run) -> Any:
        tree: Any = {**run.arm.model.to_dict(), **run.arm.train.model_dump()}
        for key in read.split("."):
            tree = tree[key]
        return tree

    assert {value(run) for run in runs} == wanted
    (store.path / JOURNAL).unlink()
    rebuilt = Trials(pose_lists(pose_search, space, n_trained, arm=arm), store)
    assert not train(rebuilt)
    assert rebuilt.n_open == 0


def test_the_page_claims_the_trials_that_trained_and_names_the_same_ones(
    pose_search: Pose, store: StudyFolder, tmp_path: Path
) -> None:
    problem = pose_lists(pose_search, {HEAD_NORM: ["auto", "rms", "l2"], RATE: [1e-3, 1e-2]}, 6, arm=DIFFERENTIAL)
    trials = Trials(problem, store)
    train(trials)
    summary = summarize(problem, trials, store, "0")
    assert count_open(summary) == 0
    (arm,) = summary["arms"]
    assert (arm["n_trials"], arm["n_configurations"], len(arm["history"])) == (4, 4, 4)
    assert [row["same"] for row in arm["history"]] == [[{HEAD_NORM: "auto"}], [{HEAD_NORM: "rms"}], [], []]
    sentence = state_conclusions(summary)[1]
    assert "the best of 4 (" in sentence
    assert "2 combinations gave the configuration of another one" in sentence
    write_pages(summary, tmp_path / "page")
    for page in ("search.md", "search.html"):
        assert (
            f"same configuration as {HEAD_NORM} auto".replace("_", "\\_" if page == "search.md" else "_")
            in (tmp_path / "page" / page).read_text()
        )


def test_a_journal_from_before_the_fix_goes_on(pose_search: Pose, store: StudyFolder) -> None:
    """The sampler drew the same combination repeatedly: four trials of one run."""
    problem = pose_lists(pose_search, {HEAD_NORM: ["auto", "rms", "l2", "none"]}, 4, arm=DIFFERENTIAL)
    first = Trials(problem, store)
    ended = train(first, limit=1)
    (default,) = first.arms
    (store.path / JOURNAL).unlink()
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(store.path / JOURNAL))), study_name="tiny of 4"
    )
    whole = problem.declaration()
    study.set_user_attr(DECLARATION, canonical_json({**whole, "defaults": whole["defaults"][problem.arms[0].label]}))
    distributions = problem.arms[0].distributions
    for _ in range(4):
        study.add_trial(
            optuna.trial.create_trial(
                value=1.0, params={HEAD_NORM: "auto"}, distributions=distributions, user_attrs={ARM: default}
            )
        )
    trials = Trials(problem, store)
    assert trials.n_open == 2
    later = train(trials)
    assert {run.arm.model.attention.to_dict()["head_norm"] for run in later} == {"l2", "none"}
    assert not {run.run_id for run in ended} & {run.run_id for run in later}
    assert summarize(problem, trials, store, "0")["arms"][0]["n_configurations"] == 3


def test_a_sampler_that_repeats_itself_still_tries_what_is_left(pose_search: Pose, store: StudyFolder) -> None:
    rates = [1e-3, 2e-3, 4e-3, 8e-3]
    problem = pose_search(space={RATE: rates}, trials=4, sampler="RandomSampler")
    runs = [*train(Trials(problem, store), limit=2), *train(Trials(problem, store), together=2)]
    assert sorted(run.arm.train.learning_rate for run in runs) == rates
    trials = Trials(problem, store)
    assert trials.n_open == 0
    summary = summarize(problem, trials, store, "0")
    assert summary["arms"][0]["n_configurations"] == 4
    assert {row["values"] is not None for row in summary["arms"][0]["history"]} == {True}


def test_a_search_for_more_than_there_is_ends(pose_search: Pose, store: StudyFolder) -> None:
    """Integers from 1 to 3 have three values, which a range does not show."""
    problem = pose_search(space={"model.n_layers": {"low": 1, "high": 3}}, trials=5, sampler="RandomSampler")
    trials = Trials(problem, store)
    assert sorted(run.arm.model.n_layers for run in train(trials)) == [1, 2, 3]
    assert trials.n_open == 0
    assert count_open(summarize(problem, trials, store, "0")) == 0
    assert not Trials(problem, store).draw()


@pytest.mark.parametrize("state", ["diverged", "failed"])
def test_a_combination_shares_the_end_of_its_trial(pose_search: Pose, store: StudyFolder, state) -> None:
    """The defaults diverge, or crash and stay open. The same configuration spelled differently is not trained again."""
    problem = pose_lists(pose_search, {HEAD_NORM: ["rms", "auto", "l2"]}, 3, arm=DIFFERENTIAL, seeds=2)
    trials = Trials(problem, store)
    for run in trials.plan.runs:
        end_run(store, run, 1.0, state)
        trials.tell(run, state)
    assert {run.arm.model.attention.to_dict()["head_norm"] for run in train(trials)} == {"l2"}
    (search,) = trials.searches
    assert [trial.state for trial in search.trials] == [
        TrialState.PRUNED if state == "diverged" else TrialState.RUNNING,
        TrialState.COMPLETE,
    ]
    assert trials.n_open == (0 if state == "diverged" else 1)


def test_arms_of_a_search_that_are_the_same_are_refused(pose_search: Pose) -> None:
    arms = [{**DIFFERENTIAL, HEAD_NORM: "auto"}, {**DIFFERENTIAL, HEAD_NORM: "rms"}]
    with pytest.raises(GridError, match=r"arm: .*head_norm=auto and .*head_norm=rms are the same configuration"):
        pose_search(arm=arms, space={RATE: [1e-3, 2e-3]}, trials=2)


def test_a_list_may_become_longer_in_other_words(pose_search: Pose, store: StudyFolder) -> None:
    train(Trials(pose_lists(pose_search, {"train.grad_clip": [1, 2]}, 2), store))
    wider = Trials(pose_lists(pose_search, {"train.grad_clip": [1.0, 2.0, 3]}, 3), store)
    assert [run.arm.train.grad_clip for run in train(wider)] == [3.0]
    with pytest.raises(GridError, match="listed twice"):
        pose_lists(pose_search, {"train.grad_clip": [1, 1.0]}, 2)


def test_tuned_arms_try_every_configuration_and_the_record_tells_how_many(
    write_grid, corpus_info: CorpusInfo, tmp_path: Path
) -> None:
    """An arm that lacks a knob of the space has fewer trials, and the report flags this."""
    tune = {"space": {RATE: [1e-3, 1e-2], HEAD_NORM: ["auto", "rms", "l2"]}, "trials": 6, "sampler": "GridSampler"}
    matrix = {"attention": ["standard", "differential"]}
    study = load_study(write_grid(matrix=matrix, baseline=None, tune=tune | {"seeds": 2}, seeds=1))
    trials = Trials(pose_tuning(study, corpus_info), StudyFolder(tmp_path / "runs" / "tiny-tune"))
    runs = train(trials)
    assert len(runs) == (2 + 4) * 2
    tried = {(run.arm.train.learning_rate, run.arm.model.attention.to_dict().get("head_norm")) for run in runs}
    assert tried == {(rate, norm) for rate in (1e-3, 1e-2) for norm in (None, "rms", "l2")}
    told = {search.space.label: describe_arm(trials, search)["trials"] for search in trials.searches}
    assert told == {"attention=standard": 2, "attention=differential": 4}
    plan = plan_tuned(trials.problem, study, trials)
    assert {arm.train.learning_rate for arm in plan.arms} == {1e-2}
    assert json.loads(json.dumps(plan.tuning))["arms"]["attention=differential"]["best"][RATE] == "0.01"


def test_the_matrix_trains_a_best_whole_number_of_the_model(
    write_grid, corpus_info: CorpusInfo, tmp_path: Path
) -> None:
    tune = {"space": {RATE: [1e-3], "model.n_layers": [1, 2]}, "trials": 2, "sampler": "GridSampler"}
    study = load_study(write_grid(matrix={"normalization": ["prenorm", "ngpt"]}, baseline=None, tune=tune))
    trials = Trials(pose_tuning(study, corpus_info), StudyFolder(tmp_path / "runs" / "tiny-tune"))
    train(trials, lambda run: 3.0 - run.arm.model.n_layers)
    assert [trials.params_of(best_of(s).user_attrs[ARM])["model.n_layers"] for s in trials.searches] == [2, 2]
    assert {arm.model.n_layers for arm in plan_tuned(trials.problem, study, trials).arms} == {2}


def test_settings_that_only_the_matrix_cannot_train_are_refused_before_the_trials(
    write_grid, corpus_info: CorpusInfo
) -> None:
    tune = {"space": {RATE: [1e-3], "train.warmup_steps": [0, 20]}, "trials": 2, "budget": 40}
    with pytest.raises(
        GridError, match=r"tune.budget.*the matrix.*tune.space.train.warmup_steps.*leaves no step of 12"
    ):
        pose_tuning(load_study(write_grid(tune=tune)), corpus_info)


@pytest.mark.parametrize(
    ("arm", "objective", "words"),
    [
        (NGPT, "val_los", ("'val_los'", "did you mean 'val_loss'", "alpha_attn/0")),
        (NGPT, "s_qk", ("'s_qk'", "s_qk/0")),
        ({"normalization": "prenorm"}, "s_qk/0", ("normalization=prenorm", "tokens_per_s")),
        ([NGPT, {"normalization": "prenorm"}], ["val_loss", "s_qk/0"], ("normalization=prenorm", "'s_qk/0'")),
        (NGPT, {"metric": "alpha_attn/1", "target": 0.1}, ("'alpha_attn/1'", "alpha_attn/0")),
    ],
)
def test_an_objective_that_no_run_logs_is_refused_with_what_it_logs(
    pose_search: Pose, arm: Any, objective: Any, words: tuple[str, ...]
) -> None:
    with pytest.raises(GridError) as refusal:
        pose_search(arm=arm, objective=objective, space={RATE: {"low": 1e-4, "high": 1e-2}})
    for word in ("search.yaml:", "objective: ", *words):
        assert word in str(refusal.value)


def test_a_diagnostic_of_the_arm_is_an_objective(pose_search: Pose) -> None:
    problem = pose_search(
        objective="alpha_attn/0", model={"d_model": 16, "n_layers": 1, "n_heads": 2, "context_length": 16}
    )
    assert problem.objectives[0].metric == "alpha_attn/0"
