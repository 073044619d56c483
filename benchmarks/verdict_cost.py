"""Show what the verdicts of a published study cost in GPU-seconds, and what they would cost today.

The seconds of steps and of whole runs come from the study's archives; a run that shared a card counts for its share.
`until: decided` is replayed on the published runs. The time around the steps, and the gain of stacked seeds, were
measured by `benchmarks.gaps --stack 1 N --record`.
"""

from __future__ import annotations

import argparse
import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.analysis.looks import UNDECIDED, follow
from ablate.analysis.results import Results, read_results
from ablate.analysis.run_curve import RunCurve
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import SeedRule
from ablate_model import ModelConfig
from ablate_model.stacked import explain_unstackable
from benchmarks.history import HISTORY, ROOT

REPORT = ROOT / "reports" / "attention-x-normalization"


@dataclass(frozen=True)
class Cost:
    """GPU-seconds of some runs: all of them, and those of their steps."""

    n_runs: int
    whole_s: float
    steps_s: float

    def __str__(self) -> str:
        around_s = self.whole_s - self.steps_s
        return f"{self.n_runs:4} runs  {self.whole_s:7.0f} s  {self.steps_s:7.0f} s of steps  {around_s:7.0f} s around"


def read_archive(archive: Path) -> Results:
    """Read the results in an archive of a report of this repository."""
    with tempfile.TemporaryDirectory(prefix="ablate-bench-") as folder, tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
        return read_results(StudyFolder(Path(folder)))


def sum_cost(runs: Sequence[RunCurve]) -> Cost:
    """What runs took, by their statuses and curves."""
    steps_s = sum(float(run.cost("gpu_seconds")[-1]) for run in runs)
    return Cost(len(runs), sum(run.status.took_s * run.n_gpus / run.n_stacked for run in runs), steps_s)


def replay_looks(results: Results) -> tuple[list[RunCurve], list[str]]:
    """Replay `until: decided` on published seeds. Returns the runs that it would have trained, and a line per look."""
    n_seeds = 1 + max(run.seed for run in results.runs)
    course = follow(results, SeedRule(2, n_seeds))
    lines, needed = [], {(arm, seed) for arm in results.arms for seed in range(2)}
    for look in course.looks:
        decided = [f"{row.arm} {row.verdict}" for row in look.arms if row.verdict != UNDECIDED]
        lines.append(f"look at {look.seeds} seeds: {', '.join(decided) or 'no arm is decided'}")
        needed |= {(name, seed) for row in look.arms for name in (row.arm, look.baseline) for seed in range(look.seeds)}
    return [run for run in results.runs if (run.arm, run.seed) in needed], lines


def find_unstackable(runs: Sequence[RunCurve]) -> Mapping[str, str]:
    """The arms whose seeds cannot train as one batch of models, with the reasons."""
    reasons = {run.arm: explain_unstackable(ModelConfig.parse(run.config["model"])) for run in runs}
    return {arm: reason for arm, reason in reasons.items() if reason}


def read_gaps(history: Path) -> Mapping[str, Any] | None:
    """The last line about gaps on a GPU, or None."""
    lines = map(json.loads, history.read_text().splitlines())
    return next((line for line in reversed([*lines]) if line["benchmark"] == "gaps" and "gpu" in line["machine"]), None)


def describe_cost(report: Path, history: Path) -> Iterator[str]:
    """The lines of the page."""
    results = read_archive(report / "archives" / "runs.tar.gz")
    trials_file = report / "archives" / "trials.tar.gz"
    trials = [] if not trials_file.exists() else read_archive(trials_file).runs
    needed, looks = replay_looks(results)
    yield f"archived  trials          {sum_cost(trials)}"
    yield f"archived  runs            {sum_cost(results.runs)}"
    yield f"replayed  until: decided  {sum_cost(needed)}"
    yield from (f"          {line}" for line in looks)
    before = sum_cost([*trials, *results.runs])
    if (gaps := read_gaps(history)) is None:
        yield "measured  gaps: none yet on a GPU; run benchmarks.gaps --stack 1 8 --record there"
        return
    figures, now = gaps["figures"], sum_cost([*trials, *needed])
    short_s = now.steps_s + now.n_runs * figures["one run, around_s"]
    place = f"of benchmarks.gaps, {gaps['machine']['gpu']}"
    yield f"measured  gaps            {figures['one run, around_s']:.2f} s around a run {place}"
    yield f"archived  in all before   {before.whole_s:.0f} s"
    yield f"archived steps, replayed runs, measured gaps: {short_s:.0f} s, {short_s / before.whole_s:.2f} of that"
    for name, why in find_unstackable(needed).items():
        yield f"          not stacked: {name} ({why})"
    for title in [name.removesuffix(", whole_s") for name in figures if name.startswith("stack") and "whole" in name]:
        n = int(title.removeprefix("stack of "))
        ratio = figures[f"{title}, whole_s"] / (n * figures["one run, whole_s"])
        yield f"measured  {title:15} {ratio:.2f} of the time of {n} single runs, steps and gaps; not applied above"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdict_cost", description=__doc__)
    parser.add_argument("report", type=Path, nargs="?", default=REPORT, help="folder of a published report")
    parser.add_argument("--history", type=Path, default=HISTORY, help="where the measured figures are")
    options = parser.parse_args()
    for line in describe_cost(options.report, options.history):
        print(line)


if __name__ == "__main__":
    main()
