"""Which runs early stopping stops, and which it never stops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablate.data import describe
from ablate.errors import GridError
from ablate.execution.early_stopping import Asha, Patience, parse_stopping, seed_from_curves
from ablate.plan import Plan, build_plan
from ablate.study import load_study


@pytest.fixture
def plan(write_grid: Callable[..., Path], tmp_path: Path) -> Plan:
    """A baseline and five other arms of 27 steps, with rungs at 1, 3 and 9."""
    grid = write_grid(matrix={"model.n_layers": [1, 2, 3, 4, 5, 6]}, baseline={}, train={"steps": 27, "batch_size": 4})
    study = load_study(grid)
    return build_plan(study, describe(study.data, tmp_path))


def line(step: int, loss: float | None) -> list[dict[str, Any]]:
    return [{"step": step, "val_loss": loss}]


def test_asha_lets_the_best_third_go_on(plan: Plan) -> None:
    asha = Asha()
    reasons = [asha.judge(run, line(9, 5.0 - index)) for index, run in enumerate(plan.runs)]
    assert reasons == [""] * 6  # each run was the best when it arrived
    asha = Asha()
    reasons = [asha.judge(run, line(9, 1.0 + index)) for index, run in enumerate(plan.runs)]
    assert [bool(reason) for reason in reasons] == [False, False, True, True, True, True]
    assert "number 3 of 3" in reasons[2]


def test_asha_never_cuts_a_baseline_and_judges_a_rung_once(plan: Plan) -> None:
    asha = Asha()
    for index, run in enumerate(plan.runs[1:]):
        asha.judge(run, line(9, 1.0 + index))
    assert asha.judge(plan.runs[0], line(9, 99.0)) == ""
    assert asha.judge(plan.runs[-1], line(12, 99.0)) == ""


def test_asha_after_an_interruption_judges_by_what_was_seen_before(plan: Plan) -> None:
    asha = Asha()
    seed_from_curves(asha, plan, {run.run_id: line(9, 1.0) for run in plan.runs[:4]})
    assert "number 5 of 5" in asha.judge(plan.runs[4], line(9, 2.0))


def test_patience_counts_evaluations_without_gain(plan: Plan) -> None:
    rule = Patience(2)
    run = plan.runs[1]
    assert rule.judge(run, line(1, 3.0)) == ""
    assert rule.judge(run, line(2, None)) == ""  # no evaluation
    assert rule.judge(run, line(3, 3.0)) == ""
    assert rule.judge(run, line(4, 2.0)) == ""
    assert rule.judge(run, line(5, 2.5)) == ""
    assert "2 evaluations" in rule.judge(run, line(6, 2.0))
    baseline = plan.runs[0]
    assert [rule.judge(baseline, line(step, 3.0)) for step in range(1, 6)] == [""] * 5


def test_rules_are_named_on_the_command_line() -> None:
    assert parse_stopping(None) is None
    assert isinstance(parse_stopping("asha"), Asha)
    rule = parse_stopping("patience=4")
    assert isinstance(rule, Patience)
    assert rule.evaluations == 4
    for word in ("asah", "patience", "patience=0", "asha=3", ""):
        with pytest.raises(GridError, match="no such rule"):
            parse_stopping(word)
