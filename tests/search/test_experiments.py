"""The experiments about nGPT's scales run at a size for a CPU: every arm and trial trains to its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ablate.data import describe, prepare
from ablate.plan import Plan, Run, build_plan
from ablate.search.arm_search import best_of
from ablate.search.follow_up import plan_confirmation
from ablate.search.pose import load_search, pose
from ablate.search.trials import Trials
from ablate.study import DataConfig, load_study
from ablate.tracking.folders import StudyFolder
from in_process import train_here

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TINY = ("model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.context_length=16", "train.steps=3")
TINY_TRAINING = ("train.batch_size=2", "train.eval_every=3", "train.eval_tokens=64", "seeds=1")


@pytest.fixture(scope="module")
def data(corpus_file: Path) -> DataConfig:
    return DataConfig(source="text", path=(str(corpus_file),))


def train(plan: Plan, runs: Sequence[Run], store: StudyFolder, data: DataConfig) -> None:
    train_here(plan, runs, store, prepare(data, store.path, store.path / "shards"))


@pytest.mark.parametrize(("name", "n_arms"), [("ngpt-table4", 12), ("ngpt-table5", 12)])
def test_the_papers_tables_run(name: str, n_arms: int, data: DataConfig, tmp_path: Path) -> None:
    study = load_study(
        EXPERIMENTS / f"{name}.yaml", (*TINY, *TINY_TRAINING, f"data={{source: text, path: {data.path[0]}}}")
    )
    plan = build_plan(study, describe(study.data, tmp_path))
    assert len(plan.arms) == n_arms
    train(plan, plan.runs, StudyFolder(tmp_path / name), data)


@pytest.mark.parametrize("name", ["search-ngpt-eigen-lr", "search-ngpt-eigen-lr-25m"])
def test_the_headline_searches_run(name: str, data: DataConfig, tmp_path: Path) -> None:
    settings = [*TINY, *TINY_TRAINING, "trials=3", "resources.gpus=0", "train.precision=float32", "train.compile=false"]
    if name.endswith("25m"):
        settings += ["budget.steps=2", "model.d_ff=32"]
    search = load_search(EXPERIMENTS / f"{name}.yaml", (*settings, f"data={{source: text, path: {data.path[0]}}}"))
    problem = pose(search, describe(search.data, tmp_path))
    store = StudyFolder(tmp_path / name)
    trials = Trials(problem, store)
    train(trials.plan, trials.plan.runs, store, data)
    for run in trials.plan.runs:
        trials.tell(run, "finished")
    while runs := trials.draw():
        train(trials.plan, runs, store, data)
        trials.tell(runs[0], "finished")
    assert [len(search.trials) for search in trials.searches] == [3] * len(problem.arms)
    defaults = trials.searches[0].trials[0].params
    assert defaults["model.normalization.alpha_attn.init"] == 0.05
    assert len(defaults) == 11
    confirmation = plan_confirmation(problem, trials)
    if any(best_of(search).number for search in trials.searches):
        train(confirmation, confirmation.runs[:3], StudyFolder(tmp_path / "confirm"), data)
        assert min(confirmation.study.seeds) > max(problem.seeds)
