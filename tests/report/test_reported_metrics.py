"""The report of a study whose metric is not the loss of a language model."""

from __future__ import annotations

import json
import re
from importlib import resources
from operator import neg
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from programs import forget_all_but

import ablate
from ablate.errors import AblateError
from ablate.metrics import Metric
from ablate.report import ReportOptions, format_table, write_report
from ablate.report.curve_charts import chart_curves
from ablate.report.report import Report, make_report
from ablate.report.sections import compose
from ablate.report.summary import final_metrics
from ablate.report.thinned_curves import find_loss_range, thin_curves
from ablate.report.write import read_study
from ablate.tracking.folders import StudyFolder
from benchmarks.synthetic import SyntheticArm, write_study

SCHEMA = json.loads(resources.files("ablate.report").joinpath("summary.schema.json").read_text())
METRICS = {"score": "higher", "error": "lower"}
TURNS = {"score": neg, "error": float}
LOSS_WORDS = re.compile(r"\bnats?\b|perplexity|loss|tokens?\b", re.IGNORECASE)


def make_study(folder: Path, **more: Any) -> StudyFolder:
    """A factorial of two axes within two sizes, three seeds each. One of its arms is slower than its baseline."""
    speedups = {("a", "x"): 1.0, ("b", "x"): 2.0, ("a", "y"): 0.7, ("b", "y"): 1.3}
    arms = [
        SyntheticArm(
            f"{kind}{form}{size}",
            {"kind": kind, "form": form, "size": size},
            f"ax{size}",
            {"size": size},
            speedup=speedup * (1 + 0.2 * (size == 2 and kind == "b")),
        )
        for size in (1, 2)
        for (kind, form), speedup in speedups.items()
    ]
    store = StudyFolder(folder)
    write_study(store, arms, noise=0.02, **more)
    return store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("metrics")


@pytest.fixture(scope="module")
def loss(folder: Path) -> Report:
    """The report of the losses, in steps."""
    return make_report(read_study(make_study(folder / "loss" / "study")), ReportOptions(axis="steps"))


@pytest.fixture(scope="module")
def store(folder: Path) -> StudyFolder:
    store = make_study(folder / "score" / "study")
    forget_all_but(store, METRICS, TURNS)
    return store


@pytest.fixture(scope="module")
def score(store: StudyFolder) -> Report:
    return write_report(store, store.path / "report", options=ReportOptions(figures=True))


def mirror(sentence: str) -> str:
    """A sentence about the loss as one about the score, its negative."""
    for unit in ("nats per token, ", ", in nats", ", nats", " nats"):
        sentence = sentence.replace(unit, "")
    swapped = {"higher": "lower", "lower": "higher", "above": "below", "below": "above", "loss": "score"}
    swapped |= {"+": "-", "-": "+"}
    sentence = re.sub(r"\[([+-][\d.]+), ([+-][\d.]+)\]", r"[\2, \1]", sentence)
    return re.sub(r"\b(higher|lower|above|below|loss)\b|[+-](?=\d)", lambda found: swapped[found[0]], sentence)


@pytest.mark.slow
def test_a_mirrored_metric_gives_the_same_sentences(loss: Report, score: Report) -> None:
    mine, theirs = loss.answer, score.answer
    assert "better than the baseline" in mine[0] and len(mine) >= 3
    # only the settings of ablate's own training are known, so only they can be said to be untuned
    untuned = re.compile(r" No arm was tuned: the verdicts hold for this learning rate only \([\d.]+\)\.")
    assert [untuned.sub("", mirror(sentence)) for sentence in mine] == [*theirs]


def test_arms_are_compared_by_the_cost_of_reaching_an_accuracy(tmp_path: Path) -> None:
    arms = [
        SyntheticArm("plain", {"kind": "plain"}, "plain"),
        SyntheticArm("new", {"kind": "new"}, "plain", speedup=2.0),
    ]
    store = StudyFolder(tmp_path / "study")
    write_study(store, arms, noise=0.01)
    forget_all_but(store, {"val_accuracy": "higher"}, {"val_accuracy": lambda loss: 1 - loss / 10})
    made = make_report(read_study(store), ReportOptions(axis="steps"))
    answer = " ".join(made.answer)
    assert "Better" in answer and "final accuracy" in answer and "loss" not in answer and "val_accuracy" not in answer
    (speedup,) = (row for row in made.rows if row.axis == "steps" and row.target == "final")
    assert speedup.low < 2.0 < speedup.high and speedup.ratio == pytest.approx(2.0, rel=0.1)


def test_a_summary_of_phases_has_a_verdict_and_no_speedup(tmp_path: Path) -> None:
    arms = [
        SyntheticArm("plain", {"kind": "plain"}, "plain"),
        SyntheticArm("new", {"kind": "new"}, "plain", speedup=2.0),
    ]
    store = StudyFolder(tmp_path / "study")
    write_study(store, arms, noise=0.01)
    forget_all_but(store, {"val_phase_accuracy_trend": "higher"}, {"val_phase_accuracy_trend": neg})
    made = make_report(read_study(store), ReportOptions(axis="steps"))
    answer = " ".join(made.answer)
    assert "new ends at a clearly higher final trend of the accuracy per phase than plain" in answer
    assert "speedup" not in answer and " as fast" not in answer
    assert {row.bound for row in made.rows} == {"not_determined"}
    assert all("one value per run" in row.note for row in made.rows)


