"""A search, tuning, pruning and early stopping by a metric of which higher is better do as by its negative."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pretended import Pose, Turn, as_loss, as_score, end_run, quadratic, train

from ablate.data import CorpusInfo
from ablate.errors import GridError
from ablate.execution.early_stopping import parse_stopping
from ablate.execution.jobs import record_study
from ablate.metrics import LANGUAGE_MODEL, LOSS, Metric
from ablate.plan import build_plan
from ablate.search.arm_search import best_of
from ablate.search.conclusions import state_conclusions
from ablate.search.follow_up import plan_confirmation
from ablate.search.page import write_pages
from ablate.search.pose import pose_tuning
from ablate.search.pruning import Pruning
from ablate.search.result import summarize
from ablate.search.trials import Trials
from ablate.study import load_study
from ablate.tracking.folders import StudyFolder

SCORE = {"score": "higher"}
WAYS: Mapping[str, tuple[Mapping[str, str], Turn]] = {"loss": (LANGUAGE_MODEL, as_loss), "score": (SCORE, as_score)}


@contextmanager
def measured_by(metrics: Mapping[str, str]) -> Iterator[None]:
    """Every declaration has these metrics meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ablate.plan.tasks.LANGUAGE_MODEL_METRICS", metrics)
        yield


def search_by(way: str, pose_search: Pose, folder: Path, **changes: Any) -> tuple[Trials, dict[str, Any]]:
    """A finished search with its confirmation, and its summary."""
    metrics, turn = WAYS[way]
    with measured_by(metrics):
        problem, store = pose_search(trials=15, confirm={"seeds": 3}, **changes), StudyFolder(folder / way / "tiny")
        trials = Trials(problem, store)
        train(trials, turn=turn)
        plan = plan_confirmation(problem, trials)
        if plan is not None:
            place = StudyFolder(store.path.parent / "tiny-confirm")
            place.write_study(record_study(plan, "0", ""))
            for index, run in enumerate(plan.runs):
                end_run(place, run, quadratic(run) + 0.01 * index**0.5, turn=turn)
        return trials, summarize(problem, trials, store, "0")


def test_a_search_by_a_mirrored_metric_draws_the_same_trials(pose_search: Pose, tmp_path: Path) -> None:
    (mine, loss), (theirs, score) = (search_by(way, pose_search, tmp_path) for way in WAYS)
    for one, other in zip(mine.searches[0].trials, theirs.searches[0].trials, strict=True):
        assert (one.params, one.value) == (other.params, -other.value)
    (arm,), (other_arm,) = loss["arms"], score["arms"]
    assert arm["best"] == other_arm["best"] != arm["default"]
    assert arm["importance"] == other_arm["importance"] != []
    assert score["objectives"][0] == {
        "metric": "score", "target": None, "direction": "maximize", "text": "score"
    }  # fmt: skip
    assert "clearly lower validation loss than" in state_conclusions(loss)[0]
    said = state_conclusions(score)[0]
    assert "clearly higher score than" in said and "nats" not in said
    paths = write_pages(score, tmp_path / "pages")
    assert "loss" not in paths["search.md"].read_text().lower()
    assert '"title":"score"' in paths["search.html"].read_text()


def test_steps_to_a_target_count_from_the_proper_side(pose_search: Pose, tmp_path: Path) -> None:
    by_loss, _ = search_by("loss", pose_search, tmp_path, objective={"target": 2.5})
    by_score, _ = search_by("score", pose_search, tmp_path, objective={"target": -2.5})
    values = [trial.value for trial in by_loss.searches[0].trials]
    assert values == [trial.value for trial in by_score.searches[0].trials]
    assert len({*values}) > 2 and by_score.problem.objectives[0].metric == "score"


