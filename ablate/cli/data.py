"""The verbs about the corpus of a grid: `data prepare` and `data sources`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ablate.cli.options import DEFAULT_RUNS, AsJson, Grid, Quiet, Runs, Settings


def prepare(
    grid: Grid,
    runs: Runs = DEFAULT_RUNS,
    set_: Settings = None,
    processes: Annotated[
        int | None,
        typer.Option("--processes", metavar="N", min=1, help="Number of processes. Default: one per CPU core."),
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(
            "--max-memory",
            metavar="SIZE",
            help="Memory limit for all processes together, e.g. 4GB. Lowers their number if necessary.",
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Tokenize the corpus of a grid, so that `ablate run` starts at once. Run it again to resume."""
    from rich.console import Console

    from ablate.cli.data_output import describe_corpus, make_shards, summarize_corpus
    from ablate.cli.inputs import load_declaration
    from ablate.cli.outputs.base import print_output
    from ablate.tracking.cleaning import parse_bytes

    declared = load_declaration(grid, set_)
    limit = parse_bytes(max_memory, "--max-memory") if max_memory is not None else None
    try:
        corpus = make_shards(declared, runs, Console(stderr=True, quiet=quiet), processes, limit)
    except KeyboardInterrupt:
        print("stopped; the same command resumes", file=sys.stderr if as_json else sys.stdout)
        raise typer.Exit(130) from None
    if as_json:
        print_output(summarize_corpus(corpus, declared.data))
    elif not quiet:
        print("\n".join(describe_corpus(corpus, declared.data)))


def sources(as_json: AsJson = False) -> None:
    """List what `data.source` can be, and how each source holds out its validation split."""
    from ablate.cli.outputs.base import print_output
    from ablate.cli.outputs.study import DataSource
    from ablate.data.sources import TABLE, load_source

    known = {name: load_source(name) for name in TABLE}
    if as_json:
        print_output(
            [DataSource(name=name, summary=kind.summary, validation=kind.validation) for name, kind in known.items()]
        )
        return
    for name, source in known.items():
        print(f"{name}\n  {source.summary}\n  held out for validation: {source.validation}")
