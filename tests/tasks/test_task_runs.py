"""Studies of tasks from the grid to the page: trained, reported, moved and loaded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ablate.cli.inputs import pose_on_corpus, read_plan
from ablate.execution.early_stopping import parse_stopping
from ablate.execution.jobs import record_study
from ablate.plan import Plan
from ablate.search.arm_search import best_of
from ablate.search.conclusions import state_conclusions
from ablate.search.pose import load_search, pose
from ablate.search.result import summarize
from ablate.search.trials import Trials
from ablate.tracking.curve import read_curve
from ablate.tracking.folders import StudyFolder
from ablate_model import EncoderDecoder, ViT, load
from in_process import train_here

DIGITS: dict[str, Any] = {
    "study": "digits",
    "task": {"name": "images", "crop": 1},
    "model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "patch_size": 4},
    "train": {"steps": 20, "batch_size": 64, "learning_rate": 0.01, "eval_every": 10},
    "matrix": {"normalization": ["prenorm", "ngpt"]},
    "seeds": 2,
}
PAIRS: dict[str, Any] = {
    "study": "pairs",
    "task": {"name": "sequence_to_sequence", "longest": 3, "shortest": 1, "eval_pairs": 16},
    "model": {"d_model": 16, "n_layers": 1, "n_heads": 2},
    "train": {"steps": 6, "batch_size": 8, "eval_every": 3},
    "matrix": {"cross_attention": ["standard", "differential"]},
}


def train_study(folder: Path, grid: dict[str, Any]) -> tuple[Plan, StudyFolder]:
    path = folder / f"{grid['study']}.yaml"
    path.write_text(yaml.safe_dump(grid, sort_keys=False))
    plan = read_plan(path, folder / "runs", [])
    store = StudyFolder(folder / "runs" / plan.study.name)
    store.path.mkdir(parents=True)
    store.write_study(record_study(plan, "0", "ablate run digits.yaml"))
    train_here(plan, plan.runs, store, None)
    return plan, store


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, StudyFolder]:
    return train_study(tmp_path_factory.mktemp("digits"), DIGITS)


def test_a_report_compares_accuracies_and_says_so(digits, call_ablate, tmp_path) -> None:
    _, store = digits
    code, out, err = call_ablate("report", store.path, "--out", tmp_path / "report", "--no-attach")
    assert code == 0, err
    page = (tmp_path / "report" / "report.md").read_text()
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["metrics"] == {"val_accuracy": "higher", "val_loss": "lower"}
    for text in (out, page):
        assert "final validation accuracy, arm minus baseline" in text and "prenorm's final accuracy" in text
        assert "val_accuracy" not in text and "val\\_accuracy" not in text
        assert not re.search(r"nats|perplexity|bits per byte", text)
    losses = [line for line in page.splitlines() if "loss" in line.lower()]
    assert len(losses) == 1 and "Final validation loss" in losses[0]  # the second metric, in the table of arms
    (arm,) = [arm for arm in summary["arms"] if arm["baseline"] != arm["arm"]]
    assert 0.1 < arm["final_loss"]["mean"] <= 1.0
    assert set(arm["other_metrics"]) == {"val_loss"}


def test_early_stopping_judges_a_task_by_its_accuracy(digits) -> None:
    """On curves that were trained: as they are, and backwards, which is losing accuracy while the loss still falls."""
    plan, store = digits
    runs = [run for run in plan.runs if run.arm.name != run.arm.baseline]
    curves = [read_curve(store.run(run.run_id).curve) for run in runs]
    for curve in curves:
        accuracies, losses = ([record[name] for record in curve] for name in ("val_accuracy", "val_loss"))
        assert len(curve) >= 2 and accuracies == sorted(accuracies) and accuracies[0] < accuracies[-1]
        worse = [{"step": r["step"], "val_accuracy": a, "val_loss": loss}
                 for r, a, loss in zip(curve, reversed(accuracies), losses, strict=True)]  # fmt: skip
        rule = parse_stopping("patience=1", store.read_study().metric)
        assert rule is not None
        assert [rule.judge(runs[0], curve), rule.judge(runs[1], worse)] == [
            "", f"patience: no higher validation accuracy for {len(curve) - 1} evaluation" + "s" * (len(curve) > 2)
        ]  # fmt: skip


def test_a_search_by_accuracy_takes_the_highest(tmp_path: Path) -> None:
    space = {"train.learning_rate": [1e-6, 0.01]}
    own = {"search": "rates", "space": space, "trials": 2, "sampler": "GridSampler", "seeds": 1}
    path = tmp_path / "search.yaml"
    train = {**DIGITS["train"], "learning_rate": 1e-6}  # so that the other one is better than the default
    path.write_text(yaml.safe_dump({**{key: DIGITS[key] for key in ("task", "model")}, "train": train, **own}))
    declared = load_search(path)
    problem = pose_on_corpus(declared, tmp_path / "runs", lambda corpus: pose(declared, corpus))
    store = StudyFolder(tmp_path / "runs" / "rates")
    trials = Trials(problem, store)
    while runs := [r for r in trials.plan.runs if not store.run(r.run_id).curve.exists()] or [*trials.draw()]:
        train_here(trials.plan, runs, store, None)
        for run in runs:
            trials.tell(run, "finished")
    (search,) = trials.searches
    reached = {
        trial.params["train.learning_rate"]: read_curve(store.run(run.run_id).curve)[-1]
        for trial in search.trials
        for run in trials.plan.runs
        if run.arm.train.learning_rate == trial.params["train.learning_rate"]
    }
    best = best_of(search)
    assert best is not None and len(reached) == 2 and problem.objectives[0].metric == "val_accuracy"
    assert best.values == [max(record["val_accuracy"] for record in reached.values())]
    assert best.params["train.learning_rate"] == 0.01
    summary = summarize(problem, trials, store, "0")
    assert summary["objectives"][0]["direction"] == "maximize"
    said = " ".join(state_conclusions(summary))
    assert "trial 1 was the best of 2" in said and "nats" not in said


def test_weights_load_as_the_model_of_the_task(digits) -> None:
    plan, store = digits
    model = load(store.run(plan.runs[0].run_id).path)
    assert isinstance(model, ViT)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_study_of_pairs_moves_and_refuses_to_continue_texts(call_ablate, tmp_path, monkeypatch) -> None:
    plan, store = train_study(tmp_path, PAIRS)
    monkeypatch.chdir(tmp_path)
    assert isinstance(load(store.run(plan.runs[0].run_id).path), EncoderDecoder)
    code, _, err = call_ablate("generate", plan.runs[0].run_id, "--prompt", "a")
    assert code == 2 and "kind encoder_decoder, and only a GPT can continue a text" in err
    assert call_ablate("pack", "pairs", "--out", "pairs.tar.gz")[0] == 0
    code, _, err = call_ablate("merge", "pairs.tar.gz", "--runs", "elsewhere")
    assert code == 0, err
    moved = StudyFolder(tmp_path / "elsewhere" / "pairs")
    assert moved.read_study() == store.read_study()
    for run in plan.runs:
        assert moved.run(run.run_id).curve.read_bytes() == store.run(run.run_id).curve.read_bytes()
    assert call_ablate("status", "pairs", "--runs", "elsewhere")[0] == 0


def test_a_run_whose_data_have_changed_is_not_trained_further(tmp_path) -> None:
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("".join(f"{n}\t{n}\n" for n in range(99)))
    task = {"name": "sequence_to_sequence", "source": "tsv", "path": "pairs.tsv", "eval_pairs": 8}
    path = tmp_path / "pairs.yaml"
    path.write_text(yaml.safe_dump({**PAIRS, "task": task}))
    plan = read_plan(path, tmp_path / "runs", [])
    store = StudyFolder(tmp_path / "runs" / "pairs")
    store.path.mkdir(parents=True)
    pairs.write_text("".join(f"{n}\t{n + 1}\n" for n in range(99)))
    with pytest.raises(AssertionError):
        train_here(plan, plan.runs[:1], store, None)
    assert "the data have changed since the study was planned" in store.run(plan.runs[0].run_id).read_status().error


@pytest.mark.skipif(__import__("importlib").util.find_spec("sacrebleu") is None, reason="sacrebleu is not installed")
def test_bleu_is_that_of_sacrebleu(tmp_path) -> None:
    from sacrebleu import corpus_bleu

    from ablate.tasks.task import read_task

    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    lines = [" ".join(words[(n * k) % 10] for k in range(1, 7)) for n in range(1, 60)]
    (tmp_path / "pairs.tsv").write_text("".join(f"{line}\t{line}\n" for line in lines))
    task = read_task({"name": "sequence_to_sequence", "source": "tsv", "path": "pairs.tsv", "bleu": True})
    data = task.describe(tmp_path)
    training = task.open(
        task.config_class.parse({**data.settings, "d_model": 8, "n_layers": 1, "n_heads": 1}), tmp_path
    )
    (_, _, labels, _), *_ = training.validation_batches(0, 1)
    wanted = [training._to_text(row) for row in labels.tolist()]  # type: ignore[attr-defined]
    assert set(wanted) <= set(lines)
    found = [text.replace("one", "two") for text in wanted]
    encode = training.bleu_of.encode  # type: ignore[attr-defined]
    ids = [[int(token) + 4 for token in encode(text)] for text in found]
    found_bt = torch.tensor([row + [0] * (labels.shape[1] - len(row)) for row in ids])
    counts = [0.0] * 10
    for rows in (slice(0, 2), slice(2, None)):  # sums over parts are those of the whole
        part = training._count_bleu(found_bt[rows], torch.from_numpy(labels[rows]))  # type: ignore[attr-defined]
        counts = [a + b for a, b in zip(counts, part, strict=True)]
    score = training.conclude([1.0, 1.0, 1.0, 1.0, 1.0, *counts])["val_bleu"]
    assert 0 < score < 100 and score == pytest.approx(corpus_bleu(found, [wanted]).score)
