"""The verbs that plan and train a study: `plan`, `run`, `stop` and `submit`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.cli import search
from ablate.cli.inputs import find_store, leave_out_option, read_plan, resolve_tracking_uri, write_command
from ablate.cli.options import (
    DEFAULT_RUNS,
    Address,
    AsJson,
    DiskBudget,
    Grid,
    Keep,
    LogJson,
    Minutes,
    Overlays,
    Quiet,
    Runs,
    Settings,
    Study,
    TrackingUri,
    Workers,
)
from ablate.cli.power import describe_plan_power, find_margin
from ablate.errors import AblateError, RecordError

if TYPE_CHECKING:
    from ablate.plan import Plan


def plan(
    grid: Annotated[Path, typer.Argument(metavar="GRID", help="Grid file of a study, or the file of a search.")],
    runs: Runs = DEFAULT_RUNS,
    workers: Workers = None,
    set_: Settings = None,
    with_: Overlays = None,
    noise: Annotated[
        float | None,
        typer.Option(
            "--noise",
            metavar="SD",
            help="Standard deviation of final losses over seeds, to show which differences are detectable. "
            "Default: that of finished runs.",
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="COUNTxGPU",
            help="Estimate for a machine that is elsewhere, such as 8xH100, from the data sheets of its GPUs.",
        ),
    ] = None,
    noise_from: Annotated[
        str | None,
        typer.Option(
            "--noise-from", metavar="STUDY", help="Take the standard deviation from an earlier study instead."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a grid or a search declares: arms, runs, sizes and cost. Trains and writes nothing."""
    from ablate.study.load import is_search

    if noise is not None and not 0 < noise < float("inf"):
        raise AblateError(f"--noise {noise:g}: must be a number above 0")
    if noise is not None and noise_from is not None:
        raise AblateError("--noise and --noise-from both say how final losses scatter; give one of them")
    if is_search(grid):
        if on is not None:
            raise AblateError("--on: a search is planned for this machine; use --on with a grid")
        for option, value in (("--noise", noise), ("--noise-from", noise_from)):
            if value is not None:
                raise AblateError(f"{option}: a search has no verdicts; use {option} with a grid")
        search.show_plan(grid, runs, workers, set_, as_json=as_json)
        return
    from ablate.sequential.added_seeds import extend
    from ablate.tracking.folders import StudyFolder
    from ablate.tracking.history import list_added

    declared = read_plan(grid, runs, set_, with_)
    store = StudyFolder(runs / declared.study.name)
    trials, tuned = search.read_trials(declared, runs) if declared.grid.tune is not None else (None, declared)
    planned = extend(tuned, list_added(store))
    from ablate.cli.planned_machine import find_machine
    from ablate.cli.study_output import describe_plan, print_plan

    if as_json:
        print("[" + ",\n ".join(map(json.dumps, describe_plan(planned))) + "]")
        return
    machine = find_machine(planned, workers, on)
    earlier = find_store(noise_from, runs) if noise_from else None
    power = tuple(describe_plan_power(planned, store, noise, earlier))
    margin = find_margin(planned, earlier or store, noise) if planned.until_decided is not None else None
    print_plan(planned, store, machine, power, margin)
    if trials is not None:
        search.show_tuning(trials, machine.placement, machine.pace)
    search.show_proposal(declared)


