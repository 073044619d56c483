"""The record of a study that was trained in parts, from the records of the parts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ablate.errors import RecordError
from ablate.tracking.study_record import StudyRecord
from ablate.tracking.values import Value

# All parts of a study have these in common. Otherwise their runs could not be compared.
COMMON = ("study", "question", "design", "match", "compare_within", "train", "tuning", "metrics", "seed_rule")


def join_records(one: StudyRecord, other: StudyRecord, archive: Path) -> StudyRecord:
    """Join two records. Raises `RecordError` if they are not parts of one study."""
    for key in COMMON:
        if getattr(one, key) != getattr(other, key):
            raise RecordError(f"{archive}: another study: {key} is {getattr(other, key)!r}, not {getattr(one, key)!r}")
    mine, theirs = str(one.data.get("hash")), str(other.data.get("hash"))
    if mine != theirs:
        raise RecordError(f"{archive}: trained on other data: hash {theirs[:12]}, not {mine[:12]}")
    arms = {arm.arm: arm for arm in one.arms}
    for arm in other.arms:
        here = arms.setdefault(arm.arm, arm)
        if (here.axes, here.baseline, here.n_params, here.n_tokens) != (
            arm.axes,
            arm.baseline,
            arm.n_params,
            arm.n_tokens,
        ):
            raise RecordError(f"{archive}: the arm {arm.arm} is a different one there")
        if here.identity and arm.identity and here.identity != arm.identity:
            raise RecordError(f"{archive}: the arm {arm.arm} was trained with other settings there")
    runs = {(run.arm, run.seed): run for run in (*other.runs, *one.runs)}
    for run in other.runs:
        if runs[run.arm, run.seed].run_id != run.run_id:
            raise RecordError(f"{archive}: {run.arm},seed={run.seed} was trained with other settings there")
    axes = {axis: _unite(one.axes.get(axis, ()), levels) for axis, levels in other.axes.items()}
    order = {name: index for index, name in enumerate(arms)}
    return replace(
        one,
        axes={**one.axes, **axes},
        arms=tuple(arms.values()),
        looks=max(one.looks, other.looks, key=len),
        history=tuple(sorted({*one.history, *other.history}, key=lambda event: event.at)),
        runs=tuple(sorted(runs.values(), key=lambda run: (run.seed, order[run.arm]))),
    )


def _unite(one: Iterable[Value], other: Iterable[Value]) -> tuple[Value, ...]:
    """Join levels that differ in their JSON. So 1, 1.0 and true are three levels, and lists and mappings work too."""
    return tuple({json.dumps(level, sort_keys=True): level for level in (*one, *other)}.values())
