"""Speedup between complete schedules, for studies with the axis `train.steps`.

Only final losses count, so every learning rate has decayed. The baseline's final loss is taken to be linear in its log
budget between its horizons and is never extrapolated. The speedup is the budget at which the baseline would end at the
arm's final loss, over the arm's budget. Outside of the baseline's range it is a bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ablate.analysis.comparison import Comparison
from ablate.analysis.convergence import Position, Reach, reach_loss
from ablate.analysis.curve_columns import CORE_COLUMNS
from ablate.analysis.results import Results
from ablate.analysis.run_curve import RunCurve
from ablate.analysis.speedup import SpeedUp, adjust, make_rows
from ablate.tracking.study_record import ArmRecord, Status
from ablate.tracking.values import Value

HORIZON_AXES = ("train.steps", "steps")


def full_schedule_speed_ups(results: Results) -> tuple[SpeedUp, ...]:
    """Compute a row per arm, horizon and axis of cost. The target `final` is the arm's own final loss.

    Empty if no baseline was trained over two horizons.
    """
    axis = next((axis for axis in HORIZON_AXES if axis in results.record.axes), None)
    if axis is None:
        return ()
    rows = []
    for name in results.compared_arms:
        family = _family(results.arms[results.baseline_of(name)], axis)
        horizons = [arm.arm for arm in results.arms.values() if _family(arm, axis) == family]
        if len(horizons) > 1 and name not in horizons:
            rows += make_rows(results, name, "final", _compare(results, name, horizons))
    return adjust(rows)


def _family(arm: ArmRecord, axis: str) -> frozenset[tuple[str, Value]]:
    """Return the levels of an arm, except its horizon."""
    return frozenset((name, level) for name, level in arm.axes.items() if name != axis)


def _compare(results: Results, arm: str, horizons: Sequence[str]) -> Comparison:
    ladders = _climb(results, horizons)
    pairs = [(run, ladders[run.seed]) for run in results.ended_runs(arm) if run.is_whole and run.seed in ladders]
    if not pairs:
        return Comparison(notes=("nothing to compare: no seed has the arm and two horizons of its baseline",))
    at_arm = tuple(Reach(run, "reached", Position(len(run.evaluation_loss) - 1, 1.0)) for run, _ in pairs)
    at_base = tuple(reach_loss(ladder, run.final_loss, hold=1) for run, ladder in pairs)
    return Comparison(at_base, at_arm, float(np.mean([run.final_loss for run, _ in pairs])))


def _climb(results: Results, horizons: Sequence[str]) -> Mapping[int, RunCurve]:
    """Turn the baseline's final losses and costs into one curve per seed that has two horizons or more."""
    by_seed: dict[int, list[RunCurve]] = {}
    for run in (run for arm in horizons for run in results.ended_runs(arm) if run.is_whole):
        by_seed.setdefault(run.seed, []).append(run)
    ladders = {}
    for seed, runs in by_seed.items():
        runs.sort(key=lambda run: run.last_step)
        if len(runs) > 1:
            finals = {name: np.array([run.columns[name][-1] for run in runs], np.float64) for name in CORE_COLUMNS}
            last = runs[-1]
            finals[last.metric.name] = np.array([run.final_loss for run in runs], np.float64)
            status = Status("finished", last.last_step, last.n_steps)
            ladders[seed] = replace(last, status=status, columns=finals)
    return ladders
