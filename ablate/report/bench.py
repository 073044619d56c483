"""How fast a report is: writes a synthetic study, reads it and reports on it."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ablate.analysis.curves import read_results
from ablate.report.content import ReportOptions, make_report
from ablate.report.synthetic import BASELINE, SyntheticArm, write_study
from ablate.report.write import write_report
from ablate.tracking.store import Store

_SEEDS = 4
_EVALUATIONS = 100


@dataclass(frozen=True)
class BenchResult:
    """Seconds of each part: `read_s` reads the curves, `numbers_s` computes, `report_s` does both and writes all files.

    `peak_memory_bytes` is that of the whole process.
    """

    n_runs: int
    n_points: int
    curve_bytes: int
    read_s: float
    numbers_s: float
    report_s: float
    page_bytes: int
    peak_memory_bytes: int

    def to_dict(self) -> Mapping[str, float]:
        return asdict(self)


def bench_report(folder: Path, n_runs: int = 100, n_points: int = 1_000) -> BenchResult:
    """Write a study of about `n_runs` runs (four seeds an arm) of `n_points` lines under `folder`, and measure."""
    store, seeds = Store(folder / f"bench-{n_runs}x{n_points}"), range(min(_SEEDS, n_runs))
    n_arms = max(n_runs // len(seeds), 1)
    arms = [SyntheticArm(BASELINE, {"variant": 0})]
    arms += [SyntheticArm(f"variant={i}", {"variant": i}, speedup=1 + i / n_arms) for i in range(1, n_arms)]
    eval_every = max(n_points // _EVALUATIONS, 1)
    study = write_study(store, arms, seeds, n_points, eval_every=eval_every, log_every=1, noise=0.01)
    started = time.perf_counter()
    results = read_results(store)
    read = time.perf_counter()
    make_report(results, ReportOptions())
    computed = time.perf_counter()
    del results
    report = write_report(store, store.path / "report")
    written = time.perf_counter()
    return BenchResult(
        n_runs=len(study.runs),
        n_points=n_points,
        curve_bytes=sum(store.run(run.run_id).curve.stat().st_size for run in study.runs),
        read_s=read - started,
        numbers_s=computed - read,
        report_s=written - computed,
        page_bytes=report.paths["html"].stat().st_size,
        peak_memory_bytes=_peak_memory(),
    )


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
