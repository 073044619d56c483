"""Evaluations from their names to rows of the report: choices, identity, storage, archives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import jsonschema
import pytest

import ablate
from ablate.cli.evaluate import choose_all
from ablate.data import describe, prepare
from ablate.errors import AblateError, GridError, RecordError
from ablate.evaluation import table
from ablate.evaluation.base import Evaluation, Row, Subject
from ablate.evaluation.choose import choose, code_of, parse_with
from ablate.evaluation.pending import find_pending, remove_snapshots
from ablate.evaluation.subject import find_tokenizer
from ablate.execution.evaluation_worker import EvaluationWorker, Task
from ablate.execution.jobs import make_job, record_study
from ablate.execution.progress import Evaluated
from ablate.execution.worker import RunWorker
from ablate.plan import build_plan
from ablate.report import write_report
from ablate.report.tables import evaluation_tables
from ablate.study import load_study
from ablate.tracking.archive import merge, pack
from ablate.tracking.code import write_code
from ablate.tracking.evaluations import list_evaluations, list_snapshots, read_evaluation
from ablate.tracking.folders import StudyFolder
from in_process import ONE_CPU

OWN = '''
import torch

def weight_norm(model, tokenizer, device, scale: float = 1.0):
    """The length of all weights together."""
    return {"norm": scale * torch.stack([p.norm() for p in model.parameters()]).norm(), "one": 1}

weight_norm.metrics = {"norm": "lower"}

def broken(model):
    raise RuntimeError("no luck")

def wordy(model):
    return "many words"
'''


class Count(Evaluation):
    """Count the parameters, and refuse a cell that does not fit."""

    name: ClassVar[str] = "count"
    metrics: ClassVar[dict[str, None]] = {"parameters": None}  # type: ignore[assignment]
    longest: int = 64

    def evaluate(self, subject: Subject) -> Iterator[Row]:
        yield Row("parameters", sum(p.numel() for p in subject.model.parameters()), 1)
        yield Row("parameters", None, 0, {"length": self.longest}, note=f"{subject.context_length} tokens are too few")


@pytest.fixture(autouse=True)
def with_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "EVALUATIONS", {"count": f"{__name__}:Count"})
    for module in ("ablate.evaluation.choose",):
        monkeypatch.setattr(f"{module}.EVALUATIONS", table.EVALUATIONS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus_file: Path) -> Path:
    """The grid of a study of two arms and two seeds that was trained, with weights along training."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "my_eval.py").write_text(OWN)
    grid = folder / "grid.yaml"
    grid.write_text(
        f"""
study: tiny
data: {{source: text, path: {corpus_file}}}
model: {{d_model: 16, n_layers: 1, n_heads: 2, context_length: 16}}
train: {{steps: 12, batch_size: 4, eval_every: 4, eval_tokens: 128}}
matrix: {{attention: [standard, differential]}}
seeds: 2
evaluations: [{{name: "my_eval.py:weight_norm", every: 4, scale: 2}}]
"""
    )
    study = load_study(grid)
    plan = build_plan(study, describe(study.data, folder))
    corpus = prepare(study.data, folder, folder / "runs" / ".shards")
    store = StudyFolder(folder / "runs" / "tiny")
    store.write_study(record_study(plan, "0", "ablate"))
    worker = RunWorker(store.path, corpus, ONE_CPU)
    for run in plan.runs:
        assert worker.train(make_job(plan, run, ONE_CPU, {})) == "finished"
    return grid


@pytest.fixture
def store(trained: Path) -> Iterator[StudyFolder]:
    """The trained study, without results of evaluations."""
    store = StudyFolder(trained.parent / "runs" / "tiny")
    yield store
    for run in store.read_study().runs:
        for path in list_evaluations(store.run(run.run_id).path):
            path.unlink()