def test_a_report_says_the_name_of_its_metric_and_nothing_of_losses(score: Report) -> None:
    folder = score.paths["html"].parent
    page = re.sub(r"<(script|style)\b.*?</\1>", "", score.paths["html"].read_text(), flags=re.DOTALL)
    texts = {path.name: path.read_text() for path in (folder / "tables").iterdir()}
    texts |= {"page": page, "report.md": score.paths["markdown"].read_text(), "terminal": format_table(score)}
    texts["charts"] = "\n".join(json.dumps([c.spec, c.caption, c.fills]) for c in compose(score).charts.values())
    for name, text in texts.items():
        # fairness says of tokens and the like that they are unknown
        said = [
            line for line in text.splitlines() if "not compared" not in line and "The same for all arms" not in line
        ]
        assert not LOSS_WORDS.findall("\n".join(said)), name
    assert "Final score" in texts["page"] and "higher is better" in texts["page"]
    assert "above zero, the arm ends at a higher score" in texts["report.md"].lower()
    assert "difference in final score" in texts["charts"]
    assert not re.search(r"\bnan\b", " ".join(texts.values()))


def test_the_page_draws_every_metric_and_cuts_none_of_them(score: Report) -> None:
    axis, view = (curves := chart_curves(score)).choices
    assert view.options == {"score": "score", "score:end": "end of training", "error": "error"}
    assert {fill["y_title"] for fill in curves.fills.values()} == {"score", "error"}  # nothing is cut
    assert [*axis.options] == ["steps", "seconds"]


@pytest.mark.parametrize("direction", ["lower", "higher"])
def test_a_run_that_falls_apart_does_not_flatten_the_others(tmp_path: Path, direction: Any) -> None:
    store = make_study(tmp_path / "study", n_steps=80)
    forget_all_but(store, {"score": direction}, {"score": float if direction == "lower" else neg})
    run = store.read_study().runs[5]
    folder = store.run(run.run_id)
    sign = 1 if direction == "lower" else -1
    folder.curve.write_text(
        folder.curve.read_text() + json.dumps({"step": 90, "wall_s": 9.0, "score": sign * 1e6}) + "\n"
    )
    lines = thin_curves(read_study(store), "score", ("steps",))
    bounds = find_loss_range(lines, Metric("score", direction))
    assert bounds is not None
    seen = [value for line in lines if len(line.seeds) > 1 for value in line.mean]
    assert bounds[0] < min(seen) and max(seen) < bounds[1] < 100 if direction == "lower" else bounds[0] > -100


def test_the_summary_names_the_metrics(score: Report, loss: Report) -> None:
    summary = json.loads(score.paths["summary"].read_text())
    jsonschema.validate(summary, SCHEMA)
    assert summary["metrics"] == METRICS
    arm, before = summary["arms"][1], loss.arms[1].final_loss
    assert arm["final_loss"]["mean"] == pytest.approx(-(before.mean or 0.0))
    assert arm["other_metrics"]["error"]["mean"] == pytest.approx(before.mean)
    assert arm["n_params"] is arm["n_tokens"] is None
    assert arm["n_steps"] == 400  # as the runs say
    figures = final_metrics(score)
    assert figures["final_score/y a size=1"] == -figures["final_error/y a size=1"]


def test_a_published_report_keeps_the_metrics(score: Report, tmp_path: Path) -> None:
    again = write_report(StudyFolder(score.paths["html"].parent), tmp_path)
    assert again.paths["summary"].read_text() == score.paths["summary"].read_text()


def test_a_notebook_has_every_metric(store: StudyFolder) -> None:
    study = ablate.load(store.path)
    assert (study.runs["score"] == -study.runs["error"]).all()
    assert {*study.speedup("final")["axis"]} == {"steps", "seconds"}
    assert study.by("error").speedup("final")["ratio"].equals(study.speedup("final")["ratio"])


def test_a_report_by_a_metric_that_the_study_lacks_is_refused(store: StudyFolder) -> None:
    with pytest.raises(
        AblateError, match=r"study has no metric 'scor'; did you mean 'score'\? \(legal: score, error\)"
    ):
        ablate.load(store.path).by("scor")


def test_an_arm_without_a_value_is_named(tmp_path: Path) -> None:
    store = make_study(tmp_path / "study", n_steps=80)
    forget_all_but(store, {"score": "higher"}, {"score": neg})
    record = store.read_study()
    for run in record.runs:
        curve = store.run(run.run_id).curve
        if run.arm == "by1":
            curve.write_text(re.sub(r'"score": [-\d.]+', '"score": null', curve.read_text()))
    made = write_report(store, tmp_path / "out")
    assert "y / b / size=1: 3 runs of this arm left out (never evaluated)" in made.paths["markdown"].read_text()


def test_tokens_that_only_some_arms_know_leave_the_comparison_in_steps(tmp_path: Path) -> None:
    store = make_study(tmp_path / "study", n_steps=80)
    for run in store.read_study().runs:
        curve = store.run(run.run_id).curve
        if run.arm == "bx1":
            curve.write_text(re.sub(r'"(tokens|flops)":[^,]*', r'"\1":null', curve.read_text()))
    report = make_report(read_study(store), ReportOptions())
    assert report.axis == "steps"
    assert "Costs are compared in steps, because the tokens of x / b / size=1 are not known" in report.answer[-1]
