"""The verbs that look at results: `status`, `logs`, `report` and `generate`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.cli.foreign_runs import (
    ArmName,
    Experiment,
    FlopsName,
    From,
    Map,
    Metric,
    Mlflow,
    RunName,
    SecondsName,
    SeedName,
    StepName,
    TokensName,
    choose_names,
    open_foreign,
    split_direction,
)
from ablate.cli.inputs import find_mirror, find_store, read_by
from ablate.cli.options import DEFAULT_RUNS, RUN_HELP, STUDY_HELP, AsJson, BesideGrid, NoiseFrom, Runs, Study, TrustCode
from ablate.errors import AblateError

if TYPE_CHECKING:
    from ablate.analysis import Results
    from ablate.report import Report
    from ablate.tracking.folders import StudyFolder

WATCH_S = 10.0  # between two reports, with --watch
MAX_TOKENS = 1_000_000  # of one continuation, which takes minutes to hours


def status(
    study: Study,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh the table while the study trains.")] = False,
    every: Annotated[
        float, typer.Option("--every", min=0.1, metavar="SECONDS", help="Time between refreshes, with --watch.")
    ] = 2.0,
) -> None:
    """Show the state of every run of a study, from any machine that sees its folder."""
    from ablate.cli.status_output import print_status, watch_status

    store = find_store(study, runs)
    store.read_study()
    if watch and not as_json:
        watch_status(store, every)
    else:
        print_status(store, as_json=as_json)


def logs(
    run: Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)],
    runs: Runs = DEFAULT_RUNS,
    lines: Annotated[
        int, typer.Option("--lines", "-n", metavar="N", min=0, help="Show the last N lines of the curve.")
    ] = 10,
    as_json: AsJson = False,
) -> None:
    """Show what happened to a run: its state, its notes, the end of its curve, and its error with traceback."""
    from ablate.cli.outputs.base import print_output
    from ablate.cli.status_output import describe_log, print_log
    from ablate.tracking.folders import find_run

    log = describe_log(*find_run(runs, run), lines)
    if as_json:
        print_output(log)
    else:
        print_log(log)


def report(
    studies: Annotated[
        list[str] | None,
        typer.Argument(metavar="STUDY", help=f"{STUDY_HELP} A published report's folder works too."),
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    out: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="Folder for the pages. Default: RUNS/STUDY/report.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="TARGET",
            help="Value of the metric to reach: that of the baseline after 50, 75 or 90 % of its budget or at its end "
            "(final), or a number, e.g. 3.28 nats per token. Repeatable.",
        ),
    ] = None,
    axis: Annotated[
        str | None,
        typer.Option(
            "--axis",
            metavar="AXIS",
            help="Cost axis of the headline: steps, tokens, flops, seconds or gpu_seconds. Default: tokens, if known.",
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="EXPRESSION",
            help="Report only the arms that match, written as in `exclude`: attention == 'standard'.",
        ),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            metavar="AXIS=LEVEL",
            help="Compare with another baseline: AXIS=LEVEL or arm=NAME. Repeatable.",
        ),
    ] = None,
    noise_from: NoiseFrom = None,
    figures: Annotated[bool, typer.Option("--figures", help="Also write every figure as SVG and PDF.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help=f"Update the pages every {WATCH_S:.0f} seconds until every run has ended.")
    ] = False,
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            "--tracking-uri",
            metavar="URI",
            help="MLflow to attach the report to. Default: $MLFLOW_TRACKING_URI, else RUNS/mlflow.db if it exists.",
        ),
    ] = None,
    as_json: AsJson = False,
    attach: Annotated[bool, typer.Option("--attach/--no-attach", help="Attach the report in MLflow.")] = True,
    from_: From = None,
    mlflow: Mlflow = None,
    experiment: Experiment = None,
    metric: Metric = None,
    arm: ArmName = None,
    seed: SeedName = None,
    step: StepName = None,
    run: RunName = None,
    tokens: TokensName = None,
    flops: FlopsName = None,
    seconds: SecondsName = None,
    map_: Map = None,
) -> None:
    """Report on one or more studies, or on logs of other programs: print verdicts and speedups, and write report.html.

    With --from, report on the logs of other programs. With --mlflow and --experiment, report on runs that MLflow has.
    """
    from ablate.analysis import TARGETS, parse_target
    from ablate.cli.report_output import print_report
    from ablate.report import ReportOptions, attach_report, clean_name, summarize, write_report

    options = ReportOptions(
        targets=tuple(map(parse_target, target)) if target else TARGETS,
        axis=axis,
        where=where,
        baseline=_read_pairs("--baseline", "AXIS=LEVEL", baseline) or None,
        figures=figures,
    )
    costs = {"tokens": tokens, "flops": flops, "wall_s": seconds}
    name, direction = split_direction(metric)
    chosen = choose_names(
        _read_pairs("--map", "FACT=NAME", map_), val_loss=name, arm=arm, seed=seed, step=step, run=run, **costs
    )
    stores = [] if from_ else [find_store(study, runs) for study in studies or ()]
    earlier = [find_store(study, runs) for study in noise_from or ()]
    if earlier and (from_ or mlflow is not None or experiment is not None):
        raise AblateError("--noise-from: the data of runs of other programs are not known")
    if not from_ and mlflow is None and experiment is None:
        if chosen.keys() - ({"val_loss"} if metric else set()):
            raise AblateError("--map is for runs of other programs: give --mlflow and --experiment, or --from")
        if not stores:
            raise AblateError("no study to report on: name its grid or folder, --from PATH, or --mlflow URI")
        read: Callable[[], Results] = partial(read_by, stores, name, direction, earlier)
        folder = stores[0].path / "report" if len(stores) == 1 else runs / "comparison"
    else:
        if stores:
            raise AblateError("--mlflow URI and --experiment NAME go together, and without the name of a study")
        paths = [*from_, *(studies or ())] if from_ else []
        read, title = open_foreign(chosen, direction, paths, mlflow, experiment, sys.stderr if as_json else sys.stdout)
        folder = runs / clean_name(title) / "report"
    place = folder if out is None else out
    beside = [store.path for store in stores]
    made = write_report(read(), place, options=options, beside=beside)
    while watch and not made.is_complete:
        if not as_json:
            print_report(made)
        _note_look(made, stores)
        time.sleep(WATCH_S)
        made = write_report(read(), place, options=options, beside=beside)
    if as_json:
        print(json.dumps(summarize(made), indent=1, allow_nan=False))
    else:
        print_report(made)
    _note_look(made, stores)
    is_part = len(stores) != 1 or where is not None or bool(baseline) or bool(earlier)
    mirror = find_mirror(tracking_uri, stores[0]) if attach and not is_part else None
    if mirror and (excuse := attach_report(made, mirror)):
        print(f"{excuse}; the pages are complete", file=sys.stderr if as_json else sys.stdout)


def generate(
    run: Annotated[str, typer.Argument(metavar="RUN", help=f"{RUN_HELP} The run's folder works too.")],
    prompt: Annotated[
        str, typer.Option("--prompt", metavar="TEXT", help="Text to continue. Default: start a new document.")
    ] = "",
    tokens: Annotated[
        int, typer.Option("--tokens", metavar="N", min=1, max=MAX_TOKENS, help="Maximum number of new tokens.")
    ] = 200,
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature", metavar="T", min=0, help="Sampling temperature; 0 always takes the most likely token."
        ),
    ] = 0.8,
    top_k: Annotated[
        int | None, typer.Option("--top-k", metavar="K", min=1, help="Sample only from the K most likely tokens.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            "--top-p", metavar="P", help="Sample only from the fewest tokens whose probabilities add up to P."
        ),
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(
            "--min-p", metavar="P", help="Sample only from tokens at least P times as likely as the most likely one."
        ),
    ] = None,
    stop: Annotated[str, typer.Option("--stop", metavar="TEXT", help="End before this text.")] = "",
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            metavar="N",
            min=0,
            help="Seed of the sampling; the same seed gives the same text.",
        ),
    ] = 0,
    grid: BesideGrid = None,
    trust_code: TrustCode = False,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """Continue a prompt with the model of a finished run."""
    from ablate.cli.outputs.base import print_output
    from ablate.cli.outputs.results import Continuation
    from ablate.evaluation.continuation import allow_code, continue_prompt, find_run
    from ablate_model import Sampling

    for name, text in (("prompt", prompt), ("stop", stop)):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise AblateError(f"--{name}: this is not text in UTF-8") from None
    try:
        sampling = Sampling(temperature, top_k, top_p, min_p)
    except ValueError as error:
        raise AblateError(f"--{str(error).replace('_', '-', 1)}") from None
    found = find_run(run, runs)
    allow_code(found, grid, is_trusted=trust_code)
    text = continue_prompt(found, prompt, tokens, sampling, stop=stop, seed=seed)
    if as_json:
        print_output(Continuation(run=str(found.path), prompt=prompt, text=text))
    else:
        print(text)


def _read_pairs(option: str, form: str, pairs: list[str] | None) -> dict[str, str]:
    read = {}
    for pair in pairs or ():
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise AblateError(f"{option} {pair}: write it as {form}")
        read[key] = value
    return read


def _note_look(made: Report, stores: list[StudyFolder]) -> None:
    """Let the record of a study know that its verdicts were seen, in case it gets more seeds later."""
    from ablate.tracking.history import note_look

    n_seeds = max((row.n for row in made.differences), default=0)
    for store in stores:
        if store.record.exists():
            note_look(store, n_seeds)
