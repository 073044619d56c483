"""The metrics of a study, from a declaration to its record and back."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from pydantic import ConfigDict, ValidationError

from ablate.errors import RecordError
from ablate.metrics import LOSS, Metric, Metrics
from ablate.study.load import describe_problem
from ablate.study.tuning import Frozen
from ablate.study.yaml_source import parse_yaml
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
