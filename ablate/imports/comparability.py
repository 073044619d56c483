"""Whether the costs of imported trainings mean the same, and what a reader of the verdict must know.

A training may look right by itself and still count in another unit than the rest: epochs beside steps, milliseconds
beside seconds, or points that were logged all at once beside a real clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ablate.analysis.checked_records import check_manifest, clean
from ablate.analysis.curve_columns import CORE_COLUMNS, Floats
from ablate.analysis.results import Known
from ablate.formatting import count
from ablate.imports.costs import Clock, read_costs, read_seconds
from ablate.imports.training import Training
from ablate.tracking.study_record import ENDED, Status
from ablate.tracking.values import LARGEST

MAX_RATIO: Mapping[str, float] = {"wall_s": 30.0, "tokens": 100.0}
"""The largest ratio of costs per step between two trainings. Beyond it, they count in different units."""

VALIDATION = "validation"  # steps that only the validation counts, such as epochs
_FEWER, _SIMILAR = 10.0, 3.0  # times fewer steps in a similar time: a larger unit
_NAMED = 4
_COST_NAMES = {"tokens": "tokens", "flops": "FLOPs", "wall_s": "seconds"}
_COUNTS_ITSELF = "the validation loss counts epochs, or something else that is not training steps"
_ANOTHER_UNIT = "too little per step compared with the other runs: another unit, or logged after the training"


@dataclass(frozen=True, eq=False)
class Facts:
    """The costs at every line of the curve, and their entries in the manifest, by run id.

    `seconds` says where clock times come from. `caveats` are for the reader of the verdict.
    """

    seconds: str
    costs: Mapping[str, Mapping[str, Floats]]
    manifests: Mapping[str, Mapping[str, Any]]
    caveats: tuple[str, ...]

    def count_tokens(self, training: Training) -> int:
        """Return the tokens of the whole training; 0 if they are not known."""
        return round(_last(self.costs[training.run_id]["tokens"]))

    def know(self, training: Training, n_steps: int, source: str) -> Known:
        """Return everything that a study knows about a training, given its budget (steps)."""
        lines, state = training.lines, training.state
        columns = {name: np.full(lines.size, np.nan) for name in CORE_COLUMNS} | {"step": lines}
        for what, curve in training.curves.items():
            columns[what][np.searchsorted(lines, curve.steps)] = curve.values
        columns |= self.costs[training.run_id]
        device = training.fact("device")
        manifest = {
            "device": {"kind": device, "name": device} if device else {},
            "precision": training.fact("precision"),
            "commit": training.pieces[-1].commit,
            **self.manifests[training.run_id],
        }
        error = f"{source} says {training.pieces[-1].status}" if state == "failed" else ""
        return Known(
            Status(state, training.last_step, n_steps, error=error),
            {name: np.where(np.abs(values) <= LARGEST, values, np.nan) for name, values in columns.items()},
            check_manifest(clean(manifest)),
            {"train": {"schedule": clean(training.fact("schedule"))}},
        )


def find_facts(trainings: Sequence[Training]) -> Facts:
    """Read the costs of all trainings, and leave out those that cannot be compared."""
    counted = [training for training in trainings if training.state in ENDED and training.loss.size]
    is_logged = [training for training in counted if np.isfinite(read_seconds(training, "wall_s")[0]).any()]
    is_timed = any(np.isfinite(h.times_s).any() for t in counted for run in t.pieces for h in run.histories.values())
    clock: Clock = "wall_s" if counted and (len(is_logged) == len(counted) or not is_timed) else "points"
    found = {training.run_id: read_costs(training, clock) for training in trainings}
    costs = {run_id: {what: cost for what, (cost, _) in read.items()} for run_id, read in found.items()}
    faults = {run_id: {w: reason for w, (_, reason) in read.items() if reason} for run_id, read in found.items()}

    def leave_out(training: Training, what: str, reason: str) -> None:
        costs[training.run_id][what] = np.full(training.lines.size, np.nan)
        faults[training.run_id][what] = reason

    others = _find_other_steps(counted, costs)
    for training in others:
        if (
            "tokens" not in training.curves
            and "tokens" not in faults[training.run_id]
            and training.count_of("tokens_per_step")
        ):
            leave_out(training, "tokens", _COUNTS_ITSELF)
    for what, limit in MAX_RATIO.items():
        alike = [training for training in counted if training not in others]
        paces = {t.run_id: _last(costs[t.run_id][what]) / t.last_step for t in alike if t.last_step}
        for training in alike:
            if 0 < paces.get(training.run_id, 0.0) < max(paces.values()) / limit:
                leave_out(training, what, _ANOTHER_UNIT)
    manifests = {}
    for training in trainings:
        marks: dict[str, Any] = {"no_cost": faults[training.run_id], "flaw": training.flaw}
        marks["step_unit"] = VALIDATION if training in others else ""
        manifests[training.run_id] = {name: mark for name, mark in marks.items() if mark}
    return Facts(
        _describe_clock(clock, is_logged, counted, trainings),
        costs,
        manifests,
        tuple(_list_caveats(trainings, counted, others, faults)),
    )


def _find_other_steps(counted: Sequence[Training], costs: Mapping[str, Mapping[str, Floats]]) -> list[Training]:
    """Find the trainings whose steps are epochs, or another count that only the validation uses.

    Usually their other metrics tell. Otherwise, a training counts epochs if it has far fewer steps than the longest one
    but took about as long, or, without clocks, if it was evaluated at each of its far fewer steps.
    """
    others = [training for training in counted if training.counts_training is False]
    rest = [training for training in counted if training not in others]
    if not rest:
        return others
    longest = max(rest, key=lambda training: training.last_step)
    took_s = _last(costs[longest.run_id]["wall_s"])
    for training in rest:
        seconds = _last(costs[training.run_id]["wall_s"])
        if seconds and took_s:
            is_coarse = seconds * _SIMILAR >= took_s
        else:
            is_coarse = training.loss.interval == 1 and longest.loss.interval >= _FEWER
        if training.counts_training is None and training.last_step * _FEWER <= longest.last_step and is_coarse:
            others.append(training)
    return others


def _describe_clock(
    clock: Clock, is_logged: Sequence[Training], counted: Sequence[Training], trainings: Sequence[Training]
) -> str:
    if clock == "wall_s":
        return ", ".join(trainings[0].metrics["wall_s"])
    how = "from when points were logged, evaluation included"
    return f"{how}: {count(len(counted) - len(is_logged), 'run')} without a usable wall_s" if is_logged else how


def _list_caveats(
    trainings: Sequence[Training],
    counted: Sequence[Training],
    others: Sequence[Training],
    faults: Mapping[str, Mapping[str, str]],
) -> list[str]:
    reasons: dict[str, list[Training]] = {}
    for training in trainings:
        if training.flaw:
            reasons.setdefault(f"left out, because {training.flaw}", []).append(training)
        if len(training.pieces) > 1:
            reasons.setdefault("joined from runs that continue each other", []).append(training)
    for training in counted:
        if training in others:
            reasons.setdefault(f"{_COUNTS_ITSELF}, so costs in steps are in that unit", []).append(training)
        columns: dict[str, list[str]] = {}
        for what, reason in faults[training.run_id].items():
            if not training.flaw and (what != "wall_s" or training.fact("device")):
                columns.setdefault(reason, []).append(_COST_NAMES[what])
        for reason, left_out in columns.items():
            reasons.setdefault(f"{' and '.join(left_out)} left out ({reason})", []).append(training)
    caveats = [f"{_name(about, trainings)}: {reason}" for reason, about in reasons.items()]
    arms = dict.fromkeys(training.arm for training in trainings)
    for arm in arms:
        budgets = sorted({t.budget for t in trainings if t.arm == arm and t.budget})
        if len(budgets) > 1:
            caveats.append(f"{arm}: its runs have budgets of {budgets[0]:,} to {budgets[-1]:,} steps")
    return caveats


def _name(about: Sequence[Training], trainings: Sequence[Training]) -> str:
    """Name trainings: `all runs`, or `gpt (seed 0), new (seeds 0, 1)`."""
    if len(about) == len(trainings):
        return "all runs"
    arms: dict[str, list[Training]] = {}
    for training in about:
        arms.setdefault(training.arm, []).append(training)
    names = []
    for arm, group in arms.items():
        seeds = sorted({training.seed for training in group if training.seed is not None})
        listed = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        names.append(f"{arm} ({listed if len(seeds) == len(group) else count(len(group), 'run')})")
    more = f" and {count(len(names) - _NAMED, 'more arm')}" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def _last(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known[-1]) if known.size else 0.0
