"""The verb `evaluate`: measure what the trained models of a study can do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablate.cli.inputs import find_mirror, find_store
from ablate.cli.options import (
    DEFAULT_RUNS,
    STUDY_HELP,
    Address,
    AsJson,
    BesideGrid,
    Runs,
    TrackingUri,
    TrustCode,
    Workers,
)
from ablate.errors import AblateError, RecordError, suggest

if TYPE_CHECKING:
    from rich.console import Console

    from ablate.evaluation.choose import Choice
    from ablate.execution.progress import Evaluated
    from ablate.tracking.folders import StudyFolder
    from ablate.tracking.study_record import RunRecord, StudyRecord


def evaluate(
    study: Annotated[str, typer.Argument(metavar="STUDY", help=STUDY_HELP)] = "",
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="EVALUATIONS",
            help="Evaluations, with knobs if needed: needle,recall or 'needle:{samples: 20}' or my_eval.py:function. "
            "Repeatable. Default: a set that takes seconds; --list shows it.",
        ),
    ] = None,
    arms: Annotated[
        list[str] | None,
        typer.Option(
            "--arms",
            metavar="ARM",
            help="Only this arm, or the arms that match an expression as in `exclude`. Repeatable.",
        ),
    ] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", metavar="N,N", help="Only these seeds.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the evaluations with their knobs, and exit.")] = False,
    runs: Runs = DEFAULT_RUNS,
    workers: Workers = None,
    address: Address = None,
    grid: BesideGrid = None,
    trust_code: TrustCode = False,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate the trained models of a study, and compare the arms. Existing results are not repeated."""
    if list_:
        print_evaluations(as_json=as_json)
        return
    if not study:
        raise AblateError("name a study to evaluate: its grid file, its folder, or its name under --runs")
    from rich.console import Console

    from ablate.cli.study_output import print_evaluated

    choices = choose_all(with_)
    store = find_store(study, runs)
    record = store.read_study()
    chosen = _select_runs(record, arms, seeds)
    place = Path(study)
    beside = grid or (place if place.is_file() else None)
    console = Console(stderr=True)
    done = _evaluate(store, chosen, choices, beside, workers, address, console, is_trusted=trust_code)
    if done.n_done and (uri := find_mirror(tracking_uri, store)):
        from ablate.tracking.mlflow_mirror import MlflowMirror

        mirror = MlflowMirror(uri, store, record)
        mirror.close()
        if mirror.behind:
            console.print(f"{mirror.behind}; the results on disk are complete", markup=False, highlight=False)
    print_evaluated(done, console)
    is_shown = _print_results(store, chosen, choices, as_json=as_json)
    if not is_shown and not done.exit_code:
        raise RecordError(f"{store.path}: there are no results of {', '.join(choice.label for choice in choices)}")
    raise typer.Exit(done.exit_code)


def choose_all(texts: Sequence[str] | None) -> list[Choice]:
    """The evaluations that --with names, or the default set. Raises `AblateError` for one that cannot be used."""
    from ablate.evaluation.choose import ChoiceError, choose, parse_with
    from ablate.evaluation.table import DEFAULT

    named = [pair for text in texts or () for pair in parse_with(text)] or [(name, {}) for name in DEFAULT]
    try:
        choices = [choose(name, knobs, Path()) for name, knobs in named]
    except ChoiceError as error:
        raise AblateError(f"--with: {error}") from None
    return list({choice.label: choice for choice in choices}.values())


def _select_runs(record: StudyRecord, arms: Sequence[str] | None, seeds: str | None) -> list[RunRecord]:
    kept = [run for run in record.runs if not arms or run.arm in _select_arms(record, arms)]
    if seeds is None:
        return kept
    known = sorted({run.seed for run in record.runs})
    for word in seeds.split(","):
        if word.strip() not in map(str, known):
            raise AblateError(f"--seeds {seeds}: {record.study} has no seed {word.strip()!r}{suggest(word, known)}")
    wanted = {int(word) for word in seeds.split(",")}
    return [run for run in kept if run.seed in wanted]


