"""The verb `report`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
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
from ablate.cli.inputs import PUBLISHED, find_mirror, find_store, read_by
from ablate.cli.options import DEFAULT_RUNS, STUDY_HELP, AsJson, NoiseFrom, Runs
from ablate.errors import AblateError

if TYPE_CHECKING:
    from ablate.analysis import Results
    from ablate.report import Report
    from ablate.tracking.folders import StudyFolder

WATCH_S = 10.0  # between two reports, with --watch

Studies = Annotated[
    list[str] | None,
    typer.Argument(metavar="STUDY", help=f"{STUDY_HELP} A published report's folder works too."),
]
Out = Annotated[
    str | None, typer.Option("--out", metavar="DIR", help="Folder for the pages. Default: RUNS/STUDY/report.")
]
Target = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="TARGET",
        help="Value of the metric to reach: that of the baseline after 50, 75 or 90 % of its budget or at its end "
        "(final), or a number, e.g. 3.28 nats per token. Repeatable.",
    ),
]
Axis = Annotated[
    str | None,
    typer.Option(
        "--axis",
        metavar="AXIS",
        help="Cost axis of the headline: steps, tokens, flops, seconds or gpu_seconds. Default: tokens, if known.",
    ),
]
Where = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="EXPRESSION",
        help="Report only the arms that match, written as in `exclude`: attention == 'standard'.",
    ),
]
Baseline = Annotated[
    list[str] | None,
    typer.Option(
        "--baseline",
        metavar="AXIS=LEVEL",
        help="Compare with another baseline: AXIS=LEVEL or arm=NAME. Repeatable.",
    ),
]
Figures = Annotated[bool, typer.Option("--figures", help="Also write every figure as SVG and PDF.")]
Watch = Annotated[
    bool, typer.Option("--watch", help=f"Update the pages every {WATCH_S:.0f} seconds until every run has ended.")
]
AttachedTo = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        metavar="URI",
        help="MLflow to attach the report to. Default: $MLFLOW_TRACKING_URI, else RUNS/mlflow.db if it exists.",
    ),
]
Attach = Annotated[bool, typer.Option("--attach/--no-attach", help="Attach the report in MLflow.")]


def report(
    studies: Studies = None,
    runs: Runs = DEFAULT_RUNS,
    out: Out = None,
    target: Target = None,
    axis: Axis = None,
    where: Where = None,
    baseline: Baseline = None,
    noise_from: NoiseFrom = None,
    figures: Figures = False,
    watch: Watch = False,
    tracking_uri: AttachedTo = None,
    as_json: AsJson = False,
    attach: Attach = True,
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

    With --from, report on the logs of other programs. With --mlflow and --experiment, report on runs in MLflow.
    """
    from ablate.analysis import TARGETS, parse_target
    from ablate.cli.report_output import print_report
    from ablate.report import ReportOptions, attach_report, summarize, write_report

    options = ReportOptions(
        targets=tuple(map(parse_target, target)) if target else TARGETS,
        axis=axis,
        where=where,
        baseline=_read_pairs("--baseline", "AXIS=LEVEL", baseline) or None,
        figures=figures,
    )
    costs = {"tokens": tokens, "flops": flops, "wall_s": seconds}
    name, _ = split_direction(metric)
    chosen = choose_names(
        _read_pairs("--map", "FACT=NAME", map_), val_loss=name, arm=arm, seed=seed, step=step, run=run, **costs
    )
    if from_ or mlflow is not None or experiment is not None:
        source = _open_logs(studies, runs, noise_from, metric, chosen, from_, mlflow, experiment, as_json=as_json)
    else:
        source = _open_studies(studies, runs, noise_from, metric, chosen)
    beside = [store.path for store in source.stores]
    write = partial(write_report, out=source.folder if out is None else out, options=options, beside=beside)
    made = write(source.read())
    while watch and not made.is_complete:
        if not as_json:
            print_report(made)
        _note_look(made, source.stores)
        time.sleep(WATCH_S)
        made = write(source.read())
    if as_json:
        print(json.dumps(summarize(made), indent=1, allow_nan=False))
    else:
        print_report(made)
    _note_look(made, source.stores)
    is_part = len(source.stores) != 1 or where is not None or bool(baseline) or bool(noise_from or from_)
    mirror = find_mirror(tracking_uri, source.stores[0]) if attach and not is_part else None
    if mirror and (excuse := attach_report(made, mirror)):
        print(f"{excuse}; the pages are complete", file=sys.stderr if as_json else sys.stdout)


@dataclass(frozen=True)
class _Source:
    """The runs of a report: how to read them, the folder for its pages, and the studies if they are ablate's."""

    read: Callable[[], Results]
    folder: Path
    stores: Sequence[StudyFolder] = ()


def _open_studies(
    studies: Sequence[str] | None,
    runs: Path,
    noise_from: Sequence[str] | None,
    metric: str | None,
    chosen: Mapping[str, str],
) -> _Source:
    stores = [find_store(study, runs) for study in studies or ()]
    earlier = [find_store(study, runs) for study in noise_from or ()]
    if chosen.keys() - ({"val_loss"} if metric else set()):
        raise AblateError("--map is for runs of other programs: give --mlflow and --experiment, or --from")
    if not stores:
        raise AblateError("no study to report on: name its grid or folder, --from PATH, or --mlflow URI")
    folder = stores[0].report if len(stores) == 1 else runs / "comparison"
    return _Source(partial(read_by, stores, *split_direction(metric), earlier), folder, stores)


def _open_logs(
    studies: Sequence[str] | None,
    runs: Path,
    noise_from: Sequence[str] | None,
    metric: str | None,
    chosen: Mapping[str, str],
    from_: Sequence[str] | None,
    mlflow: str | None,
    experiment: str | None,
    *,
    as_json: bool,
) -> _Source:
    """Open runs of other programs. With `from_`, the studies stand beside them, and other names are more paths."""
    from ablate.analysis.selection import merge
    from ablate.report import clean_name

    if noise_from:
        raise AblateError("--noise-from: the data of runs of other programs are not known")
    if studies and not from_:
        raise AblateError("--mlflow URI and --experiment NAME go together, and without the name of a study")
    name, direction = split_direction(metric)
    stores = [find_store(study, runs) for study in studies or () if _is_study(study, runs)]
    paths = [*from_, *(path for path in studies or () if not _is_study(path, runs))] if from_ else []
    says = sys.stderr if as_json else sys.stdout
    read, title = open_foreign(chosen, direction, paths, mlflow, experiment, says)
    if not stores:
        return _Source(read, runs / clean_name(title) / "report")
    return _Source(lambda: merge([read_by(stores, name, direction), read()]), runs / "comparison", stores)


def _is_study(name: str, runs: Path) -> bool:
    place = Path(name)
    folder = place if place.exists() else runs / name
    return place.suffix in (".yaml", ".yml") or any((folder / file).is_file() for file in ("study.json", PUBLISHED))


def _read_pairs(option: str, form: str, pairs: list[str] | None) -> dict[str, str]:
    read = {}
    for pair in pairs or ():
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise AblateError(f"{option} {pair}: write it as {form}")
        read[key] = value
    return read


def _note_look(made: Report, stores: Sequence[StudyFolder]) -> None:
    """Let the record of a study know that its verdicts were seen, in case it gets more seeds later."""
    from ablate.tracking.history import note_look

    n_seeds = max((row.n for row in made.differences), default=0)
    for store in stores:
        if store.record.exists():
            note_look(store, n_seeds)
