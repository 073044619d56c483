"""Measure the cost of a run besides its program, and whether output of 100 MB/s slows a program or fills memory."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
import yaml

from ablate.execution.jobs import make_job, record_study
from ablate.execution.placement import Placement
from ablate.execution.worker import RunWorker
from ablate.plan import Run, build_plan
from ablate.plan.program_setup import NO_CORPUS
from ablate.study import load_study
from ablate.tracking.folders import StudyFolder

ONE_CPU = Placement(1, 0, 1)
PATTERN = r"step (?P<step>\d+): train loss (?P<train_loss>[\d.]+), val loss (?P<val_loss>[\d.]+)"
SHORT = "print('step 1: train loss 2.0, val loss 2.0')\n"
# Prints lines at a fixed rate, and how many seconds it was late in the end.
FLOOD = """
import sys, time
megabytes, rate = {megabytes}, {rate}
block = (b"x" * 99 + b"\\n") * 10_000
began = time.perf_counter()
for done in range(megabytes):
    time.sleep(max(0.0, began + done / rate - time.perf_counter()))
    sys.stdout.buffer.write(block)
sys.stdout.flush()
seconds = time.perf_counter() - began
open("seconds", "w").write(str(seconds))
print("step 1: train loss 2.0, val loss 2.0")
"""


@dataclass(frozen=True)
class Overhead:
    """Seconds of a short program by itself, and of the whole run."""

    alone_s: float
    run_s: float


@dataclass(frozen=True)
class Flood:
    """Seconds that a program took to print some megabytes, to /dev/null and under ablate, and the memory (bytes) by
    which the worker grew."""

    megabytes: int
    alone_s: float
    run_s: float
    growth_bytes: int
    log_bytes: int


class _Bench:
    """A folder with one program, whose runs are trained in this process."""

    def __init__(self, folder: Path, script: str, seeds: int) -> None:
        self.folder = folder
        (folder / "train.py").write_text(script)
        program = {"command": f"{sys.executable} train.py", "pattern": PATTERN}
        grid = {"study": "bench", "program": program, "matrix": {"kind": ["plain"]}, "seeds": seeds}
        (folder / "grid.yaml").write_text(yaml.safe_dump(grid))
        self.plan = build_plan(load_study(folder / "grid.yaml"), NO_CORPUS)
        self.store = StudyFolder(folder / "runs" / "bench")
        self.store.write_study(record_study(self.plan, "", ""))
        self.worker = RunWorker(self.store.path, None, ONE_CPU)

    def train(self, run: Run) -> float:
        began = time.perf_counter()
        assert self.worker.train(make_job(self.plan, run, ONE_CPU, {}, study=self.store.path)) == "finished"
        return time.perf_counter() - began

    def run_alone(self) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "train.py"], cwd=self.folder, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began


def measure_overhead(repeats: int) -> Overhead:
    """The median times of a program that does nothing, by itself and under ablate. The two take turns."""
    with tempfile.TemporaryDirectory() as folder:
        bench = _Bench(Path(folder), SHORT, repeats)
        pairs = [(bench.run_alone(), bench.train(run)) for run in bench.plan.runs]
    return Overhead(median(direct for direct, _ in pairs), median(run for _, run in pairs))


def measure_flood(megabytes: int, rate: int) -> Flood:
    """A program that prints `rate` MB/s."""
    with tempfile.TemporaryDirectory() as name:
        bench = _Bench(Path(name), FLOOD.format(megabytes=megabytes, rate=rate), 1)
        bench.run_alone()
        alone_s = float((Path(name) / "seconds").read_text())
        before = psutil.Process().memory_info().rss
        bench.train(bench.plan.runs[0])
        growth = psutil.Process().memory_info().rss - before
        log = bench.store.run(bench.plan.runs[0].run_id).log.stat().st_size
        return Flood(megabytes, alone_s, float((Path(name) / "seconds").read_text()), growth, log)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.program", description=__doc__)
    parser.add_argument("--repeats", type=int, default=30, help="runs of a program that does nothing")
    parser.add_argument("--megabytes", type=int, default=1000, help="output of a program that prints much")
    parser.add_argument("--rate", type=int, default=100, help="its megabytes per second")
    chosen = parser.parse_args(arguments)
    cost = measure_overhead(chosen.repeats)
    print(
        f"a run costs {1000 * (cost.run_s - cost.alone_s):.0f} ms besides its program "
        f"({1000 * cost.run_s:.0f} ms, the program alone {1000 * cost.alone_s:.0f} ms; medians of {chosen.repeats})"
    )
    flood = measure_flood(chosen.megabytes, chosen.rate)
    print(
        f"{flood.megabytes} MB of output at {chosen.rate} MB/s: {flood.run_s:.2f} s under ablate, "
        f"{flood.alone_s:.2f} s to /dev/null; "
        f"the worker grew by {flood.growth_bytes / 1e6:.0f} MB, log.txt has {flood.log_bytes / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