def _select_arms(record: StudyRecord, names: Sequence[str]) -> set[str]:
    from ablate.study.predicates import Predicate, PredicateError

    known = [arm.arm for arm in record.arms]
    found: set[str] = set()
    for name in names:
        if name in known:
            found.add(name)
            continue
        try:
            predicate = Predicate(name)
            if not predicate.names <= {*record.axes, "arm"}:
                raise PredicateError("it names no axis")
            matching = {
                arm.arm for arm in record.arms if predicate({**dict.fromkeys(record.axes), **arm.axes, "arm": arm.arm})
            }
        except PredicateError:
            raise AblateError(f"--arms {name}: {record.study} has no such arm{suggest(name, known)}") from None
        if not matching:
            raise AblateError(f"--arms {name}: holds for no arm of {record.study}")
        found |= matching
    return found


def _evaluate(
    store: StudyFolder,
    chosen: Sequence[RunRecord],
    choices: Sequence[Choice],
    grid: Path | None,
    workers: int | None,
    address: str | None,
    console: Console,
    *,
    is_trusted: bool,
) -> Evaluated:
    from ablate.evaluation.continuation import allow_code
    from ablate.execution.evaluator import Request, evaluate_runs
    from ablate.study.schema import Resources

    for run in chosen:
        if store.run(run.run_id).config.is_file():
            allow_code(store.run(run.run_id), grid, is_trusted=is_trusted)
    base = Path() if grid is None else grid.parent
    return evaluate_runs(Request(store, chosen, choices, base, Resources(), workers, address), console)


def _print_results(
    store: StudyFolder, chosen: Sequence[RunRecord], choices: Sequence[Choice], *, as_json: bool
) -> bool:
    """Print the results of these evaluations. False if there are none, and they are not printed as JSON."""
    from ablate.analysis.evaluations import compare_evaluations
    from ablate.analysis.results import read_results
    from ablate.cli.tables import open_console
    from ablate.report.evaluation_tables import MOST_ROWS, tabulate_evaluations
    from ablate.report.table import shorten_table
    from ablate.report.terminal import draw_table
    from ablate.tracking.arm_labels import label_arms

    labels, arms = [choice.label for choice in choices], {run.arm for run in chosen}
    results = read_results(store)
    rows = [row for row in compare_evaluations(results) if row.evaluation in labels and row.arm in arms]
    if as_json:
        print(json.dumps([row.to_dict() for row in rows], indent=1, allow_nan=False))
        return True
    console = open_console()
    for table in tabulate_evaluations(rows, label_arms(results.record.arms)):
        console.print(draw_table(shorten_table(table, MOST_ROWS, "--json prints them all.")))
    return bool(rows)


def print_evaluations(*, as_json: bool) -> None:
    """Print every built-in evaluation: what it measures, its metrics, its source and its knobs."""
    from rich.markup import escape

    from ablate.cli.tables import open_console
    from ablate.evaluation.table import DEFAULT, EVALUATIONS

    found = {name: describe(name) for name in EVALUATIONS}
    if as_json:
        print(json.dumps(found, indent=2))
        return
    console = open_console()
    for name, about in found.items():
        default = "  (in the default set)" if name in DEFAULT else ""
        console.print(f"[cyan]{name}[/]  {escape(str(about['summary']))}{default}", highlight=False)
        metrics = ", ".join(f"{metric} ({better or 'neither'})" for metric, better in about["metrics"].items())
        console.print(f"  metrics, with the better direction: {escape(metrics)}", highlight=False, style="dim")
        if about["source"]:
            console.print(f"  source: {escape(about['source'])}", highlight=False, style="dim")
        for knob, value in about["knobs"].items():
            text = f"{json.dumps(value['default'])}  {value['description'] or ''}"
            console.print(f"  {knob} = {escape(text)}", highlight=False)


def describe(name: str) -> dict[str, Any]:
    """The summary, metrics, source and knobs of a built-in evaluation."""
    from ablate.evaluation.choose import find_class

    kind = find_class(name)
    summary = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
    fields = kind.model_json_schema().get("properties", {})
    knobs = {
        knob: {"default": fields[knob].get("default"), "description": fields[knob].get("description")}
        for knob in fields
    }
    return {"summary": summary, "metrics": dict(kind.metrics), "source": kind.source, "knobs": knobs}
