"""A published report of a tiny study that was really trained, and its verification without Ray."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from ablate.cli.inputs import read_plan
from ablate.data import SHARDS, prepare
from ablate.execution.jobs import record_study
from ablate.plan import Plan
from ablate.plan.tasks import describe_corpus
from ablate.records.rebuild import build, declare
from ablate.records.verify import name_verification
from ablate.report import write_report
from ablate.report.write import read_study
from ablate.tracking.folders import StudyFolder
from in_process import train_here

GRID = {
    "study": "tiny",
    "question": "Does it run?",
    "model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "context_length": 16},
    "train": {"steps": 12, "batch_size": 4, "eval_every": 4, "eval_tokens": 128, "log_every": 2, "checkpoint_every": 4},
    "matrix": {"normalization": ["prenorm", "ngpt"]},
    "seeds": 3,
}


STUDY, FRESH = Path("runs/tiny"), Path("runs/tiny-verify")


def plan_fresh(report: Path, seeds: Sequence[int]) -> Plan:
    """What `ablate verify` plans for a report with these seeds."""
    results = read_study(StudyFolder(report))
    names = list(results.arms)
    study = declare(results, names, report, Path(), name_verification(results.record.study))
    return build(study, results, names, seeds, describe_corpus(study, Path("runs")), report)


def train(plan: Plan, store: StudyFolder) -> None:
    """Train all runs of a plan in this process."""
    store.write_study(record_study(plan, "0.1.0", "ablate run grid.yaml"))
    train_here(plan, plan.runs, store, prepare(plan.study.data, plan.study.folder, store.path.parent / SHARDS))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus_file: Path) -> Path:
    """A folder with a report whose seeds are 0, 1 and 2, and with runs of the seeds 3, 4 and 5."""
    folder, before = tmp_path_factory.mktemp("trained"), Path.cwd()
    os.chdir(folder)
    try:
        Path("grid.yaml").write_text(yaml.safe_dump(GRID | {"data": {"source": "text", "path": str(corpus_file)}}))
        train(read_plan(Path("grid.yaml"), Path("runs"), None), StudyFolder(STUDY))
        write_report(StudyFolder(STUDY), "reports/tiny")
        train(plan_fresh(Path("reports/tiny"), (3, 4, 5)), StudyFolder(FRESH))
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def report(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the report. Its arms differ by normalization, and nothing is verified."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    (tmp_path / FRESH / "study.json").unlink()
    monkeypatch.chdir(tmp_path)
    return Path("reports/tiny")


@pytest.fixture
def train_fresh() -> Callable[[Path, Sequence[int]], None]:
    """A function after which the fresh runs with these seeds are there, so that `ablate verify` needs no Ray."""

    def fresh(report: Path, seeds: Sequence[int]) -> None:
        assert set(seeds) <= {3, 4, 5}
        StudyFolder(FRESH).write_study(record_study(plan_fresh(report, seeds), "0.1.0", "ablate verify"))

    return fresh
