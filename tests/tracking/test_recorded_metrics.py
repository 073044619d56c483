"""The metrics of a study, from a declaration to its record and back."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ConfigDict, ValidationError
from rich.console import Console

from ablate.cli.status_output import describe_runs, render_status
from ablate.errors import RecordError
from ablate.metrics import LOSS, Metric, Metrics
from ablate.study.load import describe_problem
from ablate.study.tuning import Frozen
from ablate.study.yaml_source import parse_yaml
from ablate.tracking.archive import merge, pack
from ablate.tracking.cleaning import parse_keep, plan_cleaning
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import ArmRecord, RunRecord, StudyRecord

ARM = ArmRecord("a", {"x": 1}, {}, "a", None, None, 2, None)


def make_record(**more: object) -> StudyRecord:
    runs = (RunRecord("0f1e", "a", 0),)
    return StudyRecord("s", "?", "full", "none", (), {"x": 1}, {"x": (1,)}, {}, {}, (ARM,), runs, "0", **more)  # type: ignore[arg-type]


def test_a_record_of_a_language_model_says_nothing_about_metrics() -> None:
    record = make_record()
    assert "metrics" not in record.to_dict()
    assert record.metric == LOSS
    assert StudyRecord.from_dict(record.to_dict()) == record


def test_a_record_keeps_the_order_of_its_metrics(tmp_path: Path) -> None:
    metrics = {"val_loss": "lower", "f1": "higher", "aa": "higher"}
    store = StudyFolder(tmp_path / "s")
    store.write_study(make_record(metrics=metrics))
    assert list(store.read_study().metrics.items()) == list(metrics.items())


def test_a_record_with_an_unknown_direction_is_refused() -> None:
    with pytest.raises(RecordError, match=r"metrics\.acc: unknown direction 'up' \(legal: lower, higher\)"):
        StudyRecord.from_dict(make_record().to_dict() | {"metrics": [["acc", "up"]]})


def test_a_record_has_a_smallest_effect_only_if_the_grid_gives_one() -> None:
    assert "smallest_effect" not in make_record().to_dict()
    record = make_record(smallest_effect=0.02)
    assert record.to_dict()["smallest_effect"] == 0.02
    assert StudyRecord.from_dict(record.to_dict()) == record
    for wrong in (0, -1, "small", float("nan")):
        with pytest.raises(RecordError, match="smallest_effect"):
            StudyRecord.from_dict(make_record().to_dict() | {"smallest_effect": wrong})


class Program(Frozen):
    model_config = ConfigDict(strict=True)

    metrics: Metrics


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{acc: up}", r"g\.yaml:1: metrics\.acc: unknown direction 'up' \(legal: lower, higher\)"),
        ("{acc: hihger}", "did you mean 'higher'"),
        ("{}", "name at least one metric"),
        ("{tokens: lower}", "'tokens' cannot be a metric"),
        ("{'a b': lower}", "'a b' is not a metric's name"),
    ],
)
def test_bad_metrics_are_refused_with_their_place(text: str, message: str) -> None:
    data, source = parse_yaml(f"metrics: {text}\n", "g.yaml")
    with pytest.raises(ValidationError) as caught:
        Program.model_validate(data)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(describe_problem(caught.value.errors()[0], source, Program))


def test_the_better_value_depends_on_the_direction() -> None:
    accuracy = Metric("acc", "higher")
    assert accuracy.is_better(0.9, 0.8)
    assert LOSS.is_better(0.8, 0.9)
    assert not accuracy.is_better(math.nan, 0.1)
    assert (accuracy.best([0.1, 0.3, 0.2]), LOSS.best([0.1, 0.3, 0.2])) == (0.3, 0.1)
    assert accuracy.orient_interval(None, 0.5) == (-0.5, None)


def remeasure(store: StudyFolder) -> StudyFolder:
    """The same study, of whose metric higher is better."""
    store.write_study(replace(store.read_study(), metrics={"val_loss": "higher"}))
    return store


def test_the_best_weights_are_those_with_the_best_metric(write_study: Callable[..., StudyFolder]) -> None:
    store = remeasure(write_study())  # later seeds and the first arm have lower values
    gone = {removal.path.parent.name[:2] for removal in plan_cleaning(store, parse_keep("best"), None)}
    assert gone == {"11", "21"}
    size = sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
    (first,) = plan_cleaning(store, "all", size - 1)
    assert first.path.parent.name == "11" * 8


def test_studies_of_other_metrics_are_not_merged(write_study: Callable[..., StudyFolder], tmp_path: Path) -> None:
    here, there = write_study(), remeasure(write_study("two", seeds=(2,)))
    pack(there, tmp_path / "there.tar.gz", weights=False)
    with pytest.raises(RecordError, match=r"another study: metrics is \{'val_loss': 'higher'\}"):
        merge(here, [tmp_path / "there.tar.gz"])


def test_status_shows_the_metric_of_the_study(write_study: Callable[..., StudyFolder]) -> None:
    store = write_study()
    store.write_study(replace(store.read_study(), metrics={"acc": "higher"}))
    for run in store.read_study().runs:
        folder = store.run(run.run_id)
        folder.curve.write_text('{"step": 1, "acc": 0.25}\n{"step": 2, "acc": null}\n')
    assert [row["acc"] for row in describe_runs(store)] == [0.25] * 4
    console = Console(file=io.StringIO(), width=100)
    console.print(render_status(store))
    assert "acc" in console.file.getvalue() and "0.2500" in console.file.getvalue()  # type: ignore[attr-defined]
