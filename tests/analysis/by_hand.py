"""Studies made in memory, point by point, so that their numbers can be computed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ablate.analysis import Results, RunCurve
from ablate.analysis.curve_columns import CORE_COLUMNS
from ablate.metrics import LANGUAGE_MODEL, Direction, list_metrics
from ablate.tracking.study_record import ArmRecord, RunRecord, State, Status, StudyRecord

STEPS = (100, 200, 400, 800)
CPU: Mapping[str, Any] = {"device": {"kind": "cpu", "name": "one"}, "threads": 1, "shared_by": 1}


def make_run(
    arm: str,
    seed: int,
    losses: Sequence[float],
    steps: Sequence[int] = STEPS,
    state: State = "finished",
    n_steps: int | None = None,
    step_s: float = 0.5,
    manifest: Mapping[str, Any] = CPU,
    metrics: Mapping[str, Direction] = LANGUAGE_MODEL,
    **columns: Sequence[float],
) -> RunCurve:
    """A run that was evaluated at each of its logged steps, with 10 tokens per step and 2 FLOPs per token.

    `losses` are the values of the first of `metrics`.
    """
    step = np.array(steps, np.float64)
    known = {
        "step": step,
        "tokens": 10 * step,
        "flops": 20 * step,
        "wall_s": step_s * step,
        next(iter(metrics)): np.array(losses, np.float64),
        **{name: np.array(values, np.float64) for name, values in columns.items()},
    }
    every = {name: known.get(name, np.full(step.size, np.nan)) for name in (*CORE_COLUMNS, *known)}
    last = int(step[-1]) if step.size else 0
    known_by = list_metrics(metrics)
    status = Status(state, last)
    return RunCurve(f"{arm}-{seed}", arm, seed, n_steps or last, status, every, manifest, {}, metrics=known_by)


def make_results(*runs: RunCurve, baseline: str | Mapping[str, str] = "base", **changes: Any) -> Results:
    """A study of these runs. `baseline` is the baseline of all arms, or maps each arm to its own."""
    arms = tuple(dict.fromkeys(run.arm for run in runs))
    records = tuple(
        ArmRecord(
            arm=arm,
            axes=changes.get("axes", {}).get(arm, {"kind": arm}),
            within=changes.get("within", {}).get(arm, {}),
            baseline=baseline if isinstance(baseline, str) else baseline[arm],
            n_params=changes.get("n_params", {}).get(arm, 1000),
            flops_per_token=2,
            n_steps=next(run.n_steps for run in runs if run.arm == arm),
            n_tokens=10 * next(run.n_steps for run in runs if run.arm == arm),
        )
        for arm in arms
    )
    record = StudyRecord(
        study=changes.get("name", "by-hand"),
        question="",
        design=changes.get("design", "full"),
        match="none",
        compare_within=changes.get("compare_within", ()),
        baseline={},
        axes=changes.get("study_axes", {"kind": arms}),
        data={},
        train={},
        arms=records,
        runs=tuple(RunRecord(run.run_id, run.arm, run.seed) for run in runs),
        version="0",
        metrics={metric.name: metric.direction for metric in runs[0].metrics},
        smallest_effect=changes.get("smallest_effect"),
        seed_rule=changes.get("seed_rule"),
    )
    return Results(record, tuple(runs))
