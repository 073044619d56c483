"""Search, tuning and early stopping over a program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from program_bench import ONE_CPU

from ablate.errors import GridError
from ablate.execution.early_stopping import check_stopping, parse_stopping
from ablate.execution.jobs import make_job
from ablate.execution.worker import RunWorker
from ablate.plan import build_plan
from ablate.plan.program_setup import NO_CORPUS
from ablate.search.arm_search import best_of
from ablate.search.follow_up import plan_confirmation, plan_tuned
from ablate.search.pose import load_search, pose, pose_tuning
from ablate.search.problem import Problem
from ablate.search.trials import Trials
from ablate.study import load_overlay, load_study
from ablate.tracking.folders import StudyFolder

# A program whose accuracy is best at lr 0.1, and rises with its steps.
SCRIPT = """
import ablate, json, os
arm = json.load(open(os.path.join(os.environ["ABLATE_RUN_DIR"], "arm.json")))
train = arm["settings"]["train"]
for step in range(1, train["max_iters"] + 1):
    ablate.log(step, val_acc=step / 100 - abs(train["lr"] - 0.1) + 0.001 * arm["seed"], time=step)
"""
PROGRAM = {"command": "python train.py", "metrics": {"val_acc": "higher"}, "steps": "train.max_iters"}
BASE: dict[str, Any] = {
    "program": PROGRAM,
    "train": {"lr": 0.5, "max_iters": 9},
    "trials": 5,
    "budget": {"max_iters": 4},
    "space": {"train.lr": {"low": 0.01, "high": 1.0, "log": True}},
}


def write(folder: Path, name: str, content: dict[str, Any]) -> Path:
    (folder / "train.py").write_text(SCRIPT)
    path = folder / name
    path.write_text(yaml.safe_dump(content))
    return path


def train_all(problem: Problem, store: StudyFolder) -> Trials:
    """Ask for every trial, and run its programs one after another."""
    trials, worker = Trials(problem, store), RunWorker(store.path, None, ONE_CPU)
    runs = trials.plan.runs
    while runs := (*runs, *trials.draw()):
        for run in runs:
            job = make_job(trials.plan, run, ONE_CPU, {}, cut_counts=True, study=store.path)
            assert worker.train(job) == "finished", store.run(run.run_id).read_status().error
            trials.tell(run, "finished")
        runs = ()
    return trials


def test_a_search_finds_the_best_setting_of_a_program(tmp_path: Path) -> None:
    file = write(tmp_path, "search.yaml", {"search": "mine", **BASE, "trials": 12, "confirm": {"seeds": 2, "steps": 7}})
    problem = pose(load_search(file), NO_CORPUS)
    trials = train_all(problem, StudyFolder(tmp_path / "runs" / "mine"))
    (search,) = trials.searches
    best = best_of(search)
    assert best is not None
    assert best.values[0] > trials.find_result(trials.default_of(search))[1][0]  # type: ignore[index]
    assert abs(best.params["train.lr"] - 0.1) < 0.1
    assert {run.arm.n_steps for run in trials.plan.runs} == {4}
    plan = plan_confirmation(problem, trials)
    assert plan is not None
    assert [arm.n_steps for arm in plan.arms] == [7, 7]
    assert plan.arms[0].setup.to_dict() == {"train": {"lr": 0.5, "max_iters": 7}}
    assert {run.seed for run in plan.runs} == {1, 2}


def test_a_grid_tunes_every_arm_of_a_program_first(tmp_path: Path) -> None:
    tune = {key: BASE[key] for key in ("trials", "budget")} | {"space": {"train.lr": [0.5, 0.2, 0.1]}}
    grid = {"study": "mine", "program": PROGRAM, "train": BASE["train"], "matrix": {"kind": ["a", "b"]}}
    study = load_study(write(tmp_path, "grid.yaml", grid | {"tune": tune | {"sampler": "GridSampler", "trials": 3}}))
    problem = pose_tuning(study, NO_CORPUS)
    trials = train_all(problem, StudyFolder(tmp_path / "runs" / "mine-tune"))
    plan = plan_tuned(problem, study, trials)
    assert [arm.name for arm in plan.arms] == ["kind=a", "kind=b"]
    assert [arm.setup.to_dict()["train"] for arm in plan.arms] == [{"lr": 0.1, "max_iters": 9}] * 2
    assert plan.tuning["arms"]["kind=a"]["best"] == {"train.lr": "0.1"}


def test_settings_that_a_search_found_override_a_grid(tmp_path: Path) -> None:
    grid = {"study": "mine", "program": PROGRAM, "train": BASE["train"], "matrix": {"kind": ["a", "b"]}}
    (tmp_path / "best.yaml").write_text("{train.lr: 0.25}\n")
    study = load_study(write(tmp_path, "grid.yaml", grid))
    plan = build_plan(study, NO_CORPUS, load_overlay(tmp_path / "best.yaml"))
    assert {arm.setup.to_dict()["train"]["lr"] for arm in plan.arms} == {0.25}


def test_a_rule_that_needs_the_number_of_steps_says_so(tmp_path: Path) -> None:
    grid = {"study": "mine", "program": PROGRAM | {"steps": None}, "matrix": {"kind": ["a", "b"]}}
    plan = build_plan(load_study(write(tmp_path, "grid.yaml", grid)), NO_CORPUS)
    with pytest.raises(GridError, match=r"program: asha stops runs at shares of their steps, .* set program.steps"):
        check_stopping(parse_stopping("asha"), plan)
    check_stopping(parse_stopping("patience=3"), plan)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": {"tokens": 100}}, "a program's tokens are unknown: name a setting of `train`"),
        ({"budget": {"max_iter": 3}}, "the program has no setting train.max_iter; did you mean 'max_iters'?"),
        ({"objective": "val_ac"}, "do not log 'val_ac'; did you mean 'val_acc'"),
        ({"program": PROGRAM | {"steps": None}, "confirm": {"steps": 5}}, "name the setting that holds the number of"),
    ],
)
def test_a_search_that_a_program_cannot_follow_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    file = write(tmp_path, "search.yaml", {"search": "mine", **BASE, **changes})
    with pytest.raises(GridError) as error:
        pose(load_search(file), NO_CORPUS)
    assert message in str(error.value)
