"""Measure how many rows per second the mirror writes to MLflow, on SQLite or at another address."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from ablate.tracking.curve import read_curve
from ablate.tracking.folders import StudyFolder
from ablate.tracking.mlflow_writer import MlflowWriter
from benchmarks.history import Figures, add_record_option, print_figures
from benchmarks.synthetic import BASELINE, SyntheticArm, write_study

SEEDS = 5


def measure_mirror(folder: Path, n_runs: int, n_points: int, uri: str) -> Figures:
    """Write a study and send it to MLflow. A row is one value of one metric at one step.

    The first run is not timed: with it, MLflow is loaded and its tables are made.
    """
    store = StudyFolder(folder / f"bench-mirror-{n_runs}x{n_points}")
    n_arms = max(2, n_runs // SEEDS)
    others = (SyntheticArm(f"variant={index}", {"variant": index}) for index in range(1, n_arms))
    arms = [SyntheticArm(BASELINE, {"variant": 0}), *others]
    study = write_study(store, arms, range(SEEDS), n_points, eval_every=max(1, n_points // 10), log_every=1)
    records = {arm.arm: arm for arm in study.arms}
    writer = MlflowWriter(uri, study)
    writer.begin_study()
    first, *rest = study.runs
    writer.catch_up(first, records[first.arm], store)
    cpu, started = time.process_time(), time.monotonic()
    for run in rest:
        writer.catch_up(run, records[run.arm], store)
    seconds, cpu_s = time.monotonic() - started, time.process_time() - cpu
    lines = read_curve(store.run(first.run_id).curve)
    n_rows = len(rest) * sum(value is not None for line in lines for key, value in line.items() if key != "step")
    return {
        "n_runs": len(rest),
        "rows": n_rows,
        "rows_per_s": n_rows / seconds,
        "runs_per_s": len(rest) / seconds,
        "cpu_ms_per_run": 1000 * cpu_s / len(rest),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mirror", description=__doc__)
    parser.add_argument("--runs", type=int, default=200, metavar="N", help="number of runs (default: 200)")
    parser.add_argument("--points", type=int, default=100, metavar="N", help="lines per curve (default: 100)")
    parser.add_argument("--uri", metavar="URI", help="MLflow's address (default: SQLite in a temporary folder)")
    add_record_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ablate-mirror-") as scratch:
        uri = options.uri or f"sqlite:///{scratch}/mlflow.db"
        figures = measure_mirror(Path(scratch), options.runs, options.points, uri)
        print_figures(f"mirror on {uri.partition(':')[0]}", figures, record=options.record)


if __name__ == "__main__":
    main()
