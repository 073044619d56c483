"""Write a report: the HTML page, the Markdown with its figures, tables for papers and programs, and the curves."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from ablate.analysis.curves_parquet import NAME, is_archived, read_archive, read_curves, write_archive
from ablate.analysis.results import Results, read_results
from ablate.analysis.selection import merge
from ablate.errors import AblateError, ResourceError
from ablate.files import make_folder, write_atomic
from ablate.report.chart import Chart, draw_file
from ablate.report.document import Document
from ablate.report.latex import write_latex
from ablate.report.markdown import write_markdown
from ablate.report.offline_page import write_html
from ablate.report.report import Report, ReportOptions, make_report
from ablate.report.sections import compose
from ablate.report.summary import final_metrics, summarize, write_evaluations_csv, write_speedup_csv
from ablate.report.verifications import find_verifications
from ablate.tracking.folders import StudyFolder
from ablate.tracking.mlflow_writer import publish

FILES = {
    "html": "report.html",
    "markdown": "report.md",
    "csv": "speedup.csv",
    "summary": "summary.json",
    "curves": NAME,
}


def write_report(
    source: Results | StudyFolder | Sequence[StudyFolder],
    out: str | Path,
    *,
    options: ReportOptions | None = None,
    beside: Sequence[Path] = (),
) -> Report:
    """Write the report of a study, or a comparison of several, into the folder `out`.

    All numbers are computed before the first file is written. The page of a whole study also shows the verifications
    in `out`, in the folder of the study, and in the folders `beside`.
    Raises `RecordError` if no study was run or a record cannot be read, `AblateError` if `out` is empty or the options
    name something that the study does not have, and `ResourceError` if `out` cannot be written.
    """
    if not str(out):
        raise AblateError("out: the name is empty: name a folder for the files of the report")
    out, options = Path(out), options or ReportOptions()
    stores = [source] if isinstance(source, StudyFolder) else source
    if not isinstance(stores, Results) and (options.where or options.baseline):
        _protect(stores, out)
    results = stores if isinstance(stores, Results) else read_studies(stores)
    report = make_report(results, options)
    if not (options.where or options.baseline):
        folders = (*beside, out) if isinstance(stores, Results) else (*(store.path for store in stores), *beside, out)
        report = replace(report, verifications=find_verifications(report.record, folders))
    try:
        paths, others = _write_files(report, out)
        return replace(report, paths=paths, others=others)
    except OSError as error:
        raise ResourceError(
            f"{error.filename or out}: the report cannot be written: {error.strerror or error}"
        ) from None


def _protect(stores: Sequence[StudyFolder], out: Path) -> None:
    """Refuse to overwrite a published study with a part of it or with another view of it."""
    if any(out.resolve() == store.path.resolve() for store in stores):
        raise AblateError(
            f"out: {out} contains the study itself, and this report shows only a view of it: name another folder"
        )


def read_studies(stores: Sequence[StudyFolder]) -> Results:
    """Read one study, or several as one, with `read_study`."""
    studies = [read_study(store) for store in stores]
    return studies[0] if len(studies) == 1 else merge(studies)


def read_study(store: StudyFolder) -> Results:
    """Read a study from its run folders or, if there is no `study.json`, from the archive of a published report.

    Curves that have not changed since the last report are taken from its archive.
    Raises `RecordError` if no study was run or a record cannot be read.
    """
    archive = store.path / NAME
    if archive.exists() and not store.record.exists():
        return read_archive(archive)
    curves = read_curves(last := store.report / NAME)
    return replace(read_results(store, curves), archive=last if curves else None)


def _write_files(report: Report, out: Path) -> tuple[dict[str, Path], tuple[Path, ...]]:
    with ThreadPoolExecutor(1) as background:  # the archive needs few of Python's own steps, the page many
        for folder in ("figures", "tables"):
            make_folder(out / folder)
        archive = background.submit(_write_archive, report.results, out / FILES["curves"])
        written = _write_page(report, out)
        archive.result()
    return written


def _write_archive(results: Results, path: Path) -> None:
    if not is_archived(results, path):
        write_atomic(path, partial(write_archive, results))


def _write_page(report: Report, out: Path) -> tuple[dict[str, Path], tuple[Path, ...]]:
    others = []
    document, pictures = compose(report), {}
    for chart in _list_pictures(document, is_every=report.options.figures):
        pictures[chart.name] = f"figures/{chart.name}.svg"
        for name, key in chart.pictures.items():
            for ending in ("svg", "pdf") if report.options.figures else ("svg",):
                others.append(out / "figures" / f"{name}.{ending}")
                write_atomic(others[-1], draw_file(chart, ending, key))
            if not report.options.figures:
                break
    for table in document.tables:
        others.append(out / "tables" / f"{table.name}.tex")
        write_atomic(others[-1], write_latex(table).encode())
    writers: dict[str, Callable[[], str]] = {
        "html": partial(write_html, document),
        "markdown": partial(write_markdown, document, pictures, report.record.study),
        "csv": partial(write_speedup_csv, report),
        "summary": lambda: json.dumps(summarize(report), indent=1, allow_nan=False) + "\n",
    }
    paths = {name: out / file for name, file in FILES.items()}
    if report.evaluations:
        others.append(out / "evaluations.csv")
        write_atomic(others[-1], write_evaluations_csv(report).encode())
    for name, write in writers.items():
        write_atomic(paths[name], write().encode())
    return paths, tuple(others)


def _list_pictures(document: Document, *, is_every: bool) -> list[Chart]:
    """The charts that get a file: those of the Markdown page, or all."""
    usual = ("differences", "curves", "minus-baseline", "speedup", "growth")
    return [chart for name, chart in document.charts.items() if is_every or name.startswith(usual)]


def attach_report(report: Report, uri: str) -> str:
    """Attach the files and final figures of a written report to the study's parent run in MLflow.

    Returns why MLflow did not accept them, or an empty string.
    """
    files = {path.name: path for path in report.paths.values()}
    files |= {Path(path.parent.name, path.name).as_posix(): path for path in report.others}
    sentences = (report.record.question, *report.verdict, *report.answer)
    description = "\n\n".join(dict.fromkeys(filter(None, sentences)))
    return publish(uri, report.record, files, final_metrics(report), description)
