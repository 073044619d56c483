"""Chained studies: each run starts from the finished weights of the run that it matches."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ablate.data import CorpusInfo, describe, prepare
from ablate.errors import GridError
from ablate.execution.jobs import config_of, make_job, record_study
from ablate.execution.worker import RunWorker
from ablate.plan import Plan, build_plan
from ablate.plan.identity import run_id
from ablate.search.pose import pose_tuning
from ablate.search.trials import Trials
from ablate.study import load_study
from ablate.tracking.archive import merge, pack
from ablate.tracking.curve import read_curve
from ablate.tracking.folders import RunFolder, StudyFolder
from ablate_model import load, save
from in_process import ONE_CPU, train_here

MODEL = {"d_model": 16, "n_layers": 1, "n_heads": 2, "context_length": 16}
TRAIN = {"steps": 4, "batch_size": 4, "eval_every": 4, "eval_tokens": 128, "log_every": 2}
AXES = {"attention": ["standard", "differential"], "normalization": ["prenorm", "ngpt"]}
MATCH = ["attention", "normalization", "seed"]
ONE: dict[str, Any] = {"matrix": {"attention": ["differential"], "normalization": ["ngpt"]}, "seeds": 1}
STILL = 1e-30  # a learning rate that changes no weight


@dataclass
class Chain:
    """A folder with a pre-trained study in `runs/pretrain`, and grids beside it that start from it."""

    folder: Path
    corpus_file: Path

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def plan(self, start_from: dict[str, Any] | None = None, **changes: Any) -> Plan:
        grid: dict[str, Any] = {
            "study": "tuned",
            "data": {"source": "text", "path": str(self.corpus_file)},
            "model": MODEL,
            "train": TRAIN | {"learning_rate": STILL},
            "matrix": AXES,
            "seeds": 2,
        }
        grid |= {"start_from": start_from} if start_from else {}
        path = self.folder / f"{changes.get('study', 'tuned')}.yaml"
        path.write_text(yaml.safe_dump(grid | changes))
        study = load_study(path).among(self.runs)
        return build_plan(study, describe(study.data, self.folder))

    def train(self, plan: Plan, runs: Path | None = None) -> StudyFolder:
        store = StudyFolder((runs or self.runs) / plan.study.name)
        store.write_study(record_study(plan, "0", ""))
        train_here(plan, plan.runs, store, prepare(plan.study.data, self.folder, self.folder / "shards"))
        return store


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus_file: Path) -> Chain:
    chain = Chain(tmp_path_factory.mktemp("chain"), corpus_file)
    chain.train(chain.plan(study="pretrain", train=TRAIN | {"learning_rate": 1e-2}))
    return chain


@pytest.fixture
def chain(trained: Chain, tmp_path: Path) -> Chain:
    """A copy that a test may damage."""
    shutil.copytree(trained.folder, tmp_path, dirs_exist_ok=True)
    return replace(trained, folder=tmp_path)


def last_loss(folder: RunFolder) -> float:
    value = folder.last_validation()
    assert value is not None
    return value


def test_each_arm_and_seed_starts_where_its_parent_ended(chain: Chain) -> None:
    plan = chain.plan({"study": "runs/pretrain", "match": MATCH})
    assert plan.runs == chain.plan({"study": "pretrain", "match": MATCH}).runs
    parents = StudyFolder(chain.runs / "pretrain")
    names = {(run.arm, run.seed): run.run_id for run in parents.read_study().runs}
    store = chain.train(plan)
    assert len(plan.runs) == 8
    for run in plan.runs:
        parent = names[run.arm.name, run.seed]
        assert last_loss(store.run(run.run_id)) == pytest.approx(last_loss(parents.run(parent)), rel=1e-6)
        assert run.run_id == run_id(run.arm.identity, run.seed, parent)
        assert config_of(plan, run)["start_from"] == parent
    assert len({last_loss(parents.run(parent)) for parent in names.values()}) == 8
    assert "pretrain" in store.read_study().caveats[0]


def test_the_identity_holds_the_parent_and_no_path(chain: Chain, tmp_path: Path) -> None:
    start = {"study": "runs/pretrain", "match": MATCH}
    ids = [run.run_id for run in chain.plan(start, **ONE).runs]
    assert not {*ids} & {run.run_id for run in chain.plan(**ONE).runs}
    archives = [tmp_path / "pretrain.tar.gz", tmp_path / "tuned.tar.gz"]
    pack(StudyFolder(chain.runs / "pretrain"), archives[0], weights=True)
    pack(chain.train(chain.plan(start, **ONE)), archives[1], weights=False)
    elsewhere = tmp_path / "elsewhere"
    for name, archive in zip(("pretrain", "tuned"), archives, strict=True):
        merge(StudyFolder(elsewhere / name), [archive])
    assert [run.run_id for run in StudyFolder(elsewhere / "tuned").read_study().runs] == ids
    moved = chain.plan({"study": str(elsewhere / "pretrain"), "match": MATCH}, **ONE)
    assert [run.run_id for run in moved.runs] == ids
    chain.train(chain.plan(study="pretrain", train=TRAIN | {"steps": 5}, **ONE), elsewhere)
    other = chain.plan({"study": str(elsewhere / "pretrain"), "match": MATCH}, **ONE)
    assert not {*ids} & {run.run_id for run in other.runs}


def test_one_parent_may_serve_all_runs_or_be_a_folder_of_weights(chain: Chain, tmp_path: Path) -> None:
    one = {"attention": ["standard"], "train.learning_rate": [STILL, 1e-3]}
    grid: dict[str, Any] = {"model": MODEL | {"normalization": "ngpt"}, "matrix": one}
    chain.train(chain.plan(study="single", seeds=[7], **grid))
    plan = chain.plan({"study": "single", "match": ["train.learning_rate"]}, study="a", **grid)
    parents = StudyFolder(chain.runs / "single").read_study().runs
    assert {run.parent.identity for run in plan.runs if run.parent} == {run.run_id for run in parents}
    first = chain.runs / "single" / parents[0].run_id
    save(load(first), tmp_path / "weights")
    by_folder = chain.plan({"folder": str(tmp_path / "weights")}, study="b", **grid)
    store = chain.train(by_folder)
    assert last_loss(store.run(by_folder.runs[0].run_id)) == pytest.approx(last_loss(RunFolder(first)), rel=1e-6)
    with pytest.raises(GridError, match=r"b.yaml:\d+: start_from.folder: nowhere"):
        chain.plan({"folder": "nowhere"}, study="b", **grid)


def test_what_depends_on_vocabulary_and_context_starts_fresh_and_the_rest_does_not(chain: Chain) -> None:
    arms: dict[str, Any] = {"matrix": {"normalization": ["prenorm", "ngpt"]}, "seeds": 1}
    learned = MODEL | {"position": "learned"}
    store = chain.train(chain.plan(study="learned", model=learned, **arms))
    changed = learned | {"context_length": 32, "vocab_size": 300}
    plan = chain.plan({"study": "learned", "match": ["normalization", "seed"]}, model=changed, **arms)
    tuned = chain.train(plan)
    for run in plan.runs:
        assert run.arm.start is not None
        assert run.parent is not None
        own, parent = (load_file(s.run(i).weights) for s, i in ((tuned, run.run_id), (store, run.parent.identity)))
        fresh = {name for name in own if own[name].shape != parent[name].shape}
        assert {"embedding.weight", "head.weight"} < fresh
        assert fresh == {*run.arm.start.fresh}
        assert any(f"{name}" in notice and "fresh" in notice for name in fresh for notice in run.arm.notices)
        assert all(torch.allclose(own[name], parent[name], atol=1e-6) for name in own.keys() - fresh)


def damage_weights(chain: Chain) -> None:
    next(iter(sorted(chain.runs.glob("pretrain/*/model.safetensors")))).unlink()


def cut_run(chain: Chain) -> None:
    folder = RunFolder(next(chain.runs.glob("pretrain/*/status.json")).parent)
    folder.write_status(replace(folder.read_status(), step=3))


def lose_runs(chain: Chain) -> None:
    for path in chain.runs.glob("pretrain/*/status.json"):
        path.unlink()


SMALLER = MODEL | {"d_ff": 24}


@pytest.mark.parametrize(
    ("prepare_chain", "start", "changes", "message"),
    [
        (None, {"study": "pretrian", "match": MATCH}, {}, r"start_from.study: .*did you mean 'pretrain'"),
        (
            None,
            {"study": "pretrain", "match": ["attn"]},
            {},
            r"start_from.match: pretrain has no axis 'attn'.*attention",
        ),
        (
            None,
            {"study": "pretrain", "match": ["attention", "seed"]},
            {},
            r"2 arms of pretrain match .*add normalization",
        ),
        (None, {"study": "pretrain", "match": MATCH[:2]}, {}, "has 2 runs of different seeds: add seed"),
        (None, {"study": "pretrain", "match": MATCH}, {"seeds": [0, 1, 5]}, r"no run of the seed 5 \(it has: 0, 1\)"),
        (
            None,
            {"study": "pretrain", "match": MATCH},
            {"matrix": AXES | {"attention": ["standard", "gated"]}},
            "no arm with attention=gated, normalization=prenorm",
        ),
        (
            None,
            {"study": "pretrain", "match": MATCH},
            {"model": SMALLER},
            r"the tensor stack\S+weight does not fit: shape \[128, 16\] in attention=.* and shape \[48, 16\] in this",
        ),
        (None, {"study": "pretrain"} | {"folder": "x"}, {}, "either a study"),
        (lose_runs, {"study": "pretrain", "match": MATCH}, {}, r"seed=0 of pretrain is queued: finish it first"),
        (cut_run, {"study": "pretrain", "match": MATCH}, {}, r"was stopped early, at step 3"),
        (damage_weights, {"study": "pretrain", "match": MATCH}, {}, r"of pretrain: model.safetensors is gone"),
    ],
)
def test_a_parent_that_cannot_serve_is_refused_by_name(
    chain: Chain,
    prepare_chain: Callable[[Chain], None] | None,
    start: dict[str, Any],
    changes: dict[str, Any],
    message: str,
) -> None:
    if prepare_chain is not None:
        prepare_chain(chain)
    with pytest.raises(GridError, match=message) as found:
        chain.plan(start, **changes)
    assert f"{chain.folder}/tuned.yaml:" in str(found.value)


def test_a_finished_study_needs_its_parents_no_longer(chain: Chain) -> None:
    start = {"study": "pretrain", "match": MATCH}
    plan = chain.plan(start, **ONE)
    chain.train(plan)
    for path in chain.runs.glob("pretrain/*/model.safetensors"):
        path.unlink()
    assert [run.run_id for run in chain.plan(start, **ONE).runs] == [run.run_id for run in plan.runs]


def test_other_tokens_of_the_same_number_are_refused(chain: Chain) -> None:
    store = StudyFolder(chain.runs / "pretrain")
    record = store.read_study()
    store.write_study(replace(record, data={**record.data, "tokenizer": "p50k_base"}))
    with pytest.raises(GridError, match=r"data.tokenizer: .*read the tokens of 'p50k_base': use that"):
        chain.plan({"study": "pretrain", "match": MATCH})


def test_trials_start_from_the_parents_of_the_matrix(chain: Chain, corpus_info: CorpusInfo) -> None:
    tune = {"space": {"train.learning_rate": [1e-3, 1e-2]}, "trials": 3, "sampler": "GridSampler", "seeds": 3}
    plan = chain.plan({"study": "pretrain", "match": MATCH}, tune=tune)
    problem = pose_tuning(plan.grid, corpus_info)
    trials = Trials(problem, StudyFolder(chain.runs / problem.name))
    runs = trials.draw()
    parents = {run.seed: run.parent for run in plan.runs if run.arm.name == plan.arms[0].name}
    assert [run.parent for run in runs] == [parents[0], parents[1], parents[0]]
    assert make_job(trials.plan, runs[0], ONE_CPU, {}).config["start_from"] == runs[0].parent.identity  # type: ignore[union-attr]


def test_a_resumed_run_continues_from_its_checkpoint_and_not_from_the_parent(chain: Chain) -> None:
    training = TRAIN | {"steps": 6, "learning_rate": 1e-2, "checkpoint_every": 3}
    plan = chain.plan({"study": "pretrain", "match": MATCH}, train=training, **ONE)
    whole = chain.train(plan)
    cut = StudyFolder(chain.folder / "cut" / "tuned")
    run = plan.runs[-1]
    corpus = prepare(plan.study.data, chain.folder, chain.folder / "shards")
    worker = RunWorker(cut.path, corpus, ONE_CPU)
    worker.stop([run.run_id])
    assert worker.train(make_job(plan, run, ONE_CPU, {})) == "stopped"
    assert cut.run(run.run_id).read_status().step == 1
    train_here(plan, [run], cut, corpus)
    curves = [
        [(line["step"], line["train_loss"], line.get("val_loss")) for line in read_curve(s.run(run.run_id).curve)]
        for s in (whole, cut)
    ]
    assert curves[0] == curves[1]
