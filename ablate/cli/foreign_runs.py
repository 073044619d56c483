"""The options of `ablate report` for runs that other programs logged, in MLflow or in files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, TextIO, get_args

import typer

from ablate.cli.inputs import write_command
from ablate.errors import AblateError
from ablate.metrics import Direction

if TYPE_CHECKING:
    from ablate.analysis import Results

From = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        metavar="PATH",
        help="Report on logs of other programs, in this file or folder: W&B's CSV export, TensorBoard, "
        "trainer_state.json, Lightning's metrics.csv, CSV, JSON Lines or Parquet. More paths may follow, and studies "
        "to compare them with.",
    ),
]
Mlflow = Annotated[
    str | None,
    typer.Option(
        "--mlflow",
        metavar="URI",
        help="Report on runs of any program in this MLflow. Needs --experiment.",
    ),
]
Experiment = Annotated[
    str | None,
    typer.Option("--experiment", metavar="NAME", help="MLflow experiment of these runs. Needs --mlflow."),
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="NAME[:DIRECTION]",
        help="Metric to compare by. Default: the first of the study; in logs of other programs, val/loss, "
        "val_loss, eval/loss or eval_loss. For any other metric of such logs, add the better direction: "
        "accuracy:higher, perplexity:lower.",
    ),
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="FACT=NAME",
        help="Tag, param, column or metric that holds a fact: arm=model_name, arm=attention,norm (two axes), "
        "seed=random_state, device=gpu, steps=max_iters, tokens=seen_tokens. Repeatable.",
    ),
]
ArmName = Annotated[str | None, typer.Option("--arm", metavar="NAME", help="Short for --map arm=NAME.")]
SeedName = Annotated[str | None, typer.Option("--seed", metavar="NAME", help="Short for --map seed=NAME.")]
StepName = Annotated[str | None, typer.Option("--step", metavar="NAME", help="Column of steps. Needs --from.")]
RunName = Annotated[
    str | None,
    typer.Option("--run", metavar="NAME", help="Column that tells the runs in a file apart. Needs --from."),
]
TokensName = Annotated[str | None, typer.Option("--tokens", metavar="NAME", help="Short for --map tokens=NAME.")]
FlopsName = Annotated[str | None, typer.Option("--flops", metavar="NAME", help="Short for --map flops=NAME.")]
SecondsName = Annotated[str | None, typer.Option("--seconds", metavar="NAME", help="Short for --map wall_s=NAME.")]

_OPTIONS = {"val_loss": "metric", "wall_s": "seconds"}  # the others have the names of their facts


def choose_names(pairs: Mapping[str, str], **options: str | None) -> dict[str, str]:
    """Merge the pairs of --map with the options that are short for one. Raises `AblateError` if both name a fact."""
    chosen = dict(pairs)
    for what, name in options.items():
        if name is None:
            continue
        if what in chosen:
            option = f"--{_OPTIONS.get(what, what)}"
            raise AblateError(f"{option} and --map {what}={chosen[what]} set the same thing: give only one of them")
        chosen[what] = name
    return chosen


def split_direction(metric: str | None) -> tuple[str | None, Direction | None]:
    """Split `accuracy:higher`. A name may itself have colons."""
    for direction in get_args(Direction):
        if metric is not None and metric.endswith(f":{direction}") and metric != f":{direction}":
            return metric.removesuffix(f":{direction}"), direction
    return metric, None


def open_foreign(
    chosen: Mapping[str, str],
    direction: Direction | None,
    paths: Sequence[str],
    mlflow: str | None,
    experiment: str | None,
    out: TextIO,
) -> tuple[Callable[[], Results], str]:
    """Return a function that reads the runs in log files or in MLflow, and the name of their study.

    What was read is said on `out`.
    Raises `AblateError` for an unknown name in `chosen`, or for options that do not go together.
    """
    if paths and (mlflow is not None or experiment is not None):
        raise AblateError("--from and --mlflow cannot be used together")
    from ablate.imports.names import PLACES, Names

    names = Names(chosen, direction)
    if paths:
        from ablate.imports.log_study import name_study, read_log_study

        said: set[str] = set()

        def tell(line: str) -> None:
            if line not in said:
                print(line, file=out)
                said.add(line)

        return partial(read_log_study, paths, names, write_command(), tell), name_study(paths)
    if mlflow is None or experiment is None:
        raise AblateError("--mlflow URI and --experiment NAME go together, and without the name of a study")
    if wrong := chosen.keys() & PLACES.keys():
        raise AblateError(f"--{min(wrong)} names a column of log files, so it needs --from")
    from ablate.imports.mlflow import MlflowReader, read_mlflow_study

    return partial(read_mlflow_study, MlflowReader(mlflow), experiment, names, write_command(mlflow)), experiment