@pytest.mark.parametrize("target", [None, 0.5])
@pytest.mark.parametrize(
    "pruner", [{"name": "MedianPruner", "n_startup_trials": 2}, {"name": "SuccessiveHalvingPruner", "min_resource": 4}]
)
def test_pruning_cuts_the_same_trials(pose_search: Pose, tmp_path: Path, pruner: Any, target: float | None) -> None:
    cut = {}
    for way, (metrics, turn) in WAYS.items():
        goal = {} if target is None else {"target": target if way == "loss" else -target}
        with measured_by(metrics):
            problem = pose_search(trials=9, pruner=pruner, sampler={"name": "RandomSampler"}, objective=goal)
            trials = Trials(problem, StudyFolder(tmp_path / way))
            rule, reasons = Pruning(trials), []
            for _ in range(9):
                (run,) = [run for run in trials.plan.runs if not trials.store.run(run.run_id).curve.exists()] or [
                    *trials.draw()
                ]
                records = [{"step": step, **turn(quadratic(run) + 3 - step / 4)} for step in (4, 8, 12)]
                reasons.append(rule.judge(run, records))
                end_run(trials.store, run, quadratic(run), step=4 if reasons[-1] else None, turn=turn)
                trials.tell(run, "finished")
        cut[way] = reasons
    assert cut["loss"] == cut["score"]
    assert 0 < sum(map(bool, cut["loss"])) < 9


@pytest.mark.parametrize("word", ["asha", "patience=2"])
def test_early_stopping_cuts_the_same_runs(write_grid: Any, corpus_info: CorpusInfo, word: str) -> None:
    grid = write_grid(matrix={"model.n_layers": [1, 2, 3, 4, 5, 6]}, baseline={}, train={"steps": 27, "batch_size": 4})
    plan = build_plan(load_study(grid), corpus_info)
    curves = [(3, 2, 1), (5, 5, 5), (4, 3.5, 3.5), (6, 7, 8), (2, 1, 0)]
    reasons = {}
    for metric, sign in ((LOSS, 1), (Metric("score", "higher"), -1)):
        rule = parse_stopping(word, metric)
        assert rule is not None
        reasons[metric.name] = [
            rule.judge(run, [{"step": step, metric.name: sign * x} for step, x in zip((1, 4, 9), curve, strict=True)])
            for run, curve in zip(plan.runs[1:], curves, strict=True)
        ]
    said = [reason.replace("lower validation loss", "higher score") for reason in reasons["val_loss"]]
    assert said == reasons["score"]
    assert 0 < sum(map(bool, said)) < 5


def test_patience_takes_any_gain_of_a_metric_of_unknown_scale(write_grid: Any, corpus_info: CorpusInfo) -> None:
    run = build_plan(load_study(write_grid()), corpus_info).runs[1]
    rule = parse_stopping("patience=1", Metric("acc", "higher"))
    assert rule is not None
    assert [bool(rule.judge(run, [{"step": step, "acc": acc}])) for step, acc in ((1, 0.9), (2, 0.9001), (3, 0.9))] == [
        False, False, True
    ]  # fmt: skip


def test_tune_chooses_the_highest(write_grid: Any, corpus_info: CorpusInfo, tmp_path: Path) -> None:
    best = {}
    for way, (metrics, turn) in WAYS.items():
        with measured_by(metrics):
            space = {"train.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}
            problem = pose_tuning(load_study(write_grid(tune={"space": space, "trials": 6})), corpus_info)
            trials = Trials(problem, StudyFolder(tmp_path / way))
            train(trials, turn=turn)
            found = [best_of(search) for search in trials.searches]
            best[way] = [trial.params for trial in found if trial is not None]
            losses = [abs(trial.values[0]) for trial in found if trial is not None]
            assert losses == [min(abs(t.values[0]) for t in search.trials if t.values) for search in trials.searches]
    assert best["loss"] == best["score"] != []


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ({"direction": "minimize"}, "objective: direction minimize: the metric score is better if it is higher"),
        ({"metric": "scor"}, "do not log 'scor'; did you mean 'score'"),
    ],
)
def test_an_objective_that_contradicts_the_metrics_is_refused(pose_search: Pose, objective: Any, words: str) -> None:
    with measured_by(SCORE), pytest.raises(GridError, match=words):
        pose_search(objective=objective)
