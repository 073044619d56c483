"""Runs that ended and then lost a file: nothing is lost silently, and no good curve is trained again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ablate.cli.archive import check_model
from ablate.data import prepare
from ablate.errors import RecordError
from ablate.execution.jobs import count_states, find_unfinished, make_job, record_study
from ablate.execution.recovery import is_unwritable, repair_runs
from ablate.execution.worker import RunWorker
from ablate.plan import Plan, build_plan
from ablate.study import load_study
from ablate.tracking.archive import merge, pack
from ablate.tracking.folders import RunFolder, StudyFolder
from ablate.training.checkpoint import write_checkpoint
from ablate_model import load
from in_process import ONE_CPU, train_here


class Trained:
    """A study of two finished runs, and the messages of healing it."""

    def __init__(self, grid: Path, folder: Path) -> None:
        self.study = load_study(grid)
        self.store = StudyFolder(folder / "runs" / "tiny")
        self.corpus = prepare(self.study.data, grid.parent, folder / "shards")
        self.plan: Plan = build_plan(self.study, self.corpus.info)
        self.store.write_study(record_study(self.plan, "0", "ablate run"))
        train_here(self.plan, self.plan.runs, self.store, self.corpus)
        self.run = self.plan.runs[0]

    @property
    def folder(self) -> RunFolder:
        return self.store.run(self.run.run_id)

    def heal(self, *, needs_weights: bool = True) -> str:
        said: list[str] = []
        repair_runs(self.plan, self.store, said.append, needs_weights=needs_weights)
        return "\n".join(said)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, corpus_file: Path) -> Trained:
    folder = tmp_path_factory.mktemp("healing")
    grid = folder / "grid.yaml"
    grid.write_text(
        f"study: tiny\ndata: {{source: text, path: {corpus_file}}}\n"
        "model: {d_model: 16, n_layers: 1, n_heads: 2, context_length: 16}\n"
        "train: {steps: 4, batch_size: 2, eval_every: 2, eval_tokens: 64, log_every: 2}\n"
        "matrix: {attention: [standard, differential]}\n"
    )
    return Trained(grid, folder)


@pytest.fixture
def trained(kept: Trained) -> Trained:
    """The study as it was after training, whatever the previous test did."""
    backup = kept.store.path.with_name("backup")
    if not backup.exists():
        shutil.copytree(kept.store.path, backup)
    shutil.rmtree(kept.store.path)
    shutil.copytree(backup, kept.store.path)
    return kept


def test_a_whole_study_needs_nothing(trained: Trained) -> None:
    assert trained.heal() == ""
    config = json.loads(trained.folder.config.read_text())
    config["train"] |= {"micro_batch_size": 1, "checkpoint_every": 7}  # settings without effect on the result
    del config["train"]["deterministic"]  # which older versions did not know
    trained.folder.config.write_text(json.dumps(config))
    assert trained.heal() == ""


@pytest.mark.parametrize(
    "content",
    [None, b"", b"[]", b"{}", b"\xff", b'{"model": 3}', b'{"model": {}, "train": [], "data": {}, "seed": "0"}', "seed"],
)
def test_a_lost_config_was_not_noticed(trained: Trained, content: bytes | str | None) -> None:
    before = trained.folder.config.read_bytes()
    if content is None:
        trained.folder.config.unlink()
    else:
        other = json.dumps(json.loads(before) | {"seed": 77}).encode()
        trained.folder.config.write_bytes(content if isinstance(content, bytes) else other)
    assert "config.json was" in trained.heal()
    assert trained.folder.config.read_bytes() == before
    assert trained.heal() == ""


@pytest.mark.parametrize("content", [b"", b"evil", bytes(1000), b"half", None])
def test_lost_weights_were_not_noticed(trained: Trained, content: bytes | None) -> None:
    whole = trained.folder.weights.read_bytes()
    if content is None:
        trained.folder.weights.unlink()
    else:
        trained.folder.weights.write_bytes(whole[: len(whole) // 2] if content == b"half" else content)
    curve = trained.folder.curve.read_bytes()
    said = trained.heal()
    assert f"remove its folder: {trained.folder.path}" in said
    assert "curve is intact" in said or "curves are intact" in said
    assert (trained.heal(needs_weights=False) == "") == (content is None)  # removed on purpose by `ablate clean`
    assert "model.safetensors" in trained.folder.weights_flaw()
    assert trained.folder.curve.read_bytes() == curve
    assert not find_unfinished(trained.plan, trained.store)


def test_weights_come_from_the_checkpoint_where_it_is_the_last_one(trained: Trained) -> None:
    state = {name: tensor.clone() for name, tensor in load(trained.folder.path).state_dict().items()}
    whole, mark = trained.folder.weights.read_bytes(), trained.folder.read_status().curve
    assert mark is not None
    trained.folder.weights.write_bytes(whole[:100])
    write_checkpoint(trained.folder.checkpoint, {"model": state, "curve": [mark[0] - 1, mark[1]]})
    assert "not complete weights" in trained.heal()
    write_checkpoint(trained.folder.checkpoint, {"model": state, "curve": [*mark]})
    assert trained.heal() == ""
    assert trained.folder.weights.read_bytes() == whole


@pytest.mark.parametrize("name", ["config.json", "manifest.json", "model.safetensors"])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path.name)])
def test_what_cannot_be_healed_is_named(trained: Trained, name: str, make: Callable[[Path], object]) -> None:
    path = trained.folder.path / name
    path.unlink()
    make(path)
    assert str(path) in trained.heal()


@pytest.mark.parametrize("name", ["status.json", "config.json", "manifest.json"])
def test_a_run_that_could_not_write_its_status_counted_as_queued(trained: Trained, name: str) -> None:
    """An error that the status cannot record is raised, so the driver counts the run as failed and exits with 1."""
    worker = RunWorker(trained.store.path, trained.corpus, ONE_CPU)
    job = make_job(trained.plan, trained.run, ONE_CPU, {})
    trained.folder.status.unlink()
    path = trained.folder.path / name
    path.unlink(missing_ok=True)
    path.mkdir()
    if name == "status.json":
        with pytest.raises(IsADirectoryError, match=r"this is a folder, not a file: .*status\.json") as error:
            worker.train(job)
        assert not is_unwritable(error.value, trained.store.path)
        return
    assert worker.train(job) == "failed"
    assert f"this is a folder, not a file: '{path}'" in trained.folder.read_status().error
    assert count_states(trained.store, [run.run_id for run in trained.plan.runs]) == {"failed": 1, "finished": 1}


def test_a_curve_that_cannot_be_written_fails_one_run(trained: Trained) -> None:
    worker = RunWorker(trained.store.path, trained.corpus, ONE_CPU)
    trained.folder.curve.unlink()
    os.mkfifo(trained.folder.curve)
    with pytest.raises(RecordError, match=r"curve\.jsonl: this is a FIFO, not a file; move it away"):
        worker.train(make_job(trained.plan, trained.run, ONE_CPU, {}))
    assert not is_unwritable(PermissionError(13, "Permission denied"), trained.store.path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda tensors: tensors, ""),
        (lambda tensors: {**tensors, "extra": torch.zeros(2)}, "its weights do not fit its config: extra"),
        (lambda tensors: dict([*tensors.items()][1:]), "its weights do not fit its config"),
        (lambda tensors: {name: value[..., :1].clone() for name, value in tensors.items()}, "do not fit its config"),
        (lambda tensors: {name: value * torch.nan for name, value in tensors.items()}, "are not numbers"),
    ],
)
def test_any_tensors_were_merged_as_weights(
    trained: Trained, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], problem: str
) -> None:
    save_file(change(load_file(trained.folder.weights)), trained.folder.weights)
    pack(trained.store, tmp_path / "x.tar.gz", weights=True)
    store = StudyFolder(tmp_path / "m" / "tiny")
    if not problem:
        assert merge(store, [tmp_path / "x.tar.gz"], check_model) == (2, 0)
        assert trained.folder.weights.read_bytes() == store.run(trained.run.run_id).weights.read_bytes()
        return
    with pytest.raises(RecordError, match=f"the run {trained.run.run_id}: .*{problem}"):
        merge(store, [tmp_path / "x.tar.gz"], check_model)
    assert not store.path.exists()
