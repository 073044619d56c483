"""Time a report: write a synthetic study, report on it, draw its page, and read the same curves from MLflow."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ablate.analysis.curve_columns import read_columns
from ablate.analysis.curves_parquet import NAME
from ablate.analysis.results import read_results
from ablate.imports.mlflow import MlflowReader
from ablate.report.report import ReportOptions, make_report
from ablate.report.write import FILES, write_report
from ablate.tracking.curve import read_curve
from ablate.tracking.folders import StudyFolder
from ablate.tracking.mlflow_names import name_metric
from ablate.tracking.mlflow_writer import MlflowWriter
from ablate.tracking.study_record import StudyRecord
from benchmarks.browser import MISSING, Browser
from benchmarks.history import add_record_option, append_figures
from benchmarks.synthetic import BASELINE, SyntheticArm, write_study

_SEEDS = 4
_EVALUATIONS = 100

METRIC = "train_loss"
DRAWING_S = 300.0  # the longest that Chromium may draw
MAX_MLFLOW_POINTS = 100_000
"""Points that the comparison writes to MLflow. A million take a minute; reading time is proportional."""


@dataclass(frozen=True)
class MlflowResult:
    """Seconds to read one metric, `n_points` points in all runs together.

    `files_s` is for our files, with every column; `statement_s` for one SQL statement on MLflow's database; `client_s`
    for one call of `MlflowClient.get_metric_history` per run.
    """

    n_points: int
    files_s: float
    statement_s: float
    client_s: float


@dataclass(frozen=True)
class BenchResult:
    """Seconds of each part, without imports.

    `read_s` reads the curves, `numbers_s` computes, and `report_s` does both and writes all files. `again_s` is the
    same report once more, which takes the curves from the archive of the first. `drawn_s` passes until a headless
    Chromium has drawn the page; it is None without Chromium. `peak_memory_bytes` is that of the whole process.
    """

    n_runs: int
    n_points: int
    curve_bytes: int
    read_s: float
    numbers_s: float
    report_s: float
    report_cpu_s: float
    again_s: float
    again_cpu_s: float
    drawn_s: float | None
    drawn_cpu_s: float | None
    page_bytes: int
    peak_memory_bytes: int
    mlflow: MlflowResult | None = None

    def to_dict(self) -> Mapping[str, Any]:
        return asdict(self)


def bench_report(folder: Path, n_runs: int = 100, n_points: int = 1_000, mlflow_uri: str | None = None) -> BenchResult:
    """Write a study of about `n_runs` runs (four seeds per arm) of `n_points` lines under `folder`, and measure.

    With `mlflow_uri`, the same curves are read from that MLflow, for runs with `MAX_MLFLOW_POINTS` points in total.
    """
    store, seeds = StudyFolder(folder / f"bench-{n_runs}x{n_points}"), range(min(_SEEDS, n_runs))
    n_arms = max(n_runs // len(seeds), 1)
    arms = [SyntheticArm(BASELINE, {"variant": 0})]
    arms += [SyntheticArm(f"variant={i}", {"variant": i}, speedup=1 + i / n_arms) for i in range(1, n_arms)]
    eval_every = max(n_points // _EVALUATIONS, 1)
    study = write_study(store, arms, seeds, n_points, eval_every=eval_every, log_every=1, noise=0.01)
    read_columns(store.run(study.runs[0].run_id).curve)  # loads the parser
    started = time.perf_counter()
    results = read_results(store)
    read = time.perf_counter()
    make_report(results, ReportOptions())
    computed = time.perf_counter()
    del results
    (store.report / NAME).unlink(missing_ok=True)  # of an earlier call on the same folder
    first, again = _write(store), _write(store)
    report = store.report / FILES["html"]
    drawn_s, drawn_cpu_s = _draw(report)
    return BenchResult(
        n_runs=len(study.runs),
        n_points=n_points,
        curve_bytes=sum(store.run(run.run_id).curve.stat().st_size for run in study.runs),
        read_s=read - started,
        numbers_s=computed - read,
        report_s=first[0],
        report_cpu_s=first[1],
        again_s=again[0],
        again_cpu_s=again[1],
        drawn_s=drawn_s,
        drawn_cpu_s=drawn_cpu_s,
        page_bytes=report.stat().st_size,
        peak_memory_bytes=_peak_memory(),
        mlflow=None if mlflow_uri is None else _compare_with_mlflow(store, study, n_points, mlflow_uri),
    )


def _write(store: StudyFolder) -> tuple[float, float]:
    """Seconds and CPU seconds to write the report of a study."""
    cpu, started = time.process_time(), time.perf_counter()
    write_report(store, store.report)
    return time.perf_counter() - started, time.process_time() - cpu


def _draw(page: Path) -> tuple[float, float] | tuple[None, None]:
    """Seconds, and CPU seconds of all its processes, until Chromium has drawn the page."""
    if MISSING:
        return None, None
    with tempfile.TemporaryDirectory() as downloads, Browser(Path(downloads)) as browser:
        cpu, started = browser.cpu_seconds(), time.perf_counter()
        browser.open(page, timeout_s=DRAWING_S)
        return time.perf_counter() - started, browser.cpu_seconds() - cpu


def _compare_with_mlflow(store: StudyFolder, study: StudyRecord, n_points: int, uri: str) -> MlflowResult:
    """Time reading the same curves from files and from MLflow. Raises `AssertionError` if they differ."""
    runs = study.runs[: max(MAX_MLFLOW_POINTS // n_points, 1)]
    arms = {arm.arm: arm for arm in study.arms}
    writer, mirrored_name = MlflowWriter(uri, study), name_metric(METRIC)
    for run in runs:
        lines = read_curve(store.run(run.run_id).curve)
        writer.create(run, arms[run.arm]).log_lines([{key: line[key] for key in ("step", METRIC)} for line in lines])
    moments = [time.perf_counter()]
    files = {run.run_id: read_columns(store.run(run.run_id).curve).columns[METRIC] for run in runs}
    moments.append(time.perf_counter())
    reader = MlflowReader(uri)
    experiment_id, listed = reader.read_runs(study.study)
    moments.append(time.perf_counter())  # finding the runs is not part of reading them: the client needs it too
    statement = reader.read_histories(experiment_id, listed, (mirrored_name,))
    moments.append(time.perf_counter())
    histories = {
        run_id: writer.client.get_metric_history(mirrored.mlflow_id, mirrored_name)
        for run_id, mirrored in writer.runs.items()
    }
    moments.append(time.perf_counter())
    for run_id, mirrored in writer.runs.items():
        assert np.array_equal(statement[mirrored.mlflow_id][mirrored_name].values, files[run_id])
        assert sorted(point.value for point in histories[run_id]) == sorted(files[run_id])
    files_s, _, statement_s, client_s = np.diff(moments).tolist()
    return MlflowResult(sum(map(len, files.values())), files_s, statement_s, client_s)


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="folder for the synthetic study and its pages")
    parser.add_argument("--n-runs", type=int, default=100, metavar="N", help="number of runs, at least 2")
    parser.add_argument("--n-points", type=int, default=1_000, metavar="N", help="points per curve, at least 4")
    parser.add_argument("--no-mlflow", action="store_true", help="skip the comparison with MLflow on SQLite")
    add_record_option(parser)
    options = parser.parse_args()
    if options.n_runs < 2 or options.n_points < 4:
        parser.error("--n-runs must be at least 2, and --n-points at least 4")
    uri = None if options.no_mlflow else f"sqlite:///{(options.folder / 'bench.db').resolve()}"
    result = bench_report(options.folder, options.n_runs, options.n_points, uri).to_dict()
    print(json.dumps(result, indent=2))
    if options.record:
        append_figures("report", {name: value for name, value in result.items() if isinstance(value, int | float)})


if __name__ == "__main__":
    main()