def evaluate(store: StudyFolder, *names: str, every: int | None = None, **knobs: object) -> list[str]:
    """Evaluate all runs in this process, and return the errors."""
    folder = store.path.parents[1]
    choices = [choose(name, knobs, folder, every) for name in names]
    for code in code_of(choices):
        write_code(store.code, code.files)
    worker = EvaluationWorker(store.path, None, find_tokenizer(store, folder), ONE_CPU)
    pending = find_pending(store, store.read_study().runs, choices)
    tasks = [Task(batch, choice) for batch in pending.batches for choice in batch.choices]
    records = list(map(worker.evaluate, tasks))
    for task, record in zip(tasks, records, strict=True):
        task.keep(store, record)
    return [record.error for record in records]


def test_an_evaluation_is_kept_and_never_repeated(store: StudyFolder) -> None:
    assert evaluate(store, "count") == [""] * 4
    assert evaluate(store, "count") == []
    assert evaluate(store, "count", longest=65) == [""] * 4  # another knob is another evaluation
    study = ablate.load(store.path)
    frame = study.evaluations
    fits = frame[(frame.evaluation == "count") & frame.within.map(lambda cell: not cell)].set_index("arm")
    assert (fits.n == 2).all()
    assert fits["mean"].to_dict() == {arm.arm: arm.n_params for arm in store.read_study().arms}
    unfit = frame[(frame.evaluation == "count") & (frame.n == 0)]
    assert {*unfit.note} == {"16 tokens are too few"}
    assert {*frame.evaluation} == {"count", "count longest=65"}


def test_weights_that_were_trained_again_are_evaluated_again(store: StudyFolder) -> None:
    evaluate(store, "count")
    folder = store.run(store.read_study().runs[0].run_id)
    weights, status = folder.weights.read_bytes(), folder.read_status()
    try:
        folder.weights.write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
        assert len(evaluate(store, "count")) == 1
        curve = read_evaluation(list_evaluations(folder.path)[0])
        assert curve.curve == status.curve
    finally:
        folder.weights.write_bytes(weights)


def test_a_function_in_a_file_is_an_evaluation_with_knobs(store: StudyFolder) -> None:
    assert evaluate(store, "my_eval.py:weight_norm", scale=2.0) == [""] * 4
    frame = ablate.load(store.path).evaluations
    assert {*frame.evaluation} == {"my_eval.py:weight_norm scale=2.0"}
    assert {*frame.metric} == {"norm", "one"}
    assert {*frame[frame.metric == "norm"].direction} == {"lower"}
    own = store.path.parents[1] / "my_eval.py"
    try:
        own.write_text(OWN.replace("{", "{ "))
        assert len(evaluate(store, "my_eval.py:weight_norm", scale=2.0)) == 4  # another code
    finally:
        own.write_text(OWN)


def test_the_error_of_one_evaluation_is_kept_and_the_next_attempt_repeats_it(store: StudyFolder) -> None:
    errors = evaluate(store, "my_eval.py:broken", "count")
    assert sum("no luck" in error for error in errors) == 4
    assert "my_eval.py:11, in broken" in errors[0]
    assert len(errors) == 8
    assert len(evaluate(store, "my_eval.py:broken", "count")) == 4
    assert all(store.run(run.run_id).read_status().state == "finished" for run in store.read_study().runs)
    assert {*ablate.load(store.path).evaluations.evaluation} == {"count"}
    assert "must return a mapping" in evaluate(store, "my_eval.py:wordy")[0]


def test_changed_weights_gave_wrong_results_without_a_word(store: StudyFolder) -> None:
    run = store.run(store.read_study().runs[0].run_id)
    whole = run.weights.read_bytes()
    try:
        run.weights.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
        (error,) = filter(None, evaluate(store, "count"))
    finally:
        run.weights.write_bytes(whole)
    assert "model.safetensors is damaged: its checksum is not that of its weights" in error


def test_runs_without_weights_are_named_and_the_others_go_on(store: StudyFolder) -> None:
    first = store.read_study().runs[0]
    folder = store.run(first.run_id)
    aside = folder.weights.rename(folder.path / "aside")
    try:
        pending = find_pending(store, store.read_study().runs, [choose("count", {}, Path())])
        assert len(pending.batches) == 3
        assert [*pending.refused] == [first]
        assert "model.safetensors is gone" in pending.refused[first]
        aside.rename(folder.weights)
        evaluate(store, "count")
        folder.weights.rename(aside)  # as --keep does after an evaluation
        assert not find_pending(store, store.read_study().runs, [choose("count", {}, Path())]).refused
    finally:
        aside.rename(folder.weights)


