"""Compare the speed of a run on one GPU with that on several GPUs, which share its batches."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist

from ablate.training.bench.timed_run import MANY_STEPS, Nowhere, random_corpus, run_windows
from ablate.training.device import free_memory, now
from ablate.training.language_model import LanguageModelling
from ablate.training.loop import Training
from ablate.training.parallel import Alone, DataParallel, Group, stay_on_loopback
from ablate.training.precision import forbid_tf32
from benchmarks.history import ROOT
from benchmarks.stack import read_settings

ROWS_AT_ONCE = 16  # at most, on a GPU
POLL_S = 0.2


class Case(NamedTuple):
    """A grid in experiments/, rows per step, and steps in each of five windows, of which the median counts."""

    grid: str
    rows: int
    steps: int


CASES = (Case("speed-10m", 16, 100), Case("speed-304m", 16, 10), Case("speed-304m", 64, 4))


def compare(case: Case, normalization: str, first: Group, group: Group) -> None:
    """Measure a case in the first process, which prints the figures, and then in all of them."""
    alone_s = 0.0
    for members in (first, group):
        if group.rank == 0 or members is group:
            n_tokens, start_s, step_s = measure(case, normalization, members)
            alone_s = alone_s or step_s
        group.agree(wish=False)  # the others wait here for the first
        if group.rank == 0:
            speed = f"{1000 * step_s:8.2f} ms per step {n_tokens / step_s:11,.0f} tokens/s {alone_s / step_s:6.2f} x"
            place = f"{case.grid:10} {n_tokens:6,} tokens per step, {members.size} at once"
            print(f"{place} {speed}, {start_s:5.1f} s to the first step", flush=True)


def measure(case: Case, normalization: str, group: Group) -> tuple[int, float, float]:
    """Train on random tokens. Returns tokens per step, seconds to the first step, and seconds per step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    free_memory(device)
    forbid_tf32()
    model, train = read_settings(ROOT / "experiments" / f"{case.grid}.yaml", normalization, on_gpu, on_gpu)
    sizes = {"batch_size": case.rows, "micro_batch_size": min(ROWS_AT_ONCE, case.rows // group.size)}
    train = train.model_copy(update={**sizes, "steps": MANY_STEPS})
    with tempfile.TemporaryDirectory(prefix="ablate-bench-") as folder:
        corpus = random_corpus(Path(folder), model, train)
        started = time.perf_counter()
        task = LanguageModelling(model, corpus, train.eval_tokens)
        training = Training(task, train, 0, Nowhere(), device, group)
        training.warm_up()
        training.step(1)
        start_s = now(device) - started
        step_s = statistics.median(end - began for began, end in run_windows(training, case.steps)) / case.steps
    return case.rows * model.context_length, start_s, step_s


def start_processes(n: int, arguments: list[str]) -> None:
    """Run this benchmark in `n` processes with a GPU each, if there are any, and wait for them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(n)))
    with tempfile.TemporaryDirectory(prefix="ablate-bench-") as folder:
        command = [sys.executable, "-m", "benchmarks.parallel", *arguments, f"--meeting={folder}/meeting"]
        processes = [
            subprocess.Popen([*command, f"--rank={rank}"], cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": gpu})
            for rank, gpu in enumerate(visible.split(",")[:n])
        ]
        try:
            while (codes := [process.poll() for process in processes]) != [0] * n:
                if any(codes):
                    raise SystemExit(1)  # the others would wait for the one that failed
                time.sleep(POLL_S)
        finally:
            for process in processes:
                process.kill()
                process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parallel", description=__doc__)
    parser.add_argument("--gpus", type=int, default=2, help="how many, with one process each")
    parser.add_argument("--normalization", default="prenorm")
    parser.add_argument("--grid", help="measure only this grid of experiments/")
    parser.add_argument("--steps", type=int, help="in each of five windows, instead of 4 to 100")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--meeting", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank is None:
        if 0 < torch.cuda.device_count() < options.gpus:
            parser.error(f"--gpus {options.gpus}: there are {torch.cuda.device_count()}")
        start_processes(options.gpus, sys.argv[1:])
        return
    stay_on_loopback()
    store = dist.FileStore(options.meeting, options.gpus)  # type: ignore[attr-defined]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    group = DataParallel(options.rank, options.gpus, store, device)
    for case in CASES:
        if options.grid in (None, case.grid):
            chosen = case._replace(steps=options.steps or case.steps)
            compare(chosen, options.normalization, Alone(), group)
    os._exit(0)  # without the goodbyes of NCCL, which wait for graphs that still hold its communicator


if __name__ == "__main__":
    main()
