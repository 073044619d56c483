"""`ablate run`, put together: corpus, cluster, workers, mirror and view around one driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ablate.data import check_vocabulary, prepare
from ablate.execution.driver import Driver, Outcome, cluster, record_study, unfinished
from ablate.execution.placement import local_resources, place
from ablate.execution.view import View
from ablate.plan import Plan
from ablate.tracking.mlflow_mirror import MlflowMirror, is_complete, redact
from ablate.tracking.store import Store
from ablate.words import format_seconds

SHARDS = ".shards"  # in the folder of all studies, which every node of a cluster sees


@dataclass(frozen=True)
class Options:
    """How to run, which never changes what comes out: where MLflow is, how many at a time, on which cluster."""

    tracking_uri: str
    workers: int | None = None
    address: str | None = None
    command: str = ""
    version: str = ""


def run_study(plan: Plan, store: Store, base: Path, options: Options, console: Console) -> Outcome:
    """Train what is left of a plan. Nothing is written before it is known that the cluster can take it.

    `base` is the folder of the grid, where relative data paths are looked up too. Raises `ResourceError` where the
    cluster lacks what a run asks for, `DataError` where the corpus cannot be read.
    """
    record = record_study(plan, options.version, options.command)
    pending = unfinished(plan, store)
    if not pending:
        store.write_study(record)
        if not is_complete(options.tracking_uri, store, record):
            _close(MlflowMirror(options.tracking_uri, store, record), options, console)
        return Outcome({"finished": len(plan.runs)}, interrupted=False)

    available: Mapping[str, float] = local_resources()
    if options.address is None:
        place(plan.study.resources, available, options.workers, len(pending))
    done = len(plan.runs) - len(pending)
    console.print(
        f"{plan.study.study}: {len(plan.runs)} runs" + (f", {done} of them done before" if done else ""),
        highlight=False,
    )
    corpus = prepare(plan.study.data, base, store.path.parent / SHARDS)
    for vocab_size in {run.arm.model.vocab_size for run in pending}:
        check_vocabulary(corpus, vocab_size)
    with cluster(options.address, available) as resources:
        placement = place(plan.study.resources, resources, options.workers, len(pending))
        store.write_study(record)
        console.print(f"{placement}; starting", highlight=False)
        mirror = MlflowMirror(options.tracking_uri, store, record)
        view = View(console, pending, placement.lanes)
        driver = Driver(plan, store, corpus, placement, mirror, view.observe)
        with view.shown():
            outcome = driver.train(pending)
    _close(mirror, options, console)
    console.print(f"trained for {format_seconds(view.elapsed_s)}", highlight=False)
    return outcome


def _close(mirror: MlflowMirror, options: Options, console: Console) -> None:
    with console.status(f"bringing MLflow at {redact(options.tracking_uri)} up to date"):
        mirror.close()
    if mirror.behind:
        console.print(
            f"{mirror.behind}; the curves on disk are whole, and the next `ablate run` brings the rest", markup=False
        )