def test_weights_along_training_wait_until_they_were_evaluated(store: StudyFolder) -> None:
    runs = store.read_study().runs
    folder = store.run(runs[0].run_id)
    assert [step for step, _ in list_snapshots(folder)] == [4, 8]
    choice = choose("my_eval.py:weight_norm", {"scale": 2}, store.path.parents[1], every=4)
    kept = {path: path.read_bytes() for run in runs for _, path in list_snapshots(store.run(run.run_id))}
    remove_snapshots(store, [run.run_id for run in runs], [choice])
    assert len([*list_snapshots(folder)]) == 2
    assert evaluate(store, "my_eval.py:weight_norm", every=4, scale=2) == [""] * 12
    remove_snapshots(store, [run.run_id for run in runs], [choice])
    assert not [*list_snapshots(folder)]
    report = write_report(store, store.path.parent / "report")
    assert {row.points for row in report.capabilities} == {3}
    table = evaluation_tables(report)[-1]
    assert table.header == ("Arm", "Capability", "Cell", "Speedup", "In loss")
    assert [row[:3] for row in table.rows] == [("differential", "my_eval.py:weight_norm scale=2.0 norm", "\N{EN DASH}")]
    for path, content in kept.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


def test_the_report_has_the_rows_everywhere(store: StudyFolder, tmp_path: Path) -> None:
    evaluate(store, "count", "my_eval.py:weight_norm")
    report = write_report(store, tmp_path / "report")
    summary = json.loads(report.paths["summary"].read_text())
    schema = json.loads((Path(ablate.__file__).parent / "report" / "summary.schema.json").read_text())
    jsonschema.validate(summary, schema)
    rows = summary["evaluations"]
    assert {(row["evaluation"], row["metric"]) for row in rows} >= {("count", "parameters")}
    assert "Evaluation: count" in report.paths["markdown"].read_text()
    assert 'id="h-evaluations"' in report.paths["html"].read_text()
    lines = (tmp_path / "report" / "evaluations.csv").read_text().splitlines()
    assert len(lines) == len(rows) + 1
    published = ablate.load(tmp_path / "report").evaluations  # from curves.parquet
    assert json.loads(published.to_json(orient="records")) == json.loads(
        ablate.load(store.path).evaluations.to_json(orient="records")
    )
    assert str(tmp_path) not in (tmp_path / "report" / "report.md").read_text()


def test_results_survive_pack_and_merge(store: StudyFolder, tmp_path: Path) -> None:
    pack(store, tmp_path / "before.tar.gz", weights=False)
    evaluate(store, "count", "my_eval.py:broken")
    pack(store, tmp_path / "after.tar.gz", weights=False)
    other = StudyFolder(tmp_path / "runs" / "tiny")
    merge(other, [tmp_path / "before.tar.gz"])
    run = store.read_study().runs[0]
    assert not list_evaluations(other.run(run.run_id).path)
    assert merge(other, [tmp_path / "after.tar.gz"]) == (0, 4)  # the runs are there; their results are not
    here, there = (list_evaluations(s.run(run.run_id).path) for s in (store, other))
    assert [path.name for path in here] == [path.name for path in there]
    assert [path.read_bytes() for path in here] == [path.read_bytes() for path in there]
    damaged = there[0]
    damaged.write_text("{}")
    merge(other, [tmp_path / "after.tar.gz"])
    assert damaged.read_bytes() == here[0].read_bytes()


