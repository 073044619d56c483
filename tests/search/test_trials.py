"""Ask and tell: no trial is lost or repeated, whatever an interrupted search leaves behind."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from pretended import ALPHA, RATE, Pose, end_run, quadratic, train
from rich.console import Console

from ablate.data import CorpusInfo
from ablate.errors import AblateError, GridError, RecordError
from ablate.execution.jobs import record_study
from ablate.execution.run import Options, run_study
from ablate.execution.view import View
from ablate.plan import build_plan
from ablate.search.arm_search import ARM, best_of
from ablate.search.objective import score_run
from ablate.search.optimizer import JOURNAL
from ablate.search.pruning import Pruning
from ablate.search.schema import Objective
from ablate.search.trials import Trials
from ablate.study import load_study
from ablate.tracking.curve import read_curve
from ablate.tracking.folders import StudyFolder

ARMS = [{"normalization": "ngpt"}, {"normalization": "prenorm"}]


@pytest.fixture
def store(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "runs" / "tiny")


def settings_of(trials: Trials) -> list[dict]:
    return [trial.params for search in trials.searches for trial in search.trials]


def test_the_defaults_are_trial_0_and_the_sampler_learns(pose_search: Pose, store: StudyFolder) -> None:
    trials = Trials(pose_search(trials=30), store)
    assert len(train(trials)) == 30
    (search,) = trials.searches
    assert search.trials[0].params == {ALPHA: 0.05, RATE: 1e-3}
    assert {trial.state for trial in search.trials} == {TrialState.COMPLETE}
    assert best_of(search).value < search.trials[0].value - 0.5
    later, earlier = search.trials[20:], search.trials[1:11]  # the first ten are drawn at random
    assert sum(trial.value for trial in later) / 10 < sum(trial.value for trial in earlier) / 10


def test_the_record_has_every_trial_as_an_arm_compared_with_the_defaults(pose_search: Pose, store: StudyFolder) -> None:
    trials = Trials(pose_search(seeds=2), store, version="1", command="ablate search")
    train(trials)
    record = store.read_study()
    assert len(record.arms) == 6
    assert len(record.runs) == 12
    assert {arm.baseline for arm in record.arms} == {"normalization=ngpt,trial=defaults"}
    assert record.arms[0].axes == {"normalization": "ngpt", ALPHA: 0.05, RATE: 1e-3}
    assert record.command == "ablate search"


def test_the_value_is_the_mean_over_seeds(pose_search: Pose, store: StudyFolder) -> None:
    trials = Trials(pose_search(trials=1, seeds=3), store)
    runs = train(trials)
    assert trials.searches[0].trials[0].value == pytest.approx(sum(map(quadratic, runs)) / 3, rel=1e-12)


@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("stop", range(8))
def test_a_search_that_dies_anywhere_loses_and_repeats_nothing(
    pose_search: Pose, store: StudyFolder, stop: int, together: int
) -> None:
    problem = pose_search()
    first = train(Trials(problem, store), limit=stop, together=together)
    trials = Trials(problem, store)
    second = train(trials, together=together)
    run_ids = [run.run_id for run in (*first, *second)]
    assert len(run_ids) == len(set(run_ids)) == 6
    (search,) = trials.searches
    assert len(search.trials) == 6
    assert {trial.state for trial in search.trials} == {TrialState.COMPLETE}
    assert not Trials(problem, store).draw()


@pytest.mark.parametrize("cut", range(1, 17, 3))
def test_a_journal_that_ends_anywhere_is_taken_up(pose_search: Pose, store: StudyFolder, cut: int) -> None:
    """The files of a killed process: the journal up to any line, a torn line after it, and the lock."""
    problem = pose_search(trials=3)
    train(Trials(problem, store))
    journal = store.path / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:cut]) + lines[cut][: len(lines[cut]) // 2])
    Path(f"{journal}.lock").symlink_to(journal)
    before = {path.parent.name for path in store.path.glob("*/curve.jsonl")}
    trials = Trials(problem, store)
    train(trials)
    assert before <= {path.parent.name for path in store.path.glob("*/curve.jsonl")}
    known = [trial for trial in trials.searches[0].trials if ARM in trial.user_attrs]
    assert {trial.state for trial in known} == {TrialState.COMPLETE}
    assert len({trial.user_attrs[ARM] for trial in known}) == len(known) == 3


def test_without_its_journal_a_search_is_rebuilt_from_its_runs(pose_search: Pose, store: StudyFolder) -> None:
    problem = pose_search(arm=ARMS, trials=4)
    before = Trials(problem, store)
    train(before, limit=5)
    values = [(trial.params, trial.value) for search in before.searches for trial in search.trials if trial.value]
    (store.path / JOURNAL).unlink()
    after = Trials(problem, store)
    again = [(trial.params, trial.value) for search in after.searches for trial in search.trials if trial.value]
    assert sorted(again, key=str) == sorted(values, key=str)
    assert len(train(after)) == 8 - 5
    assert [len(search.trials) for search in after.searches] == [4, 4]


def test_arms_take_turns(pose_search: Pose, store: StudyFolder) -> None:
    trials = Trials(pose_search(arm=ARMS, trials=5), store)
    train(trials, limit=6)
    assert [len(search.trials) for search in trials.searches] == [3, 3]


def test_a_grid_tries_each_combination_that_exists(pose_search: Pose, store: StudyFolder) -> None:
    space = {
        "model.attention.name": ["standard", "linear_ensemble"],
        "model.attention.num_maps": {"choices": [2, 4], "when": "attention == 'linear_ensemble'"},
        RATE: [1e-3, 1e-2],
    }
    trials = Trials(pose_search(arm={"normalization": "prenorm"}, space=space, trials=6, sampler="GridSampler"), store)
    tried = {(run.arm.axes.get("model.attention.num_maps"), run.arm.train.learning_rate) for run in train(trials)}
    assert tried == {(maps, rate) for maps in (None, 2, 4) for rate in space[RATE]}
    with pytest.raises(GridError, match="set trials to 6"):
        pose_search(arm={"normalization": "prenorm"}, space=space, trials=5, sampler="GridSampler")


def test_a_known_configuration_is_not_trained_again(pose_search: Pose, store: StudyFolder) -> None:
    trials = Trials(pose_search(space={RATE: [1e-3, 1e-2]}, trials=12, sampler="RandomSampler"), store)
    assert len(train(trials)) == 2
    (search,) = trials.searches
    assert len(search.trials) == 12
    assert {trial.state for trial in search.trials} == {TrialState.COMPLETE}
    assert len({trial.value for trial in search.trials}) == 2


def test_a_default_outside_of_the_space_is_trained_all_the_same(pose_search: Pose, store: StudyFolder) -> None:
    space = {RATE: {"low": 2e-3, "high": 1e-1, "log": True}, ALPHA: {"low": 0.01, "high": 0.1}}
    trials = Trials(pose_search(space=space), store)
    runs = train(trials)
    assert runs[0].arm.train.learning_rate == 1e-3
    assert trials.searches[0].trials[0].params == {ALPHA: 0.05}


def test_a_diverged_trial_has_no_value_and_the_search_goes_on(pose_search: Pose, store: StudyFolder) -> None:
    trials = Trials(pose_search(trials=3), store)
    (run,) = trials.plan.runs
    end_run(store, run, 1.0, "diverged")
    trials.tell(run, "diverged")
    assert len(train(trials)) == 2
    assert trials.searches[0].trials[0].state == TrialState.PRUNED
    trials.check()


def test_all_trials_diverged_is_one_message(pose_search: Pose, store: StudyFolder) -> None:
    trials = Trials(pose_search(trials=1), store)
    (run,) = trials.plan.runs
    end_run(store, run, 1.0, "diverged")
    trials.tell(run, "diverged")
    with pytest.raises(AblateError, match="all 1 trials diverged"):
        trials.check()


def test_a_failed_trial_stays_open_and_is_tried_again(pose_search: Pose, store: StudyFolder) -> None:
    problem = pose_search(trials=2)
    trials = Trials(problem, store)
    (run,) = trials.plan.runs
    end_run(store, run, 1.0, "failed")
    trials.tell(run, "failed")
    assert trials.searches[0].trials[0].state == TrialState.RUNNING
    shutil.rmtree(store.run(run.run_id).path)
    assert train(Trials(problem, store))[0].run_id == run.run_id


def test_an_objective_that_is_never_logged_is_named() -> None:
    """As in a curve from another version. `ablate plan` refuses a metric that the model does not log."""
    curve = [{"step": 4, "val_loss": 1.0}]
    with pytest.raises(RecordError, match="'val_los' is never logged; did you mean 'val_loss'"):
        score_run(curve, Objective(metric="val_los"))


def test_steps_to_a_target(pose_search: Pose, store: StudyFolder) -> None:
    trials = Trials(pose_search(trials=1, objective={"metric": "val_loss", "target": 1.5}), store)
    (run,) = trials.plan.runs
    end_run(store, run, 1.0)  # 3 at step 4, 2 at step 8, 1 at step 12
    trials.tell(run, "finished")
    assert trials.searches[0].trials[0].value == pytest.approx(math.sqrt(8 * 12))


def test_a_target_that_is_not_reached_ranks_by_what_was_missing(pose_search: Pose, store: StudyFolder) -> None:
    trials = Trials(pose_search(objective={"metric": "val_loss", "target": 0.5}), store)
    train(trials)
    for trial in trials.searches[0].trials:
        loss = quadratic(trials.runs_of(trials.arms[trial.user_attrs[ARM]])[0])
        assert trial.value == pytest.approx(12 * (1 + loss - 0.5))


def test_several_objectives_give_a_front(pose_search: Pose, store: StudyFolder) -> None:
    trials = Trials(pose_search(objective=["val_loss", "wall_s"], trials=4), store)
    train(trials)
    (search,) = trials.searches
    assert all(len(trial.values) == 2 for trial in search.trials)
    assert best_of(search) in search.study.best_trials


def test_a_pruned_trial_ends_with_its_first_seed(pose_search: Pose, store: StudyFolder) -> None:
    never = {"name": "ThresholdPruner", "upper": 0.5}  # all losses are above it
    trials = Trials(pose_search(trials=1, seeds=2, pruner=never), store)
    first, second = trials.plan.runs
    rule = Pruning(trials)
    records = [{"step": 4, "val_loss": 3.0}, {"step": 8, "val_loss": 2.0}]
    assert rule.judge(second, records) == ""
    assert "pruned at step 4" in rule.judge(first, records)
    end_run(store, first, 1.0, step=4)
    assert rule.judge(second, records) == "its first seed was pruned"
    trials.tell(first, "finished")
    (trial,) = trials.searches[0].trials
    assert trial.state == TrialState.PRUNED
    assert trial.intermediate_values == {4: 3.0}


def test_pruning_read_every_trial_at_every_evaluation(
    pose_search: Pose, store: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = Trials(pose_search(trials=1, seeds=1, pruner={"name": "ThresholdPruner", "upper": 1e9}), store)
    (run,) = trials.plan.runs
    (search,) = trials.searches
    read: list[str] = []
    get_trials = optuna.Study.get_trials
    monkeypatch.setattr(optuna.Study, "get_trials", lambda *a, **k: read.append("all") or get_trials(*a, **k))
    rule = Pruning(trials)
    for step in (4, 8, 12):
        assert rule.judge(run, [{"step": step, "val_loss": 3.0}]) == ""
    assert read == []
    again = Pruning(trials)  # as in another process that resumes: reported values are not reported again
    assert again.judge(run, [{"step": 12, "val_loss": 1.0}, {"step": 16, "val_loss": 2.0}]) == ""
    assert search.trials[0].intermediate_values == {4: 3.0, 8: 3.0, 12: 3.0, 16: 2.0}


def test_only_the_best_trial_keeps_its_weights(pose_search: Pose, store: StudyFolder) -> None:
    trials = Trials(pose_search(trials=5), store)

    def leave_weights(run) -> float:
        store.run(run.run_id).path.mkdir()
        store.run(run.run_id).weights.write_bytes(b"weights")
        return quadratic(run)

    train(trials, leave_weights)
    best = trials.arms[best_of(trials.searches[0]).user_attrs[ARM]]
    assert [path.parent.name for path in store.path.glob("*/model.safetensors")] == [trials.runs_of(best)[0].run_id]


def test_a_database_in_place_of_the_journal(pose_search: Pose, store: StudyFolder, tmp_path: Path) -> None:
    problem = pose_search(storage=f"sqlite:///{tmp_path}/optuna.db")
    train(Trials(problem, store), limit=3)
    assert len(train(Trials(problem, store))) == 3
    assert len(optuna.load_study(study_name="tiny", storage=problem.storage).trials) == 6


def test_another_search_of_that_name_is_refused(pose_search: Pose, store: StudyFolder, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/optuna.db"
    train(Trials(pose_search(storage=database), store))
    before = read_curve(next(store.path.glob("*/curve.jsonl")))
    with pytest.raises(GridError, match="was run before with other `space`"):
        Trials(pose_search(space={RATE: [1e-3]}, storage=database), store)
    with pytest.raises(GridError, match="with other `model`, `train`"):
        Trials(pose_search(budget=6, storage=database), store)
    with pytest.raises(GridError, match="holds another search named 'tiny'"):
        Trials(pose_search(space={RATE: [1e-3]}, storage=database), StudyFolder(tmp_path / "elsewhere" / "tiny"))
    rules = [{"when": "train.learning_rate > 0.01", "set": {"train.beta1": 0.5}}]
    with pytest.raises(GridError, match=r"was run before with other `rules`: the trial .* had other settings"):
        Trials(pose_search(storage=database, rules=rules), store)
    assert read_curve(next(store.path.glob("*/curve.jsonl"))) == before
    assert (
        len(train(Trials(pose_search(trials=8, storage=database), store))) == 2
    )  # a search with more trials is the same search


def test_a_storage_whose_trials_were_trained_elsewhere_is_refused(
    pose_search: Pose, store: StudyFolder, tmp_path: Path
) -> None:
    problem = pose_search(storage=f"sqlite:///{tmp_path}/optuna.db")
    train(Trials(problem, store), limit=3)
    with pytest.raises(RecordError, match=r"trial=defaults was trained elsewhere, and .*add it with `ablate pack`"):
        Trials(problem, StudyFolder(tmp_path / "elsewhere" / "tiny"))
    assert len(train(Trials(problem, store))) == 3


def test_a_study_and_a_search_do_not_share_a_name(
    pose_search: Pose, write_grid, corpus_info: CorpusInfo, store: StudyFolder
) -> None:
    """Only the record of a search lists its trials, so nothing may overwrite it."""
    trials = Trials(pose_search(), store)
    train(trials)
    plan = build_plan(load_study(write_grid()), corpus_info)
    before, console = store.record.read_bytes(), Console(quiet=True)
    with pytest.raises(GridError, match=r"grid.yaml:1: study: a search named 'tiny' was run in .*another name"):
        run_study(plan, store, store.path, Options(""), console, View(console))
    assert store.record.read_bytes() == before
    store.write_study(record_study(plan, "0", ""))
    with pytest.raises(GridError, match=r"search.yaml: a study named 'tiny' was run before"):
        Trials(pose_search(), store)


def test_a_storage_that_does_not_answer_is_named_without_its_password(pose_search: Pose, store: StudyFolder) -> None:
    with pytest.raises(GridError, match="storage: Optuna cannot open") as refusal:
        Trials(pose_search(storage="postgresql://me:secret@localhost:1/x"), store)
    assert "secret" not in str(refusal.value)
