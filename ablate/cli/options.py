"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_RUNS = Path("runs")
STUDY_HELP = "A study: its grid file, its folder, or its name under --runs."
RUN_HELP = "A run's id as `ablate status` prints it, or its first characters."

Grid = Annotated[Path, typer.Argument(metavar="GRID", help="Grid file that declares the study.")]
Study = Annotated[str, typer.Argument(metavar="STUDY", help=STUDY_HELP)]

Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder that holds all studies.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the file: train.steps=100. Repeatable."),
]
Overlays = Annotated[
    list[Path] | None,
    typer.Option(
        "--with", metavar="FILE", help="Override settings of arms with a file: best.yaml of a search. Repeatable."
    ),
]
Workers = Annotated[
    int | None, typer.Option("--workers", metavar="N", min=1, help="Most runs at a time. Default: as many as fit.")
]
Address = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Running Ray cluster: auto or HOST:PORT. Default: only this machine."),
]
TrackingUri = Annotated[
    str | None, typer.Option(metavar="URI", help="Where MLflow is. Default: $MLFLOW_TRACKING_URI, else RUNS/mlflow.db.")
]
Minutes = Annotated[
    float | None,
    typer.Option(
        min=0, metavar="N", help="Save checkpoints and stop after N minutes. No run starts that cannot end in time."
    ),
]
Keep = Annotated[
    str, typer.Option(metavar="RULE", help="Runs that keep their weights: all, best (one per arm), baseline, none.")
]
DiskBudget = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Disk space of the study: 20GB. Beyond it, the worst runs lose their weights."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only problems and the outcome.")]
LogJson = Annotated[bool, typer.Option("--log-json", help="Print every event as a line of JSON.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
