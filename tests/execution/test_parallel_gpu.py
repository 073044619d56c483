"""Runs on two GPUs, over NCCL."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from groups import IN_BFLOAT16, train_in_a_group
from processes import curves, run

from ablate.tracking.folders import StudyFolder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]
ROUNDING_32 = 1e-4  # relative, after a dozen steps: two devices sum a batch in a different order
ROUNDING_16 = 2e-2  # the same in bfloat16


def test_two_gpus_train_as_one_does(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    found = []
    for n_gpus in (1, 2):
        grid = write_grid(matrix={"normalization": ["prenorm", "ngpt"]}, baseline=None, resources={"gpus": n_gpus})
        runs = tmp_path / f"runs-{n_gpus}"
        ended = run("run", grid, "--runs", runs, "--set", f"train.cuda_graph={str(n_gpus > 1).lower()}")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        manifests = [json.loads(path.read_text()) for path in runs.glob("tiny/*/manifest.json")]
        assert {(m["device"]["kind"], m.get("processes", 1)) for m in manifests} == {("cuda", n_gpus)}
        found.append(curves(StudyFolder(runs / "tiny")))
    assert found[0].keys() == found[1].keys()
    for run_id, single in found[0].items():
        assert len(single) == 6
        for one, other in zip(single, found[1][run_id], strict=True):
            assert one == pytest.approx(other, rel=ROUNDING_32)


def test_captured_sums_train_as_one_gpu_does(tmp_path: Path) -> None:
    """Several buckets, micro-batches, nGPT, compiled blocks and deterministic algorithms; two runs after one another
    in a process capture a graph each."""
    for name, (alone, together) in train_in_a_group(tmp_path, "cuda").items():
        tolerance = ROUNDING_16 if name in IN_BFLOAT16 else ROUNDING_32
        for one, other in zip(alone, together, strict=True):
            assert one == pytest.approx(other, rel=tolerance), name
