"""Measure what a large study costs its driver, on simulated workers: runs that only sleep and log."""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from ablate.cli.command import collect_rarely
from ablate.data import CorpusInfo
from ablate.execution.cluster import start_cluster
from ablate.execution.driver import Driver
from ablate.execution.jobs import estimate_seconds, find_unfinished, order, record_study
from ablate.execution.placement import Placement
from ablate.execution.recovery import repair_runs
from ablate.execution.slots import Slot, SlotPool
from ablate.execution.view import View
from ablate.files import make_folder
from ablate.plan import build_plan
from ablate.plan.estimate import ORDER_PACE
from ablate.study import load_study
from ablate.tasks.contract import Job, Result
from ablate.tasks.recorder import HEARTBEAT_S
from ablate.tracking.curve import CurveWriter
from ablate.tracking.folders import StudyFolder
from ablate.tracking.json_files import write_json
from ablate.tracking.study_record import Status
from benchmarks.history import Figures, add_record_option, print_figures

SEEDS = 5
LEVELS = 10  # of the second and of the third axis
LINES = 10  # of the curve of a run
HOSTS = 4  # processes of simulated workers
GRID = """
study: bench-scale
data: {{source: text, path: words.txt}}
model: {{d_model: 16, n_layers: 1, n_heads: 2, context_length: 16}}
train: {{steps: 1000, batch_size: 1}}
matrix:
  train.learning_rate: [{rates}]
  train.weight_decay: [{decays}]
  train.warmup_steps: [{warmups}]
seeds: {seeds}
"""


class Host:
    """A process with many simulated workers. Each run writes the files of a run, but does not wait for the disk."""

    def __init__(self, study: Path, sleep_s: float) -> None:
        self.store, self.sleep_s = StudyFolder(study), sleep_s
        os.fsync = lambda _: None  # type: ignore[assignment]

    async def ready(self) -> str:
        return f"simulated:{os.getpid()}"

    async def train_all(self, jobs: Sequence[Job]) -> list[Result]:
        return [await self.train(job) for job in jobs]

    async def train(self, job: Job) -> Result:
        folder = self.store.run(job.run_id)
        make_folder(folder.path)
        write_json(folder.config, job.config)
        write_json(folder.manifest, {**job.manifest, "device": {"kind": "cpu", "name": "simulated", "host": "none"}})
        told_at = -HEARTBEAT_S
        with CurveWriter(folder.curve) as curve:
            for line in range(1, LINES + 1):
                step = 1000 * line // LINES
                loss = 5.0 / line + job.config["train"]["learning_rate"] + 0.01 * (hash(job.run_id) % 100) / 100
                curve.append(
                    {"step": step, "tokens": 16 * step, "flops": 1e6 * step, "wall_s": 0.01 * step}
                    | {"train_loss": loss, "val_loss": loss, "learning_rate": 1e-3, "tokens_per_s": 1600.0}
                )
                if time.monotonic() - told_at >= HEARTBEAT_S:
                    told_at = time.monotonic()
                    folder.write_status(Status("running", step, 1000, heartbeat=time.time()))
                await asyncio.sleep(self.sleep_s / LINES)
            ended = (curve.n_bytes, curve.crc32)
            folder.write_status(Status("finished", 1000, 1000, took_s=10.0, curve=ended))
        return "finished"