def run(
    grid: Grid,
    runs: Runs = DEFAULT_RUNS,
    workers: Workers = None,
    address: Address = None,
    set_: Settings = None,
    with_: Overlays = None,
    tracking_uri: TrackingUri = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Train only the runs that failed.")] = False,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", metavar="+N", help="Train N more seeds of every arm. The study keeps them."),
    ] = None,
    early_stop: Annotated[
        str | None,
        typer.Option(
            "--early-stop",
            metavar="RULE",
            help="Stop runs that fall behind: asha, or patience=N (evaluations without a gain). Never stops baselines.",
        ),
    ] = None,
    stuck_after: Annotated[
        float,
        typer.Option(
            "--stuck-after",
            min=10,
            metavar="SECONDS",
            help="Replace a worker that shows no sign of life for this long.",
        ),
    ] = 600.0,
    minutes: Minutes = None,
    keep: Keep = "all",
    disk_budget: DiskBudget = None,
    quiet: Quiet = False,
    log_json: LogJson = False,
    as_json: AsJson = False,
) -> None:
    """Train every run of a grid. Run the same command again to resume; finished runs are not repeated."""
    from rich.console import Console

    import ablate
    from ablate.cli.outputs.base import print_output
    from ablate.cli.study_output import describe_outcome, print_outcome
    from ablate.execution.interruption import ClusterLostError, TimeLimit, restart_command
    from ablate.execution.run import Options, run_study
    from ablate.execution.view import View
    from ablate.sequential.added_seeds import choose_seeds, extend, parse_added
    from ablate.tracking.cleaning import parse_bytes, parse_keep
    from ablate.tracking.folders import StudyFolder
    from ablate.tracking.history import list_added

    planned = read_plan(grid, runs, set_, with_, Console(stderr=True, quiet=quiet or log_json))
    if planned.until_decided is not None and early_stop is not None:
        reason = "it would stop the runs that fall behind, and looks would only see the others"
        raise AblateError(f"--early-stop cannot be used with a grid that trains `until: decided`: {reason}")
    store = StudyFolder(runs / planned.study.name)
    command = write_command(tracking_uri)
    n_more = parse_added(planned, seeds) if seeds is not None else 0
    command = leave_out_option(command, "--seeds")  # the study keeps its seeds
    budget = parse_bytes(disk_budget) if disk_budget is not None else None
    options = Options(
        resolve_tracking_uri(tracking_uri, store),
        workers,
        address,
        command,
        ablate.__version__,
        retry_failed,
        early_stop,
        stuck_after,
        TimeLimit(minutes) if minutes is not None else None,
        keep=parse_keep(keep),
        disk_budget_bytes=budget,
    )
    console = Console(stderr=log_json or as_json, quiet=quiet)
    view = View(Console(stderr=as_json and not log_json), quiet=quiet, as_json=log_json)
    tuned: Plan | None = planned
    try:
        if planned.grid.tune is not None:
            outcome, tuned = search.tune_first(planned, runs, grid.parent, options, console, view)
        if tuned is None:
            store = search.find_trials(planned, runs)
        else:
            new_seeds = choose_seeds(tuned, store, n_more) if n_more else ()
            if added := (*list_added(store), *new_seeds):
                tuned = extend(tuned, added)
                options = replace(options, command=f"{command} --seeds +{len(added)}", added_seeds=new_seeds)
            source = None
            if tuned.until_decided is not None:
                from ablate.sequential.open_arms import OpenArms

                source = OpenArms(
                    tuned, store, view.observe, version=ablate.__version__, command=command, only_failed=retry_failed
                )
                tuned = source.plan
            outcome = run_study(tuned, store, grid.parent, options, console, view, source=source)
    except ClusterLostError as error:
        restart_command(error)
    is_time_up = options.limit is not None and options.limit.is_over
    if tuned is not None:
        following, shown = f"ablate report {grid}{store.whereabouts}", Console(stderr=log_json or as_json)
        print_outcome(outcome, store, following, command, shown, is_time_up=is_time_up)
    if as_json:
        print_output(describe_outcome(outcome, store, command, is_time_up=is_time_up))
    raise typer.Exit(outcome.exit_code)


def stop(study: Study, runs: Runs = DEFAULT_RUNS, as_json: AsJson = False) -> None:
    """Ask a running study, on this or another machine, to save checkpoints and stop. `ablate run` resumes it."""
    from ablate.cli.outputs.base import print_output
    from ablate.cli.outputs.study import StopRequest

    store = find_store(study, runs)
    store.read_study()
    if not store.has_driver():
        raise RecordError(f"{store.path.name}: no `ablate run` is training it")
    store.request_stop()
    if as_json:
        print_output(StopRequest(study=store.path.name, folder=str(store.path)))
        return
    print(f"{store.path.name}: asked to stop; `ablate status` shows when everything has stopped")


def submit(
    grid: Grid,
    address: Annotated[
        str, typer.Option("--address", metavar="URL", help="The cluster's job server, e.g. http://HEAD:8265.")
    ],
    runs: Runs = DEFAULT_RUNS,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Submit a study to a Ray cluster as a job. The head must have the grid, the data and --runs at the same paths."""
    from ablate.cli.outputs.base import print_output
    from ablate.cli.outputs.study import SubmittedJob
    from ablate.execution.run import submit as send
    from ablate.formatting import count

    planned = read_plan(grid, runs, set_)
    job = send(address, grid, runs, [word for setting in set_ or () for word in ("--set", setting)])
    if as_json:
        print_output(SubmittedJob(study=planned.study.name, n_runs=len(planned.runs), job=job, address=address))
        return
    print(f"{planned.study.name}: submitted {count(len(planned.runs), 'run')} as job {job}")
    print(f"progress: ablate status {planned.study.name} --runs {runs} --watch")
    print(f"output: ray job logs --address {address} {job}")
