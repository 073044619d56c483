"""The verbs that look at results: `report`, `generate`, `bench-report`. They are registered in `cli`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.errors import AblateError, GridError

if TYPE_CHECKING:
    from ablate.report import Report
    from ablate.tracking.store import Store

Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="The folder of all studies.")]
DEFAULT_RUNS = Path("runs")
PUBLISHED = "curves.parquet"  # what a report leaves of a study's curves, from which its page can be made again
WATCH_S = 10.0


def report(
    studies: Annotated[
        list[str],
        typer.Argument(metavar="STUDY...", help="Grid files, folders of studies or of reports, or names under --runs."),
    ],
    runs: Runs = DEFAULT_RUNS,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the pages go; default: RUNS/STUDY/report.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="TARGET", help="50, 75, 90, final, or a loss such as 3.28; may be given several times."),
    ] = None,
    axis: Annotated[
        str, typer.Option(help="The cost of the headline: steps, tokens, flops, seconds, gpu_seconds.")
    ] = "tokens",
    where: Annotated[
        str | None, typer.Option(metavar="EXPRESSION", help="Only the arms for which it holds, as in `exclude`.")
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(metavar="AXIS=LEVEL", help="Another baseline, or arm=NAME; may be given several times."),
    ] = None,
    figures: Annotated[bool, typer.Option("--figures", help="Every figure as SVG and PDF too.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Write the pages anew until every run has ended.")] = False,
) -> None:
    """Write the pages of a study, report.html first, and print the table of speed-ups. Several studies are compared."""
    from ablate.analysis import parse_target
    from ablate.report import ReportOptions, write_report

    stores = [find_store(study, runs) for study in studies]
    default = stores[0].path / "report" if len(stores) == 1 else runs / "comparison"
    folder = default if out is None else out
    chosen = {"targets": tuple(map(parse_target, target))} if target else {}
    options = ReportOptions(axis=axis, where=where, baseline=_read_levels(baseline), figures=figures, **chosen)
    made = write_report(stores, folder, options=options)
    while watch and not made.is_complete:
        _print(made)
        time.sleep(WATCH_S)
        made = write_report(stores, folder, options=options)
    _print(made)


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

    try:
        sampling = Sampling(temperature, top_k, top_p, min_p)
    except ValueError as error:
        raise AblateError(f"--{str(error).replace('_', '-', 1)}") from None
    print(continue_prompt(find_run(run, runs), prompt, tokens, sampling, stop=stop, seed=seed))


def bench_report(
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Where the made-up study and its pages go.")],
    n_runs: Annotated[int, typer.Option("--n-runs", min=2)] = 100,
    n_points: Annotated[int, typer.Option("--n-points", min=4)] = 1000,
) -> None:
    """Time the report of a made-up study of so many runs with so many points each."""
    from ablate.report.bench import bench_report as bench

    print(json.dumps(bench(folder, n_runs, n_points).to_dict(), indent=2))


def find_store(study: str, runs: Path) -> Store:
    """The folder that a STUDY argument means. Raises `GridError` where it is no grid and no such folder."""
    from ablate.study import study_name
    from ablate.tracking.store import Store

    place = Path(study)
    if (place / "study.json").exists() or (place / PUBLISHED).exists():
        return Store(place)
    if place.is_file() or place.suffix in (".yaml", ".yml"):
        return Store(runs / study_name(place))
    if place.is_dir():
        raise GridError(f"{place}: no study was run in this folder: it holds no study.json")
    if not study or place.name != study or study in (".", ".."):
        raise GridError(f"{study!r}: there is no such grid, and no such study's folder")
    return Store(runs / study)


def _read_levels(pairs: list[str] | None) -> dict[str, str] | None:
    if not pairs:
        return None
    levels = {}
    for pair in pairs:
        axis, separator, level = pair.partition("=")
        if not separator or not axis:
            raise AblateError(f"--baseline {pair}: write it as AXIS=LEVEL")
        levels[axis] = level
    return levels


def _print(made: Report) -> None:
    from rich.console import Console

    from ablate.report import render_table

    console = Console()
    console.print(render_table(made))
    for sentence in made.answer:
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    console.print(f"\nPage: {made.paths['html'].resolve()}", highlight=False, markup=False, soft_wrap=True)
