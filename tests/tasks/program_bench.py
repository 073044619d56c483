"""Runs of small programs, in this process and without Ray."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ablate.execution.jobs import make_job, record_study
from ablate.execution.placement import Placement
from ablate.execution.worker import RunWorker
from ablate.plan import Plan, build_plan
from ablate.plan.program_setup import NO_CORPUS
from ablate.study import load_study
from ablate.tasks.contract import Result
from ablate.tracking.curve import read_curve
from ablate.tracking.folders import RunFolder, StudyFolder
from ablate.tracking.study_record import Status

ONE_CPU = Placement(1, 0, 1)


@dataclass
class Bench:
    """A folder with a grid and a program."""

    folder: Path
    grid: dict[str, Any]
    worker: RunWorker = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.store = StudyFolder(self.folder / "runs" / self.grid["study"])
        self.worker = RunWorker(self.store.path, None, ONE_CPU)

    def write(self, script: str, name: str = "train.py") -> None:
        (self.folder / name).write_text(script)

    @property
    def file(self) -> Path:
        path = self.folder / "grid.yaml"
        path.write_text(yaml.safe_dump(self.grid, sort_keys=False))
        return path

    def plan(self) -> Plan:
        return build_plan(load_study(self.file), NO_CORPUS)

    def folder_of(self, plan: Plan, index: int = 0) -> RunFolder:
        return self.store.run(plan.runs[index].run_id)

    def train(self, plan: Plan | None = None, index: int = 0, *, cut_counts: bool = False) -> Result:
        """Train one run of the plan."""
        plan = plan or self.plan()
        self.store.write_study(record_study(plan, "0", "ablate run"))
        plan.runs[index].arm.setup.prepare(self.store.path)
        job = make_job(plan, plan.runs[index], ONE_CPU, {}, cut_counts=cut_counts, study=self.store.path)
        return self.worker.train(job)

    def run(self, script: str) -> tuple[Result, Status, list[dict[str, Any]]]:
        """Train the first run with this script: how it ended, its status, and its curve."""
        self.write(script)
        plan = self.plan()
        result, folder = self.train(plan), self.folder_of(plan)
        return result, folder.read_status(), read_curve(folder.curve)

    def train_in_thread(self, plan: Plan) -> tuple[threading.Thread, list[Result]]:
        results: list[Result] = []
        thread = threading.Thread(target=lambda: results.append(self.train(plan)))
        thread.start()
        return thread, results
