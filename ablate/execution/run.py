"""`ablate run`: prepares the corpus and the cluster, and lets a driver train what is left of a plan."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ablate.data import SHARDS, Corpus, check_vocabulary, prepare
from ablate.errors import DataError, RecordError, ResourceError
from ablate.execution.early_stopping import Stopping, check_stopping, parse_stopping, seed_from_curves
from ablate.execution.interruption import Interruption, TimeLimit, at_work
from ablate.execution.jobs import (
    RunSource,
    count_states,
    estimate_seconds,
    explain_unused,
    find_unfinished,
    order,
    record_study,
)
from ablate.execution.placement import Nodes, check_memory, local_resources, place
from ablate.execution.progress import Evaluated, Event, Outcome
from ablate.execution.recovery import STUCK_S, DiskBudget, repair_runs
from ablate.execution.view import View
from ablate.formatting import count, format_seconds
from ablate.plan import Plan, Run
from ablate.plan.estimate import ORDER_PACE
from ablate.tracking.cleaning import Keep
from ablate.tracking.curve import read_curve
from ablate.tracking.folders import MAX_NAMED, StudyFolder
from ablate.tracking.history import continue_history
from ablate.tracking.mlflow_client import check_tracking_uri, find_mirror_obstacle, redact
from ablate.tracking.mlflow_mirror import MlflowMirror, is_complete

PATIENCE_S = 120.0
NOT_YET = "try again later"  # the answer of a cluster that has only just started


@dataclass(frozen=True)
class Options:
    """How to run a plan. Only `early_stop`, the rule that cuts runs, changes results.

    `stuck_s` is how long a worker may be silent. `limit` prevents runs from starting that cannot end in time. Weights
    beyond `keep` and `disk_budget_bytes` are removed while the study trains. `added_seeds` are noted in the study's
    history. Raises `ResourceError` for an impossible
    MLflow address, and `GridError` for an unknown rule.
    """

    tracking_uri: str
    workers: int | None = None
    address: str | None = None
    command: str = ""
    version: str = ""
    retry_failed: bool = False
    early_stop: str | None = None
    stuck_s: float = STUCK_S
    limit: TimeLimit | None = None
    keep: Keep = "all"
    disk_budget_bytes: int | None = None
    added_seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_tracking_uri(self.tracking_uri)
        parse_stopping(self.early_stop)


def run_study(
    plan: Plan,
    store: StudyFolder,
    base: Path,
    options: Options,
    console: Console,
    view: View,
    *,
    source: RunSource | None = None,
    stopping: Stopping | None = None,
) -> Outcome:
    """Train what is left of a plan, and the runs that the `source` adds. Nothing is written before the cluster is known
    to have enough resources.

    `stopping` replaces the rule that the options name. `base` is the folder of the grid, to which data paths may be
    relative. Raises `GridError` if the folder belongs to a search, `DataError` if the corpus cannot be read, and
    `ResourceError` if the cluster lacks the resources of a run or has another version of ablate, or if this machine
    lacks memory for the weights of a run. Raises `ClusterLostError` if the local Ray node died; the same call then
    resumes.
    """
    _check_name(plan, store)
    record = record_study(plan, options.version, options.command)
    if "space" not in plan.tuning:  # a search has no verdicts
        record = continue_history(record, store, options.added_seeds)
        if unused := explain_unused(plan, store):
            view.observe(Event("notice", text=unused))
    if source is not None:
        record = source.complete(record)
    stopping = stopping or parse_stopping(options.early_stop, record.metric)
    check_stopping(stopping, plan)
    if obstacle := find_mirror_obstacle(options.tracking_uri):
        view.observe(Event("notice", text=f"{obstacle}; the study itself will be complete"))

    def keeps_cut(run: Run) -> bool:
        return stopping is not None or (source is not None and source.keeps_cut(run))

    pending = find_unfinished(plan, store, keeps_cut=keeps_cut, failed_only=options.retry_failed)
    n_more = source.n_left if source is not None else 0
    is_search = "space" in plan.tuning  # a search only keeps the weights of its best trial
    keeps_weights = options.keep == "all" and options.disk_budget_bytes is None and not is_search
    repair_runs(plan, store, lambda text: view.observe(Event("notice", text=text)), needs_weights=keeps_weights)
    if not pending and not n_more:
        store.write_study(record)
        evaluated = _evaluate(plan, store, base, options, console, view)
        if not is_complete(options.tracking_uri, store, record):
            _close(MlflowMirror(options.tracking_uri, store, record), options, console, view)
        return replace(_count(plan, store, interrupted=False), evaluated=evaluated)

    # Ray takes a second to load, so it is only imported if runs are left to train.
    from ablate.execution.cluster import check_address, start_cluster
    from ablate.execution.driver import Driver, DriverOptions
    from ablate.execution.nodes import check_nodes, start_courier

    available: Mapping[str, float] = local_resources()
    where = plan.study.locate(("resources",))
    if options.address is None:
        placement = place(plan.study.resources, [available], options.workers, len(pending) + n_more, where)
        check_memory(plan.study, pending, placement)
        if os.environ.get("RAY_ADDRESS"):
            console.print(
                "RAY_ADDRESS is ignored: the study trains on this machine; use --address auto to join that cluster"
            )
    else:
        check_address(options.address)
    done = len(plan.runs) - len(pending)
    what = f", {done} of them {'left as they are' if options.retry_failed else 'done before'}" if done else ""
    more = f", at most {n_more} more to come" if n_more else ""
    console.print(f"{plan.study.name}: {len(plan.runs)} runs{what}{more}", highlight=False)
    corpus = _prepare_corpus(plan, base, store.path.parent / SHARDS)
    for arm in plan.arms:
        arm.setup.prepare(store.path)
    if stopping is not None:
        seed_from_curves(stopping, plan, dict(_read_curves(plan, store)))
    if options.limit is not None:
        for run in plan.runs:
            folder = store.run(run.run_id)
            options.limit.learn(run, folder.read_status().took_s if run not in pending else 0.0)
            if folder.checkpoint.exists():
                options.limit.mark_begun(run)
    runs = order(pending, estimate_seconds(plan, store, ORDER_PACE), plan.held_out)
    with ExitStack() as stack:
        interruption = stack.enter_context(at_work(store))
        nodes = stack.enter_context(start_cluster(options.address, available, store.ray_log))
        if interruption.is_set:  # while Ray started
            return _count(plan, store, interrupted=True)
        placement = place(plan.study.resources, nodes, options.workers, len(pending) + n_more, where)
        store.write_study(record)
        if blind := check_nodes(store.path):
            names = ", ".join(sorted(set(blind))[:MAX_NAMED])
            console.print(
                f"{count(len(blind), 'node')} of the cluster ({names}) cannot see {store.path}: curves, checkpoints, "
                "weights and data travel through Ray",
                highlight=False,
            )
        console.print(f"{placement}; starting", highlight=False)
        courier = stack.enter_context(start_courier(store.path))
        mirror = MlflowMirror(options.tracking_uri, store, record)
        disk_budget = DiskBudget(store, options.keep, options.disk_budget_bytes, view.observe)
        observe = view.observe if plan.evaluations else disk_budget.observe  # evaluations need the weights
        driver_options = DriverOptions(
            stopping=stopping,
            source=source,
            limit=options.limit,
            grows=options.address is not None and options.workers is None,
            stuck_s=options.stuck_s,
            interruption=interruption,
            courier=courier,
        )
        driver = Driver(plan, store, corpus, placement, mirror, observe, driver_options)
        with view.shown(runs, placement.slots, record.metric):
            outcome = driver.train(runs)
            if not plan.evaluations:
                disk_budget.enforce()
        is_time_up = options.limit is not None and options.limit.is_over
        if plan.evaluations and not (outcome.interrupted or outcome.halted or is_time_up):
            evaluated = _evaluate(plan, store, base, options, console, view, nodes, interruption, courier)
            outcome = replace(outcome, evaluated=evaluated, interrupted=evaluated.interrupted)
    _close(mirror, options, console, view)
    console.print(f"trained for {format_seconds(view.elapsed_s)}", highlight=False)
    return outcome


def _count(plan: Plan, store: StudyFolder, *, interrupted: bool) -> Outcome:
    return Outcome(count_states(store, {run.run_id for run in plan.runs}), interrupted)


def _evaluate(
    plan: Plan,
    store: StudyFolder,
    base: Path,
    options: Options,
    console: Console,
    view: View,
    nodes: Nodes | None = None,
    interruption: Interruption | None = None,
    courier: Any = None,
) -> Evaluated:
    """Do what is left of the grid's evaluations, on the cluster with these nodes or on a new one. Weights that the
    rules of the options do not keep are removed afterwards, unless an evaluation failed."""
    if not plan.evaluations:
        return Evaluated()
    from ablate.execution.evaluator import Request, evaluate_runs

    runs = store.read_study().runs  # with those that a source added
    request = Request(store, runs, plan.evaluations, base, plan.study.resources, options.workers, options.address)
    done = evaluate_runs(request, console, nodes, interruption, courier)
    if not done.exit_code:
        DiskBudget(store, options.keep, options.disk_budget_bytes, view.observe).enforce()
    return done


def _prepare_corpus(plan: Plan, base: Path, shards: Path) -> Corpus | None:
    """The corpus of a plan; None where language models are not trained.

    Raises `DataError`, and `GridError` for a vocabulary that is too small.
    """
    if not plan.study.is_language_model:
        return None
    corpus = prepare(plan.study.data, base, shards)
    for vocab_size in {arm.model.vocab_size for arm in plan.arms}:
        try:
            check_vocabulary(corpus, vocab_size)
        except DataError as error:
            raise plan.study.refuse(("model", "vocab_size"), str(error)) from None
    return corpus


def _read_curves(plan: Plan, store: StudyFolder) -> Iterator[tuple[str, Sequence[Mapping[str, Any]]]]:
    """The curves that can be read; the driver tells of the others."""
    for run in plan.runs:
        with suppress(OSError):
            yield run.run_id, read_curve(store.run(run.run_id).curve)


def _check_name(plan: Plan, store: StudyFolder) -> None:
    """Raises `GridError` where a study would take the place of a search, whose record alone lists its trials."""
    with suppress(RecordError):  # there is no record, or it cannot be read: it will be written again
        before = store.read_study()
        if "space" in before.tuning and "space" not in plan.tuning:
            message = f"a search named {before.study!r} was run in {store.path}: give this study another name"
            raise plan.study.refuse(("study",), message)


def _close(mirror: MlflowMirror, options: Options, console: Console, view: View) -> None:
    with console.status(f"updating MLflow at {redact(options.tracking_uri)}"):
        mirror.close()
    if mirror.behind:
        text = f"{mirror.behind}; the curves on disk are complete, and the next `ablate run` sends the rest"
        view.observe(Event("notice", text=text))


def entrypoint(grid: Path, runs: Path, options: Sequence[str]) -> str:
    """The command that the cluster's head executes. A job starts in its own folder, so paths are absolute."""
    words = ["python", "-m", "ablate", "run", grid.resolve(), "--runs", runs.resolve(), "--address", "auto", *options]
    return shlex.join(map(str, words))


def submit(address: str, grid: Path, runs: Path, options: Sequence[str]) -> str:
    """Send the study to the job server at `address` (http://HEAD:8265), and return the job's id.

    MLflow's secrets must be in the environment that the cluster was started with. They are never in the command.
    Raises `ResourceError` if no job server answers.
    """
    from ray.exceptions import RayError

    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            from ray.job_submission import JobSubmissionClient

            return str(JobSubmissionClient(address).submit_job(entrypoint=entrypoint(grid, runs, options)))
        except (ConnectionError, RuntimeError, ImportError, ValueError, RayError) as error:
            # ValueError: no address; RayError: a token that is not the cluster's
            text = str(error).strip().splitlines()[0]
            if NOT_YET not in text or time.monotonic() > deadline:
                raise ResourceError(f"no Ray job server accepts the study at {address}: {text}") from None
        time.sleep(1)