def test_an_archive_with_a_result_that_is_none_is_refused(store: StudyFolder, tmp_path: Path) -> None:
    evaluate(store, "count")
    run = store.run(store.read_study().runs[0].run_id)
    path = list_evaluations(run.path)[0]
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"rows": [{"metric": 1}]}))
    pack(store, tmp_path / "a.tar.gz", weights=False)  # leaves it behind
    other = StudyFolder(tmp_path / "runs" / "tiny")
    merge(other, [tmp_path / "a.tar.gz"])
    assert not list_evaluations(other.run(run.path.name).path)
    with pytest.raises(RecordError, match="rows"):
        read_evaluation(path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("needle,recall", [("needle", {}), ("recall", {})]),
        ("needle:{samples: 20, cells: [1, 2]},recall", [("needle", {"samples": 20, "cells": [1, 2]}), ("recall", {})]),
        ("my_eval.py:weight_norm", [("my_eval.py:weight_norm", {})]),
        ("a/my_eval.py:f:{x: 1}", [("a/my_eval.py:f", {"x": 1})]),
    ],
)
def test_evaluations_are_named_on_the_command_line(text: str, found: list[tuple[str, dict[str, object]]]) -> None:
    assert parse_with(text) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cuont", "there is no evaluation 'cuont'; did you mean 'count'?"),
        ("count:{longst: 3}", "count has no knob 'longst'; did you mean 'longest'?"),
        ("count:{longest: many}", "count: longest: .*got 'many'"),
        ("count:3", "names no evaluation"),
        ("nowhere.py:f", "nowhere.py: there is no such file"),
    ],
)
def test_a_wrong_evaluation_is_refused_with_the_legal_ones(text: str, message: str) -> None:
    with pytest.raises(AblateError, match=message):
        choose_all([text])


def test_evaluations_do_not_change_the_ids_of_runs(trained: Path) -> None:
    def ids(text: str) -> list[str]:
        grid = trained.parent / "other.yaml"
        grid.write_text(text)
        study = load_study(grid)
        return [run.run_id for run in build_plan(study, describe(study.data, grid.parent)).runs]

    text = trained.read_text()
    assert ids(text) == ids(text[: text.index("evaluations")])
    with pytest.raises(GridError, match=r":8: evaluations.0.scal.*did you mean 'scale'"):
        ids(text.replace("scale", "scal"))
    with pytest.raises(GridError, match="scale"):
        ids(text.replace("scale: 2", "scale: [1, 2]"))
    with pytest.raises(GridError, match=r"smallest_effect: .* has no metric 'nrm'; did you mean 'norm'"):
        ids(text.replace("scale: 2", "smallest_effect: {nrm: 0.1}"))
    with pytest.raises(GridError, match="every"):
        ids(text.replace("every: 4", "every: often"))


def test_the_command_lists_evaluations_and_shows_results(
    store: StudyFolder, call_ablate: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store.path.parents[1])
    code, out, _ = call_ablate("evaluate", "--list")
    assert code == 0
    assert "count  Count the parameters" in out
    evaluate(store, "count")
    code, out, _ = call_ablate("evaluate", "tiny", "--with", "count", "--json")  # all is there, so no cluster starts
    rows = json.loads(out)
    assert code == 0
    assert [row["n"] for row in rows if row["within"]] == [0, 0]
    code, out, _ = call_ablate(
        "evaluate", "tiny", "--with", "count", "--arms", "attention == 'standard'", "--seeds", "0"
    )
    assert code == 0
    assert "16 tokens are too few" in out
    assert "differential" not in out
    assert call_ablate("evaluate", "tiny", "--with", "nedle")[0] == 2
    assert call_ablate("evaluate", "tiny", "--with", "count", "--arms", "standrad")[0] == 2
    assert call_ablate("evaluate", "tiny", "--with", "count", "--seeds", "7")[0] == 2


@pytest.mark.parametrize(("done", "code"), [(Evaluated(failed={"count": "oops"}), 1), (Evaluated(), 2)])
def test_the_command_exits_with_1_if_every_evaluation_failed(
    store: StudyFolder,
    call_ablate: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    done: Evaluated,
    code: int,
) -> None:
    monkeypatch.chdir(store.path.parents[1])
    monkeypatch.setattr("ablate.cli.evaluate._evaluate", lambda *_, **__: done)
    found, _, said = call_ablate("evaluate", "tiny", "--with", "count")
    assert found == code
    assert ("there are no results of count" in said) == (code == 2)
