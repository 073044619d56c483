"""The verb `search`, and what a grid's `tune:` adds to `plan` and `run`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.cli.inputs import pose_on_corpus, resolve_tracking_uri, write_command
from ablate.cli.options import (
    DEFAULT_RUNS,
    Address,
    AsJson,
    LogJson,
    Minutes,
    Quiet,
    Runs,
    Settings,
    TrackingUri,
    Workers,
)

if TYPE_CHECKING:
    from rich.console import Console

    from ablate.execution.placement import Placement
    from ablate.execution.progress import Outcome
    from ablate.execution.run import Options
    from ablate.execution.view import View
    from ablate.plan import Plan
    from ablate.plan.estimate import Pace
    from ablate.search.problem import Problem
    from ablate.search.trials import Trials
    from ablate.tracking.folders import StudyFolder


def search(
    file: Annotated[
        Path,
        typer.Argument(metavar="SEARCH", help="File that declares the search, or the folder of a search's pages."),
    ],
    runs: Runs = DEFAULT_RUNS,
    workers: Workers = None,
    address: Address = None,
    set_: Settings = None,
    storage: Annotated[
        str | None,
        typer.Option("--storage", metavar="URL", help="Optuna's storage. Default: a journal in the search's folder."),
    ] = None,
    tracking_uri: TrackingUri = None,
    minutes: Minutes = None,
    report: Annotated[
        bool, typer.Option("--report", help="Only write the pages of the trials so far. Train nothing.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for the pages. Default: RUNS/SEARCH/report.")
    ] = None,
    quiet: Quiet = False,
    log_json: LogJson = False,
    as_json: AsJson = False,
) -> None:
    """Find the best settings of each arm, then confirm them with fresh seeds. Run it again to resume."""
    from rich.console import Console

    import ablate
    from ablate.cli.outputs.base import print_output
    from ablate.cli.outputs.study import SearchOutcome
    from ablate.execution.interruption import ClusterLostError, TimeLimit, restart_command
    from ablate.execution.progress import Outcome
    from ablate.execution.run import Options
    from ablate.execution.view import View
    from ablate.search.page import read_summary, write_pages
    from ablate.search.run import rewrite_search, run_search
    from ablate.tracking.folders import StudyFolder

    if file.is_dir():
        summary = read_summary(file)
        page = write_pages(summary, out or file)["search.html"]
        if as_json:
            print_output(SearchOutcome(search=summary["search"], states={}, interrupted=False, page=str(page)))
        else:
            print(f"Page: {page.resolve()}")
        return
    prepared = Console(stderr=True, quiet=quiet or log_json)
    problem = _pose(file, runs, [*(set_ or ()), *([f"storage={storage}"] if storage else ())], prepared)
    store = StudyFolder(runs / problem.name)
    uri, command = resolve_tracking_uri(tracking_uri, store), write_command(tracking_uri, storage)
    limit = TimeLimit(minutes) if minutes is not None else None
    options = Options(uri, workers, address, command, ablate.__version__, limit=limit)
    view = View(Console(stderr=as_json and not log_json), quiet=quiet, as_json=log_json)
    console = Console(stderr=log_json or as_json, quiet=quiet)
    outcome = Outcome({}, interrupted=False)
    try:
        if report:
            rewrite_search(problem, store, options, console, out)
        else:
            outcome = run_search(problem, store, file.parent, options, console, view, out)
    except ClusterLostError as error:
        restart_command(error)
    if as_json:
        page, states = (out or store.report) / "search.html", dict(outcome.states)
        print_output(SearchOutcome(search=problem.name, states=states, interrupted=outcome.interrupted, page=str(page)))
    raise typer.Exit(outcome.exit_code)


def _pose(file: Path, runs: Path, settings: list[str], console: Console | None = None) -> Problem:
    from ablate.search.pose import load_search, pose

    declared = load_search(file, settings)
    return pose_on_corpus(declared, runs, lambda corpus: pose(declared, corpus), console)


def show_plan(file: Path, runs: Path, workers: int | None, settings: list[str] | None, *, as_json: bool) -> None:
    """Print the plan of a search: its arms with their spaces, and the cost of its trials."""
    from ablate.search.cost import describe_cost, print_search
    from ablate.search.optimizer import check_names
    from ablate.search.trials import Trials
    from ablate.tracking.folders import StudyFolder

    problem = _pose(file, runs, settings or [])
    check_names(problem)
    if as_json:
        print(json.dumps(describe_cost(problem), indent=1))
    else:
        print_search(Trials(problem, StudyFolder(runs / problem.name), is_read_only=True), workers)


def tune_first(
    planned: Plan, runs: Path, base: Path, options: Options, console: Console, view: View
) -> tuple[Outcome, Plan | None]:
    """Run the trials of a grid's `tune:`. Returns the plan at each arm's best, or None if trials are left."""
    from ablate.search.run import tune_study

    return tune_study(planned.grid, planned.corpus, runs, base, options, console, view)


def find_trials(planned: Plan, runs: Path) -> StudyFolder:
    """The folder with the trials of a grid's `tune:`."""
    from ablate.search.pose import pose_tuning
    from ablate.tracking.folders import StudyFolder

    return StudyFolder(runs / pose_tuning(planned.grid, planned.corpus).name)


def read_trials(planned: Plan, runs: Path) -> tuple[Trials, Plan]:
    """Read the trials of a grid's `tune:`, and the plan at each arm's best if they are over."""
    from ablate.search.follow_up import plan_tuned
    from ablate.search.optimizer import check_names
    from ablate.search.pose import pose_tuning
    from ablate.search.trials import Trials
    from ablate.tracking.folders import StudyFolder

    problem = pose_tuning(planned.grid, planned.corpus)
    check_names(problem)
    trials = Trials(problem, StudyFolder(runs / problem.name), is_read_only=True)
    if trials.n_open:
        return trials, planned
    trials.check()
    return trials, plan_tuned(problem, planned.grid, trials)


def show_tuning(trials: Trials, placement: Placement, pace: Pace | None) -> None:
    """Print what a grid's `tune:` adds to its plan: the space, and the cost of the trials that are left."""
    from ablate.search.cost import describe_tuning

    for line in describe_tuning(trials, placement.slots, pace):
        print(line)


def show_proposal(planned: Plan) -> None:
    """Print which arms share an untuned learning rate, and a `tune:` block for the grid."""
    from ablate.search.proposal import propose_tuning

    for line in propose_tuning(planned):
        print(line)
