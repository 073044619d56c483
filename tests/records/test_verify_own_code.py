"""Verifying reports whose runs execute the user's own code: only the same files are accepted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from ablate.analysis.results import read_results
from ablate.cli.inputs import read_plan
from ablate.cli.records import _rebuild
from ablate.data import SHARDS, prepare
from ablate.errors import RecordError
from ablate.execution.jobs import record_study
from ablate.plan import Plan
from ablate.records.rebuild import take
from ablate.report.write import read_study, write_report
from ablate.tracking.folders import StudyFolder
from ablate_model.own_code import LIBRARY
from in_process import train_here

ATTENTION = """
from torch import nn
from torch.nn import functional as F


class Mine(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model, bias=False), nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, rotate):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (rotate(q), rotate(k), v))
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
"""


@pytest.fixture
def grid(tmp_path: Path, write_grid: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A grid with the user's attention, whose report is in `reports/tiny` without the code."""
    (tmp_path / "mine.py").write_text(ATTENTION)
    path = write_grid(matrix={"attention": ["standard", "mine.py:Mine"]}, baseline=None, seeds=2)
    monkeypatch.chdir(tmp_path)
    plan, store = read_plan(path, Path("runs"), None), StudyFolder(Path("runs/tiny"))
    store.write_study(record_study(plan, "0.1.0", "ablate run grid.yaml"))
    train_here(plan, plan.runs, store, prepare(plan.study.data, plan.study.folder, Path("runs") / SHARDS))
    write_report(store, "reports/tiny")
    return path


def plan_verification(report: str, grid: Path | None, *, trust_code: bool = False) -> Plan:
    published = StudyFolder(Path(report))
    results = read_study(published)
    return _rebuild(
        results, published, list(results.arms), (7,), Path(), Path("runs"), grid, Console(), trust_code=trust_code
    )


def test_the_same_files_are_run_and_no_others(
    grid: Path, call_ablate: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = call_ablate("verify", "reports/tiny")
    assert code == 2
    assert "mine.py:Mine: it runs code that is kept in its study" in err
    assert "--grid GRID runs it if the same files are next to that grid" in err
    assert [run.seed for run in plan_verification("reports/tiny", grid).runs] == [7, 7]
    grid.with_name("mine.py").write_text(ATTENTION + "\nX = 1\n")
    monkeypatch.setattr(LIBRARY, "_known", {})  # as in a new process
    with pytest.raises(RecordError, match=r"mine\.py was recorded with the code"):
        plan_verification("reports/tiny", grid)


def test_a_program_is_planned_from_its_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.py").write_text("print('step 1: val loss 2.0')\n")
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "study: own\nprogram: {command: 'python train.py --lr={train.lr} --seed={seed}', "
        "pattern: 'step (?P<step>\\d+): val loss (?P<val_loss>[\\d.]+)'}\n"
        "train: {lr: 0.1}\nmatrix: {train.lr: [0.1, 0.2]}\nseeds: 2\n"
    )
    monkeypatch.chdir(tmp_path)
    store, place = StudyFolder(Path("runs/own")), Path("reports/own")
    store.write_study(record_study(read_plan(grid, Path("runs"), None), "0.1.0", ""))
    results = read_results(store)
    plan = take(read_plan(grid, Path("runs"), None), results, list(results.arms), (5, 6), "own-verify", place)
    assert (plan.study.name, plan.study.seeds, len(plan.runs)) == ("own-verify", (5, 6), 4)
    (tmp_path / "train.py").write_text("print('step 1: val loss 1.0')\n")
    with pytest.raises(RecordError, match=r"would train something else for train\.lr=0\.1"):
        take(read_plan(grid, Path("runs"), None), results, list(results.arms), (5,), "own-verify", place)
