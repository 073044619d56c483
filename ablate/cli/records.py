"""The verbs that check and compare published results: `verify` and `leaderboard`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.cli.inputs import find_store, pose_on_corpus, read_plan, resolve_tracking_uri, write_command
from ablate.cli.options import (
    DEFAULT_RUNS,
    Address,
    AsJson,
    BesideGrid,
    LogJson,
    Minutes,
    Quiet,
    Runs,
    TrackingUri,
    TrustCode,
    Workers,
)
from ablate.errors import AblateError, GridError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from ablate.analysis import Results
    from ablate.plan import Plan
    from ablate.tracking.folders import StudyFolder

MAX_NAMED = 12  # arms in a message
NO_OUTCOME = "there is no outcome yet: it needs every run"
INTERRUPTED = 130  # the exit code, also where the time was up


def verify(
    report: Annotated[
        str, typer.Argument(metavar="REPORT", help="Folder of a published report, or a study under --runs.")
    ],
    arm: Annotated[
        list[str] | None,
        typer.Option("--arm", metavar="ARM", help="Arm whose verdict to check. Repeatable. Default: all of them."),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", metavar="N", min=2, max=1000, help="Number of fresh seeds of each arm.")
    ] = 3,
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="Folder in which the data's relative paths start.")
    ] = Path(),
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder for the outcome. Default: REPORT/verifications."),
    ] = None,
    grid: BesideGrid = None,
    trust_code: TrustCode = False,
    runs: Runs = DEFAULT_RUNS,
    workers: Workers = None,
    address: Address = None,
    tracking_uri: TrackingUri = None,
    minutes: Minutes = None,
    quiet: Quiet = False,
    log_json: LogJson = False,
    as_json: AsJson = False,
) -> None:
    """Train fresh seeds of a published report's arms, and say if they confirm its verdicts. Run it again to resume."""
    from rich.console import Console

    import ablate
    from ablate.analysis.results import read_results
    from ablate.cli.records_output import print_verification
    from ablate.cli.study_output import print_outcome
    from ablate.cli.tables import print_plain
    from ablate.execution.interruption import ClusterLostError, TimeLimit, restart_command
    from ablate.execution.run import Options, run_study
    from ablate.execution.view import View
    from ablate.records.verify import (
        check_begun,
        choose_arms,
        choose_seeds,
        conclude,
        describe_devices,
        describe_power,
        name_verification,
    )
    from ablate.report.markdown import write_markdown
    from ablate.report.verifications import compose_verification
    from ablate.report.write import read_study
    from ablate.tracking.folders import StudyFolder
    from ablate.tracking.history import note_look
    from ablate.tracking.verifications import VERIFICATIONS, write_verification

    published = find_store(report, runs)
    results = read_study(published)
    store = StudyFolder(runs / name_verification(results.record.study))
    names, chosen = choose_arms(results, arm or (), store), choose_seeds(results, seeds, published.path, store)
    prepared = Console(stderr=True, quiet=quiet or log_json)
    plan = _rebuild(results, published, names, chosen, data, runs, grid, prepared, trust_code=trust_code)
    check_begun(plan, store)
    console = Console(stderr=log_json or as_json, quiet=quiet)
    for line in describe_power(results, names, len(chosen)):
        print_plain(console, line)
    command = write_command(tracking_uri)
    options = Options(
        resolve_tracking_uri(tracking_uri, store),
        workers,
        address,
        command,
        ablate.__version__,
        limit=TimeLimit(minutes) if minutes is not None else None,
        keep="none",
    )
    view = View(Console(stderr=as_json and not log_json), quiet=quiet, as_json=log_json)
    try:
        outcome = run_study(plan, store, data, options, console, view)
    except ClusterLostError as error:
        restart_command(error)
    except ResourceError as error:
        raise ResourceError(f"{error}; {describe_devices(results, names)}") from None
    is_time_up = options.limit is not None and options.limit.is_over
    code, says = outcome.exit_code or INTERRUPTED, Console(stderr=log_json or as_json)
    if not store.record.exists():  # interrupted before the first run
        print_plain(says, NO_OUTCOME)
        raise typer.Exit(code)
    made = conclude(results, read_results(store), plan)
    if not made.is_complete:
        print_outcome(outcome, store, "", command, says, is_time_up=is_time_up)
        print_plain(says, NO_OUTCOME)
    else:
        code = outcome.exit_code or int(any(entry.outcome == "refuted" for entry in made.arms))
        text = write_markdown(compose_verification(made, results.record.question), {}, f"{made.study}: verification")
        path = write_verification(made, text, published.path / VERIFICATIONS if out is None else out)
        note_look(store, len(chosen))
        print_verification(made, path, says)
    if as_json:
        print(made.model_dump_json(indent=1))
    raise typer.Exit(code)


def _rebuild(
    results: Results,
    published: StudyFolder,
    names: Sequence[str],
    seeds: Sequence[int],
    data: Path,
    runs: Path,
    grid: Path | None,
    console: Console,
    *,
    trust_code: bool,
) -> Plan:
    """Plan runs of a report's arms with fresh seeds, from the grid if the runs are those of a program."""
    from ablate.evaluation.continuation import allow_named_code
    from ablate.records.rebuild import build, declare, read_config, take
    from ablate.records.verify import name_verification

    place, name = published.path, name_verification(results.record.study)
    configs = [read_config(results, arm, place) for arm in names]
    if grid is not None and "program" in configs[0]:
        return take(read_plan(grid, runs, None), results, names, seeds, name, place)
    for config in configs:
        allow_named_code(config, published, place, grid, is_trusted=trust_code)
    study = declare(results, names, place, data, name)
    try:
        return pose_on_corpus(study, runs, lambda corpus: build(study, results, names, seeds, corpus, place), console)
    except GridError as error:
        if str(error).startswith(f"{place}: data"):
            raise GridError(f"{error}; --data DIR names the folder in which the data's paths start") from None
        raise


def leaderboard(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER", help="Folders of published reports, whose arms are the entries.")
    ],
    benchmark: Annotated[
        Path, typer.Option("--benchmark", metavar="FILE", help="File that declares the benchmark and its rules.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Folder for the page. Default: a folder next to FILE, with its name."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare reports of one benchmark: loss, and tokens, FLOPs and seconds to its target. Arms that break a rule are
    not admitted."""
    from rich.console import Console

    from ablate.cli.outputs.base import print_output
    from ablate.cli.records_output import describe_leaderboard, print_leaderboard
    from ablate.records.benchmark import load_benchmark
    from ablate.records.leaderboard import make_leaderboard
    from ablate.records.page import write_leaderboard

    rules = load_benchmark(benchmark)
    made = make_leaderboard(rules, folders)
    if not made.entries:
        shown = [f"{item.name}: {item.breaches[0].rule}: {item.breaches[0].message}" for item in made.refused]
        raise AblateError("\n".join((f"{benchmark}: no arm of these reports obeys the rules", *shown[:MAX_NAMED])))
    paths = write_leaderboard(made, benchmark.parent / rules.benchmark.name if out is None else out)
    if as_json:
        print_output(describe_leaderboard(made, paths["html"], paths["csv"]))
    else:
        print_leaderboard(made, paths["html"], Console())
