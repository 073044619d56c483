"""The command `ablate`: one function a verb.

Imports are lazy: `--help`, `status` and `report` never load torch.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from ablate import cli_results, cli_search
from ablate.cli_results import DEFAULT_RUNS, Runs, find_store
from ablate.errors import AblateError, DataError, RecordError
from ablate.execution.packages import check_packages

if TYPE_CHECKING:
    from ablate.plan import Plan


PLACES = frozenset({"ARCHIVE...", "DIR", "FILE", "FOLDER", "GRID", "RUN", "SEARCH", "STUDY", "[STUDY]..."})
MAX_NAME_BYTES = 255  # of one part of a path, on every file system in use


class Verbs(typer.core.TyperGroup):
    """The verbs, whose arguments are all checked in one place."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command: Any = super().get_command(ctx, cmd_name)
        for parameter in command.params if command is not None else ():
            parameter.callback = _check_argument
        return command


def _check_argument(_ctx: object, parameter: Any, value: Any) -> Any:
    """The value itself. Raises `AblateError` for a path that no file can have."""
    label = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.metavar
    for item in value if isinstance(value, list | tuple) else (value,):
        if not isinstance(item, str | Path):
            continue
        text = str(item)
        if isinstance(item, str) and parameter.metavar not in PLACES:
            continue
        if any(ord(character) < 32 for character in text):
            raise AblateError(f"{label}: {text!r} is no name of a file or folder: it holds a control character")
        longest = max(Path(text).parts, key=lambda part: len(os.fsencode(part)), default="")
        if len(os.fsencode(longest)) > MAX_NAME_BYTES:
            raise AblateError(f"{label}: {longest[:40]}... is too long: a name has at most {MAX_NAME_BYTES} bytes")
    return value


