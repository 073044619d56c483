"""The verbs that look at results: `report` and `generate`. They are registered in `cli`."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.errors import AblateError, GridError

if TYPE_CHECKING:
    from ablate.analysis import Results
    from ablate.report import Report
    from ablate.tracking.folders import StudyFolder

Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="The folder of all studies.")]
DEFAULT_RUNS = Path("runs")
PUBLISHED = "curves.parquet"  # what a report leaves of a study's curves, from which its page can be made again
WATCH_S = 10.0


def report(
    studies: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STUDY]...", help="Grid files, folders of studies or of reports, or names under --runs."
        ),
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the pages go; default: RUNS/STUDY/report.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="TARGET", help="50, 75, 90, final, or a loss such as 3.28; may be given several times."),
    ] = None,
    axis: Annotated[
        str | None,
        typer.Option(
            help="The cost of the headline: steps, tokens, flops, seconds, gpu_seconds; default: tokens, where known."
        ),
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="EXPRESSION", help="Only the arms for which it holds, as in `exclude`.")
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(metavar="AXIS=LEVEL", help="Another baseline, or arm=NAME; may be given several times."),
    ] = None,
    figures: Annotated[bool, typer.Option("--figures", help="Every figure as SVG and PDF too.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Write the pages anew until every run has ended.")] = False,
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            metavar="URI", help="The MLflow that the report is attached to; default: RUNS/mlflow.db, if there."
        ),
    ] = None,
    attach: Annotated[bool, typer.Option("--attach/--no-attach", help="Attach the report in MLflow.")] = True,
    mlflow: Annotated[
        str | None, typer.Option(metavar="URI", help="Report on runs that this MLflow has, whatever code made them.")
    ] = None,
    experiment: Annotated[str | None, typer.Option(metavar="NAME", help="Their experiment, with --mlflow.")] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Their validation loss; default: val/loss, val_loss, eval/loss or eval_loss."
        ),
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="WHAT=NAME",
            help="The tag, param or metric that says what: arm=model_name, arm=attention,norm (two axes), "
            "seed=random_state, device=gpu, steps=max_iters, tokens=seen_tokens; may be given several times.",
        ),
    ] = None,
) -> None:
    """Write the pages of a study, report.html first, and print the table of speed-ups. Several studies are compared.

    With --mlflow and --experiment, the study is what MLflow knows.
    """
    from ablate.analysis import TARGETS, parse_target
    from ablate.report import ReportOptions, attach_report, clean_name, read_studies, write_report

    options = ReportOptions(
        targets=tuple(map(parse_target, target)) if target else TARGETS,
        axis=axis,
        where=where,
        baseline=_read_pairs("--baseline", "AXIS=LEVEL", baseline) or None,
        figures=figures,
    )
    stores = [find_store(study, runs) for study in studies or ()]
    if mlflow is None and experiment is None:
        if metric is not None or map_:
            raise AblateError("--metric and --map name what MLflow has: give --mlflow and --experiment too")
        if not stores:
            raise AblateError("no study to report on: name its grid or folder, or --mlflow URI --experiment NAME")
        read: Callable[[], Results] = partial(read_studies, stores)
        folder = stores[0].path / "report" if len(stores) == 1 else runs / "comparison"
    else:
        if mlflow is None or experiment is None or stores:
            raise AblateError("--mlflow URI and --experiment NAME go together, and without the name of a study")
        chosen = _read_pairs("--map", "WHAT=NAME", map_) | ({} if metric is None else {"val_loss": metric})
        read, folder = _open_experiment(mlflow, experiment, chosen), runs / clean_name(experiment) / "report"
    place = folder if out is None else out
    made = write_report(read(), place, options=options)
    while watch and not made.is_complete:
        _print(made)
        time.sleep(WATCH_S)
        made = write_report(read(), place, options=options)
    _print(made)
    is_part = len(stores) != 1 or where is not None or bool(baseline)
    mirror = _find_mirror(stores[0], tracking_uri) if attach and not is_part else None
    if mirror and (excuse := attach_report(made, mirror)):
        print(f"{excuse}; the pages are whole")


def generate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or the beginning of its id.")],
    prompt: Annotated[str, typer.Option(help="What the model continues; empty: the beginning of a document.")] = "",
    tokens: Annotated[int, typer.Option(min=1, help="New tokens, at most.")] = 200,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(min=1, help="Keep so many tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Keep the fewest tokens whose probabilities reach so much.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Keep tokens at least so likely, relative to the likeliest.")
    ] = None,
    stop: Annotated[str, typer.Option(help="End before this text.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="The same seed says the same.")] = 0,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Let the model of a finished run continue a prompt."""
    from ablate.evaluation.continuation import continue_prompt, find_run
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
    print(continue_prompt(find_run(run, runs), prompt, tokens, sampling, stop=stop, seed=seed))


def find_store(study: str, runs: Path) -> StudyFolder:
    """The folder that a STUDY argument means, with a note on standard error where it can mean two.

    A study that was run comes before a published report, and both before a grid or a folder that only has the name.
    Raises `GridError` where it is no grid and no such folder.
    """
    from ablate.study import study_name
    from ablate.tracking.folders import StudyFolder

    place = Path(study)
    is_name = bool(study) and place.name == study and study not in (".", "..")
    candidates = (place, runs / study) if is_name else (place,)
    places = {os.path.realpath(folder): folder for folder in reversed(candidates)}
    for file in ("study.json", PUBLISHED):
        for path, folder in reversed(places.items()):
            if os.path.lexists(folder / file):
                for other in places.keys() - {path}:
                    if os.path.lexists(other):
                        print(f"note: {study} means {path}, not {other}", file=sys.stderr)
                return StudyFolder(folder)
    if place.is_file() or place.suffix in (".yaml", ".yml"):
        return StudyFolder(runs / study_name(place))
    if place.is_dir():
        raise GridError(f"{place}: no study was run in this folder: it holds no study.json")
    if not is_name:
        raise GridError(f"{study!r}: there is no such grid, and no such study's folder")
    return StudyFolder(runs / study)


def _find_mirror(store: StudyFolder, tracking_uri: str | None) -> str | None:
    """The address of the MLflow that has the study; none for a published report, and where no database is."""
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not store.record.exists():
        return None
    return uri or (f"sqlite:///{store.mlflow_database.resolve()}" if store.mlflow_database.exists() else None)


def _open_experiment(uri: str, experiment: str, chosen: Mapping[str, str]) -> Callable[[], Results]:
    """How to read an experiment, now and again. Raises `AblateError` where a name is chosen for nothing known."""
    from ablate.imports.mlflow import MlflowReader, read_mlflow_study
    from ablate.imports.names import Names
    from ablate.tracking.mlflow_mirror import redact

    command = shlex.join(["ablate", *(word.replace(uri, redact(uri)) for word in sys.argv[1:])])
    return partial(read_mlflow_study, MlflowReader(uri), experiment, Names(chosen), command)


def _read_pairs(option: str, form: str, pairs: list[str] | None) -> dict[str, str]:
    read = {}
    for pair in pairs or ():
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise AblateError(f"{option} {pair}: write it as {form}")
        read[key] = value
    return read


def _print(made: Report) -> None:
    from rich.console import Console

    from ablate.report import WIDEST, render_table

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDEST
    console.print(render_table(made))
    for sentence in made.answer:
        console.print(sentence, highlight=False, markup=False)
    console.print(f"\nPage: {made.paths['html'].resolve()}", highlight=False, markup=False, soft_wrap=True)
