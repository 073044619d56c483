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
NoiseFrom = Annotated[
    list[str] | None,
    typer.Option(
        "--noise-from",
        metavar="STUDY",
        help="Earlier study of the same size and data, whose scatter between seeds counts in the tests. Repeatable.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the file, e.g. train.steps=100. Repeatable."),
]
Overlays = Annotated[
    list[Path] | None,
    typer.Option(
        "--with", metavar="FILE", help="Override settings of arms with a file, e.g. a search's best.yaml. Repeatable."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", metavar="N", min=1, help="Maximum number of runs at a time. Default: as many as fit."),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        help="Running Ray cluster: auto or HOST:PORT. Default: start Ray on this machine.",
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri", metavar="URI", help="MLflow's address. Default: $MLFLOW_TRACKING_URI, else RUNS/mlflow.db."
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        "--minutes",
        min=0,
        metavar="N",
        help="Save checkpoints and stop after N minutes. Does not start runs that cannot finish in time by the speed "
        "of earlier ones.",
    ),
]
Keep = Annotated[
    str,
    typer.Option(
        "--keep", metavar="RULE", help="Which runs keep their weights: all, best (one per arm), baseline or none."
    ),
]
DiskBudget = Annotated[
    str | None,
    typer.Option(
        "--disk-budget",
        metavar="SIZE",
        help="Disk space for the study, e.g. 20GB. Weights of the worst runs are removed first.",
    ),
]
BesideGrid = Annotated[
    Path | None,
    typer.Option("--grid", metavar="GRID", help="Run your code in the study if it equals the files next to this grid."),
]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code", help="Run the code in the study's folder code/. Use it only for studies that you trust."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only problems and the outcome.")]
LogJson = Annotated[bool, typer.Option("--log-json", help="Print every event as a line of JSON.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
