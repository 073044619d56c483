"""When two runs are the same run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ablate.data import CorpusInfo
from ablate.execution.jobs import record_study
from ablate.plan import build_plan
from ablate.plan.identity import run_id
from ablate.search.pose import load_search, pose, pose_tuning
from ablate.study import load_study

WriteGrid = Callable[..., Path]

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
PUBLISHED = json.loads(Path(__file__).with_name("run_ids.json").read_text())
WIKI = CorpusInfo(hash="c0ffee", n_train_tokens=10_000_000, n_validation_tokens=1_000_000, vocab_size=256)


def digest(ids: Sequence[str]) -> list[object]:
    return [len(ids), hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]]


def test_every_published_grid_is_on_record() -> None:
    names = {path.stem for path in EXPERIMENTS.glob("*.yaml") if "\nstart_from:" not in path.read_text()}
    assert names == PUBLISHED["runs"].keys() | {name for name in PUBLISHED["first trials"] if name.startswith("search")}


@pytest.mark.parametrize("name", PUBLISHED["runs"])
def test_run_ids_of_published_grids_stay(name: str) -> None:
    """Recorded before settings without effect were merged, so that studies with runs of these grids can resume."""
    assert digest(run_ids(EXPERIMENTS / f"{name}.yaml", WIKI)) == PUBLISHED["runs"][name]


@pytest.mark.parametrize("name", PUBLISHED["first trials"])
def test_ids_of_the_first_trials_of_published_searches_stay(name: str) -> None:
    path = EXPERIMENTS / f"{name}.yaml"
    is_search = name.startswith("search")
    problem = pose(load_search(path), WIKI) if is_search else pose_tuning(load_study(path), WIKI)
    defaults = [arm.default.setup.identity(WIKI.hash) for arm in problem.arms]
    assert digest([run_id(arm, seed) for arm in defaults for seed in problem.seeds]) == PUBLISHED["first trials"][name]


def test_the_smallest_effect_changes_no_run_and_is_recorded() -> None:
    source = EXPERIMENTS / "ngpt-vs-gpt.yaml"
    assert run_ids(source, WIKI) == run_ids(source, WIKI, "smallest_effect=0.02")
    plans = [build_plan(load_study(source, settings), WIKI) for settings in ((), ("smallest_effect=0.02",))]
    assert [record_study(plan, "0", "").smallest_effect for plan in plans] == [None, 0.02]


def run_ids(path: Path, corpus: CorpusInfo, *settings: str) -> list[str]:
    return [run.run_id for run in build_plan(load_study(path, settings), corpus).runs]


def test_the_plan_is_deterministic_and_its_ids_are_distinct(write_grid: WriteGrid, corpus_info: CorpusInfo) -> None:
    path = write_grid(seeds=3)
    ids = run_ids(path, corpus_info)
    assert ids == run_ids(path, corpus_info)
    assert len(set(ids)) == 12
    assert all(len(run_id) == 16 and int(run_id, 16) >= 0 for run_id in ids)


@pytest.mark.parametrize(
    "setting",
    ["train.checkpoint_every=7", "train.micro_batch_size=2", "resources={cpus: 2}", "study=other", "question=Why?"],
)
def test_what_does_not_decide_the_result_is_not_in_the_id(
    write_grid: WriteGrid, corpus_info: CorpusInfo, setting: str
) -> None:
    path = write_grid()
    assert run_ids(path, corpus_info, setting) == run_ids(path, corpus_info)


@pytest.mark.parametrize(
    "setting",
    ["train.steps=13", "train.precision=float64", "model.d_model=32", "seeds=[5]", "train.learning_rate=0.002"],
)
def test_what_decides_the_result_is(write_grid: WriteGrid, corpus_info: CorpusInfo, setting: str) -> None:
    path = write_grid()
    assert not set(run_ids(path, corpus_info, setting)) & set(run_ids(path, corpus_info))


def test_another_corpus_makes_other_runs(write_grid: WriteGrid, corpus_info: CorpusInfo) -> None:
    path = write_grid()
    other = CorpusInfo("beef", corpus_info.n_train_tokens, corpus_info.n_validation_tokens, corpus_info.vocab_size)
    assert not set(run_ids(path, other)) & set(run_ids(path, corpus_info))


def test_a_default_written_out_is_the_same_run(write_grid: WriteGrid, corpus_info: CorpusInfo) -> None:
    path = write_grid()
    assert run_ids(path, corpus_info, "train.beta1=0.9") == run_ids(path, corpus_info)


def test_a_new_level_leaves_the_other_runs_as_they_were(write_grid: WriteGrid, corpus_info: CorpusInfo) -> None:
    before = run_ids(write_grid(matrix={"attention": ["standard"]}, baseline={}), corpus_info)
    after = run_ids(write_grid(matrix={"attention": ["standard", "differential"]}, baseline={}), corpus_info)
    assert set(before) < set(after)
