"""A program from an empty folder to a report, by the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ablate.tracking.curve import read_curve

SCRIPT = '''
"""Train as nanoGPT does: by --key=value, with the same lines, and with a checkpoint in out_dir."""
import os, random, sys, time

learning_rate, max_iters, seed, out_dir, pause = 0.01, 40, 1337, "out", 0.0
for argument in sys.argv[1:]:
    key, value = argument.removeprefix("--").split("=", 1)
    assert key in globals(), f"Unknown config key: {key}"
    globals()[key] = type(globals()[key])(value)

random.seed(seed)
inputs = [random.gauss(0, 1) for _ in range(64)]
weight, checkpoint, first = 0.0, os.path.join(out_dir, "ckpt.txt"), 0
if os.path.exists(checkpoint):
    first, weight = int(open(checkpoint).readline()), float(open(checkpoint).readlines()[1])
for iter_num in range(first, max_iters + 1):
    loss = sum((weight * x - 3 * x) ** 2 for x in inputs) / len(inputs)
    if iter_num % 10 == 0:
        print(f"step {iter_num}: train loss {loss:.4f}, val loss {loss * 1.1:.4f}")
        open(checkpoint, "w").write(f"{iter_num}\\n{weight}\\n")
        if os.path.exists("ever") and iter_num == 20 and not first: time.sleep(pause)
    weight -= learning_rate * sum(2 * (weight * x - 3 * x) * x for x in inputs) / len(inputs)
    print(f"iter {iter_num}: loss {loss:.4f}, time 12.30ms, mfu 3.10%")
'''
GRID = r"""
study: mine
question: Does a larger learning rate help?
program:
  command: python train.py --learning_rate={train.learning_rate} --seed={seed} --out_dir={run_dir} --pause={train.pause}
  pattern:
    - 'step (?P<step>\d+): train loss (?P<train_loss>[\d.]+), val loss (?P<val_loss>[\d.]+)'
    - 'iter (?P<step>\d+): loss (?P<iter_loss>[\d.]+), time [\d.]+ms, mfu (?P<mfu>-?[\d.]+)%'
  steps: train.max_iters
train: {max_iters: 40, pause: 600}
matrix: {train.learning_rate: [0.01, 0.03]}
seeds: 2
resources: {cpus: 1, gpus: 0}
"""


def run_in(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ablate", *words]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)

    return run


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_program_from_an_empty_folder_to_a_report(tmp_path: Path) -> None:
    """The driver is killed in the middle, and the same command resumes with the program's own checkpoints."""
    ablate, ever = run_in(tmp_path), tmp_path / "ever"
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "grid.yaml").write_text(GRID)
    plan = ablate("plan", "grid.yaml")
    assert plan.returncode == 0, plan.stderr
    assert (
        "the first run: python train.py --learning_rate=0.01 --seed=0 '--out_dir={run_dir}' --pause=600" in plan.stdout
    )
    assert "code: 1 file" in plan.stdout
    assert "parameters" not in plan.stdout
    assert not (tmp_path / "runs").exists()

    ever.touch()
    driver = subprocess.Popen([sys.executable, "-m", "ablate", "run", "grid.yaml"], cwd=tmp_path, stdout=-1, stderr=-1)
    curves = tmp_path / "runs" / "mine"
    deadline = time.monotonic() + 100
    while sum(len(read_curve(path)) > 20 for path in curves.glob("*/curve.jsonl")) < 2:
        assert time.monotonic() < deadline, driver.communicate()
        time.sleep(0.1)
    programs = [child for child in psutil.Process(driver.pid).children(recursive=True) if "train.py" in child.cmdline()]
    assert len(programs) >= 2
    os.kill(driver.pid, signal.SIGKILL)
    assert not psutil.wait_procs(programs, timeout=60)[1]
    driver.communicate()
    ever.unlink()

    resumed = ablate("run", "grid.yaml")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "mine: 4 finished" in resumed.stdout
    for path in curves.glob("*/curve.jsonl"):
        assert [record["step"] for record in read_curve(path)] == list(range(41))
    notes = [json.loads(path.read_text())["notes"] for path in curves.glob("*/status.json")]
    assert sum(note == ["resumed after step 19"] for note in notes) == 2

    assert "4 of the runs are done" in ablate("plan", "grid.yaml").stdout
    report = ablate("report", "grid.yaml")
    assert report.returncode == 0, report.stderr
    assert "the baseline's final loss" in report.stdout
    page = (curves / "report" / "report.md").read_text()
    assert "nan" not in page.lower()
    run_id = next(curves.glob("*/curve.jsonl")).parent.name
    assert "log.txt" in ablate("logs", run_id).stdout
    refused = ablate("generate", run_id)
    assert refused.returncode == 2
    assert "it ran your own program, which keeps its own weights" in refused.stderr
    assert "Traceback" not in refused.stderr

    assert ablate("pack", "mine", "--out", "mine.tar.gz").returncode == 0
    merged = ablate("merge", "mine.tar.gz", "--runs", "elsewhere")
    assert merged.returncode == 0, merged.stderr
    there = tmp_path / "elsewhere" / "mine" / run_id
    for name in ("log.txt", "arm.json", "curve.jsonl"):
        assert (there / name).read_bytes() == (curves / run_id / name).read_bytes()
