"""Out of memory, on the host and on a GPU: a smaller micro-batch, the same mathematics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ablate.data import CorpusInfo
from ablate.errors import ResourceError
from ablate.execution.placement import Placement, check_memory
from ablate.plan import build_plan
from ablate.study import load_study
from ablate.study.schema import TrainConfig
from ablate.tracking.curve import read_curve
from ablate.tracking.folders import RunFolder
from ablate.tracking.json_files import read_json
from ablate.training.device import is_out_of_memory

# Half the micro-batch sums in another order. Over a few steps the difference stays near float32's rounding.
ROUNDING_32 = 1e-4

# By default, glibc keeps freed tensors in its heap, and the second run would reuse the memory of the first one.
# With an explicit threshold, every large tensor is mapped separately and returned to the system when it is freed.
TENSORS_GO_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072"}

# Trains the last run of a grid in this process twice: with all memory, then within the limit MEMORY.
PROGRAM = """
import json, resource, sys
from pathlib import Path
import torch
from ablate.data import describe, prepare
from ablate.execution.jobs import make_job
from ablate.execution.placement import Placement
from ablate.execution.worker import RunWorker
from ablate.plan import build_plan
from ablate.study import load_study

grid, where = Path(sys.argv[1]), sys.argv[2]
study = load_study(grid)
plan = build_plan(study, describe(study.data, grid.parent))
corpus = prepare(study.data, grid.parent, grid.parent / "shards")
for name in ("whole", "little"):
    placement = Placement(1, 1 if where == "cuda" else 0, 1)
    worker = RunWorker(grid.parent / name, corpus, placement)
    if name == "little" and where == "cpu":
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + 2**24, held + 2**24))
    elif name == "little":
        share = 0.6 * torch.cuda.max_memory_allocated() / torch.cuda.get_device_properties(0).total_memory
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(share)
    print(worker.train(make_job(plan, plan.runs[-1], placement, {})), plan.runs[-1].run_id)
"""


ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_GPU)])
@pytest.mark.slow
def test_half_at_once_where_memory_ends(write_grid: Callable[..., Path], tmp_path: Path, device: str) -> None:
    grid = write_grid(
        model={"d_model": 64, "n_layers": 2, "n_heads": 2, "context_length": 256},
        train={"steps": 2, "batch_size": 64, "eval_every": 2, "eval_tokens": 256, "log_every": 1},
        matrix={"attention": ["standard"]},
        baseline={},
    )
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, grid, device],
        env={**os.environ, **TENSORS_GO_BACK},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    (whole_state, run_id), (little_state, _) = (line.split() for line in result.stdout.splitlines())
    little = RunFolder(tmp_path / "little" / run_id)
    assert (whole_state, little_state) == ("finished", "finished"), little.read_status().error
    size = read_json(little.manifest)["micro_batch_size"]
    assert size < 64
    assert 64 % size == 0
    assert little.read_status().micro_batch_size == size
    assert "out of memory" in little.read_status().notes[0]
    losses = [
        [record["train_loss"] for record in read_curve(tmp_path / name / run_id / "curve.jsonl")]
        for name in ("whole", "little")
    ]
    assert losses[1] == pytest.approx(losses[0], abs=ROUNDING_32), json.dumps(losses)


def test_what_counts_as_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_out_of_memory(error.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))


def test_an_error_that_a_want_of_memory_led_to_counts_as_one() -> None:
    with pytest.raises(RuntimeError) as error:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            raise RuntimeError("capture_end: operation not permitted")
    assert is_out_of_memory(error.value)


@pytest.mark.parametrize(
    ("batch", "micro", "expected"),
    [(16, None, 8), (12, 3, 1), (12, None, 6), (9, None, 3), (1, None, None), (8, 1, None)],
)
def test_the_smaller_micro_batch_divides_the_batch(batch: int, micro: int | None, expected: int | None) -> None:
    assert TrainConfig(steps=10, batch_size=batch, micro_batch_size=micro).smaller_micro_batch() == expected


@pytest.mark.slow
def test_a_model_that_no_memory_here_holds_is_refused_before_anything_starts(
    write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    model = {"d_model": 100_000, "n_layers": 1000, "n_heads": 1000, "context_length": 16}
    grid = write_grid(model=model, matrix={"normalization": ["prenorm"]}, baseline=None, resources={"cpus": 1})
    command = [sys.executable, "-m", "ablate"]
    run = subprocess.run(
        [*command, "run", str(grid), "--runs", str(tmp_path / "runs")], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert "normalization=prenorm has 160T parameters" in run.stderr
    assert "take at least 2.56PB" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "runs" / "tiny").exists()
    plan = subprocess.run([*command, "plan", str(grid)], capture_output=True, text=True, check=True)
    assert "`ablate run` would refuse here" in plan.stdout


def test_a_model_that_fits_somehow_is_not_refused(
    write_grid: Callable[..., Path], corpus_info: CorpusInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only memory that no micro-batch can avoid counts, and only for runs that are left."""
    plan = build_plan(load_study(write_grid(train={"steps": 1, "batch_size": 10_000_000})), corpus_info)
    placement = Placement(cpus=1, gpus=0.0, slots=1)
    check_memory(plan.study, plan.runs, placement)
    check_memory(plan.study, (), placement)
    monkeypatch.setattr("ablate.execution.placement._total_bytes", lambda _: 16 * plan.arms[0].n_params)
    check_memory(plan.study, plan.runs[:1], placement)
    with pytest.raises(ResourceError, match="attention=differential,normalization=ngpt has"):
        check_memory(plan.study, plan.runs, placement)
