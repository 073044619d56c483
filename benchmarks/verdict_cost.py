"""Show what the verdicts of a published study cost in GPU-seconds, and what they would cost today.

The seconds of steps and of whole runs come from the study's archives; a run that shared a card counts for its share.
`until: decided` is replayed on the published runs, and successive halving on the trials. The time around the steps, and
the gain of stacked seeds, were measured by `benchmarks.gaps --stack 1 N --record`.
"""

from __future__ import annotations

import argparse
import json
import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from ablate.analysis.curve_columns import Floats
from ablate.analysis.looks import UNDECIDED, follow
from ablate.analysis.results import Results, read_results
from ablate.analysis.run_curve import RunCurve
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import SeedRule
from ablate_model import ModelConfig
from ablate_model.stacked import explain_unstackable
from benchmarks.history import HISTORY, ROOT

HALVINGS = ((1 / 5, 2), (1 / 3, 2), (1 / 2, 2))  # share of a trial's steps, and how many trials go on
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


@dataclass(frozen=True)
class Halving:
    """What halving trials would have cost, as a share of all their steps, and how many arms would lose their best."""

    share: float
    n_missed: int
    n_arms: int


def replay_halving(trials: Sequence[RunCurve], at: float, n_kept: int) -> Halving:
    """Stop the trials of each arm at a share of their steps, except for the best `n_kept` at that step."""
    n_missed, shares = 0, []
    arms = group_trials(trials)
    for runs in arms.values():
        losses = [read_losses(run) for run in runs]
        early = [values[steps <= at * steps[-1]][-1] for steps, values in losses]
        kept = sorted(range(len(runs)), key=lambda index: early[index])[:n_kept]
        best = min(range(len(runs)), key=lambda index: losses[index][1][-1])
        n_missed += best not in kept
        shares.append(at + (1 - at) * len(kept) / len(runs))
    return Halving(mean(shares), n_missed, len(arms))


def group_trials(trials: Sequence[RunCurve]) -> Mapping[str, list[RunCurve]]:
    """The trials with the first seed that were trained to their end, by the arm that they tune."""
    first = min(run.seed for run in trials)
    arms: dict[str, list[RunCurve]] = {}
    for run in trials:
        if run.seed == first and run.is_whole:
            arms.setdefault(run.arm.partition(",trial=")[0], []).append(run)
    return arms


def read_losses(run: RunCurve) -> tuple[Floats, Floats]:
    """The steps and the losses of a run's evaluations."""
    losses = run.columns["val_loss"]
    is_known = np.isfinite(losses)
    return run.columns["step"][is_known], losses[is_known]


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
    parts = [read_archive(path) for path in sorted((report / "archives").glob("runs*.tar.gz"))]
    runs = [run for results in parts for run in results.runs if run.is_whole]
    trials_file = report / "archives" / "trials.tar.gz"
    trials = [] if not trials_file.exists() else read_archive(trials_file).runs
    yield f"archived  trials          {sum_cost(trials)}"
    yield f"archived  runs            {sum_cost(runs)}"
    needed = runs
    if parts[0].record.seed_rule is None:
        needed, looks = replay_looks(parts[0])
        yield f"replayed  until: decided  {sum_cost(needed)}"
        yield from (f"          {line}" for line in looks)
    for at, n_kept in HALVINGS if trials else ():
        halving = replay_halving(trials, at, n_kept)
        missed = f"{halving.n_missed} of {halving.n_arms} arms lose their best"
        yield f"replayed  halving at {at:.2f}, {n_kept} go on: {halving.share:.2f} of a trial's steps, {missed}"
    before = sum_cost([*trials, *runs])
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
    for name in figures:
        if (found := re.fullmatch(r"(stack of (\d+)), whole_s", name)) is None:
            continue
        title, n = found[1], int(found[2])
        ratio = figures[name] / (n * figures["one run, whole_s"])
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