app = typer.Typer(
    cls=Verbs,
    help="Declare an ablation study, train it, and learn whether the change helps, by how much, and how surely.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Grid = Annotated[Path, typer.Argument(metavar="GRID", help="The grid file that declares the study.")]
StudyPlace = Annotated[
    str, typer.Argument(metavar="STUDY", help="A grid file, a study's folder, or its name under --runs.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Lay a value over the grid, e.g. train.steps=100."),
]
With = Annotated[
    list[Path] | None,
    typer.Option("--with", metavar="FILE", help="Lay settings over the arms, such as the best.yaml of a search."),
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Runs at a time; default: as many as fit.")]
Keep = Annotated[str, typer.Option(metavar="RULE", help="Whose weights stay: all, best, baseline, none.")]
DiskBudget = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Room for the whole study, e.g. 20GB; the worst weights go first.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _print_version(is_asked: bool) -> None:
    if is_asked:
        import ablate

        print(f"ablate {ablate.__version__}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The options of the command itself."""


def main() -> None:
    """Run the command line. An `AblateError` becomes one message and its exit code, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without our characters, as under LANG=C, shows others
    for word in sys.argv[1:]:
        if "\0" in word:  # which the conversion of paths would stumble over
            _fail(f"the argument {word!r} holds a NUL byte", 2)
    try:
        check_packages()
        try:
            app()
        finally:
            _flush()
    except AblateError as error:
        _fail(str(error), error.exit_code)
    except ValueError as error:
        from ablate_model import ConfigError

        if not isinstance(error, ConfigError):
            raise
        _fail(str(error), 2)
    except OSError as error:
        _fail(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "), 2)


def _flush() -> None:
    """Write out what was printed, while a full disk behind `> FILE` can still be reported. A closed pipe is fine."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again as it ends
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        raise


def _fail(message: str, exit_code: int) -> None:
    for line in message.splitlines():
        print(f"error: {line}", file=sys.stderr)
    sys.exit(exit_code)


@app.command()
def plan(
    grid: Grid,
    runs: Runs = DEFAULT_RUNS,
    workers: Workers = None,
    set_: Settings = None,
    with_: With = None,
    as_json: AsJson = False,
) -> None:
    """Show what a grid or a search declares: arms, runs, sizes and cost. Trains nothing and writes nothing."""
    from ablate.study.load import is_search

    if is_search(grid):
        cli_search.show_plan(grid, runs, workers, set_, as_json=as_json)
        return
    planned = _build_plan(grid, runs, set_, with_)
    if as_json:
        rows = (
            {
                "run_id": run.run_id,
                "arm": run.arm.name,
                "seed": run.seed,
                "n_params": run.arm.n_params,
                "flops_per_token": run.arm.flops_per_token,
                "n_tokens": run.arm.n_tokens,
                "n_steps": run.arm.train.steps,
                "axes": run.arm.axes,
                "baseline": run.arm.baseline,
            }
            for run in planned.runs
        )
        print("[" + ",\n ".join(map(json.dumps, rows)) + "]")
        return
    from ablate.execution.placement import local_resources, measure_pace, place
    from ablate.screens import print_plan
    from ablate.tracking.folders import StudyFolder

    where = planned.study.locate(("resources",))
    placement = place(planned.study.resources, [local_resources()], workers, len(planned.runs), where)
    pace = measure_pace(placement)
    print_plan(planned, StudyFolder(runs / planned.study.study), placement, pace)
    if planned.study.tune is not None:
        cli_search.show_tuning(planned, placement, pace)


@app.command()
def run(
    grid: Grid,
    runs: Runs = DEFAULT_RUNS,
    workers: Workers = None,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster, e.g. auto or HOST:PORT.")] = None,
    set_: Settings = None,
    with_: With = None,
    tracking_uri: Annotated[str | None, typer.Option(help="Where MLflow is; default: RUNS/mlflow.db.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Train the failed runs alone.")] = False,
    early_stop: Annotated[
        str | None,
        typer.Option(metavar="RULE", help="Cut runs that fall behind: asha, or patience=EVALUATIONS. Never baselines."),
    ] = None,
    stuck_after: Annotated[
        float, typer.Option(min=10, metavar="SECONDS", help="Replace a worker that is silent for so long.")
    ] = 600.0,
    minutes: cli_search.Minutes = None,
    keep: Keep = "all",
    disk_budget: DiskBudget = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print what went wrong, and how it ended.")] = False,
    log_json: Annotated[bool, typer.Option("--log-json", help="Print every event as a line of JSON.")] = False,
) -> None:
    """Train every run of a grid. The same command goes on from where it was; a finished study trains nothing."""
    from rich.console import Console

    import ablate
    from ablate.execution.limit import TimeLimit
    from ablate.execution.restart import ClusterLostError, begin_anew
    from ablate.execution.run import Options, run_study
    from ablate.execution.view import View
    from ablate.screens import print_outcome
    from ablate.tracking.cleaning import parse_bytes, parse_keep
    from ablate.tracking.folders import StudyFolder
    from ablate.tracking.mlflow_mirror import redact

    planned = _build_plan(grid, runs, set_, with_)
    store = StudyFolder(runs / planned.study.study)
    secret = tracking_uri or ""
    command = shlex.join(
        ["ablate", *(word.replace(secret, redact(secret)) if secret else word for word in sys.argv[1:])]
    )
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.mlflow_database.resolve()}"
    budget = parse_bytes(disk_budget) if disk_budget is not None else None
    options = Options(
        uri,
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
    console = Console(stderr=log_json, quiet=quiet)
    view = View(Console(), quiet=quiet, as_json=log_json)
    try:
        if planned.study.tune is not None:
            planned = cli_search.tune_first(planned, runs, grid.parent, options, console, view)
        outcome = run_study(planned, store, grid.parent, options, console, view)
    except ClusterLostError as error:
        begin_anew(error)
    is_time_up = options.limit is not None and options.limit.is_over
    print_outcome(outcome, store, str(grid), command, Console(stderr=log_json), is_time_up=is_time_up)
    raise typer.Exit(outcome.exit_code)


@app.command()
def status(
    study: StudyPlace,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it again and again while it runs.")] = False,
    every: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How often, with --watch.")] = 2.0,
) -> None:
    """Show the state of every run of a study. Works from any terminal and machine that sees the folder."""
    from ablate.screens import print_status, watch_status

    store = find_store(study, runs)
    store.read_study()
    if watch and not as_json:
        watch_status(store, every)
    else:
        print_status(store, as_json=as_json)


@app.command()
def logs(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or its beginning, as status prints it.")],
    runs: Runs = DEFAULT_RUNS,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines of the curve's end.")] = 10,
) -> None:
    """Show what happened to a run: its state, notes, the end of its curve, and its error with the traceback."""
    from ablate.screens import print_log
    from ablate.tracking.folders import find_run

    print_log(*find_run(runs, run), lines)


@app.command()
def stop(study: StudyPlace, runs: Runs = DEFAULT_RUNS) -> None:
    """Ask a study that trains, here or on another machine, to save checkpoints and stop. `ablate run` goes on."""
    store = find_store(study, runs)
    store.read_study()
    if not store.has_driver():
        raise RecordError(f"{store.path.name}: no `ablate run` is at work on it")
    store.request_stop()
    print(f"{store.path.name}: asked to stop; `ablate status` tells when nothing runs any more")


@app.command()
def clean(
    study: StudyPlace,
    runs: Runs = DEFAULT_RUNS,
    keep: Keep = "all",
    disk_budget: DiskBudget = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go.")] = False,
) -> None:
    """Remove weights by a rule, checkpoints of runs that have ended, and files half written. Curves always stay."""
    from ablate.screens import print_removals
    from ablate.tracking.cleaning import clean as remove
    from ablate.tracking.cleaning import parse_bytes, parse_keep, plan_cleaning

    budget = parse_bytes(disk_budget) if disk_budget is not None else None
    removals = (plan_cleaning if dry_run else remove)(find_store(study, runs), parse_keep(keep), budget)
    print_removals(removals, is_dry=dry_run)


@app.command()
def pack(
    study: StudyPlace,
    runs: Runs = DEFAULT_RUNS,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The archive; default: STUDY.tar.gz.")] = None,
    weights: Annotated[bool, typer.Option("--weights", help="The trained weights too.")] = False,
) -> None:
    """Write what a study's finished runs left behind into one archive, for another machine to merge."""
    from ablate.tracking.archive import pack as write_archive

    store = find_store(study, runs)
    archive = out or Path(f"{store.path.name}.tar.gz")
    count = write_archive(store, archive, weights=weights)
    print(f"{archive}: {count} runs of {store.path.name}")


@app.command()
def merge(
    archives: Annotated[list[Path], typer.Argument(metavar="ARCHIVE...", help="What ablate pack wrote.")],
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Bring archives from several machines into one study. Refuses runs that are there with other results."""
    from ablate.tracking.archive import merge as merge_archives
    from ablate.tracking.archive import read_study_name
    from ablate.tracking.folders import StudyFolder

    store = StudyFolder(runs / read_study_name(archives[0]))
    added, present = merge_archives(store, archives, check_model)
    print(f"{store.path}: {added} runs came, {present} were there already")


def check_model(folder: Path) -> None:
    """Raises `RecordError` unless a run's weights are the ones of its config, and numbers."""
    from ablate_model import ConfigError, load

    try:
        model = load(folder)
    except (ConfigError, OSError, ValueError, TypeError, AttributeError) as error:
        text = str(error).replace(f"{folder}{os.sep}", "")
        raise RecordError(f"its weights do not fit its config: {text}") from None
    if any(bool(weights.isnan().any()) for weights in model.parameters()):
        raise RecordError("its weights are not numbers, though it finished")


app.command()(cli_search.search)
app.command()(cli_results.report)
app.command()(cli_results.generate)


@app.command()
def schema(search: Annotated[bool, typer.Option("--search", help="Of search.yaml instead.")] = False) -> None:
    """Print the JSON Schema of grid.yaml, for an editor that completes and checks it."""
    from ablate.plan.json_schema import file_schema, grid_schema
    from ablate.search.schema import Search

    print(json.dumps(file_schema(Search, "search.yaml of ablate") if search else grid_schema(), indent=2))


@app.command()
def variants(as_json: AsJson = False) -> None:
    """List every attention and normalization with its paper and its knobs."""
    from ablate.screens import print_variants
    from ablate_model import variants as list_variants
    from ablate_model.config import broken_lines

    table = list_variants()
    if as_json:
        print(json.dumps(table, indent=2))
    else:
        print_variants(table)
    if broken := broken_lines():
        raise AblateError("\n".join(map(str, broken)))


@app.command()
def doctor(runs: Runs = DEFAULT_RUNS, as_json: AsJson = False) -> None:
    """Show what this machine has: versions, the build of torch, GPUs, cores, disk, shared memory and TMPDIR."""
    from ablate.doctor import describe, examine

    findings = list(examine(runs))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        print("\n".join(describe(findings)))


@app.command()
def submit(
    grid: Grid,
    address: Annotated[str, typer.Option(metavar="URL", help="The cluster's job server, e.g. http://HEAD:8265.")],
    runs: Runs = DEFAULT_RUNS,
    set_: Settings = None,
) -> None:
    """Send a study to a Ray cluster as a job. Grid, data and --runs must be where all its nodes see them."""
    from ablate.execution.submit import submit as send

    planned = _build_plan(grid, runs, set_)
    job = send(address, grid, runs, [word for setting in set_ or () for word in ("--set", setting)])
    print(f"{planned.study.study}: {len(planned.runs)} runs, as the job {job}")
    print(f"follow: ablate status {planned.study.study} --runs {runs} --watch")
    print(f"what it prints: ray job logs --address {address} {job}")


@app.command()
def bench(
    grid: Grid,
    runs: Runs = DEFAULT_RUNS,
    set_: Settings = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps in each timed window.")] = 10,
    cold: Annotated[bool, typer.Option("--cold", help="Time the first step with an empty compilation cache.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Where a step's time goes, part by part.")] = False,
    together: Annotated[int, typer.Option(min=1, help="Then also as so many processes that share the device.")] = 1,
    as_json: AsJson = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write STUDY.json, and STUDY.md made from it, there.")
    ] = None,
) -> None:
    """Measure how fast each arm of a grid trains on this machine's first device, on random tokens."""
    planned = _build_plan(grid, runs, set_)
    from ablate.bench_page import write_bench
    from ablate.screens import print_speeds
    from ablate.training.bench import bench_arms

    report = bench_arms(
        {arm.name: (arm.model, arm.train) for arm in planned.arms},
        study=planned.study.study,
        command=shlex.join(["ablate", *sys.argv[1:]]),
        threads=planned.study.resources.cpus or 1,
        steps=steps,
        is_cold=cold,
        has_profile=profile,
        together=together,
        tell=partial(typer.echo, err=True),
    )
    if out is not None:
        write_bench(asdict(report), out)
    if as_json:
        print(json.dumps(asdict(report), indent=1))
    else:
        print_speeds(report)
    raise typer.Exit(bool(report.failed))


def _build_plan(grid: Path, runs: Path, settings: list[str] | None, files: list[Path] | None = None) -> Plan:
    from ablate.data import describe
    from ablate.study import load_overlay, load_study

    study = load_study(grid, settings or ())
    overlays = [overlay for file in files or () for overlay in load_overlay(file)]
    if overlays and study.tune is not None:
        raise study.refuse(("tune",), "the grid looks for the best settings itself: it takes no --with")
    from ablate.plan import build_plan

    try:
        return build_plan(study, describe(study.data, grid.parent, runs / ".shards"), overlays)
    except DataError as error:
        raise study.refuse_data(error) from None
