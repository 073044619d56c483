"""Measure how long a plan of many arms takes."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from ablate.cli.command import collect_rarely
from ablate.data import CorpusInfo
from ablate.plan import build_plan
from ablate.study import load_study
from benchmarks.history import Figures, add_record_option, print_figures
from benchmarks.scale import write_grid


def measure_plan(n_arms: int) -> Figures:
    """CPU seconds to read and plan a grid of three axes, one seed per arm, without imports. The second plan counts,
    because the first one loads the variants."""
    collect_rarely()
    corpus = CorpusInfo("0" * 64, 10**6, 10**5, 256)
    with tempfile.TemporaryDirectory(prefix="ablate-plan-") as scratch:
        build_plan(load_study(write_grid(Path(scratch), 1, n_seeds=1)), corpus)
        grid = write_grid(Path(scratch), n_arms, n_seeds=1)
        started = time.process_time()
        plan = build_plan(load_study(grid), corpus)
        return {"n_arms": len(plan.arms), "cpu_s": time.process_time() - started}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description=__doc__)
    parser.add_argument("--arms", type=int, default=10_500, metavar="N", help="number of arms (default: 10,500)")
    add_record_option(parser)
    options = parser.parse_args()
    print_figures("plan", measure_plan(options.arms), record=options.record)


if __name__ == "__main__":
    main()
