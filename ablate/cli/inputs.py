"""What the arguments and options mean: a plan, a study's folder, an MLflow, and the command itself."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ablate.errors import AblateError, DataError, GridError
from ablate.metrics import Direction

if TYPE_CHECKING:
    from rich.console import Console

    from ablate.analysis import Results
    from ablate.analysis.noise import Lender
    from ablate.data import CorpusInfo
    from ablate.plan import Plan
    from ablate.study.declaration import Declaration
    from ablate.tracking.folders import StudyFolder

Posed = TypeVar("Posed")

PUBLISHED = "curves.parquet"  # a published report keeps the study's curves here, and its pages can be made from them


def load_declaration(file: Path, settings: list[str] | None) -> Declaration:
    """The grid or the search in a file, with the values of --set."""
    from ablate.search.pose import load_search
    from ablate.study import load_study
    from ablate.study.load import is_search

    return load_search(file, settings or ()) if is_search(file) else load_study(file, settings or ())


def pose_on_corpus(
    declared: Declaration, runs: Path, pose: Callable[[CorpusInfo], Posed], console: Console | None = None
) -> Posed:
    """Apply `pose` to the corpus of a grid or a search.

    The number of tokens of a large corpus may be an estimate. With a console, the corpus is then tokenized and `pose`
    is called again. So everything is checked before the work starts, and no later step relies on an estimate.
    Raises `GridError` if the data cannot be used.
    """
    from ablate.plan.tasks import describe_corpus

    try:
        corpus = describe_corpus(declared, runs)
        posed = pose(corpus)
    except DataError as error:
        raise declared.refuse_data(error) from None
    if console is None or not corpus.is_estimate:
        return posed
    from ablate.cli.data_output import make_shards

    exact = replace(make_shards(declared, runs, console).info, notices=corpus.notices)
    try:
        return pose(exact)
    except DataError as error:
        raise declared.refuse_data(error) from None


def read_plan(
    grid: Path,
    runs: Path,
    settings: list[str] | None,
    files: list[Path] | None = None,
    console: Console | None = None,
) -> Plan:
    """The plan of a grid with the values of --set and the files of --with.

    With a console, the numbers of tokens are exact, and a large corpus is tokenized for that.
    Raises `GridError` with file, line and key if the grid, or its data, cannot be used.
    """
    from ablate.study import load_overlay, load_study

    study = load_study(grid, settings or ()).among(runs)
    overlays = [overlay for file in files or () for overlay in load_overlay(file)]
    if overlays and study.tune is not None:
        raise study.refuse(("tune",), "--with cannot be used: this grid searches for the best settings itself")
    from ablate.plan import build_plan

    return pose_on_corpus(study, runs, lambda corpus: build_plan(study, corpus, overlays), console)


def find_store(study: str, runs: Path) -> StudyFolder:
    """The folder that a STUDY argument names, with a note on standard error if it could be another one too.

    A study that was run comes before a published report, and both come before a grid or a folder that only shares the
    name. Raises `GridError` if the argument is neither a grid nor such a folder.
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
        raise GridError(f"{study!r}: there is no such grid or study folder")
    return StudyFolder(runs / study)


def resolve_tracking_uri(option: str | None, store: StudyFolder) -> str:
    """The MLflow of a study: --tracking-uri, else the environment's, else the database beside the studies."""
    return _named_tracking_uri(option) or f"sqlite:///{os.path.realpath(store.mlflow_database)}"


def find_mirror(option: str | None, store: StudyFolder) -> str | None:
    """The MLflow that already holds this study. None for a published report, or if no MLflow is named or found."""
    is_there = _named_tracking_uri(option) or store.mlflow_database.exists()
    return resolve_tracking_uri(option, store) if is_there and store.record.exists() else None


def _named_tracking_uri(option: str | None) -> str | None:
    return option or os.environ.get("MLFLOW_TRACKING_URI")


def write_command(*uris: str | None) -> str:
    """The command line as it was typed, with the secrets in these addresses left out."""
    words = ["ablate", *sys.argv[1:]]
    for uri in filter(None, uris):
        from ablate.tracking.mlflow_client import redact

        words = [word.replace(uri, redact(uri)) for word in words]
    return shlex.join(words)


def leave_out_option(command: str, option: str) -> str:
    """A command line without an option and its value."""
    words = iter(shlex.split(command))
    kept = []
    for word in words:
        if word == option:
            next(words, None)
        elif not word.startswith(f"{option}="):
            kept.append(word)
    return shlex.join(kept)


def read_by(
    stores: Sequence[StudyFolder],
    metric: str | None,
    direction: Direction | None,
    earlier: Sequence[StudyFolder] = (),
) -> Results:
    """Read studies, to be compared by one of their metrics, by default the first.

    The scatter of `earlier` studies counts in the tests. Raises `AblateError` if one of them has none that fits.
    """
    results = _read_measured(stores, metric, direction)
    lenders = [lender for store in earlier for lender in _find_lenders(results, store)]
    return replace(results, lenders=tuple(lenders)) if lenders else results


def _find_lenders(results: Results, store: StudyFolder) -> tuple[Lender, ...]:
    from ablate.analysis.differences import list_lenders
    from ablate.analysis.noise import FEWEST_PAIRS, choose_lenders
    from ablate.report import read_studies

    place = f"--noise-from {store.path}"
    other = read_studies([store])
    known = str(results.record.data.get("hash") or ""), str(other.record.data.get("hash") or "")
    if known[0] != known[1] or not known[0]:
        reason = "the data of both must be known" if not all(known) else "it was trained on other data"
        raise AblateError(f"{place}: {reason}; only the scatter of a study on the same data counts")
    if other.metric != results.metric:
        raise AblateError(f"{place}: it is compared by {other.metric.name}, not by {results.metric.name}")
    lenders = list_lenders(other)
    fitting = replace(results, lenders=lenders)
    if not any(choose_lenders(fitting, baseline) for baseline in {arm.baseline for arm in results.arms.values()}):
        raise AblateError(
            f"{place}: no arm of it has {FEWEST_PAIRS} pairs of runs, the size and the training tokens of a "
            f"baseline of {results.record.study} to within 10 %, and runs that the two studies do not share"
        )
    return lenders


def _read_measured(stores: Sequence[StudyFolder], metric: str | None, direction: Direction | None) -> Results:
    from ablate.analysis.selection import measure_by
    from ablate.report import read_studies

    results = read_studies(stores)
    if metric is None:
        return results
    try:
        results = measure_by(results, metric)
    except AblateError as error:
        raise AblateError(f"--{error}; for runs of other programs, give --mlflow and --experiment, or --from") from None
    if direction not in (None, results.metric.direction):
        raise AblateError(f"--metric {metric}:{direction}: the study declares {metric}: {results.metric.direction}")
    return results
