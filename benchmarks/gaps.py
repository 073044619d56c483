"""Show where a short run, or a stack of seeds, spends its time besides its steps, in a worker that trained such a model
before."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ablate.data import describe, prepare
from ablate.execution.jobs import make_job
from ablate.execution.placement import Placement
from ablate.execution.worker import RunWorker
from ablate.plan import build_plan
from ablate.study import load_study
from ablate.tracking.curve import read_curve
from benchmarks.history import add_record_option, append_figures

ROOT = Path(__file__).parents[1]
GRID = """
study: bench-gaps
data: {{source: text, path: words.txt, tokenizer: bytes}}
model: {model}
train: {train}
matrix: {{normalization: [prenorm]}}
seeds: {n_runs}
"""
ON_GPU: dict[str, dict[str, Any]] = {
    "model": {"d_model": 320, "n_layers": 6, "n_heads": 5, "context_length": 256},
    "train": {
        "steps": 1200,
        "batch_size": 16,
        "precision": "bfloat16",
        "compile": True,
        "cuda_graph": True,
        "eval_every": 200,
        "eval_tokens": 262144,
    },
}
ON_CPU: dict[str, dict[str, Any]] = {
    "model": {"d_model": 128, "n_layers": 2, "n_heads": 4, "context_length": 128},
    "train": {"steps": 100, "batch_size": 8, "eval_every": 25, "eval_tokens": 8192, "checkpoint_every": 10},
}
# What is timed: module, attribute, and what a reader calls it. A call within another counts only for itself, and names
# that a version of ablate lacks are passed over.
SPANS = (
    ("ablate.training.device", "free_memory", "release the memory of the run before"),
    ("ablate.training.loop", "free_memory", "release the memory of the run before"),  # where older versions name it
    ("ablate.tasks.loop_trainer", "keep_loaded", "collect garbage"),
    ("ablate.tasks.stack_trainer", "keep_loaded", "collect garbage"),
    ("ablate.training.precision", "Precision.build", "build the model"),
    ("ablate.training.loop", "make_optimizer", "make the optimizer"),
    ("ablate.training.loop", "compile_blocks", "prepare to compile"),
    ("ablate.training.loop", "Training.warm_up", "first micro-batch"),
    ("ablate.training.loop", "StepGraph", "capture the graph"),
    ("ablate.training.loop", "Training._evaluate", "evaluations"),
    ("ablate.training.stacked", "StackedTraining._evaluate_all", "evaluations"),
    ("ablate.training.stacked", "StackedTraining._evaluate_member", "evaluations"),  # one by one in older versions
    ("ablate.training.stacked", "StackedModel", "stack the weights"),
    ("ablate.training.stacked", "make_optimizer", "make the optimizer"),
    ("ablate.training.stacked", "compile_stacked", "prepare to compile"),
    ("ablate.training.stacked", "StackedTraining._save_member", "checkpoints"),
    ("ablate.tasks.recorder", "FolderRecorder.load", "read the checkpoint"),
    ("ablate.tasks.recorder", "FolderRecorder.save", "checkpoints"),
    ("ablate.tasks.recorder", "FolderRecorder.log", "lines of the curve"),
    ("ablate.tasks.recorder", "FolderRecorder.write_status", "status"),
    ("ablate.tasks.recorder", "FolderRecorder.finish_writing", "wait for the disk"),
    ("ablate.tasks.recorder", "FolderRecorder.write_weights", "weights"),
    ("ablate.tasks.loop_trainer", "LoopTrainer.open", "open the data"),
    ("ablate.tasks.loop_trainer", "LoopTrainer._open", "open the data"),
    ("ablate.tasks.loop_trainer", "LoopTrainer._report_attention", "report on attention"),
    ("ablate.tasks.loop_trainer", "write_weights", "weights"),
    ("ablate.tasks.loop_trainer", "write_json", "config and manifest"),
    ("ablate.tasks.stack_trainer", "write_json", "config and manifest"),
    ("ablate.tracking.curve", "CurveWriter.close", "close the curve"),
)


@dataclass(frozen=True)
class Gaps:
    """Seconds of one run or stack: all of it, its steps (by its own clock), and each gap around them by name."""

    whole_s: float
    steps_s: float
    gaps_s: dict[str, float]

    @property
    def around_s(self) -> float:
        return self.whole_s - self.steps_s


class Clock:
    """Seconds by name of what is called, without what is called in turn by a name that is timed too."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]

    def watch(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            self._inner.append(0.0)
            try:
                return call(*arguments, **options)
            finally:
                took, inner = time.perf_counter() - started, self._inner.pop()
                self._inner[-1] += took
                self.seconds[name] = self.seconds.get(name, 0.0) + took - inner

        return timed


@contextmanager
def watched(clock: Clock) -> Iterator[None]:
    """Let a clock time everything in `SPANS`."""
    kept: list[tuple[Any, str, Any]] = []
    try:
        for module, path, name in SPANS:
            *parents, attribute = path.split(".")
            owner: Any = importlib.import_module(module)
            for parent in parents:
                owner = getattr(owner, parent)
            if (call := getattr(owner, attribute, None)) is not None:
                kept.append((owner, attribute, call))
                setattr(owner, attribute, clock.watch(name, call))
        yield
    finally:
        for owner, attribute, call in kept:
            setattr(owner, attribute, call)


def measure_gaps(folder: Path, n_runs: int, steps: int | None = None, n_stacked: int = 1) -> list[Gaps]:
    """Train a run of an arm in this process and then `n_runs` more, or as many stacks of `n_stacked` seeds. The first
    one compiles and loads what the others find."""
    kind, gpus = (ON_GPU, 1.0) if torch.cuda.is_available() else (ON_CPU, 0.0)
    train = {**kind["train"], **({} if steps is None else {"steps": steps})}
    (folder / "words.txt").write_text("one two three four five " * 50_000)
    grid = folder / "grid.yaml"
    n_seeds = (n_runs + 1) * n_stacked
    grid.write_text(GRID.format(model=json.dumps(kind["model"]), train=json.dumps(train), n_runs=n_seeds))
    study = load_study(grid)
    plan = build_plan(study, describe(study.data, folder))
    placement = Placement(1, gpus, 1)
    worker = RunWorker(folder / "runs" / "study", prepare(study.data, folder, folder / "shards"), placement)
    jobs = [make_job(plan, run, placement, {}) for run in plan.runs]
    return [_measure_jobs(worker, jobs[first : first + n_stacked]) for first in range(0, n_seeds, n_stacked)]


def _measure_jobs(worker: RunWorker, jobs: Sequence[Any]) -> Gaps:
    clock, started = Clock(), time.perf_counter()
    with watched(clock):
        states = worker.train_all(jobs) if len(jobs) > 1 else [worker.train(jobs[0])]
    whole_s = time.perf_counter() - started
    folder = worker.store.run(jobs[0].run_id)
    if set(states) != {"finished"}:
        raise SystemExit(folder.read_status().error)
    steps_s = read_curve(folder.curve)[-1]["wall_s"]
    known = dict(sorted(clock.seconds.items(), key=lambda item: -item[1]))
    return Gaps(whole_s, steps_s, known | {"anything else": whole_s - steps_s - sum(known.values())})


def combine(runs: Sequence[Gaps]) -> Gaps:
    """The median of each number. Each is a median of its own, so the gaps need not add up."""
    names = dict.fromkeys(name for run in runs for name in run.gaps_s)
    gaps = {name: median(run.gaps_s.get(name, 0.0) for run in runs) for name in names}
    return Gaps(median(run.whole_s for run in runs), median(run.steps_s for run in runs), gaps)


def measure_all(options: argparse.Namespace) -> dict[str, Gaps]:
    """The columns of the table, by title."""
    columns: dict[str, Gaps] = {}
    for n_stacked in options.stack:
        with tempfile.TemporaryDirectory(prefix="ablate-bench-", dir=options.folder) as folder:
            first, *others = measure_gaps(Path(folder), options.runs, options.steps, n_stacked)
        title = "one run" if n_stacked == 1 else f"stack of {n_stacked}"
        columns |= ({f"{title}, cold": first} if options.cold else {}) | {title: combine(others)}
    return columns


def measure_elsewhere(source: Path, arguments: Sequence[str]) -> dict[str, Gaps]:
    """The same by the code of another checkout, in a process of its own."""
    with import_from(source) as environment:
        command = [sys.executable, str(Path(__file__).resolve()), "--json", *arguments]
        result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return {title: Gaps(**run) for title, run in json.loads(result.stdout.splitlines()[-1]).items()}


@contextmanager
def import_from(source: Path) -> Iterator[dict[str, str]]:
    """The environment of a process that imports ablate from a checkout, and the benchmarks from this one."""
    with tempfile.TemporaryDirectory(prefix="ablate-bench-") as folder:
        for name, target in (("ablate", source / "ablate"), ("ablate_model", source / "model")):
            (Path(folder) / name).symlink_to(target.resolve())
        paths = [folder, str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        yield {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@contextmanager
def checked_out(revision: str, *paths: str) -> Iterator[Path]:
    """A folder with these paths of a revision of this repository, by default all, or `revision` itself if it is one."""
    if Path(revision).is_dir():
        yield Path(revision)
        return
    with tempfile.TemporaryDirectory(prefix="ablate-bench-") as folder:
        archive = subprocess.run(
            ["git", "-C", str(ROOT), "archive", revision, *paths], stdout=subprocess.PIPE, check=True
        )
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        yield Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gaps", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="runs after the first, of which the median counts")
    parser.add_argument("--steps", type=int, help="steps per run")
    parser.add_argument("--folder", type=Path, help="where the runs are written; default: a temporary folder")
    parser.add_argument("--against", metavar="REVISION", help="also measure a git revision, or another checkout")
    parser.add_argument(
        "--stack", type=int, nargs="+", default=[1], metavar="N", help="seeds per stack; 1: single runs"
    )
    parser.add_argument("--cold", action="store_true", help="also show the first run or stack, which compiles")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_record_option(parser)
    options = parser.parse_args()
    found = measure_all(options)
    if options.record:
        parts = ("around_s", "steps_s", "whole_s")
        append_figures(
            "gaps", {f"{title}, {part}": getattr(run, part) for title, run in found.items() for part in parts}
        )
    if options.json:
        print(json.dumps({title: asdict(run) for title, run in found.items()}))
        return
    if options.against:
        same = [f"--runs={options.runs}", "--stack", *map(str, options.stack)]
        same += [f"--steps={options.steps}"] * (options.steps is not None)
        same += [f"--folder={options.folder}"] * (options.folder is not None) + ["--cold"] * options.cold
        with checked_out(options.against, "ablate", "model") as source:
            before = measure_elsewhere(source, same)
        found |= {f"{title}, {options.against[:12]}": run for title, run in before.items()}
    for place, title in enumerate(found, 1):
        print(f"{place:>10}: {title}")
    print("".join(f"{place:>12}" for place, _ in enumerate(found, 1)), " seconds; medians, where more than one ran")
    for name in dict.fromkeys(name for run in found.values() for name in run.gaps_s):
        print("".join(f"{run.gaps_s.get(name, 0.0):12.3f}" for run in found.values()), f" {name}")
    for name in ("around_s", "steps_s", "whole_s"):
        text = {"around_s": "around the steps", "steps_s": "the steps", "whole_s": "in all"}[name]
        print("".join(f"{getattr(run, name):12.3f}" for run in found.values()), f" {text}")


if __name__ == "__main__":
    main()
