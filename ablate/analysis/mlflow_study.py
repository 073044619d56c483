"""A study that only MLflow knows: the runs of an experiment, whatever code made them, by the names of what they logged.

What cannot be known is left unknown, never guessed: without seeds runs are not paired, without a device clock times are
not compared, without tokens costs are steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ablate.analysis.border import check_record
from ablate.analysis.curves import Results, assemble
from ablate.analysis.mlflow_run import CURVES, ForeignRun, Names
from ablate.errors import RecordError, suggest
from ablate.tracking.mlflow_reader import MlflowReader, MlflowRun
from ablate.tracking.records import ENDED, ArmRecord, RunRecord, StudyRecord, Value
from ablate.words import count

_SYSTEM = ("mlflow.", "system/")  # what MLflow logs by itself
_MAX_NAMED = 40


def read_mlflow_study(reader: MlflowReader, experiment: str, names: Names, command: str = "") -> Results:
    """The runs of an experiment as a study; an arm is its own baseline unless tags of runs that ablate made say more.

    Of several runs of one arm and seed, the latest that has ended counts. Raises `RecordError` where there is no such
    experiment, no run in it, no arm or no loss, naming what there is; `ResourceError` where MLflow cannot be reached.
    """
    experiment_id, every = reader.read_runs(experiment)
    if not every:
        raise RecordError(f"{experiment!r}: the experiment has no runs")
    listed = [run for run in every if ForeignRun(run, names, {}).axes]
    if not listed:
        wanted = names.of("arm")
        there = (name for run in every for name in (*run.tags, *run.params))
        raise RecordError(f"{experiment!r}: no run has a tag or param {_list_names(wanted, there)}; see --map arm=NAME")
    metrics = _choose_metrics(listed, names, experiment)
    histories = reader.read_histories(experiment_id, listed, tuple(dict.fromkeys(metrics.values())))
    found = [
        ForeignRun(
            run, names, {what: h[name] for what, name in metrics.items() if name in (h := histories[run.run_id])}
        )
        for run in listed
    ]
    _check_steps(found, metrics["val_loss"])
    runs = _keep_latest(found)
    seeds = _number(runs)
    members: dict[str, list[ForeignRun]] = {}
    for run in runs:
        members.setdefault(run.arm, []).append(run)
    arms = tuple(_record_arm(arm, group, members) for arm, group in members.items())
    notes = {
        "source": "MLflow",
        "loss": metrics["val_loss"],
        "seconds": metrics.get("wall_s") or "from when points were logged, evaluation included",
        "seeds": "" if all(run.seed is not None for run in runs) else "not known of every run: those are not paired",
        "left out": "" if len(every) == len(listed) else f"{count(len(every) - len(listed), 'run')} without an arm",
        "replaced": ""
        if len(found) == len(runs)
        else f"{count(len(found) - len(runs), 'run')} by a later one of its arm and seed",
    }
    record = StudyRecord(
        study=experiment,
        question="",
        design="full",
        match="none",
        compare_within=(),
        baseline={},
        axes=_list_levels(arms),
        data={name: note for name, note in notes.items() if note},
        train={},
        arms=arms,
        runs=tuple(RunRecord(r.run.run_id, arm, seeds[r.run.run_id]) for arm, group in members.items() for r in group),
        version="",
        command=command,
    )
    n_steps = {arm.arm: arm.n_steps for arm in arms}
    known = {run.run.run_id: run.known(n_steps[run.arm]) for run in runs}
    return assemble(check_record(record.to_dict(), Path(experiment)), known, experiment)


def _choose_metrics(runs: Sequence[MlflowRun], names: Names, experiment: str) -> dict[str, str]:
    """For each column of a curve, the first of its names under which any run logged something."""
    logged = {name for run in runs for name in run.metrics}
    chosen = {what: next((name for name in names.of(what) if name in logged), "") for what in CURVES}
    for what in ("val_loss", *names.chosen):
        if not chosen.get(what, "-"):
            option = "--metric" if what == "val_loss" else "--map"
            raise RecordError(
                f"{experiment!r}: no run has a metric {_list_names(names.of(what), logged)}; see {option}"
            )
    return {what: name for what, name in chosen.items() if name}


def _list_names(wanted: Sequence[str], there: Iterable[str]) -> str:
    """The end of a message: what was looked for, the nearest spelling, and what is there."""
    known = sorted({name for name in there if not name.startswith(_SYSTEM)})
    more = f" and {len(known) - _MAX_NAMED} more" if len(known) > _MAX_NAMED else ""
    shown = suggest(wanted[0], known) if not more else f" (there: {', '.join(known[:_MAX_NAMED])}{more})"
    return f"{' or '.join(wanted)}{shown.replace('legal: ', 'there: ') or ' (there: none)'}"


def _check_steps(runs: Sequence[ForeignRun], metric: str) -> None:
    """Raises `RecordError` where all points lie on one step although there are several: nobody told MLflow the step."""
    histories = [history for run in runs if (history := run.histories.get("val_loss")) is not None]
    if all(history.steps.size and history.steps[-1] == 0 for history in histories):
        raise RecordError(f"{metric}: every point was logged at step 0: log it with its step")


def _keep_latest(runs: Sequence[ForeignRun]) -> list[ForeignRun]:
    """From the oldest to the newest; of one arm and seed, the newest of those that ended, or of all."""
    kept: dict[tuple[str, int | str], ForeignRun] = {}
    for run in runs:
        key = (run.arm, run.run.run_id if run.seed is None else run.seed)
        if key not in kept or run.state in ENDED or kept[key].state not in ENDED:
            kept[key] = run
    return [run for run in runs if any(run is other for other in kept.values())]


def _number(runs: Sequence[ForeignRun]) -> dict[str, int]:
    """Seeds by run id. A run without one gets a number that no other run has, so that nothing pairs it."""
    known = {run.run.run_id: run.seed for run in runs}
    following = max((seed for seed in known.values() if seed is not None), default=-1) + 1
    seeds = {}
    for run_id, seed in known.items():
        seeds[run_id] = following if seed is None else seed
        following += seed is None
    return seeds


def _record_arm(arm: str, runs: Sequence[ForeignRun], arms: Mapping[str, object]) -> ArmRecord:
    first, named = runs[0], {run.run.tags.get("baseline", "") for run in runs}
    baseline = next(iter(named)) if len(named) == 1 and named <= arms.keys() else arm
    n_steps = _find_budget(runs)
    tokens = [float(run.columns["tokens"][-1]) for run in runs if run.columns["tokens"].size]
    n_tokens = max((n for n in tokens if n == n), default=0.0)
    return ArmRecord(
        arm=arm,
        axes=first.axes,
        within={},
        baseline=baseline,
        n_params=first.count_of("n_params"),
        flops_per_token=first.count_of("flops_per_token"),
        n_steps=n_steps,
        n_tokens=round(n_tokens),
    )


def _find_budget(runs: Sequence[ForeignRun]) -> int:
    """Steps of an arm: what its runs state, or the most that one of them made.

    A finished run that ended nearer to that than its evaluations lie apart was trained to its end, for many count steps
    from 0; the least of these is the budget.
    """
    stated = max(run.count_of("steps") for run in runs) or max(run.last_step for run in runs)
    finished = (run for run in runs if run.state == "finished")
    whole = [run.last_step for run in finished if run.last_step + run.interval >= stated]
    return max(min(whole, default=stated), 1)


def _list_levels(arms: Iterable[ArmRecord]) -> dict[str, tuple[Value, ...]]:
    levels: dict[str, dict[Value, None]] = {}
    for arm in arms:
        for axis, level in arm.axes.items():
            levels.setdefault(axis, {})[level] = None
    return {axis: tuple(known) for axis, known in levels.items()}
