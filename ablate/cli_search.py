"""The verb that looks for settings, `search`, and what a grid's `tune:` adds to others. It is registered in `cli`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.cli_results import DEFAULT_RUNS, Runs
from ablate.errors import DataError, GridError

if TYPE_CHECKING:
    from rich.console import Console

    from ablate.execution.placement import Placement
    from ablate.execution.run import Options
    from ablate.execution.view import View
    from ablate.plan import Plan
    from ablate.plan.estimate import Pace
    from ablate.search.problem import Problem

SearchFile = Annotated[
    Path, typer.Argument(metavar="SEARCH", help="The file that declares the search, or a folder of its pages.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Lay a value over the file, e.g. train.steps=100."),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        min=0, metavar="N", help="Stop after N minutes. Runs save checkpoints; none starts that cannot end in time."
    ),
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Runs at a time; default: as many as fit.")]


def search(
    file: SearchFile,
    runs: Runs = DEFAULT_RUNS,
    workers: Workers = None,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster, e.g. auto or HOST:PORT.")] = None,
    set_: Settings = None,
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help="Optuna's storage; default: a journal in the search's folder.")
    ] = None,
    tracking_uri: Annotated[str | None, typer.Option(help="Where MLflow is; default: RUNS/mlflow.db.")] = None,
    minutes: Minutes = None,
    report: Annotated[bool, typer.Option("--report", help="Train nothing: write the pages of what is there.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the pages go; default: RUNS/SEARCH/report.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print what went wrong, and how it ended.")] = False,
    log_json: Annotated[bool, typer.Option("--log-json", help="Print every event as a line of JSON.")] = False,
) -> None:
    """Look for the best settings of an arm or several, then confirm them with fresh seeds. The same command goes on."""
    from rich.console import Console

    import ablate
    from ablate.execution.limit import TimeLimit
    from ablate.execution.restart import ClusterLostError, begin_anew
    from ablate.execution.run import Options
    from ablate.execution.view import View
    from ablate.search.page import read_summary, write_pages
    from ablate.search.run import rewrite_search, run_search
    from ablate.tracking.folders import StudyFolder
    from ablate.tracking.mlflow_mirror import redact

    if file.is_dir():
        print(f"Page: {write_pages(read_summary(file), out or file)['search.html'].resolve()}")
        return
    problem = _pose(file, runs, [*(set_ or ()), *([f"storage={storage}"] if storage else ())])
    store = StudyFolder(runs / problem.name)
    secrets = [secret for secret in (tracking_uri, storage) if secret]
    words = ["ablate", *sys.argv[1:]]
    for secret in secrets:
        words = [word.replace(secret, redact(secret)) for word in words]
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.mlflow_database.resolve()}"
    limit = TimeLimit(minutes) if minutes is not None else None
    options = Options(uri, workers, address, shlex.join(words), ablate.__version__, limit=limit)
    view = View(Console(), quiet=quiet, as_json=log_json)
    console = Console(stderr=log_json, quiet=quiet)
    if report:
        rewrite_search(problem, store, options, console, out)
        return
    try:
        outcome = run_search(problem, store, file.parent, options, console, view, out)
    except ClusterLostError as error:
        begin_anew(error)
    raise typer.Exit(outcome.exit_code)


def _pose(file: Path, runs: Path, settings: list[str]) -> Problem:
    from ablate.data import describe
    from ablate.search.problem import load_search, pose
    from ablate.study.schema import locate_data

    declared = load_search(file, settings)
    try:
        return pose(declared, describe(declared.data, file.parent, runs / ".shards"))
    except DataError as error:
        raise GridError(locate_data(declared._source, error)) from None


def show_plan(file: Path, runs: Path, workers: int | None, settings: list[str] | None, *, as_json: bool) -> None:
    """What `ablate plan` prints of a search: its arms with their spaces, and what its trials will cost."""
    from ablate.search.cost import describe_cost, print_search
    from ablate.search.optimizer import check_names

    problem = _pose(file, runs, settings or [])
    check_names(problem)
    if as_json:
        print(json.dumps(describe_cost(problem), indent=1))
    else:
        print_search(problem, workers)


def tune_first(planned: Plan, runs: Path, base: Path, options: Options, console: Console, view: View) -> Plan:
    """The trials of a grid's `tune:`; the plan at each arm's best. Ends the command where they are not over."""
    from ablate.search.run import tune_study

    outcome, tuned = tune_study(planned.study, planned.corpus, runs, base, options, console, view)
    if tuned is None:
        raise typer.Exit(outcome.exit_code)
    return tuned


def show_tuning(planned: Plan, placement: Placement, pace: Pace) -> None:
    """What `ablate plan` adds for a grid's `tune:`: the space, and what the trials cost."""
    from ablate.search.cost import describe_tuning
    from ablate.search.optimizer import check_names
    from ablate.search.tuning import pose_tuning

    problem = pose_tuning(planned.study, planned.corpus)
    check_names(problem)
    for line in describe_tuning(problem, placement.lanes, pace):
        print(line)
