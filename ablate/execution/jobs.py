"""Which runs are left to train, in which order, and what a worker gets to know about each."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from ablate.errors import RecordError
from ablate.execution.affinity import NO_AFFINITY, Affinity
from ablate.execution.placement import Placement
from ablate.formatting import count
from ablate.plan import Arm, Plan, Run
from ablate.plan.estimate import Pace
from ablate.plan.identity import arm_id
from ablate.plan.inputs import describe_data, name_data
from ablate.study.seeds import SeedsUntilDecided
from ablate.study.settings import flatten
from ablate.tasks.contract import Job
from ablate.tracking.code import write_code
from ablate.tracking.curve import is_held
from ablate.tracking.folders import RunFolder, StudyFolder
from ablate.tracking.json_files import read_mapping
from ablate.tracking.study_record import ArmRecord, RunRecord, SeedRule, State, StudyRecord


def record_study(plan: Plan, version: str, command: str) -> StudyRecord:
    """The plan as the record that the study's folder keeps."""
    study = plan.study
    return StudyRecord(
        study=study.name,
        question=study.question,
        design=plan.design,
        match=plan.match,
        compare_within=plan.compare_within,
        baseline=plan.baseline,
        axes=plan.axes,
        data=describe_data(plan),
        train=study.settings.get("train", {}),
        arms=tuple(map(record_arm, plan.arms)),
        runs=tuple(RunRecord(run.run_id, run.arm.name, run.seed) for run in plan.runs),
        version=version,
        command=command,
        tuning=plan.tuning,
        metrics=plan.metrics,
        smallest_effect=plan.smallest_effect,
        smallest_results={c.label: c.smallest_effect for c in plan.evaluations if c.smallest_effect},
        predict=plan.predict,
        caveats=_list_caveats(plan),
        seed_rule=record_rule(plan),
    )


def record_rule(plan: Plan) -> SeedRule | None:
    """How arms get seeds; None if their number is fixed."""
    seeds = plan.study.seeds
    if not isinstance(seeds, SeedsUntilDecided):
        return None
    return SeedRule(seeds.rule.at_least, seeds.rule.at_most, seeds.reserved)


def _list_caveats(plan: Plan) -> tuple[str, ...]:
    start = getattr(plan.study, "start_from", None)
    if start is None:
        return ()
    source = f"the study {Path(start.study).name}" if start.study else Path(start.folder).name
    return (f"the runs start from the weights of {source}, whose training is not part of their costs",)


def record_arm(arm: Arm) -> ArmRecord:
    return ArmRecord(
        arm=arm.name,
        axes=arm.axes,
        within=arm.within,
        baseline=arm.baseline,
        n_params=arm.n_params,
        flops_per_token=arm.flops_per_token,
        n_steps=arm.n_steps if arm.setup.trains_here and arm.n_steps else 0,
        n_tokens=arm.n_tokens,
        notices=arm.notices,
        identity=arm_id(arm.identity),
    )


def config_of(plan: Plan, run: Run) -> Mapping[str, Any]:
    """The content of config.json: everything that decides the result of a run."""
    return {
        **run.arm.setup.config(),
        "data": name_data(plan.study, run.arm.setup.data_hash(plan.corpus.hash)),
        "seed": run.seed,
        **({"start_from": run.parent.identity} if run.parent is not None else {}),
    }


def keep_code(store: StudyFolder, run: Run) -> RunFolder:
    """Copy the user's files that a run executes into the study, where its workers read them. Returns the run's
    folder."""
    for code in run.arm.setup.codes:
        write_code(store.code, code.files)
    run.arm.setup.prepare(store.path)
    return store.run(run.run_id)


def make_job(
    plan: Plan,
    run: Run,
    placement: Placement,
    software: Mapping[str, Any],
    *,
    cut_counts: bool = False,
    study: Path = Path(),
    pause_step: int | None = None,
) -> Job:
    """Describe a run to a worker. `study` is the folder of the study. After `pause_step`, the run is cut."""
    manifest = {
        **software,
        "arm": run.arm.name,
        "seed": run.seed,
        "data_hash": run.arm.setup.data_hash(plan.corpus.hash),
        **run.arm.setup.facts,
        "gpus": placement.gpus_of_run,
        "processes": placement.processes,
        "shared_by": placement.slots,
        **_tuning_of(plan, run.arm.name),
        **({"start_from": run.parent.name} if run.parent is not None else {}),
    }
    told = {"study": plan.study.name, "arm": run.arm.name, "axes": run.arm.axes, **run.arm.setup.directions(study)}
    if run.parent is not None and run.arm.start is not None:
        told["start"] = {"weights": str(run.parent.folder.weights), "fresh": list(run.arm.start.fresh)}
    if pause_step is not None:
        told["pause_step"] = pause_step
    if every := [choice.every for choice in plan.evaluations if choice.every]:
        told["snapshot_every"] = every
    return Job(run.run_id, config_of(plan, run), manifest, cut_counts, told)


def _tuning_of(plan: Plan, arm: str) -> Mapping[str, Any]:
    tuning = plan.tuning.get("arms", {}).get(arm)
    return {"tuning_trials": tuning["trials"]} if tuning else {}


def find_unfinished(
    plan: Plan,
    store: StudyFolder,
    *,
    keeps_cut: Callable[[Run], bool] = lambda _: False,
    failed_only: bool = False,
) -> list[Run]:
    """The runs that are left to train, or only those that failed. `keeps_cut` is as `RunSource` has it."""
    left, begun = [], store.list_names()
    for run in plan.runs:
        if run.run_id not in begun:
            left += [] if failed_only else [run]
            continue
        folder = store.run(run.run_id)
        status = folder.read_status()
        if (status.state == "failed" or not failed_only) and not folder.has_ended(status, cut_counts=keeps_cut(run)):
            left.append(run)
    return left


