"""Continuing a prompt with the model of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ablate.errors import RecordError
from ablate.evaluation.continuation import continue_prompt, find_run
from ablate.tracking.folders import RunFolder, StudyFolder
from ablate.tracking.study_record import ArmRecord, RunRecord, Status, StudyRecord
from ablate_model import GPT, ModelConfig, Sampling, save

GREEDY = Sampling(temperature=0)
CONFIG = ModelConfig(d_model=16, n_layers=1, n_heads=2, vocab_size=256, context_length=16, normalization="ngpt")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """The files of a finished run with an untrained model, written the way workers do."""
    store = StudyFolder(tmp_path / "runs" / "study")
    arm = ArmRecord("a", {}, {}, "a", CONFIG.num_params(), CONFIG.flops_per_token(), 1, 64)
    data = {"source": "python-stdlib", "tokenizer": "bytes", "hash": "c0ffee"}
    store.write_study(
        StudyRecord("study", "?", "full", "none", (), {}, {}, data, {}, (arm,), (RunRecord("0f1e", "a", 0),), "0")
    )
    folder = store.run("0f1e")
    save(GPT(CONFIG), folder.path)
    folder.config.write_text(json.dumps({"model": CONFIG.to_dict(), "seed": 0}))
    folder.write_status(Status("finished"))
    return folder


def test_the_prompt_is_continued_the_same_way_each_time(run: RunFolder) -> None:
    text = continue_prompt(run, "def f(", 20, GREEDY)
    assert text.startswith("def f(")
    assert len(text) > len("def f(")
    assert continue_prompt(run, "def f(", 20, GREEDY) == text
    sampled = {continue_prompt(run, "def f(", 20, Sampling(), seed=seed) for seed in range(3)}
    assert len(sampled) == 3


def test_an_empty_prompt_is_the_beginning_of_a_document(run: RunFolder) -> None:
    assert len(continue_prompt(run, "", 5, GREEDY)) > 0


def test_what_follows_the_stop_is_cut_off(run: RunFolder) -> None:
    whole = continue_prompt(run, "x", 30, Sampling(), seed=1)[1:]
    for stop in (whole[4], whole[4:6]):
        assert continue_prompt(run, "x", 30, Sampling(), seed=1, stop=stop) == "x" + whole.partition(stop)[0]


def test_a_run_is_found_by_folder_and_by_the_beginning_of_its_id(run: RunFolder) -> None:
    runs = run.path.parents[1]
    assert find_run(str(run.path), runs) == run
    assert find_run("0f", runs).path == run.path
    with pytest.raises(RecordError, match="no such run"):
        find_run("ff", runs)
    with pytest.raises(RecordError, match="no such run"):
        find_run("", runs)
    (runs / "study" / "0f22").mkdir()
    (runs / "study" / "0f22" / "config.json").write_text("{}")
    with pytest.raises(RecordError, match="more than one"):
        find_run("0f", runs)


def test_of_several_studies_with_the_run_one_has_its_weights(run: RunFolder) -> None:
    for study in ("a", "z"):
        folder = RunFolder(run.path.parents[1] / study / run.path.name)
        folder.path.mkdir(parents=True)
        folder.config.write_text(run.config.read_text())
    assert find_run(run.path.name, run.path.parents[1]).path == run.path


def test_a_run_without_usable_weights_is_named(run: RunFolder) -> None:
    other = ModelConfig.parse({**CONFIG.to_dict(), "d_model": 32, "d_ff": None})
    run.config.write_text(json.dumps({"model": other.to_dict()}))
    with pytest.raises(RecordError, match="cannot be loaded"):
        continue_prompt(run, "x", 1, GREEDY)
    run.weights.unlink()
    with pytest.raises(RecordError, match=r"its model\.safetensors is not here: the run finished"):
        continue_prompt(run, "x", 1, GREEDY)
    run.write_status(Status("queued"))
    with pytest.raises(RecordError, match="it is queued"):
        continue_prompt(run, "x", 1, GREEDY)
    run.status.write_text("{torn")
    with pytest.raises(RecordError, match=r"has no weights: .*status\.json was damaged"):
        continue_prompt(run, "x", 1, GREEDY)
    run.config.unlink()
    with pytest.raises(RecordError, match=r"this is not a run's folder: it has no config\.json"):
        find_run(str(run.path), run.path.parents[1])


def change_study(run: RunFolder, **data: Any) -> None:
    record = run.path.parent / "study.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "data": {**content["data"], **data}}))


def poison(run: RunFolder) -> None:
    model = GPT(CONFIG)
    model.embedding.weight.data.fill_(torch.nan)
    config = run.config.read_bytes()
    save(model, run.path)
    run.config.write_bytes(config)


HUGE = ModelConfig.parse({**CONFIG.to_dict(), "d_model": 960_000, "d_ff": 1_000_000, "vocab_size": 1_000_000})
SMALL = ModelConfig.parse({**CONFIG.to_dict(), "vocab_size": 100})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: run.config.write_text('{"model":' * 100_000), r"config\.json is nested too deeply"),
        (lambda run: run.config.write_text('{"model"'), r"config\.json is not valid JSON"),
        (lambda run: run.config.write_text('{"model": []}'), "expected a mapping of a model's settings"),
        (lambda run: run.weights.write_bytes(run.weights.read_bytes()[:-3]), r"model\.safetensors contains no weights"),
        (lambda run: (run.weights.unlink(), run.weights.mkdir()), r": model\.safetensors: .*: this is a folder, not a"),
        (lambda run: run.config.write_text(json.dumps(HUGE.to_dict())), r"describes [\d,]+ parameters \([\d.]+ TB"),
        (
            lambda run: save(GPT(SMALL), run.path),
            "the prompt holds token 120, but the model's vocabulary has 100 tokens",
        ),
        (lambda run: change_study(run, validation_fraction=2), r"study\.json: data\.validation_fraction: .* got 2"),
        (lambda run: change_study(run, validation_fraction="x"), r"study\.json: data\.validation_fraction: .* got 'x'"),
        (lambda run: change_study(run, source=[1]), r"study\.json: data\.source: .* got \[1\]"),
        (lambda run: (run.path.parent / "study.json").write_text("[" * 200_000), "nested too deeply"),
        (poison, "cannot continue the prompt: the model's logits are not finite"),
    ],
)
def test_a_damaged_run_ended_in_a_traceback(
    damage: Callable[[RunFolder], object], message: str, run: RunFolder
) -> None:
    damage(run)
    with pytest.raises(RecordError, match=message):
        continue_prompt(run, "x", 1, Sampling())