class SimulatedSlot(Slot):
    """A slot whose worker shares a process with others."""

    def __init__(self, host: Any, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._host = host

    def staff(self) -> None:
        self.workers = [self._host]
        self._ready, self._names = [self._host.ready.remote()], ()

    def dismiss(self, *, by_force: bool = False) -> None:  # noqa: ARG002 - the process has other workers too
        self.workers = []


class SimulatedPool(SlotPool):
    """Slots on a few processes of simulated workers."""

    def __init__(self, pool: SlotPool, sleep_s: float) -> None:
        super().__init__(pool.store, None, pool.placement, pool.worker_class, pool.observe, grows=False)
        self.sleep_s = sleep_s

    def open(self, count: int) -> None:
        study = self.store.path.resolve()
        actor = ray.remote(Host).options(num_cpus=0, max_concurrency=count + 1)
        hosts = [actor.remote(study, self.sleep_s) for _ in range(HOSTS)]
        for place in range(count):
            slot = SimulatedSlot(hosts[place % HOSTS], self.placement, study, None, self.worker_class)
            slot.staff()
            self.slots.append(slot)


class NoMirror:
    """Stands in for MLflow, which `benchmarks.mirror` measures by itself."""

    def note_lines(self, run_id: str) -> None: ...

    def withdraw(self, run_id: str) -> None: ...

    def note_end(self, run_id: str, state: str) -> None: ...

    def announce(self, *_: Any) -> None: ...


def write_grid(folder: Path, n_runs: int, n_seeds: int = SEEDS) -> Path:
    """Write the grid of at least `n_runs` runs, with its text."""
    (folder / "words.txt").write_text("one two three " * 1000)
    n_rates = max(2, -(-n_runs // (n_seeds * LEVELS**2)))
    grid = folder / "grid.yaml"
    rates = (1e-3 * (1 + index / n_rates) for index in range(n_rates))
    text = GRID.format(
        rates=", ".join(f"{rate:.8f}" for rate in rates),
        decays=", ".join(f"{0.01 * index:.2f}" for index in range(LEVELS)),
        warmups=", ".join(str(10 * index) for index in range(LEVELS)),
        seeds=n_seeds,
    )
    grid.write_text(text)
    return grid


def measure_driver(grid: Path, store: StudyFolder, workers: int, sleep_s: float) -> Figures:
    """Train the study of a grid on simulated workers. The CPU times are those of the driver's process."""
    study = load_study(grid)
    plan = build_plan(study, CorpusInfo("0" * 64, 10**6, 10**5, 256))
    figures: Figures = {"n_runs": len(plan.runs), "n_arms": len(plan.arms), "workers": workers}
    with (
        Path(os.devnull).open("w") as nowhere,
        tempfile.TemporaryDirectory() as logs,
        start_cluster(None, {"CPU": HOSTS}, Path(logs) / "ray.log"),
    ):
        view = View(Console(file=nowhere))
        began = time.process_time()
        store.write_study(record_study(plan, "", ""))
        repair_runs(plan, store, view.console.print, needs_weights=False)
        runs = order(find_unfinished(plan, store), estimate_seconds(plan, store, ORDER_PACE))
        figures["prepare_cpu_s"] = time.process_time() - began
        driver = Driver(plan, store, None, Placement(1, 0, workers), NoMirror(), view.observe)  # type: ignore[arg-type]
        driver.pool = SimulatedPool(driver.pool, sleep_s)
        began, started = time.process_time(), time.monotonic()
        with view.shown(runs, workers):
            outcome = driver.train(runs)
        figures["driver_cpu_ms_per_run"] = 1000 * (time.process_time() - began) / len(runs)
        figures["train_s"] = time.monotonic() - started
    assert outcome.states == {"finished": len(plan.runs)}, outcome.states
    figures["driver_peak_bytes"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return figures


def measure_command(name: str, *arguments: str | Path) -> Figures:
    """Seconds, CPU seconds and peak memory of a command of ablate, in a process of its own."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-c", MEASURED, name, *map(str, arguments)]
    result = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if result.returncode:
        raise SystemExit(result.stderr)
    return {
        f"{name}_s": time.monotonic() - started,
        f"{name}_cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        f"{name}_peak_bytes": 1024 * int(result.stderr.splitlines()[-1]),
    }


# The peak of the process itself: `getrusage` would begin with that of the process that started it.
MEASURED = """
import sys
from pathlib import Path
from ablate.cli import main
try:
    main()
finally:
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(line.split()[1] for line in lines if line.startswith("VmHWM")), file=sys.stderr)
"""


def measure_files(store: StudyFolder, n_runs: int) -> Figures:
    """Files and folders of the study, and bytes on the disk, per run."""
    paths = [Path(folder) / name for folder, folders, files in os.walk(store.path) for name in (*folders, *files)]
    n_bytes = sum(512 * path.lstat().st_blocks for path in paths)
    return {"inodes_per_run": len(paths) / n_runs, "bytes_per_run": n_bytes / n_runs}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--runs", type=int, default=2000, metavar="N", help="number of runs (default: 2000)")
    parser.add_argument("--workers", type=int, default=1000, metavar="N", help="simulated workers (default: 1000)")
    parser.add_argument("--sleep", type=float, default=10.0, metavar="S", help="seconds per run (default: 10)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keep the study here (default: a temporary folder)")
    add_record_option(parser)
    options = parser.parse_args()
    collect_rarely()  # as the command does
    with tempfile.TemporaryDirectory(prefix="ablate-scale-") as scratch:
        folder = (options.folder or Path(scratch)).resolve()
        make_folder(folder)
        grid = write_grid(folder, options.runs)
        store = StudyFolder(folder / "runs" / "bench-scale")
        where = ("--runs", store.path.parent)
        figures = measure_command("plan", grid, *where)
        figures |= measure_driver(grid, store, options.workers, options.sleep)
        figures |= measure_files(store, int(figures["n_runs"]))
        for name, arguments in COMMANDS.items():
            figures |= measure_command(name, *arguments(grid, store), *where)
        print_figures("scale", figures, record=options.record)


COMMANDS: dict[str, Callable[[Path, StudyFolder], Sequence[str | Path]]] = {
    "status": lambda _, store: (store.path.name,),
    "report": lambda _, store: (store.path.name,),
}


if __name__ == "__main__":
    main()
