"""A study made of imported runs, found by the names of their facts and metrics.

Nothing unknown is guessed. Without seeds, runs are not paired. Without a device, clock times are not compared. Without
tokens, costs are steps. This module does not know which program logged the runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np

from ablate.analysis.checked_records import check_record
from ablate.analysis.results import Results, assemble
from ablate.analysis.run_curve import RunCurve
from ablate.errors import RecordError, suggest
from ablate.formatting import count
from ablate.imports.comparability import Facts, find_facts
from ablate.imports.logged_run import LoggedRun
from ablate.imports.names import CURVES, Names
from ablate.imports.training import Training, choose
from ablate.metrics import LONGEST_NAME, Direction, list_metrics
from ablate.study.settings import find_same
from ablate.tracking.study_record import ENDED, ArmRecord, RunRecord, StudyRecord
from ablate.tracking.values import Value, read_level

_SYSTEM = ("mlflow.", "system/")  # trackers log these by themselves
_MAX_NAMED = 40


def read_study(title: str, runs: Sequence[LoggedRun], names: Names, source: str, command: str = "") -> Results:
    """Build a study of runs, given from the oldest to the newest. `source` is the program that logged them.

    An arm is its own baseline unless tags of runs that ablate made name another one. Runs of one arm and seed that
    continue each other are one training. If an arm and seed have several trainings, the latest that reached its end
    counts. Raises `RecordError` if there is no run, no arm or no loss, naming the facts or metrics that there are.
    """
    if not runs:
        raise RecordError(f"{title!r}: the experiment has no runs")
    listed = [run for run in runs if Training((run,), names, {}).axes]
    if not listed:
        there = (name for run in runs for name in run.facts)
        raise RecordError(
            f"{title!r}: no run has a tag or param {_list_names(names.of('arm'), there)}; see --map arm=NAME"
        )
    metrics = _order_metrics(listed, names, title)
    every = [Training((run,), names, metrics) for run in listed]
    if all(training.loss.size == 0 or not training.loss.steps.any() for training in every):
        raise RecordError(f"{metrics['val_loss'][0]}: every point was logged at step 0: log it with its step")
    trainings = _select(_drop_parents(every))
    members: dict[str, list[Training]] = {}
    for training in trainings:
        members.setdefault(training.arm, []).append(training)
    facts = find_facts(trainings)
    arms = tuple(_record_arm(arm, group, members, facts) for arm, group in members.items())
    n_steps = {arm.arm: arm.n_steps for arm in arms}
    known = {training.run_id: facts.know(training, n_steps[training.arm], source) for training in trainings}
    pieces = [len(training.pieces) for training in trainings if len(training.pieces) > 1]
    n_replaced, n_passed_over = _count_replaced(every, trainings)
    notes = {
        "source": source,
        "loss": _count_names(trainings),
        "seconds": facts.seconds,
        "seeds": "" if all(t.seed is not None for t in trainings) else "not known for every run: those are not paired",
        "left out": "" if len(runs) == len(listed) else f"{count(len(runs) - len(listed), 'run')} without an arm",
        "joined": f"{count(len(pieces), 'training')} from {sum(pieces)} runs that continue each other"
        if pieces
        else "",
        "replaced": f"{count(n_replaced, 'run')} by a later one of its arm and seed" if n_replaced else "",
        "passed over": f"{count(n_passed_over, 'later run')} without a whole curve" if n_passed_over else "",
    }
    seeds = _number(trainings)
    record = StudyRecord(
        study=title,
        question="",
        design="full",
        match="none",
        compare_within=(),
        baseline={},
        axes=_list_levels(arms),
        data={name: note for name, note in notes.items() if note},
        train={},
        arms=arms,
        runs=tuple(RunRecord(t.run_id, arm, seeds[t.run_id]) for arm, group in members.items() for t in group),
        version="",
        command=command,
        caveats=facts.caveats,
    )
    results = assemble(check_record(record.to_dict(), Path(title)), known, title)
    return results if names.direction is None else _measure_by(results, names.of("val_loss")[0], names.direction)


def _measure_by(results: Results, name: str, direction: Direction) -> Results:
    """Compare the arms by what was read as their validation loss, under the name of the metric that it is."""
    name = re.sub(r"[^\w./@-]+|^(?=\W|\d)", "_", name, flags=re.ASCII)[:LONGEST_NAME]
    (metric,) = list_metrics({name: direction})
    if metric.is_loss:
        return results

    def rename(run: RunCurve) -> RunCurve:
        values = run.columns["val_loss"]
        columns = {**run.columns, "val_loss": np.full(values.size, np.nan), name: values}
        return replace(run, columns=columns, metrics=(metric,))

    record = check_record({**results.record.to_dict(), "metrics": {name: direction}}, Path(results.record.study))
    return Results(record, tuple(map(rename, results.runs)))


def _order_metrics(runs: Sequence[LoggedRun], names: Names, title: str) -> dict[str, tuple[str, ...]]:
    """Order the names of each column of a curve, starting with the one under which most runs have a whole curve."""
    logged = {name for run in runs for name in run.logged}
    found = {}
    for what in CURVES:
        there = [name for name in names.of(what) if name in logged]
        n_runs = {name: sum(choose(run, (name, *there)) == name for run in runs) for name in there}
        found[what] = tuple(sorted(there, key=lambda name: -n_runs[name]))
    for what in ("val_loss", *names.chosen):
        if what in found and not found[what]:
            metric, _, ending = names.of(what)[0].rpartition(":")
            if metric in logged:
                legal = suggest(ending, get_args(Direction))
                raise RecordError(f"--metric {metric}:{ending}: unknown direction {ending!r}{legal}")
            option = "--metric" if what == "val_loss" else "--map"
            raise RecordError(f"{title!r}: no run has a metric {_list_names(names.of(what), logged)}; see {option}")
    return found


def _list_names(wanted: Sequence[str], there: Iterable[str]) -> str:
    """Write the end of a message: the names that were looked for, the nearest spelling, and the names that exist."""
    known = sorted({name for name in there if not name.startswith(_SYSTEM)})
    more = f" and {len(known) - _MAX_NAMED} more" if len(known) > _MAX_NAMED else ""
    shown = suggest(wanted[0], known) if not more else f" (found: {', '.join(known[:_MAX_NAMED])}{more})"
    return f"{' or '.join(wanted)}{shown.replace('legal: ', 'found: ') or ' (found: none)'}"


def _count_names(trainings: Sequence[Training]) -> str:
    """List the names of the loss, with the number of runs of each if there are several."""
    chosen = [choose(run, training.metrics["val_loss"]) for training in trainings for run in training.pieces]
    found = [name for name in trainings[0].metrics["val_loss"] if name in chosen]
    return found[0] if len(found) == 1 else ", ".join(f"{name} ({count(chosen.count(name), 'run')})" for name in found)


def _drop_parents(trainings: Sequence[Training]) -> list[Training]:
    """Drop parent runs without a curve, which only group the runs below them and repeat their params."""
    parents = {training.pieces[0].parent for training in trainings}
    kept = [training for training in trainings if training.loss.size > 1 or training.run_id not in parents]
    return kept or list(trainings)


def _select(trainings: Sequence[Training]) -> list[Training]:
    """Choose one training per arm and seed, from the oldest to the newest, after joining requeued ones."""
    arms: dict[str, list[Training]] = {}
    groups: dict[tuple[str, int | str], list[Training]] = {}
    for training in trainings:
        arms.setdefault(training.arm, []).append(training)
        key = (training.arm, training.run_id if training.seed is None else training.seed)
        groups.setdefault(key, []).append(training)
    budgets = {arm: _find_budget(group) for arm, group in arms.items()}
    chosen = {}
    for (arm, _), group in groups.items():
        best = _choose(_join(group, budgets[arm]), budgets[arm])
        chosen[best.run_id] = best
    return [chosen[training.run_id] for training in trainings if training.run_id in chosen]


def _join(trainings: Sequence[Training], budget: int) -> list[Training]:
    """Join the trainings of one arm and seed that continue each other."""
    joined: list[Training] = []
    for training in trainings:
        for index in reversed(range(len(joined))):
            before = joined[index]
            if training.continues(before, budget):
                del joined[index]
                training = Training((*before.pieces, *training.pieces), training.names, training.metrics)
                break
        joined.append(training)
    return joined


def _choose(trainings: Sequence[Training], budget: int) -> Training:
    """Choose the latest whole training, otherwise the one that got furthest. Empty and smoke runs replace nothing."""

    def rank(training: Training) -> tuple[bool, bool, bool, int]:
        if training.is_whole(budget):
            return True, True, True, 0
        has_curve = training.loss.size > 1
        return False, has_curve and training.state in ENDED and not training.flaw, has_curve, training.last_step

    return max(reversed(trainings), key=rank)


def _count_replaced(every: Sequence[Training], chosen: Sequence[Training]) -> tuple[int, int]:
    """Count the trainings that a later one replaces, and later ones without a whole curve, which replace nothing."""
    places = {training.run_id: place for place, training in enumerate(every)}
    counted = {(training.arm, training.seed): places[training.run_id] for training in chosen}
    used = {piece.run_id for training in chosen for piece in training.pieces}
    left = [t for t in every if t.run_id not in used and t.seed is not None and (t.arm, t.seed) in counted]
    n_later = sum(places[t.run_id] > counted[t.arm, t.seed] for t in left)
    return len(left) - n_later, n_later


def _number(trainings: Sequence[Training]) -> dict[str, int]:
    """Number the seeds by run id. A run without a seed gets a unique number, so it is not paired."""
    following = max((training.seed for training in trainings if training.seed is not None), default=-1) + 1
    seeds = {}
    for training in trainings:
        seeds[training.run_id] = following if training.seed is None else training.seed
        following += training.seed is None
    return seeds


def _record_arm(arm: str, trainings: Sequence[Training], arms: Mapping[str, object], facts: Facts) -> ArmRecord:
    named = {str(read_level(training.pieces[-1].facts.get("baseline", ""))) for training in trainings}
    return ArmRecord(
        arm=arm,
        axes=trainings[0].axes,
        within={},
        baseline=next(iter(named)) if len(named) == 1 and named <= arms.keys() else arm,
        n_params=_agree(training.count_of("n_params") for training in trainings),
        flops_per_token=_agree(training.count_of("flops_per_token") for training in trainings),
        n_steps=_find_budget(trainings),
        n_tokens=max(map(facts.count_tokens, trainings)) or None,
    )


def _agree(counts: Iterable[int]) -> int | None:
    """Return the number that all runs agree on; None if they differ, or if no run states one."""
    known = {n for n in counts if n}
    return known.pop() if len(known) == 1 else None


def _find_budget(trainings: Sequence[Training]) -> int:
    """Find the budget of an arm in steps: the steps that its runs state, or the most that one of them made.

    Many programs count steps from 0. So a finished run counts as whole if it ended within one evaluation interval of
    these steps, and the shortest whole run sets the budget.
    """
    stated = max(training.budget for training in trainings) or max(training.last_step for training in trainings)
    finished = (training for training in trainings if training.state == "finished")
    whole = [t.last_step for t in finished if t.last_step + t.loss.interval >= stated]
    return max(min(whole, default=stated), 1)


def _list_levels(arms: Iterable[ArmRecord]) -> dict[str, tuple[Value, ...]]:
    levels: dict[str, list[Value]] = {}
    for arm in arms:
        for axis, level in arm.axes.items():
            known = levels.setdefault(axis, [])
            if find_same(level, known) is None:
                known.append(level)
    return {axis: tuple(known) for axis, known in levels.items()}
