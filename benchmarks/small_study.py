"""Time a study of eight short runs of four kinds of model, from `ablate run` to its end, with empty and full caches."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml

from ablate.tracking.curve import read_curve
from ablate.tracking.folders import StudyFolder
from benchmarks.gaps import ON_CPU, ON_GPU
from benchmarks.history import add_record_option, append_figures

STUDY = {
    "study": "small-study",
    "data": {"source": "text", "path": "words.txt", "tokenizer": "bytes"},
    "matrix": {"normalization": ["prenorm", "ngpt"], "attention": ["standard", "differential"]},
    "seeds": 2,
}


def write_study(folder: Path, steps: int | None = None) -> Path:
    """Write the grid and its text. Its runs are like those of `benchmarks.gaps`."""
    on_gpu = torch.cuda.is_available()
    kind, resources = (ON_GPU, {"gpus": 1}) if on_gpu else (ON_CPU, {"cpus": 1})
    train = {**kind["train"], **({} if steps is None else {"steps": steps}), "learning_rate": 1e-3}
    grid = folder / "grid.yaml"
    grid.write_text(yaml.safe_dump({**STUDY, "model": kind["model"], "train": train, "resources": resources}))
    (folder / "words.txt").write_text("one two three four five " * 50_000)
    return grid


def time_study(grid: Path, runs: Path, environment: Mapping[str, str]) -> tuple[float, float]:
    """Run the study in a new process. Returns the seconds that the command took, and those of the steps of all runs.

    Raises `SystemExit` unless all runs finished.
    """
    began = time.perf_counter()
    command = [sys.executable, "-m", "ablate", "run", str(grid), "--runs", str(runs)]
    result = subprocess.run(command, cwd=grid.parent, env=environment, capture_output=True, text=True, check=False)
    took_s = time.perf_counter() - began
    if result.returncode:
        raise SystemExit(result.stdout + result.stderr)
    store = StudyFolder(runs / "small-study")
    curves = [read_curve(store.run(run.run_id).curve) for run in store.read_study().runs]
    return took_s, sum(curve[-1]["wall_s"] for curve in curves)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small_study", description=__doc__)
    parser.add_argument("--steps", type=int, help="per run")
    parser.add_argument(
        "--devices", type=int, nargs="+", default=[1], help="numbers of GPUs to measure; a CPU counts as one"
    )
    add_record_option(parser)
    options = parser.parse_args()
    figures: dict[str, float] = {}
    for n_devices in options.devices:
        with tempfile.TemporaryDirectory(prefix="ablate-bench-") as name:
            folder = Path(name)
            grid = write_study(folder, options.steps)
            caches = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton", "XDG_CACHE_HOME": "cache"}
            environment = {**os.environ, **{variable: str(folder / part) for variable, part in caches.items()}}
            if torch.cuda.is_available():
                visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count()))))
                if n_devices > torch.cuda.device_count():
                    parser.error(f"--devices: there are {torch.cuda.device_count()} GPUs, not {n_devices}")
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(visible.split(",")[:n_devices])
            for state in ("empty", "full"):
                whole_s, steps_s = time_study(grid, folder / state, environment)
                title = f"{n_devices} device{'s' * (n_devices > 1)}, {state} caches"
                print(f"{title:28} {whole_s:7.1f} s; the steps of all runs {steps_s:7.1f} s", flush=True)
                figures |= {f"{title}, whole_s": whole_s, f"{title}, steps_s": steps_s}
    if options.record:
        append_figures("small_study", figures)


if __name__ == "__main__":
    main()