def explain_unused(plan: Plan, store: StudyFolder) -> str:
    """Say which settings changed if a study has finished runs, but none of an arm in the plan. Otherwise empty."""
    with suppress(RecordError):  # there is no record, or it cannot be read
        record = store.read_study()
        known = {arm.identity for arm in record.arms}
        if any(arm_id(arm.identity) in known for arm in plan.arms):
            return ""
        done = [run for run in record.runs if store.peek_state(run.run_id) == "finished"]
        if done:
            before = dict(flatten(read_mapping(store.run(done[0].run_id).config)))
            firsts = {run.arm.name: run for run in reversed(plan.runs)}
            now = (dict(flatten(json.loads(json.dumps(config_of(plan, run))))) for run in firsts.values())
            changes = min((_compare(before, config) for config in now), key=len)
            runs = f"{count(len(done), 'finished run')} of this study {'does' if len(done) == 1 else 'do'} not count"
            return f"{runs} under the settings of this grid: {'; '.join(changes)}" if changes else ""
    return ""


def _compare(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    paths = [path for path in {**before, **now} if path != "seed" and before.get(path) != now.get(path)]
    return [f"{path} was {json.dumps(before.get(path))} and is {json.dumps(now.get(path))}" for path in paths]


def count_states(store: StudyFolder, run_ids: Iterable[str], lost: Container[str] = ()) -> Mapping[str, int]:
    """The number of runs in each state, named as in `ablate status`. The `lost` count as failed, because a full disk
    may have kept that out of their status."""
    return Counter("failed" if run_id in lost else _name_state(store.run(run_id)) for run_id in run_ids)


def _name_state(folder: RunFolder) -> str:
    status = folder.read_status()
    if status.state == "running" and not is_held(folder.curve):  # its worker was killed
        status = replace(status, state="queued")
    return folder.shown_state(status)


def estimate_seconds(plan: Plan, store: StudyFolder, pace: Pace | None) -> Mapping[str, float | None]:
    """Seconds per run of each arm, by name: the median of its finished runs, or an estimate. Estimates are corrected
    by the error of the estimates of other arms. None if nothing is known; without a `pace`, only runs tell."""
    return extrapolate_seconds(plan, measure_seconds(plan, store), pace)


def measure_seconds(plan: Plan, store: StudyFolder) -> Mapping[str, float]:
    """The median seconds of the finished runs of each arm that has one, by its name."""
    took: dict[str, list[float]] = {}
    begun = store.list_names()
    for run in (run for run in plan.runs if run.run_id in begun):
        status = store.run(run.run_id).read_status()
        if status.state == "finished" and status.took_s and not status.is_cut:
            took.setdefault(run.arm.name, []).append(status.took_s)
    return {arm: median(seconds) for arm, seconds in took.items()}


def extrapolate_seconds(plan: Plan, measured: Mapping[str, float], pace: Pace | None) -> Mapping[str, float | None]:
    """Seconds per run of each arm as `estimate_seconds` has them, from those of finished runs that are `measured`."""
    guessed = {arm.name: None if pace is None else arm.setup.seconds(pace) for arm in plan.arms}
    errors = [seconds / guess for arm, seconds in measured.items() if (guess := guessed[arm])]
    correction = median(errors) if errors else 1.0
    usual = median(measured.values()) if measured else None  # of a task that cannot be estimated
    return {arm: measured.get(arm, usual if guess is None else correction * guess) for arm, guess in guessed.items()}


def order(runs: Iterable[Run], seconds: Mapping[str, float | None], last: Container[str] = ()) -> list[Run]:
    """Sort runs by seed, and within a seed by length, the longest first.

    Runs of the arms `last` come after all others, such as those at a level that is held out.

    A finished seed can be compared while the next one trains. Slots do not wait between seeds. Longest-first lets the
    slots finish together, which only matters for the last seed. Runs of equal length keep the plan's order, with the
    baseline first.
    """
    runs = list(runs)
    blocks = {seed: index for index, seed in enumerate(dict.fromkeys(run.seed for run in runs))}
    return sorted(runs, key=lambda run: (run.arm.name in last, blocks[run.seed], -(seconds[run.arm.name] or 0.0)))


class RunSource(ABC):
    """Supplies more runs while others train: a search, for example. It is asked when a worker is idle."""

    @property
    @abstractmethod
    def n_left(self) -> int:
        """About how many runs may still come; 0 if there are no more."""

    @abstractmethod
    def draw(self, affinity: Affinity = NO_AFFINITY) -> Sequence[Run]:
        """Return more runs to train, which are already in the study's record; empty if there is nothing to add now.

        `affinity` describes the idle worker.
        """

    @abstractmethod
    def tell(self, run: Run, state: State) -> None:
        """Note that a run has ended: finished, diverged or failed."""

    def pause_step(self, run: Run) -> int | None:  # noqa: ARG002
        """The step after which a run waits for the results of others; None if it is trained to its end."""
        return None

    def keeps_cut(self, run: Run) -> bool:  # noqa: ARG002
        """Tell whether a run that was stopped early is over. Otherwise it is trained to its end."""
        return False

    def is_needed(self, run: Run) -> bool:  # noqa: ARG002
        """Tell whether a run that was drawn, and has not ended, is still needed."""
        return True

    def complete(self, record: StudyRecord) -> StudyRecord:
        """Add to the study's record what only the source knows."""
        return record
